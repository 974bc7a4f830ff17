"""What each instruction does to a `Machine`, as a sequence of steps.

An operator is a generator. It yields a condition before each of its steps, and carries the step
out when it is resumed, which must be while the condition holds. When it ends, the instruction has
retired. A whole step is a whole instruction if it can be; fine steps are as small as the
hardware's order of accesses, and bound ring and accumulators as the hardware does.
"""

from collections.abc import Callable, Generator, Iterator

import numpy as np
import numpy.typing as npt

from systolith.isa import (
    OFFSET_WIDTH,
    Fill,
    Function,
    Instruction,
    Opcode,
    RowOperation,
    Second,
    Space,
    Statistic,
    WeightSource,
    XFormat,
)
from systolith.numerics import (
    NO_ROW,
    Format,
    Row,
    Source,
    layer_norm_row,
    recip,
    rms_norm_row,
)
from systolith_sim.golden.gemm import gemm as gemm_sums
from systolith_sim.golden.vector import NO_COLUMN, take_statistics, vector_pass
from systolith_sim.iss.machine import HALVES, ExecutionError, Machine
from systolith_sim.iss.weights import RingTiles, accumulator_halves, stream_bytes, tile_channels

Condition = Callable[[], str]
"""What a step waits for, in words; empty if it can be carried out now."""

Steps = Generator[Condition, None, None]

Walk = Iterator[int]
"""Granules in the order in which the core looks at them."""


def _now() -> str:
    return ""


def stream(machine: Machine, i: Instruction, fine: bool) -> Steps:
    """Push bytes into the ring; in fine steps, an array's worth of weights at a time."""
    config = machine.config
    chunk = config.rows * config.columns if fine else i.size

    def room() -> str:
        if fine and machine.ring.size + chunk > config.ring_bytes:
            return "room in the ring"
        return ""

    for at in range(0, i.size, chunk):
        yield room
        size = min(chunk, i.size - at)
        machine.ring.push(machine.dram_run(i.base, i.dram_offset + at, size).copy())


