"""GEMM: tiles of weights, rows of activations, and the two halves of the accumulators."""

from collections import deque
from typing import NamedTuple

from systolith.compiler.estimate.banks import Banks, ReadPort
from systolith.compiler.estimate.control import Control, Job
from systolith.compiler.estimate.dma import Ring
from systolith.compiler.estimate.kernel import Change, Kernel, Steps
from systolith.config import CoreConfig
from systolith.isa import Engine, WeightSource

COMMAND = 3
"""Cycles from a command to the first request for weights."""

SHORTEST_TILE = 5
"""Cycles after which a row of sums may come again."""

HALVES = 2

BEYOND = 4
"""Cycles beyond R + C from the last word of A of a tile column to its last sum; with INT4, the
shift by exponents takes one more."""


class Part(NamedTuple):
    """C channels of a half, which are drained together.

    Attributes:
        full: from which cycle on they can be.
        final: no other ones of the half come after them, so their drain hands it back.
    """

    full: int
    final: bool


class Accumulators:
    """Which halves are in use, and which of them are complete."""

    def __init__(self, kernel: Kernel) -> None:
        self.claimed = 0
        self.parts: deque[Part] = deque()
        """What is not drained of tile columns whose last sums are on their way."""

        self.change = Change(kernel)

    def release(self) -> None:
        """Hand a half back."""
        self.claimed -= 1
        self.change.notify()


def gemm_engine(
    kernel: Kernel,
    config: CoreConfig,
    control: Control,
    ring: Ring,
    banks: Banks,
    accumulators: Accumulators,
) -> Steps:
    """Carry out GEMM instructions."""
    queue = control.queues[Engine.GEMM]
    columns = config.columns
    swapped = next_begin = 0
    while True:
        yield from queue.take()
        job = queue.commands[0]
        op = job.instruction
        yield max(job.started + COMMAND, swapped)
        int4 = op.b_source == WeightSource.RING_S4
        k_tiles = -(-op.k // config.rows)
        groups = -(-op.n // (2 * columns if int4 else columns))
        for group in range(groups):
            for k_tile in range(k_tiles):
                if op.b_source == WeightSource.SCRATCHPAD:
                    yield from _load(banks, job, group, columns)
                else:
                    exponents = int4 and k_tile % config.exponent_tiles == 0
                    yield from ring.load(columns + exponents)
                if group == groups - 1 and k_tile == k_tiles - 1:
                    queue.done()
                # It is known to be loaded a cycle after its last word, which is now.
                yield next_begin
                if not k_tile and accumulators.claimed == HALVES:
                    while accumulators.claimed == HALVES:
                        yield accumulators.change
                    yield kernel.now + 1  # It is asked for a cycle after the half is claimed.
                swapped = kernel.now
                next_begin = swapped + max(op.m, SHORTEST_TILE)
                kernel.start(_feed(kernel, banks, job, k_tile * config.word_granules))
                if not k_tile:
                    accumulators.claimed += 1
                if k_tile == k_tiles - 1:
                    last_word = swapped + op.m - 1 + config.read_latency
                    full = last_word + config.rows + columns + BEYOND + config.int4
                    pair = int4 and op.n - group * 2 * columns > columns
                    accumulators.parts.append(Part(full, not pair))
                    if pair:
                        accumulators.parts.append(Part(full, True))
                    accumulators.change.notify()
                    if group == groups - 1:
                        control.retire(job, full + 1)


def _feed(kernel: Kernel, banks: Banks, job: Job, offset: int) -> Steps:
    """Read the rows of A, which goes before everybody else."""
    op = job.instruction
    for bank, rows in banks.parts(op.a_address + offset, op.a_row, op.m):
        bank.claim(ReadPort.GEMM_A, kernel.now + rows)
        yield kernel.now + rows


def _load(banks: Banks, job: Job, group: int, columns: int) -> Steps:
    """Load a tile of B from the scratchpad."""
    op = job.instruction
    rows = min(columns, op.n - group * columns)
    address = op.b_address + group * columns * op.b_row
    for bank, count in banks.parts(address, op.b_row, rows):
        yield from bank.read(ReadPort.GEMM_B, count)
