"""Configurations: what is refused, with the reason, and what a hash depends on."""

import dataclasses
from typing import Any

import pytest

from systolith.config import PRESETS, CoreConfig, preset


def test_presets_are_those_of_the_manual() -> None:
    shapes = {name: (each.rows, each.columns) for name, each in PRESETS.items()}
    assert shapes == {
        "tiny": (4, 4),
        "ecp5-25k": (8, 2),
        "ecp5-25k-sdram": (8, 2),
        "ecp5-85k": (16, 8),
        "large": (32, 32),
    }
    assert [each.scratchpad_bytes >> 10 for each in PRESETS.values()] == [16, 64, 64, 256, 1024]


def test_large_scratchpads_answer_a_cycle_later() -> None:
    found = {name: config.read_latency for name, config in PRESETS.items()}
    assert found == {
        "tiny": 4,
        "ecp5-25k": 4,
        "ecp5-25k-sdram": 4,
        "ecp5-85k": 5,
        "large": 5,
    }


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no preset 'huge'; there are tiny, ecp5-25k, .*, large"):
        preset("huge")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 12}, "rows must be a power of two, but is 12"),
        ({"rows": 4}, "rows must be at least columns.* the array is 4x8"),
        ({"rows": 16.0}, "rows must be a int, not 16.0"),
        ({"int4": 1}, "int4 must be a bool, not 1"),
        ({"stall_counters": 0}, "stall_counters must be a bool, not 0"),
        ({"columns": 1}, "columns must be from 2 to 64, but is 1"),
        ({"scratchpad_bytes": 1 << 24}, "scratchpad_bytes must be from 1024 to 524288"),
        ({"ring_bytes": 256}, "ring_bytes must be from 512"),
        ({"accumulator_rows": 1024}, "accumulator_rows must be from 16 to 512, but is 1024"),
        ({"column_slots": 16}, "column_slots must be from 32"),
        ({"row_slots": 8192}, "row_slots must be from 32 to 4096"),
        ({"table_slots": 4}, "table_slots must be from 1 to 3, but is 4"),
        ({"axi_data_bits": 256}, "axi_data_bits must be from 32 to 128, but is 256"),
        ({"axi_address_bits": 16}, "axi_address_bits must be from 32 to 64"),
        ({"queue_depth": 0}, "queue_depth must be a power of two, but is 0"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        dataclasses.replace(PRESETS["ecp5-85k"], **changes)


def test_the_hash_depends_on_every_parameter() -> None:
    base = PRESETS["ecp5-85k"]
    changed: dict[str, Any] = {
        "rows": 32,
        "columns": 4,
        "scratchpad_bytes": 128 << 10,
        "ring_bytes": 32 << 10,
        "accumulator_rows": 256,
        "column_slots": 1024,
        "row_slots": 512,
        "table_slots": 2,
        "axi_data_bits": 128,
        "axi_address_bits": 40,
        "queue_depth": 16,
        "int4": not base.int4,
        "stall_counters": not base.stall_counters,
    }
    assert set(changed) == {item.name for item in dataclasses.fields(CoreConfig)}
    hashes = {base.hash}
    for name, value in changed.items():
        hashes.add(dataclasses.replace(base, **{name: value}).hash)
    assert len(hashes) == 1 + len(changed)
    assert all(0 < each < 1 << 64 for each in hashes)
