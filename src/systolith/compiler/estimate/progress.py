"""When each of a sequence of things happens: beats that come, words that leave, rows read."""

from bisect import bisect_left
from collections.abc import Generator
from math import floor

from systolith.compiler.estimate.kernel import Change, Kernel


class Progress:
    """A sequence of equal things, as far as it is known when they happen.

    They are added in runs: so many of them, evenly spaced, the last one in a cycle, which may lie
    ahead. That way, a run is one event, however long it is.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._change = Change(kernel)
        self._totals: list[int] = []
        self._runs: list[tuple[int, float]] = []

    @property
    def total(self) -> int:
        """How many are known."""
        return self._totals[-1] if self._totals else 0

    def add(self, count: int, last: int, spacing: float = 1) -> None:
        """Let so many more happen, the last one in a cycle, the others before it."""
        self._totals.append(self.total + count)
        self._runs.append((last, spacing))
        self._change.notify()

    def until(self, number: int) -> Generator[Change, None, int]:
        """Wait until it is known when the thing of a number happens, from 1; returns that cycle.

        What was before the first one happened in cycle 0.
        """
        if number <= 0:
            return 0
        while self.total < number:
            yield self._change
        run = bisect_left(self._totals, number)
        last, spacing = self._runs[run]
        return last - floor((self._totals[run] - number) * spacing)
