"""STREAM, LOAD and STORE: runs of bytes, cut into bursts."""

from collections import deque
from math import ceil

from systolith.compiler.estimate.banks import Banks, ReadPort
from systolith.compiler.estimate.control import Control, Job
from systolith.compiler.estimate.kernel import Kernel, Steps
from systolith.compiler.estimate.memory import (
    LONGEST_BURST,
    Burst,
    Port,
    Reader,
    bursts_of,
    stream_burst_beats,
)
from systolith.compiler.estimate.progress import Progress
from systolith.config import CoreConfig
from systolith.isa import Engine, Fill, Space

STREAM_SETUP = 3
"""Cycles from a STREAM's command until it is cut into bursts."""

CUT = 3
"""Cycles from a run to its first burst, and from one burst to the next."""

PUSH = 2
"""Cycles from the bus to a word's push into the ring."""

SPACE = 2
"""Cycles from a word that is popped from the ring until a burst may take its place."""

WALK = 8
"""Cycles from a command to its first run: setup, products, three stages of checks, a skid."""

FIFO_BEATS = 256
"""Beats that LOAD asks for ahead."""

FIFO = 6
"""Cycles from a beat on the bus until its place may be asked for again, at least."""

TAKE = 8
"""Cycles from a beat on the bus until LOAD's writer takes it, at least."""

REALIGNED = 3
"""Beats between LOAD's FIFO and its writer."""

WRITE = 2
"""Cycles from the last beat of a word to its write."""

LANDED = 3
"""Cycles from a LOAD's last write until the progress count changes."""

SIDE_BYTES = 4
"""Bytes of a write to column memory or tables."""

WRITE_BURSTS = 16
"""Bursts of a STORE without their response."""

AHEAD = 16
"""Words that STORE reads ahead."""

PART = 4
"""Words of a STORE that are looked at together."""

READ = 5
"""Cycles from a word that has come for STORE to its first beat."""

INDEXED = 16
"""Cycles from run to run of a GATHER at least, beside those of a read: a number is read, and
multiplied bit by bit. Which one, nobody knows before: this is for 8 bits. Long rows hide twice as
many."""

ANSWERED = 3
"""Cycles from a STORE's last response until the progress count changes."""


class Ring:
    """The weight ring.

    Attributes:
        words: that it holds.
        pushed: words that come.
        popped: words that leave.
    """

    def __init__(self, kernel: Kernel, config: CoreConfig) -> None:
        self._kernel = kernel
        self.words = config.ring_words
        self.pushed = Progress(kernel)
        self.popped = Progress(kernel)

    def load(self, words: int) -> Steps:
        """Pop the words of a tile; ends a cycle after the last one."""
        begin = self._kernel.now
        pushed = yield from self.pushed.until(self.popped.total + words)
        last = max(begin + words - 1, pushed + 1)
        self.popped.add(words, last)
        yield last + 1


def stream_engine(
    kernel: Kernel, config: CoreConfig, control: Control, port: Port, ring: Ring
) -> Steps:
    """Carry out STREAM instructions."""
    queue = control.queues[Engine.STREAM]
    beat, word = config.axi_bytes, config.rows
    asked = 0
    while True:
        yield from queue.take()
        job = queue.commands[0]
        op = job.instruction
        yield max(job.started + STREAM_SETUP, kernel.now)
        # The next command is taken while this one is being cut.
        kernel.call(kernel.now + 1, queue.done)
        left = op.size
        for beats in bursts_of(op.dram_offset, op.size, beat, stream_burst_beats(config)):
            left -= beats * beat
            asked += beats * beat
            yield kernel.now + CUT - 1
            popped = yield from ring.popped.until(ceil(asked / word) - ring.words)
            yield popped + SPACE
            yield kernel.now + 1

            def arrive(
                first: int,
                last: int,
                words: int = beats * beat // word,
                count: int = beats,
                job: Job | None = None if left else job,
            ) -> None:
                spacing = (last - first) / max(1, count - 1) * (word / beat)
                ring.pushed.add(words, last + PUSH, spacing)
                if job:
                    control.retire(job, last + PUSH + 2)

            yield from port.read(Reader.STREAM, Burst(beats, arrive))
        yield kernel.now + 1


