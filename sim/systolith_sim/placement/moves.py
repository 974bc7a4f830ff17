"""What moving a cell gains, and the best of its moves."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from systolith_sim.placement.delays import wire
from systolith_sim.placement.packed import Packed
from systolith_sim.placement.tiles import Place, Tiles, Unit
from systolith_sim.placement.timing import Timing

SHARPNESS = 0.3
"""Nanoseconds that a path must be slower to cost e times as much."""

REACH = 12
"""Columns and rows around the way to where a cell is drawn."""

WIDEST = 6
"""Tiles in a row that are exchanged as one, for a chain of carries."""

BLOCK_RAM = "DP16KD"
"""What is exchanged with others of its kind alone. Multipliers share clocks and resets."""

LENGTH = 5.0
"""Cost of a nanosecond of wires, a net of many sinks counting as one of few: others need them."""

TRIED, SWAPPED, EXCHANGED = 24, 6, 6
"""Of the best places, how many are looked at for room, for a unit to swap with, and for an exchange
of tiles."""


class Row(NamedTuple):
    """Tiles side by side: the first one's column and row, and how many."""

    x: int
    y: int
    width: int


class Move(NamedTuple):
    """Something that can be done to a placement, and undone.

    Attributes:
        gain: by how much the cost falls, all others staying.
        connections: what becomes longer or shorter, as numbers of `Timing`.
        do: carry it out.
        undo: take it back.
    """

    gain: float
    connections: NDArray[np.int64]
    do: Callable[[], object]
    undo: Callable[[], object]


