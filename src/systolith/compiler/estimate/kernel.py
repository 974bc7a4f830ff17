"""Events in order of time: processes that sleep until a cycle, or until something changes."""

from collections.abc import Callable, Generator
from heapq import heappop, heappush

Steps = Generator["int | Change | tuple[int, Change]", None, None]
"""A process: it yields a cycle, a change, or both for whatever comes first."""

CycleSteps = Generator["int | Change | tuple[int, Change]", None, int]
"""A part of a process that ends with a cycle."""


class _Process:
    __slots__ = ("steps", "ticket")

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        # Grows with each resumption: a wake-up with an older one comes too late, and is dropped.
        self.ticket = 0


class Change:
    """Something that processes wait for: they look again whenever it is notified."""

    __slots__ = ("_kernel", "_waiting")

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._waiting: list[tuple[_Process, int]] = []

    def notify(self) -> None:
        """Resume all who wait, in the present cycle."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for process, ticket in waiting:
                self._kernel.wake(self._kernel.now, process, ticket)

    def add(self, process: _Process, ticket: int) -> None:
        """Remember a process that waits."""
        self._waiting.append((process, ticket))


class Kernel:
    """The clock, and what is still to happen.

    Attributes:
        now: the present cycle.
    """

    def __init__(self) -> None:
        self.now = 0
        self._order = 0
        self._events: list[tuple[int, int, _Process | None, int, Callable[[], None] | None]] = []

    def start(self, steps: Steps) -> None:
        """Begin a process in the present cycle."""
        self.wake(self.now, _Process(steps), 0)

    def call(self, cycle: int, action: Callable[[], None]) -> None:
        """Do something in a cycle."""
        self._order += 1
        heappush(self._events, (cycle, self._order, None, 0, action))

    def wake(self, cycle: int, process: _Process, ticket: int) -> None:
        """Resume a process in a cycle, unless something else does before."""
        self._order += 1
        heappush(self._events, (cycle, self._order, process, ticket, None))

    def run(self) -> None:
        """Go on until nothing happens any more."""
        events = self._events
        while events:
            cycle, _, process, ticket, action = heappop(events)
            if process is None:
                self.now = cycle
                action()  # pyright: ignore[reportOptionalCall]
                continue
            if ticket != process.ticket:
                continue
            self.now = cycle
            process.ticket += 1
            wish = next(process.steps, None)
            if wish is None:
                continue
            if isinstance(wish, int):
                self.wake(max(wish, cycle), process, process.ticket)
            elif isinstance(wish, Change):
                wish.add(process, process.ticket)
            else:
                self.wake(max(wish[0], cycle), process, process.ticket)
                wish[1].add(process, process.ticket)