class _Fifo:
    """Beats that LOAD has asked for and that its writer has not taken.

    Attributes:
        asked: beats that have been asked for.
        left: beats whose place may be asked for again.
        taken: when the writer takes the last beat that has come so far.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.asked = 0
        self.left = Progress(kernel)
        self.taken = 0

    def arrive(self, beats: int, first: int, last: int, cycles: int) -> None:
        """Let the beats of a burst come that the writer takes `cycles` apart."""
        self.taken = max(self.taken, first + TAKE - cycles) + beats * cycles
        self.taken = max(self.taken, last + TAKE)
        leaves = max(last + FIFO, self.taken - REALIGNED * cycles + 1)
        self.left.add(beats, leaves, max(cycles, (last - first) / max(1, beats - 1)))


def load_engine(kernel: Kernel, config: CoreConfig, control: Control, port: Port) -> Steps:
    """Carry out LOAD instructions."""
    queue = control.queues[Engine.LOAD]
    fifo = _Fifo(kernel)
    beat = config.axi_bytes
    while True:
        yield from queue.take()
        job = queue.commands[0]
        op = job.instruction
        yield max(job.started + WALK, kernel.now)
        # Column records and tables are written in pieces.
        pieces = 0 if op.space == Space.SCRATCHPAD else beat // SIDE_BYTES
        landed = LANDED + (pieces or WRITE)
        runs = [(i2, i1) for i2 in range(op.n2) for i1 in range(op.n1)]
        indexed = kernel.now
        for run, (i2, i1) in enumerate(runs):
            if op.fill == Fill.GATHER:
                indexed = max(indexed + INDEXED + config.read_latency, kernel.now)
                yield indexed
            place = op.dram_offset + i2 * op.dram_stride2 + i1 * op.dram_stride1
            ends = run == len(runs) - 1
            if ends:
                # The next command is taken while this one is being cut.
                kernel.call(kernel.now + 1, queue.done)
            if op.fill == Fill.ZERO:
                beats = bursts_of(0, op.n0, beat, LONGEST_BURST)
                fifo.taken = max(fifo.taken, kernel.now) + sum(beats)
                if ends:
                    control.retire(job, fifo.taken + landed)
                yield kernel.now + 1
                continue
            bursts = bursts_of(place, op.n0, beat, LONGEST_BURST)
            for index, beats in enumerate(bursts):
                yield kernel.now + CUT - 1
                fifo.asked += beats
                yield (yield from fifo.left.until(fifo.asked - FIFO_BEATS))
                yield kernel.now + 1
                is_last = ends and index == len(bursts) - 1

                def arrive(
                    first: int,
                    last: int,
                    beats: int = beats,
                    cycles: int = 1 + pieces,
                    landed: int = landed,
                    job: Job | None = job if is_last else None,
                ) -> None:
                    fifo.arrive(beats, first, last, cycles)
                    if job:
                        control.retire(job, fifo.taken + landed)

                yield from port.read(Reader.LOAD, Burst(beats, arrive))
            yield kernel.now + 1


def store_engine(
    kernel: Kernel, config: CoreConfig, control: Control, port: Port, banks: Banks
) -> Steps:
    """Carry out STORE instructions."""
    queue = control.queues[Engine.STORE]
    beat = config.axi_bytes
    word_beats = config.rows // beat
    answers: deque[int] = deque()
    sent = cut = 0
    while True:
        yield from queue.take()
        job = queue.commands[0]
        op = job.instruction
        yield max(job.started + WALK, cut)
        answer = 0
        for i2 in range(op.n2):
            for i1 in range(op.n1):
                place = op.dram_offset + i2 * op.dram_stride2 + i1 * op.dram_stride1
                granule = op.address + i2 * op.stride2 + i1 * op.stride1
                begin = kernel.now
                last = (i2, i1) == (op.n2 - 1, op.n1 - 1)
                if last:
                    queue.done()  # The walk is over, while the run waits to be cut.
                ((bank, _),) = banks.parts(granule, 0, 1)
                words = (granule * config.columns % config.rows + op.n0 - 1) // config.rows + 1
                bursts = bursts_of(place, op.n0, beat, LONGEST_BURST)
                yield begin + 1
                for beats in bursts:
                    if len(answers) == WRITE_BURSTS:
                        yield answers.popleft() + 1
                    for part in range(0, beats, PART * word_beats):
                        count = min(PART * word_beats, beats - part)
                        # No further ahead of what has been sent than there is room for words.
                        yield sent - (AHEAD - PART) * word_beats
                        read = min(-(-count // word_beats), words)
                        words -= read
                        yield from bank.read(ReadPort.DMA, read)
                        comes = kernel.now + config.read_latency + READ
                        first = max(sent + 1, comes + word_beats - count)
                        sent, answer = port.write(first, count)
                    answers.append(answer)
                # The next run comes when this one has been cut, too.
                cut = begin + 1 + CUT * len(bursts)
                if not last:
                    yield cut
        control.retire(job, answer + ANSWERED)
