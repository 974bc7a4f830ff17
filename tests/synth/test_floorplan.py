"""Places of multipliers and block RAMs: none twice, and neighbours side by side."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from systolith.config import CoreConfig, preset
from systolith_sim.floorplan import BLOCK_RAM, GRIDS, MULTIPLIER, floorplan
from systolith_sim.synthesis import lay_out

BLOCK_RAMS = {"ecp5-85k": (32, 8, 38), "ecp5-25k": (8, 4, 15)}
"""Of a bank, of the ring, and of everything else."""

ACCUMULATORS = {"ecp5-85k": 16, "ecp5-25k": 4}
"""Two halves of each column."""


def cells_of(name: str) -> tuple[CoreConfig, dict[str, Any]]:
    config = preset(name)
    bank, ring, others = BLOCK_RAMS[name]
    names = {
        f"unit.gemm.array.pe{r}_{c}.multiplier.dsp": MULTIPLIER
        for r in range(config.rows)
        for c in range(config.columns)
    }
    for lane in range(config.columns):
        for part in ("high", "low", "aux"):
            names[f"unit.vector.lanes.lane{lane}_{part}.dsp"] = MULTIPLIER
    for index in range(4 * bank):
        names[block_ram(config, index // bank, index % bank)] = BLOCK_RAM
    for index in range(ring):
        names[f"unit.gemm.ring.ram.ebr{index}"] = BLOCK_RAM
    for index in range(ACCUMULATORS[name]):
        column, half = divmod(index, 2)
        names[f"unit.gemm.accumulators.ram{column}_{half}.ebr0"] = BLOCK_RAM
    for index in range(others):
        names[f"unit.vector.tables.table{index}.ebr0"] = BLOCK_RAM
    names["unit.dma.beat_TRELLIS_FF_Q"] = "TRELLIS_FF"
    return config, {name: {"type": kind} for name, kind in names.items()}


def block_ram(config: CoreConfig, bank: int, index: int) -> str:
    """The name of one of a bank's, in the order of their bits: banks in groups have them, too."""
    if config.read_latency == 4:
        return f"unit.scratchpad.bank{bank}.ebr{index}"
    return f"unit.scratchpad.bank{bank}_{index // 8}.ebr{index % 8}"


def place(bel: str) -> tuple[int, int]:
    found = re.match(r"X(\d+)/Y(\d+)/", bel)
    assert found
    return int(found[1]), int(found[2])


@pytest.mark.parametrize(("name", "device"), [("ecp5-85k", "85k"), ("ecp5-25k", "25k")])
def test_every_block_has_a_place_of_its_own(name: str, device: str) -> None:
    config, cells = cells_of(name)
    plan = floorplan(cells, config, device)
    blocks = {name for name, cell in cells.items() if cell["type"] in (MULTIPLIER, BLOCK_RAM)}
    assert plan.keys() == blocks
    assert len(set(plan.values())) == len(plan)
    grid = GRIDS[device]
    sites = {
        kind: {bel for y in rows for bel in grid.row(y, kind)}
        for kind, rows in ((MULTIPLIER, grid.multipliers), (BLOCK_RAM, grid.block_rams))
    }
    assert all(bel in sites[cells[name]["type"]] for name, bel in plan.items())


def test_sums_go_to_a_neighbour_and_words_are_beside_their_row() -> None:
    config, cells = cells_of("ecp5-85k")
    plan = floorplan(cells, config, "85k")
    for c in range(config.columns):
        column = [
            place(plan[f"unit.gemm.array.pe{r}_{c}.multiplier.dsp"]) for r in range(config.rows)
        ]
        assert all(a[1] == b[1] and 0 < b[0] - a[0] <= 11 for a, b in pairwise(column))
    for bank in range(4):
        for index in range(32):
            x, _ = place(plan[block_ram(config, bank, index)])
            pe = place(plan[f"unit.gemm.array.pe{index // 2}_0.multiplier.dsp"])
            assert abs(x - pe[0]) <= 9


def test_what_a_column_of_accumulators_has_lies_side_by_side() -> None:
    config, cells = cells_of("ecp5-85k")
    plan = floorplan(cells, config, "85k")
    for column in range(config.columns):
        (x0, y0), (x1, y1) = (
            place(plan[f"unit.gemm.accumulators.ram{column}_{half}.ebr0"]) for half in range(2)
        )
        assert y0 == y1
        assert 0 < x1 - x0 <= 3


@pytest.mark.parametrize("device", GRIDS)
def test_of_a_core_that_is_not_laid_out_halves_of_accumulators_are_taken_apart(
    device: str,
) -> None:
    config, cells = cells_of("ecp5-25k")
    few = {name: cell for name, cell in cells.items() if "lanes" not in name}
    plan = floorplan(few, config, device)
    assert len(set(plan.values())) == len(plan) == ACCUMULATORS["ecp5-25k"]
    for column in range(2):
        (x0, y0), (x1, y1) = (
            place(plan[f"unit.gemm.accumulators.ram{column}_{half}.ebr0"]) for half in range(2)
        )
        assert y0 == y1 in GRIDS[device].block_rams
        assert 0 < x1 - x0 <= 3


def test_the_grids_have_the_devices_blocks() -> None:
    """28 and 156 multipliers, 56 and 208 block RAMs, as Lattice's tables say."""
    for device, multipliers, block_rams in (("25k", 28, 56), ("85k", 156, 208)):
        grid = GRIDS[device]
        assert sum(len(grid.row(y, MULTIPLIER)) for y in grid.multipliers) == multipliers
        assert sum(len(grid.row(y, BLOCK_RAM)) for y in grid.block_rams) == block_rams


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("ecp5-85k", "multipliers and block RAMs"), ("ecp5-25k", "block RAMs")],
)
def test_places_are_attributes_of_the_netlist(name: str, kinds: str) -> None:
    config, cells = cells_of(name)
    for cell in cells.values():
        cell["attributes"] = {}
    modules = {
        "top": {"attributes": {"top": "1"}, "cells": cells},
        "DP16KD": {"attributes": {"blackbox": "1"}, "cells": {}},
    }
    said: list[str] = []
    text = lay_out(json.dumps({"modules": modules}), config, "85k", said.append)
    found = json.loads(text)
    laid = found["modules"]["top"]["cells"]
    plan = floorplan(cells, config, "85k")
    places = {name: cell["attributes"].get("BEL") for name, cell in laid.items()}
    assert {name: bel for name, bel in places.items() if bel} == plan
    assert said == [f"{len(plan)} {kinds} have their places"]