class Moves:
    """The moves of a placement's cells.

    Args:
        packed: where cells are.
        tiles: the same, by tile.
        timing: its slacks decide what a move gains.
    """

    def __init__(self, packed: Packed, tiles: Tiles, timing: Timing) -> None:
        self._packed = packed
        self._tiles = tiles
        self._timing = timing
        touching: defaultdict[int, list[int]] = defaultdict(list)
        for index, ends in enumerate(
            zip(timing.driver.tolist(), timing.sink.tolist(), strict=True)
        ):
            for cell in set(ends):
                touching[cell].append(index)
        self._touching = {cell: np.array(found) for cell, found in touching.items()}
        self._blocks = np.array(
            [c for c, kind in enumerate(packed.kinds) if kind == BLOCK_RAM and packed.bels[c]],
            np.int64,
        )
        sources, fanout = np.unique(timing.driver, return_counts=True)
        self._share = LENGTH / fanout[np.searchsorted(sources, timing.driver)]

    def best(self, cell: int) -> Move | None:
        """The move that gains most for a cell, if any gains enough to be worth it."""
        if self._packed.bels[cell].startswith("SLICE"):
            return self._logic(cell)
        return self._block(cell) if self._packed.kinds[cell] == BLOCK_RAM else None

    def _logic(self, cell: int) -> Move | None:
        """To where there is room, or with its whole tile."""
        steps = self._steps(cell)
        unit = self._tiles.units.get(cell)
        single = self._single(unit, steps) if unit else None
        worth = np.exp(-self._timing.slack[self._touching[cell]].min() / SHARPNESS)
        if single and single.gain > worth / 2:
            return single
        whole = self._whole(cell, steps)
        return max((move for move in (single, whole) if move), key=lambda m: m.gain, default=None)

    def _steps(self, cell: int) -> NDArray[np.int64]:
        """Columns and rows to where a cell might go, `(steps, 2)`: around the way to its paths."""
        timing, packed = self._timing, self._packed
        found = self._touching[cell]
        found = found[timing.slack[found] < SHARPNESS]
        far = np.where(timing.driver[found] == cell, timing.sink[found], timing.driver[found])
        weight = np.exp(np.minimum(-timing.slack[found] / SHARPNESS, 30))
        aim = [
            int(np.average(at[far], weights=weight)) - int(at[cell]) for at in (packed.x, packed.y)
        ]
        grids = [np.arange(min(0, to) - REACH, max(0, to) + REACH + 1) for to in aim]
        columns, rows = np.meshgrid(*grids)
        return np.stack([columns.ravel(), rows.ravel()], 1)

    def _gains(
        self, cells: list[int], steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What moving cells by each of the steps gains, all others staying, and by which wires."""
        timing, packed = self._timing, self._packed
        touched = self._touched(cells)
        driver, sink = timing.driver[touched], timing.sink[touched]
        moves = np.isin(driver, cells).astype(np.int64) - np.isin(sink, cells)
        lengths = [
            (at[driver] - at[sink])[None, :] + moves[None, :] * steps[:, axis, None]
            for axis, at in enumerate((packed.x, packed.y))
        ]
        return self._gain(touched, wire(*lengths)), touched

    def _touched(self, cells: list[int]) -> NDArray[np.int64]:
        """Connections of cells."""
        found = [self._touching[cell] for cell in cells if cell in self._touching]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

    def _gain(self, touched: NDArray[np.int64], wires: NDArray[np.float64]) -> NDArray[np.float64]:
        slack = self._timing.slack[touched]
        slack = np.where(np.isfinite(slack), slack, 60.0)
        longer = wires - self._timing.wires[touched]
        old = np.exp(np.minimum(-slack / SHARPNESS, 60))
        new = np.exp(np.minimum((longer - slack) / SHARPNESS, 60))
        return (old - new - self._share[touched] * longer).sum(-1)

    def _single(self, unit: Unit, steps: NDArray[np.int64]) -> Move | None:
        """To where there is room, or in exchange for a unit of the same kind."""
        gains, touched = self._gains(unit.cells(), steps)
        (x, y), z = self._tiles.where(unit)
        best: Move | None = None
        swapped = 0
        for index in np.argsort(-gains, kind="stable")[:TRIED]:
            gain = float(gains[index])
            if gain <= max(0.02, best.gain if best else 0.0):
                break
            place = x + int(steps[index, 0]), y + int(steps[index, 1])
            if place == (x, y) or not self._tiles.is_logic(place):
                continue
            room = self._tiles.room(unit, place)
            if room >= 0:
                return Move(
                    gain,
                    touched,
                    partial(self._tiles.move, unit, place, room),
                    partial(self._tiles.move, unit, (x, y), z),
                )
            if swapped < SWAPPED:
                swapped += 1
                best = self._swap(unit, place, steps[index], gain, best)
        return best

    def _swap(
        self, unit: Unit, place: Place, step: NDArray[np.int64], gain: float, best: Move | None
    ) -> Move | None:
        """The best swap with a unit of a tile, if it is better than `best`."""
        for other in self._tiles.units_in(place):
            if (other.lut < 0) != (unit.lut < 0) or (other.register < 0) != (unit.register < 0):
                continue
            back, touched = self._gains(other.cells(), -step[None, :])
            total = gain + float(back[0])
            if total <= (best.gain if best else 0.02) or not self._tiles.swap(unit, other):
                continue
            self._tiles.swap(unit, other)
            both = np.union1d(touched, self._touched(unit.cells()))
            swap = partial(self._tiles.swap, unit, other)
            best = Move(total, both, swap, swap)
        return best

    def _block(self, cell: int) -> Move | None:
        """The best exchange with another block RAM."""
        packed = self._packed
        others = self._blocks[self._blocks != cell]
        steps = np.stack([at[others] - at[cell] for at in (packed.x, packed.y)], 1)
        gains, touched = self._gains([cell], steps)
        best: Move | None = None
        for index in np.argsort(-gains, kind="stable")[:TRIED]:
            gain = float(gains[index])
            if gain <= max(0.05, best.gain if best else 0.0):
                break
            other = int(others[index])
            back, theirs = self._gains([other], -steps[index][None, :])
            total = gain + float(back[0])
            if total > (best.gain if best else 0.05):
                exchange = partial(packed.exchange, cell, other)
                best = Move(total, np.union1d(touched, theirs), exchange, exchange)
        return best

    def _whole(self, cell: int, steps: NDArray[np.int64]) -> Move | None:
        row = self._row_of(cell)
        if row is None:
            return None
        mine = self._cells(row)
        gains, _ = self._gains(mine, steps)
        best: Move | None = None
        tried = 0
        for index in np.argsort(-gains, kind="stable")[: 4 * TRIED]:
            if gains[index] <= 0.05 or tried == EXCHANGED:
                break
            other = Row(row.x + int(steps[index, 0]), row.y + int(steps[index, 1]), row.width)
            overlap = other.y == row.y and abs(other.x - row.x) < row.width
            if overlap or not self._is_closed(other):
                continue
            tried += 1
            gain, touched = self._gain_of_exchange(row, other)
            if gain > 0.05 and (best is None or gain > best.gain):

                def exchange(other: Row = other) -> None:
                    for k in range(row.width):
                        self._tiles.exchange((row.x + k, row.y), (other.x + k, other.y))

                best = Move(gain, touched, exchange, exchange)
        return best

    def _gain_of_exchange(self, row: Row, other: Row) -> tuple[float, NDArray[np.int64]]:
        packed, timing = self._packed, self._timing
        mine, theirs = self._cells(row), self._cells(other)
        cells = mine + theirs
        touched = self._touched(cells)
        old = packed.x[cells], packed.y[cells]
        for which, sign in ((mine, 1), (theirs, -1)):
            packed.x[which] += sign * (other.x - row.x)
            packed.y[which] += sign * (other.y - row.y)
        driver, sink = timing.driver[touched], timing.sink[touched]
        wires = wire(packed.x[driver] - packed.x[sink], packed.y[driver] - packed.y[sink])
        packed.x[cells], packed.y[cells] = old
        return float(self._gain(touched, wires)), touched

    def _row_of(self, cell: int) -> Row | None:
        """The tiles that must move together with a cell's, or None if they are too many."""
        packed = self._packed
        y = int(packed.y[cell])
        first = last = int(packed.x[cell])
        looked: set[int] = set()
        while last - first < WIDEST:
            new = set(range(first, last + 1)) - looked
            if not new:
                return Row(first, y, last - first + 1)
            looked |= new
            for other in (
                o for x in new for c in self._tiles.cells((x, y)) for o in packed.beside[c]
            ):
                if packed.y[other] != y:
                    return None
                first, last = min(first, int(packed.x[other])), max(last, int(packed.x[other]))
        return None

    def _is_closed(self, row: Row) -> bool:
        """Whether these are logic tiles that can be moved together."""
        packed = self._packed
        places: list[Place] = [(row.x + k, row.y) for k in range(row.width)]
        return all(self._tiles.is_logic(place) for place in places) and all(
            packed.y[other] == row.y and row.x <= packed.x[other] < row.x + row.width
            for place in places
            for cell in self._tiles.cells(place)
            for other in packed.beside[cell]
        )

    def _cells(self, row: Row) -> list[int]:
        return [cell for k in range(row.width) for cell in self._tiles.cells((row.x + k, row.y))]
