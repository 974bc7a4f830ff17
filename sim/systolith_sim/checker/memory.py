"""Who touched which cell last: the memory of the race check."""

from typing import Any

import numpy as np
import numpy.typing as npt

from systolith.isa import Engine
from systolith_sim.checker.accesses import Access, Cells

Counts = npt.NDArray[np.int64]
Stamps = npt.NDArray[np.int16]
"""An engine's retired count when it last touched a cell; 0 for never."""


class Memory:
    """Cells of one memory, and for each engine what it did last to each of them.

    An engine is in order, so its last access stands for all earlier ones.

    Args:
        size: cells.
        word: cells that are read and written together: no two engines may, unordered, read and
            write the same word, nor write the same cell.
        grain: bytes of a cell that can be written on their own.
        known: whether all of it has been written before the program starts.
    """

    def __init__(self, size: int, *, word: int = 1, grain: int = 1, known: bool = False) -> None:
        self.size = size
        self._word = word
        self._grain = grain
        self._known = np.full(size * grain, known)
        self._wrote: dict[Engine, Stamps] = {}
        self._wrote_words: dict[Engine, Stamps] = {}
        self._read_words: dict[Engine, Stamps] = {}

    def unwritten(self, access: Access) -> int | None:
        """The first byte of a read's content that was never written, if there is one."""
        known = view(self._known, access.content)
        if known.all():
            return None
        return _position(access.content, np.argwhere(~known)[0])

    def conflict(self, access: Access, engine: Engine, clock: Counts) -> Any:
        """Find an access of another engine that is not ordered before this one.

        Args:
            access: what comes now.
            engine: whose it is.
            clock: instructions of each engine that have ended before.

        Returns:
            engine, its count, whether it wrote, and the cell; or None.
        """
        words = self._words(access.cells)
        others = [(True, self._wrote_words, words)]
        if access.write:
            others = [(True, self._wrote, access.cells), (False, self._read_words, words)]
        for wrote, stamps, cells in others:
            for other, memory in stamps.items():
                if other == engine:
                    continue
                part = view(memory, cells) if isinstance(cells, Cells) else memory[cells]
                if part.max() > clock[other]:
                    at = np.argwhere(part > clock[other])[0]
                    if isinstance(cells, Cells):
                        cell = _position(cells, at)
                        cell *= self._word if stamps is not self._wrote else 1
                    else:
                        cell = int(cells[at[0]]) * self._word
                    return other, int(part[tuple(at)]), wrote, cell
        return None

    def note(self, access: Access, engine: Engine, count: int) -> None:
        """Remember an access."""
        words = self._words(access.cells)
        if access.write:
            self._stamp(self._wrote, engine, access.cells, count)
            self._stamp(self._wrote_words, engine, words, count)
            view(self._known, access.content)[:] = not access.voids
        else:
            self._stamp(self._read_words, engine, words, count)

    def _stamp(
        self, stamps: dict[Engine, Stamps], engine: Engine, cells: Cells | Counts, count: int
    ) -> None:
        if engine not in stamps:
            size = self.size if stamps is self._wrote else -(-self.size // self._word)
            stamps[engine] = np.zeros(size, np.int16)
        if isinstance(cells, Cells):
            view(stamps[engine], cells)[:] = count
        else:
            stamps[engine][cells] = count

    def _words(self, cells: Cells) -> Cells | Counts:
        """The words that cells lie in, as cells or, if they are not aligned, as indices."""
        word = self._word
        if word == 1:
            return cells
        start, width, runs, stride, blocks, block_stride = cells
        if start % word or stride % word or block_stride % word:
            starts = run_starts(cells)
            return np.unique((starts[:, None] + np.arange(width)) // word)
        width = -(-width // word)
        return Cells(start // word, width, runs, stride // word, blocks, block_stride // word)


def view(memory: np.ndarray, cells: Cells) -> np.ndarray:
    """Cells of a memory, as `[blocks, runs, width]`."""
    item = memory.itemsize
    return np.ndarray(
        (cells.blocks, cells.runs, cells.width),
        memory.dtype,
        memory,
        cells.start * item,
        (cells.block_stride * item, cells.stride * item, item),
    )


def run_starts(cells: Cells) -> Counts:
    """First cells of all runs."""
    blocks = cells.start + np.arange(cells.blocks)[:, None] * cells.block_stride
    return (blocks + np.arange(cells.runs) * cells.stride).reshape(-1)


def overlaps_itself(cells: Cells) -> bool:
    """Whether two runs have a cell in common."""
    if cells.runs == cells.blocks == 1:
        return False
    starts = np.sort(run_starts(cells))
    return bool(np.any(np.diff(starts) < cells.width))


def overlap(one: Cells, two: Cells) -> int | None:
    """The first cell that two have in common, if there is one."""
    if one.end <= two.first or two.end <= one.first:
        return None
    first, end = min(one.first, two.first), max(one.end, two.end)
    marked = np.zeros(end - first, bool)
    view(marked, one._replace(start=one.start - first))[:] = True
    part = view(marked, two._replace(start=two.start - first))
    if not part.any():
        return None
    return _position(two, np.argwhere(part)[0])


def _position(cells: Cells, at: npt.NDArray[np.intp]) -> int:
    block, run, column = (int(each) for each in at)
    return cells.start + block * cells.block_stride + run * cells.stride + column
