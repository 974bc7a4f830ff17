"""Moves what lies on the slowest paths, as long as it helps."""

from collections.abc import Callable

import numpy as np

from systolith_sim.placement.delays import Refined
from systolith_sim.placement.moves import SHARPNESS, Move, Moves
from systolith_sim.placement.packed import Packed
from systolith_sim.placement.tiles import Tiles
from systolith_sim.placement.timing import Timing

CONSIDERED = (99.0, 98.0, 97.0, 96.0)
"""Percentiles of all delays, one after the other: what is slower is to become faster."""

ROUNDS = 150
"""At most, for each of them."""

MANY, FEW, PATIENCE = 60, 4, 10
"""Moves of a round in the beginning; and so few that it is the end if they do not help, and more
rounds than this have not helped one after the other."""


def refine(packed: Packed, *, progress: Callable[[str], None] | None = None) -> Refined:
    """Move LUTs and registers, exchange tiles and block RAMs: the longest paths become shorter.

    Each round moves cells for which that would help if all others stayed; what did not help
    altogether is undone. The same netlist always ends in the same places.

    Args:
        packed: has the new places afterwards; `Packed.save` writes them down.
        progress: told how far it has come.

    Raises:
        PlacementError: the placement is not legal, or there is a combinational loop.
    """
    refiner = _Refiner(packed)
    before = refiner.longest()
    x, y = packed.x.copy(), packed.y.copy()
    for percentile in CONSIDERED:
        refiner.improve(percentile)
        if progress:
            progress(f"refined: longest path {before:.1f} to {refiner.longest():.1f} ns")
    moved = np.count_nonzero((x != packed.x) | (y != packed.y))
    return Refined(before, refiner.longest(), int(moved))


class _Refiner:
    def __init__(self, packed: Packed) -> None:
        self._timing = Timing(packed)
        self._moves = Moves(packed, Tiles(packed), self._timing)
        self._random = np.random.default_rng(1)

    def longest(self) -> float:
        """The longest path, ns."""
        return float(self._timing.delays.max(initial=0))

    def improve(self, percentile: float) -> None:
        """Go on for as many rounds as help."""
        timing = self._timing
        delays = timing.delays[np.isfinite(timing.delays)]
        if not len(delays):
            return
        self._period = float(np.percentile(delays, percentile))
        batch, failures = float(MANY), 0
        cost = self._cost()
        for _ in range(ROUNDS):
            moves = self._round(int(batch))
            now = self._cost()
            if moves and now < cost:
                cost, batch, failures = now, batch * 1.25, 0
                continue
            for move in reversed(moves):
                move.undo()
            self._cost()
            failures += 1
            if batch <= FEW and failures > PATIENCE:
                return
            batch = max(FEW, batch * 0.6)

    def _cost(self) -> float:
        self._timing.update(self._period)
        late = np.minimum((self._timing.delays - self._period) / SHARPNESS, 60)
        return float(np.exp(late).sum())

    def _round(self, most: int) -> list[Move]:
        """Make moves that do not touch each other's paths, of the worst cells first."""
        timing = self._timing
        late: dict[int, float] = {}
        for index in np.nonzero(timing.slack < 0)[0]:
            for cell in (int(timing.driver[index]), int(timing.sink[index])):
                late[cell] = min(late.get(cell, 0.0), float(timing.slack[index]))
        # Not always in the same order: who comes first takes the room of others.
        order = sorted(late, key=lambda cell: late[cell] + self._random.random())
        touched: set[int] = set()
        moves: list[Move] = []
        for cell in order:
            if len(moves) >= most:
                break
            if cell in touched:
                continue
            move = self._moves.best(cell)
            if move is not None:
                move.do()
                moves.append(move)
                near = move.connections[timing.slack[move.connections] < 2 * SHARPNESS]
                touched.update(timing.driver[near].tolist(), timing.sink[near].tolist())
        return moves
