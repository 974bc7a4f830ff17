"""DRAM and the memory port: bursts in the order of their addresses, at a bandwidth."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import ceil

from systolith.compiler.estimate.kernel import Change, Kernel, Steps
from systolith.config import CoreConfig

ADDRESS_CYCLES = 2
"""Cycles for which a burst has the address channel."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the estimate must know of a memory.

    Attributes:
        bandwidth: bytes per cycle, reads and writes together.
        latency: cycles from an accepted address to its first beat, and from the last beat of a
            write to its response.
        outstanding: bursts that it accepts ahead, in each direction.
    """

    bandwidth: float = 8.0
    latency: int = 30
    outstanding: int = 16


class Reader(IntEnum):
    """Who reads."""

    FETCH = 0
    STREAM = 1
    LOAD = 2


@dataclass
class Burst:
    """A burst of reads.

    Attributes:
        beats: how many.
        arrives: told the cycles of its first and last beat on the bus, as soon as the first one
            comes.
        ready: when the memory has its first beat.
    """

    beats: int
    arrives: Callable[[int, int], None]
    ready: int = 0


class Port:
    """The memory port: who may ask, and when it is answered."""

    def __init__(self, kernel: Kernel, config: CoreConfig, memory: Memory) -> None:
        self._kernel = kernel
        self._memory = memory
        self._limit = {
            Reader.FETCH: 64,
            # Enough for 192 beats of the longest burst.
            Reader.STREAM: ceil(192 / stream_burst_beats(config)),
            Reader.LOAD: 64,
        }
        # Cycles that a beat takes from both directions.
        self._cost = config.axi_bytes / memory.bandwidth
        self._period = max(1.0, self._cost)
        self._offers: dict[Reader, Burst] = {}
        self._owed = dict.fromkeys(Reader, 0)
        self._queue: deque[Burst] = deque()
        self._change = Change(kernel)
        self._free = 0.0
        self._reading = 0  # until this cycle
        self.taken = Change(kernel)
        kernel.start(self._arbitrate())
        kernel.start(self._answer())

    def read(self, reader: Reader, burst: Burst) -> Steps:
        """Offer a burst until its address is taken."""
        self._offers[reader] = burst
        self._change.notify()
        while self._offers.get(reader) is burst:
            yield self.taken

    def write(self, ready: int, beats: int) -> tuple[int, int]:
        """Send a burst of writes whose first beat is ready in a cycle.

        Returns:
            The cycles of its last beat and of its response.
        """
        if self._cost <= 0.5:
            last = ready + beats - 1
        elif self._reading > ready:
            # There is not enough for a beat in each direction: they take turns.
            last = ready + ceil((beats - 1) * 2 * self._cost)
            self._free += beats * min(self._cost, 2 * self._cost - 1)
        else:
            first = max(ready, ceil(self._free)) if self._cost > 1 else ready
            last = first + ceil((beats - 1) * self._period)
            self._free = first + beats * self._period
        return last, last + self._memory.latency

    def _arbitrate(self) -> Steps:
        """Fetch goes first, the others take turns."""
        kernel = self._kernel
        loads_turn = False
        while True:
            wanted = [reader for reader in self._offers if self._owed[reader] < self._limit[reader]]
            if not wanted:
                yield self._change
                continue
            if Reader.FETCH in wanted:
                chosen = Reader.FETCH
            elif len(wanted) == 2:
                chosen = Reader.LOAD if loads_turn else Reader.STREAM
            else:
                chosen = wanted[0]
            if chosen != Reader.FETCH:
                loads_turn = chosen == Reader.STREAM
            burst = self._offers.pop(chosen)
            self._owed[chosen] += 1
            self._count(chosen, burst)
            self.taken.notify()
            yield kernel.now + 1
            # It is chosen before the memory has room for it.
            while len(self._queue) >= self._memory.outstanding:
                yield self._change
            burst.ready = kernel.now + self._memory.latency
            self._queue.append(burst)
            self._change.notify()
            yield kernel.now + ADDRESS_CYCLES - 1

    def _count(self, reader: Reader, burst: Burst) -> None:
        """Let the burst's last beat end what is owed to its reader."""
        arrives = burst.arrives

        def arrive(first: int, last: int) -> None:
            arrives(first, last)
            self._kernel.call(last + 2, lambda: self._done(reader))

        burst.arrives = arrive

    def _done(self, reader: Reader) -> None:
        self._owed[reader] -= 1
        self._change.notify()

    def _answer(self) -> Steps:
        """Answer one burst after the other."""
        kernel = self._kernel
        while True:
            while not self._queue:
                yield self._change
            burst = self._queue[0]
            first = max(burst.ready, ceil(self._free))
            if first > kernel.now:
                yield first
                if ceil(self._free) > kernel.now:  # a write came between
                    continue
            # Unused bandwidth of one cycle is kept.
            begin = max(self._free, kernel.now - 1 if self._cost > 1 else kernel.now)
            last = max(kernel.now + burst.beats - 1, ceil(begin + (burst.beats - 1) * self._period))
            self._free = max(begin + burst.beats * self._period, last + 1)
            self._reading = last + 1
            burst.arrives(kernel.now, last)
            # With its last beat on the bus, the memory has room for another address.
            yield last
            self._queue.popleft()
            self._change.notify()


def stream_burst_beats(config: CoreConfig) -> int:
    """Beats of STREAM's longest burst: two fit the ring."""
    return min(LONGEST_BURST, config.ring_bytes // config.axi_bytes // 2)


LONGEST_BURST = 32
"""Beats of the longest burst."""


def bursts_of(address: int, size: int, beat: int, longest: int) -> list[int]:
    """Return the beats of the bursts that a run of bytes is cut into.

    They end where `longest` beats end, counted from address 0.
    """
    first, last = address // beat, (address + size - 1) // beat
    cuts = range(first // longest, last // longest + 1)
    return [min(last + 1, (cut + 1) * longest) - max(first, cut * longest) for cut in cuts]
