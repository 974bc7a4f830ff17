"""What the vector engine does with addresses outside of the scratchpad, and with a halt."""

from typing import Any

import pytest

from systolith.config import CoreConfig
from systolith.isa import Opcode, Second, XFormat, make
from systolith.numerics import Column, Format, Row
from systolith_sim.vector_bench import shared_bench
from systolith_sim.vector_reference import Sums, VectorState
from systolith_sim.vector_surroundings import POLITE, Manners, Run

CONFIG = CoreConfig(
    rows=4,
    columns=4,
    scratchpad_bytes=8192,
    ring_bytes=1024,
    accumulator_rows=32,
    column_slots=32,
    row_slots=32,
    table_slots=1,
    axi_data_bits=32,
)
"""2,048 granules; the same core as in the engine's other tests, which share its elaboration."""


def run(
    fields: dict[str, Any], manners: Manners = POLITE, sums: Sums | None = None
) -> tuple[Run, bytearray]:
    """Run an instruction of two rows and two groups, copying bytes to granule 1024.

    Returns:
        What was seen, and the memory after it.
    """
    state = VectorState(
        memory=bytearray([1]) * CONFIG.scratchpad_bytes,
        columns=[Column(128, 8, 0)] * 32,
        tables=[0] * 256,
        records=[Row(0, 1 << 15, 0)] * 32,
        statistics=[],
        scalars=[0] * 4,
    )
    op = make(
        Opcode.VECTOR,
        CONFIG,
        **({"m": 2, "n": 8, "x_row": 2, "y_row": 2, "r_row": 4, "y_address": 1024} | fields),
    )
    (seen,) = shared_bench(CONFIG).run(state, [(op, sums or [])], manners)
    return seen, state.memory


@pytest.mark.parametrize(
    ("fields", "granule"),
    [
        # The very first address, the last row, and the second group of the last row.
        ({"x_address": 2048}, 2048),
        ({"x_address": (1 << 32) - 1}, (1 << 32) - 1),
        ({"x_address": 2046}, 2048),
        ({"x_address": 2045}, 2048),
        ({"x_address": 1, "x_row": 65535}, 65536),
        ({"x_address": 2042, "x_row": 4, "x_format": XFormat.S16}, 2048),
        ({"r_address": 2044, "second": Second.ADD}, 2048),
        ({"r_address": 4096, "second": Second.MULTIPLY}, 4096),
        ({"y_address": 2048}, 2048),
        ({"y_address": 2045}, 2048),
        ({"y_address": 1 << 31}, 1 << 31),
        ({"y_address": 2042, "y_row": 4, "y_format": Format.S16}, 2048),
        # Transposed, there are eight rows of one granule.
        ({"y_address": 2034, "transpose": 1}, 2048),
        ({"y_address": 2033, "transpose": 1, "n": 8}, None),
        # The last granules are in order.
        ({"x_address": 2044}, None),
        ({"r_address": 2040, "second": Second.ADD}, None),
        ({"y_address": 2044}, None),
        ({"y_address": 2040, "y_row": 4, "y_format": Format.S16}, None),
    ],
    ids=str,
)
def test_scratchpad_bound(fields: dict[str, Any], granule: int | None) -> None:
    """The first granule outside is reported, and stays so; nothing is started afterwards."""
    seen, _ = run(fields)
    assert seen.fault == granule


def test_operands_that_are_not_used_have_no_address() -> None:
    """An address for an x that is an accumulator, and r without a use for it."""
    fields = {"x_format": XFormat.ACCUMULATOR, "x_address": 1 << 31, "r_address": 1 << 31}
    seen, _ = run(fields, sums=[[[1] * 4] * 2] * 2)
    assert seen.fault is None


def test_a_faulty_row_of_y_is_not_written() -> None:
    """The rows before it are; no address wraps around to the start of the scratchpad."""
    seen, memory = run({"y_address": 2046, "x_address": 16})
    assert seen.fault == 2048
    assert len(seen.writes) == 1
    assert memory[:8] == bytes([1] * 8)


@pytest.mark.parametrize("cycle", [0, 1, 2, 5, 9, 10, 15, 24, 27, 30, 40])
@pytest.mark.parametrize("drained", [False, True])
def test_halt(cycle: int, drained: bool) -> None:
    """No access is started later than in the cycle after the halt; then it is idle."""
    fields = {"m": 8, "x_format": XFormat.ACCUMULATOR if drained else XFormat.S8}
    sums = [[[1] * 4] * 8] * 2 if drained else []
    seen, _ = run(fields, Manners(halt=cycle), sums=sums)
    assert seen.retired <= cycle + 6
