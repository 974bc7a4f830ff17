"""Where a core's multipliers and block RAMs go on ECP5: nextpnr's placers scatter them.

Both come in rows across the chip, and a large core takes nearly all of them, so it is they that
say how long the wires are::

    columns of the array ->  0 1 2 0 1 2 ... lanes     row of multipliers, one PE beside the other
    byte of a word ->        0 0 0 1 1 1 ... others    row of block RAMs
                             3 4 5 3 4 5 ... lanes
                             0 0 0 1 1 1 ... others

The PEs of a row of the array stand one above the other, and right beside the blocks that hold
their byte of each word, of scratchpad and ring. Sums move to the right, to the accumulators, the
vector engine's lanes, and its memories.

Cells are told apart by the names that Yosys gives them; those that are not known stay free.

In a core that leaves most of the chip empty, only the accumulators' block RAMs have places. The two
halves of a column's have the same data nets, so nextpnr's `static` puts them on one spot; nothing
takes them apart there, and it waits for that forever.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from systolith.config import CoreConfig

MULTIPLIER, BLOCK_RAM = "MULT18X18D", "DP16KD"

_MULTIPLIERS = {0: "MULT18_0", 1: "MULT18_1", 4: "MULT18_4", 5: "MULT18_5"}
_BLOCK_RAMS = {0: "EBR0", 2: "EBR1", 4: "EBR2", 6: "EBR3"}
"""Bels by their distance from the first column of nine that belong together."""


@dataclass(frozen=True)
class Grid:
    """Where blocks are on a device, as Project Trellis's database has it.

    Attributes:
        starts: the first of nine columns with four multipliers, or four block RAMs.
        multipliers: rows of multipliers.
        block_rams: rows of block RAMs.
    """

    starts: tuple[int, ...]
    multipliers: tuple[int, ...]
    block_rams: tuple[int, ...]

    def row(self, y: int, kind: str) -> list[str]:
        """Names of the bels of a row, from left to right."""
        bels = _MULTIPLIERS if kind == MULTIPLIER else _BLOCK_RAMS
        return [f"X{x + dx}/Y{y}/{bel}" for x in self.starts for dx, bel in bels.items()]


GRIDS = {
    "25k": Grid(
        starts=(4, 13, 22, 33, 42, 51, 60),
        multipliers=(13,),
        block_rams=(25, 37),
    ),
    "85k": Grid(
        starts=(4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114),
        multipliers=(10, 34, 58),
        block_rams=(22, 46, 70, 82),
    ),
}
"""By device."""

FULL = 0.6
"""Share of a device's multipliers from which on a core is laid out."""


def floorplan(cells: dict[str, Any], config: CoreConfig, device: str) -> dict[str, str]:
    """Choose bels.

    Args:
        cells: of Yosys's netlist, with the core's names somewhere in theirs.
        config: the core.
        device: one of `GRIDS`.

    Returns:
        A bel for each multiplier and block RAM, no two the same; for the accumulators' block RAMs
        alone if the core has not enough of them, or its array is too long for a row of the device.
    """
    grid = GRIDS[device]
    multipliers = [name for name, cell in cells.items() if cell["type"] == MULTIPLIER]
    block_rams = [name for name, cell in cells.items() if cell["type"] == BLOCK_RAM]
    rows = {y: grid.row(y, MULTIPLIER) for y in grid.multipliers}
    width = 4 * len(grid.starts)
    groups = width // config.rows  # columns of the array in a row of the device
    capacity = width * len(grid.multipliers)
    if len(multipliers) < FULL * capacity or groups * len(rows) < config.columns:
        return _accumulators(block_rams, grid)
    plan = _multipliers(sorted(multipliers), list(rows.values()), config, groups)
    memory = [grid.row(y, BLOCK_RAM) for y in grid.block_rams]
    return plan | _block_rams(sorted(block_rams), memory, config)


def _multipliers(
    names: list[str], rows: list[list[str]], config: CoreConfig, groups: int
) -> dict[str, str]:
    plan: dict[str, str] = {}
    free = [list(row) for row in rows]
    others = []
    for name in names:
        found = re.search(r"\.pe(\d+)_(\d+)\.", name)
        if found is None:
            others.append(name)
            continue
        r, c = map(int, found.groups())
        index, k = divmod(c, groups)
        columns = min(groups, config.columns - index * groups)
        plan[name] = rows[index][r * columns + k]
        free[index].remove(plan[name])
    # Lanes side by side: where the array leaves most of a row, which is the last one that it has,
    # then at the right ends, nearest to there first.
    left = [bel for row in sorted(free, key=len)[::-1] for bel in row]
    others.sort(key=lambda name: _numbers(name)[-1])
    return plan | dict(zip(others, left, strict=False))


def _block_rams(names: list[str], rows: list[list[str]], config: CoreConfig) -> dict[str, str]:
    plan: dict[str, str] = {}
    per_byte = len(rows[0]) // config.rows
    # What is right of the last byte's blocks is for others, and so is the last row.
    bytes_ = [
        [row[byte * per_byte + k] for row in rows for k in range(per_byte)]
        for byte in range(config.rows)
    ]
    memories: dict[str, list[str]] = defaultdict(list)
    others = []
    for name in names:
        found = re.search(r"(scratchpad\.bank\d+|gemm\.ring\.ram)(_\d+)?\.ebr\d+$", name)
        if found is None:
            others.append(name)
        else:
            memories[found[1]].append(name)
    for blocks in memories.values():
        blocks.sort(key=_numbers)
        for index, name in enumerate(blocks):
            # Blocks hold bits of a word in their order.
            byte = index * config.rows // len(blocks)
            if bytes_[byte]:
                plan[name] = bytes_[byte].pop(0)
            else:
                others.append(name)
    taken = set(plan.values())
    columns = range(len(rows[0]) - 1, -1, -1)
    left = [row[x] for x in columns for row in rows if row[x] not in taken]
    # Accumulators first: sums arrive at the right. A column's lie side by side, in a row.
    sums = sorted((name for name in others if "accumulators" in name), key=_by_column)
    others = sorted(
        set(others) - set(sums), key=lambda name: ("tables" not in name, "vector" not in name, name)
    )
    right = set(left[: len(sums)])
    beside = [bel for row in rows for bel in row if bel in right]
    plan |= zip(sums, beside, strict=False)
    return plan | dict(zip(others, left[len(sums) :], strict=False))


def _accumulators(names: list[str], grid: Grid) -> dict[str, str]:
    """Place both halves of a column side by side, in the middle of the two nearest rows."""
    names = sorted((name for name in names if "accumulators" in name), key=_by_column)
    rows = [grid.row(y, BLOCK_RAM) for y in grid.block_rams[-2:]]
    pairs = [names[index : index + 2] for index in range(0, len(names), 2)]
    width = 2 * -(-len(pairs) // len(rows))
    start = (len(rows[0]) - width) // 2
    if start < 0:
        return {}
    return {
        name: rows[index % len(rows)][start + index // len(rows) * 2 + half]
        for index, pair in enumerate(pairs)
        for half, name in enumerate(pair)
    }


def _by_column(name: str) -> tuple[int, str]:
    return _numbers(name.partition("accumulators")[2])[0], name


def _numbers(name: str) -> list[int]:
    """The numbers in a name."""
    return [int(number) for number in re.findall(r"\d+", name)]
