"""VECTOR: groups of C columns, row after row, with operands read ahead."""

from typing import NamedTuple

from systolith.compiler.estimate.banks import Banks, ReadPort
from systolith.compiler.estimate.control import Control, Job
from systolith.compiler.estimate.gemm import Accumulators, Part
from systolith.compiler.estimate.kernel import CycleSteps, Kernel, Steps
from systolith.compiler.estimate.progress import Progress
from systolith.config import CoreConfig
from systolith.isa import Engine, Function, Instruction, Second, Statistic, XFormat
from systolith.numerics import Format

CHUNK = 8
"""Rows that are looked at together."""

AHEAD = 16
"""Groups of an operand that are read ahead."""

ROOM = 4
"""Cycles from an issue to the read that takes its room."""

STATISTIC_PERIOD = 5
"""Cycles after which the statistics of a row may be added to."""

RESULT = 17
"""Cycles from an issue to the decision that its write is the last one."""

TABLE = 5
"""Cycles that a table takes, or an exponential."""

LANDED = 3
"""Cycles from that decision until the write has landed."""


class _Operand:
    """An operand that is read ahead: its groups, read and issued."""

    def __init__(self, kernel: Kernel) -> None:
        self.read = Progress(kernel)
        self.issued = Progress(kernel)


def vector_engine(
    kernel: Kernel,
    config: CoreConfig,
    control: Control,
    banks: Banks,
    accumulators: Accumulators,
) -> Steps:
    """Carry out VECTOR instructions, one after the other."""
    queue = control.queues[Engine.VECTOR]
    while True:
        yield from queue.take()
        job = queue.commands[0]
        op = job.instruction
        operands = list[_Operand]()
        if op.x_format != XFormat.ACCUMULATOR:
            operands.append(_Operand(kernel))
            wide = op.x_format == XFormat.S16
            place = _Place(ReadPort.VECTOR_X, op.x_address, op.x_row, wide)
            kernel.start(_fetch(kernel, config, banks, job, operands[-1], place))
        if op.second != Second.NONE:
            operands.append(_Operand(kernel))
            place = _Place(ReadPort.VECTOR_R, op.r_address, op.r_row, wide=True)
            kernel.start(_fetch(kernel, config, banks, job, operands[-1], place))
        last = yield from _issue(kernel, config, job, operands, accumulators)
        retire = last + _landing(config, op)
        control.retire(job, retire + 1)
        yield retire + 1
        queue.done()


class _Place(NamedTuple):
    """Where an operand comes from."""

    port: ReadPort
    address: int
    row: int
    wide: bool


def _fetch(
    kernel: Kernel, config: CoreConfig, banks: Banks, job: Job, operand: _Operand, place: _Place
) -> Steps:
    """Read an operand as far ahead as there is room for it."""
    op = job.instruction
    step = 2 if place.wide else 1
    words = 2 if place.wide and config.word_granules == 1 else 1
    yield job.started + 3
    for group in range(-(-op.n // config.columns)):
        for bank, count in banks.parts(place.address + group * step, place.row, op.m):
            for first in range(0, count, CHUNK):
                rows = min(CHUNK, count - first)
                issued = yield from operand.issued.until(operand.read.total + 1 - AHEAD)
                yield issued + ROOM
                yield from bank.read(place.port, rows * words)
                operand.read.add(rows, kernel.now, words)


def _issue(
    kernel: Kernel,
    config: CoreConfig,
    job: Job,
    operands: list[_Operand],
    accumulators: Accumulators,
) -> CycleSteps:
    """Issue the groups of C elements; ends with the last one, and returns its cycle."""
    op = job.instruction
    drained = op.x_format == XFormat.ACCUMULATOR
    shared = op.broadcast or op.function == Function.EXP
    period = 2 if _two_writes(config, op) else 1
    gap = _fill(config, op)
    if op.statistic != Statistic.NONE:
        gap = max(gap, STATISTIC_PERIOD - op.m)
    start = job.started + 1
    begin = records = start + config.columns
    last = done = 0
    part: Part | None = None
    for _ in range(-(-op.n // config.columns)):
        begin = max(begin, records)
        if drained:
            while not accumulators.parts:
                yield accumulators.change
            part = accumulators.parts.popleft()
            begin = max(begin, part.full)
        left = op.m
        while left:
            rows = min(left, CHUNK) if operands else left
            done += rows
            last = begin + (rows - 1) * period
            for operand in operands:
                # It is issued in the cycle after its last word has come.
                last = max(last, config.read_latency + (yield from operand.read.until(done)))
            first = last - (rows - 1) * period
            if left == op.m and not shared:
                records = first + config.columns
            left -= rows
            for operand in operands:
                operand.issued.add(rows, last, period)
            begin = last + period
            yield last
        begin = last + max(period, 1 + gap)
        if part and part.final:
            kernel.call(last + 1, accumulators.release)
    return last


def _two_writes(config: CoreConfig, op: Instruction) -> bool:
    """Whether a group of words takes two words of the scratchpad."""
    return op.y_format == Format.S16 and config.word_granules == 1


def _fill(config: CoreConfig, op: Instruction) -> int:
    """Rows by which the last block of a group is filled up to be transposed."""
    return -op.m % config.columns if op.transpose else 0


def _landing(config: CoreConfig, op: Instruction) -> int:
    """Cycles from the last issue to the retirement."""
    final = RESULT + _two_writes(config, op)
    if op.function != Function.AFFINE:
        final += TABLE
    if op.transpose:
        final += _fill(config, op) + (op.n - 1) % config.columns + 2
    if op.statistic == Statistic.NONE:
        return final + LANDED
    levels = config.columns.bit_length() - 1
    statistics = max(1 + 2 * levels, 3 + levels) + 1
    return final + max(LANDED, statistics)