def load(machine: Machine, i: Instruction, fine: bool) -> Steps:
    """Move from DRAM to a memory of the core; in fine steps, a run at a time."""
    if i.space != Space.SCRATCHPAD:
        yield _now
        memory = machine.columns if i.space == Space.COLUMNS else machine.tables
        data = machine.dram_run(i.base, i.dram_offset, i.n0)
        slots = machine.slots(memory, i.address, i.n0 // memory.itemsize)
        slots.view(np.uint8)[:] = data
        return
    c = machine.config.columns
    start = _dram_start(machine, i)
    if not fine:
        yield _now
    for i2 in range(i.n2):
        for i1 in range(i.n1):
            if fine:
                yield _now
            step = i1
            if i.fill == Fill.GATHER:
                step = int(machine.run(i.index * c + 4 * i1, 4).view("<u4")[0])
            place = i.address + i2 * i.stride2 + i1 * i.stride1
            # Of a run, DRAM is looked at first.
            if i.fill == Fill.ZERO:
                machine.run(place * c, i.n0)[:] = 0
            else:
                offset = start + i2 * i.dram_stride2 + step * i.dram_stride1
                data = machine.dram_run(i.base, offset % (1 << OFFSET_WIDTH), i.n0)
                machine.run(place * c, i.n0)[:] = data


def store(machine: Machine, i: Instruction, fine: bool) -> Steps:
    """Move from the scratchpad to DRAM; in fine steps, a run at a time."""
    c = machine.config.columns
    start = _dram_start(machine, i)
    if not fine:
        yield _now
    for i2 in range(i.n2):
        for i1 in range(i.n1):
            if fine:
                yield _now
            offset = start + i2 * i.dram_stride2 + i1 * i.dram_stride1
            place = i.address + i2 * i.stride2 + i1 * i.stride1
            target = machine.dram_run(i.base, offset % (1 << OFFSET_WIDTH), i.n0)
            target[:] = machine.run(place * c, i.n0)


def _dram_start(machine: Machine, i: Instruction) -> int:
    scalar = machine.scalars[i.scalar - 1] if i.scalar else 0
    return i.dram_offset + scalar * i.scalar_stride


def gemm(machine: Machine, i: Instruction, fine: bool) -> Steps:
    """Multiply into accumulator halves; in fine steps, a tile at a time."""
    config = machine.config
    r, c = config.rows, tile_channels(config, i.b_source)
    from_ring = i.b_source != WeightSource.SCRATCHPAD
    row_tiles, column_tiles = -(-i.k // r), accumulator_halves(config, i)
    kernels, columns = (1, 1) if fine else (row_tiles, column_tiles)
    tiles = RingTiles(config, i.b_source, row_tiles)
    element = Format(i.a_format)
    words = range(0, row_tiles * config.word_granules, config.word_granules)
    a_walk = (
        i.a_address + m * i.a_row + word
        for _ in range(column_tiles)
        for word in words
        for m in range(i.m)
    )
    b_walk = (
        i.b_address + j * i.b_row + word
        for g in range(0, i.n, c)
        for word in words
        for j in range(g, min(g + c, i.n))
    )

    def ready(kt: int) -> str:
        size = tiles.tile_bytes(kt) if fine else stream_bytes(config, i)
        if from_ring and machine.ring.size < size:
            return "weights in the ring"
        if fine and kt == 0 and machine.accumulators.halves >= HALVES:
            return "a free accumulator half"
        return ""

    for g in range(0, column_tiles, columns):
        sums = np.zeros((i.m, columns * c), np.int64)
        for kt in range(0, row_tiles, kernels):
            yield lambda kt=kt: ready(kt)
            a = machine.tensor(i.a_address, i.a_row, (i.m, row_tiles * r), element, walk=a_walk)
            a = a[:, kt * r : (kt + kernels) * r]
            if from_ring:
                ring = machine.ring
                b = tiles.take(ring, kt) if fine else tiles.take_groups(ring, columns)
            else:
                # Bound as words, used up to K.
                shape = i.n, row_tiles * r
                b = machine.tensor(i.b_address, i.b_row, shape, Format.S8, walk=b_walk)
                b = b[g * c : (g + columns) * c, kt * r : min((kt + kernels) * r, i.k)]
                a = a[:, : b.shape[1]]
            sums[:, : b.shape[0]] += gemm_sums(a, b)
        # A drain takes C channels at a time, and what begins beyond N does not exist for it.
        drained = min(sums.shape[1], -(-(i.n - g * c) // config.columns) * config.columns)
        machine.accumulators.push(sums[:, :drained], c)


def vector(machine: Machine, i: Instruction, fine: bool) -> Steps:
    """Carry out a pass; in fine steps, a group of columns at a time."""
    c = machine.config.columns
    groups = -(-i.n // c)
    step = 1 if fine else groups
    drains = i.x_format == XFormat.ACCUMULATOR

    def sums() -> str:
        missing = drains and machine.accumulators.full < step
        return "a full accumulator half" if missing else ""

    statistics: dict[str, npt.NDArray[np.int64]] | None = None
    for g in range(0, groups, step):
        yield sums
        first, end = g * c, min((g + step) * c, i.n)
        y = _pass(machine, i, first, end, step)
        _write(machine, i, y, first)
        if i.statistic != Statistic.NONE:
            valid = y[:, : max(0, _valid(machine, i) - first)]
            statistics = take_statistics(valid, Statistic(i.statistic), statistics)
            for name, values in statistics.items():
                machine.slots(machine.statistics[name], i.stat_out, i.m)[:] = values


def _valid(machine: Machine, i: Instruction) -> int:
    return min(i.n, machine.scalars[i.length]) if i.mask else i.n


def _pass(machine: Machine, i: Instruction, first: int, end: int, halves: int) -> np.ndarray:
    """Columns `first` to `end` of the result."""
    c = machine.config.columns
    # Whole groups are read, so whole groups must lie in the scratchpad.
    padded = -(-i.n // c) * c
    r: npt.ArrayLike = 0
    source = Source.SCRATCHPAD
    if i.x_format == XFormat.ACCUMULATOR:
        source = Source.ACCUMULATOR
        x = machine.accumulators.pop(halves, i.m)[:, : end - first]
    else:
        element = Format(i.x_format)
        walk = _walk(machine, i, i.x_address, i.x_row, element)
        x = machine.tensor(i.x_address, i.x_row, (i.m, padded), element, walk=walk)
        x = x[:, first:end]
    if i.second != Second.NONE:
        walk = _walk(machine, i, i.r_address, i.r_row, Format.S16)
        r = machine.tensor(i.r_address, i.r_row, (i.m, padded), Format.S16, walk=walk)
        r = r[:, first:end]
    if i.second == Second.MULTIPLY:
        source = Source.PRODUCT
    column, row, maximum = NO_COLUMN, NO_ROW, 0
    if i.function == Function.EXP:
        slots = machine.slots(machine.statistics["maximum"], i.row_in, i.m)
        maximum = slots[:, None]
    elif i.broadcast:
        column = machine.column_records(i.column, 1)
    else:
        column = machine.column_records(i.column + first, end - first)
    if i.use_row:
        row = Row(*(machine.slots(member, i.row_in, i.m)[:, None] for member in machine.records))
    table = machine.slots(machine.tables, 256 * i.table, 256) if i.function == 1 else ()
    try:
        return vector_pass(
            x,
            r,
            function=Function(i.function),
            source=source,
            column=column,
            row=row,
            table=table,
            maximum=maximum,
            unit=i.unit,
            out_format=Format(i.y_format),
            valid=max(0, _valid(machine, i) - first) if i.mask else None,
        )
    except ValueError as error:
        raise ExecutionError(str(error)) from None


def _walk(machine: Machine, i: Instruction, address: int, row: int, element: Format) -> Walk:
    """Granules of a tensor as the core goes through them: groups of C columns, then rows."""
    step = 2 if element == Format.S16 else 1
    groups = range(-(-i.n // machine.config.columns))
    return (address + m * row + g * step for g in groups for m in range(i.m))


def _write(machine: Machine, i: Instruction, y: np.ndarray, first: int) -> None:
    """Store the columns of the result that begin with `first`, and the zeros behind them."""
    c = machine.config.columns
    rows, columns = y.shape
    element = Format(i.y_format)
    if i.transpose:
        padded = -(-rows // c) * c
        # Blocks of C rows after each other, and their columns.
        walk = (
            i.y_address + j * i.y_row + block
            for g in range(0, i.n, c)
            for block in range(padded // c)
            for j in range(g, min(g + c, i.n))
        )
        place = machine.tensor(i.y_address, i.y_row, (i.n, padded), element, walk=walk)
        place[first : first + columns, :rows] = y.T
        place[first : first + columns, rows:] = 0
    else:
        padded = -(-i.n // c) * c
        walk = _walk(machine, i, i.y_address, i.y_row, element)
        place = machine.tensor(i.y_address, i.y_row, (rows, padded), element, walk=walk)
        end = first + -(-columns // c) * c
        place[:, first : first + columns] = y
        place[:, first + columns : end] = 0


def row(machine: Machine, i: Instruction, fine: bool) -> Steps:
    """Make row records; in fine steps, one at a time."""
    eps = i.eps_mantissa << i.eps_shift
    for at in range(i.rows):
        if fine or at == 0:
            yield _now
        total, squares = (
            int(machine.statistics[name][i.source + at]) for name in ("total", "squares")
        )
        try:
            match RowOperation(i.operation):
                case RowOperation.LAYER_NORM:
                    record = layer_norm_row(total, squares, n=i.n, eps=eps)
                case RowOperation.RMS_NORM:
                    record = rms_norm_row(squares, n=i.n, eps=eps)
                case RowOperation.RECIPROCAL:
                    record = recip(total)
        except ValueError as error:
            raise ExecutionError(f"row {at}: {error}") from None
        for member, value in zip(machine.records, record, strict=True):
            member[i.destination + at] = value


OPERATORS: dict[Opcode, Callable[[Machine, Instruction, bool], Steps]] = {
    Opcode.STREAM: stream,
    Opcode.LOAD: load,
    Opcode.STORE: store,
    Opcode.GEMM: gemm,
    Opcode.VECTOR: vector,
    Opcode.ROW: row,
}
