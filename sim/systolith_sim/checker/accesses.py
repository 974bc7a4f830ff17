"""What an instruction reads and writes, as cells of the core's memories and of DRAM."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from systolith.config import COLUMN_RECORD_BYTES, TABLE_ENTRIES, CoreConfig
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
from systolith.numerics import Format

ENTRY_BYTES = 2
"""Bytes of a table's entry."""


class Cells(NamedTuple):
    """Runs of `width` cells: `blocks` times `runs` of them.

    Attributes:
        start: first cell.
        width: cells of a run.
        runs, stride: of a block, and cells from one to the next.
        blocks, block_stride: likewise.
    """

    start: int
    width: int
    runs: int = 1
    stride: int = 0
    blocks: int = 1
    block_stride: int = 0

    @property
    def first(self) -> int:
        """Lowest cell."""
        spans = ((self.runs - 1) * self.stride, (self.blocks - 1) * self.block_stride)
        return self.start + sum(min(0, span) for span in spans)

    @property
    def end(self) -> int:
        """Highest cell, plus one."""
        spans = ((self.runs - 1) * self.stride, (self.blocks - 1) * self.block_stride)
        return self.start + sum(max(0, span) for span in spans) + self.width


@dataclass(frozen=True, kw_only=True)
class Access:
    """Cells of a memory that an instruction reads or writes.

    Attributes:
        operand: what they are to the instruction.
        memory: `scratchpad` (granules), `columns`, `entries` (of tables), `maximum`, `sum`,
            `squares`, `record`, or `dram0` and so on (bytes).
        write: whether they are written.
        cells: all that are touched.
        content: the part that matters, for the scratchpad in bytes: what must have been written
            before, or what is written now.
        voids: whether what is written is of no use: squares where only sums are taken.
    """

    operand: str
    memory: str
    write: bool
    cells: Cells
    content: Cells
    voids: bool = False


def accesses(
    i: Instruction, config: CoreConfig, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> list[Access]:
    """All accesses of an instruction.

    Args:
        i: the instruction.
        config: the core.
        limits: bytes of each base.
        scalars: what is known of the run-time scalars.

    Raises:
        KeyError: a DRAM address depends on a scalar that is not known; its number.
    """
    makers = {
        Opcode.STREAM: _stream,
        Opcode.LOAD: _load,
        Opcode.STORE: _store,
        Opcode.GEMM: _gemm,
        Opcode.VECTOR: _vector,
        Opcode.ROW: _row,
    }
    if i.opcode == Opcode.HALT:
        return []
    return list(makers[i.opcode](i, config, limits, scalars))


def _slots(operand: str, memory: str, write: bool, first: int, count: int) -> Access:
    cells = Cells(first, count)
    return Access(operand=operand, memory=memory, write=write, cells=cells, content=cells)


def _granules(
    operand: str,
    config: CoreConfig,
    write: bool,
    places: Sequence[int],
    width: int,
    content: int,
) -> Access:
    """Runs in the scratchpad: `places` are start, runs, stride, blocks, block stride."""
    start, runs, stride, blocks, block_stride = places
    c = config.columns
    return Access(
        operand=operand,
        memory="scratchpad",
        write=write,
        cells=Cells(start, width, runs, stride, blocks, block_stride),
        content=Cells(start * c, content, runs, stride * c, blocks, block_stride * c),
    )


def _stream(
    i: Instruction, config: CoreConfig, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> Iterator[Access]:
    yield _slots("weights", f"dram{i.base}", False, i.dram_offset, i.size)


def _dram(i: Instruction, scalars: Mapping[int, int], write: bool) -> Access:
    scalar = scalars[i.scalar - 1] if i.scalar else 0
    # The core wraps around at every run. Here only the first one does: a walk that wraps around on
    # its way counts as one that leaves the memory.
    start = (i.dram_offset + scalar * i.scalar_stride) % (1 << OFFSET_WIDTH)
    cells = Cells(start, i.n0, i.n1, i.dram_stride1, i.n2, i.dram_stride2)
    return Access(operand="memory", memory=f"dram{i.base}", write=write, cells=cells, content=cells)


def _load(
    i: Instruction, config: CoreConfig, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> Iterator[Access]:
    if i.fill == Fill.MEMORY:
        yield _dram(i, scalars, False)
    elif i.fill == Fill.GATHER:
        # Which rows is only known at run time: it may be any.
        yield _slots("memory", f"dram{i.base}", False, 0, max(1, limits.get(i.base, 0)))
        size = 4 * i.n1
        places = (i.index, 1, 0, 1, 0)
        yield _granules("index", config, False, places, -(-size // config.columns), size)
    match Space(i.space):
        case Space.COLUMNS:
            yield _slots("columns", "columns", True, i.address, i.n0 // COLUMN_RECORD_BYTES)
        case Space.TABLES:
            yield _slots("table", "entries", True, i.address, i.n0 // ENTRY_BYTES)
        case Space.SCRATCHPAD:
            places = (i.address, i.n1, i.stride1, i.n2, i.stride2)
            yield _granules("data", config, True, places, -(-i.n0 // config.columns), i.n0)


def _store(
    i: Instruction, config: CoreConfig, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> Iterator[Access]:
    places = (i.address, i.n1, i.stride1, i.n2, i.stride2)
    yield _granules("data", config, False, places, -(-i.n0 // config.columns), i.n0)
    yield _dram(i, scalars, True)


def _gemm(
    i: Instruction, config: CoreConfig, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> Iterator[Access]:
    width = -(-i.k // config.rows) * config.word_granules
    yield _granules("a", config, False, (i.a_address, i.m, i.a_row, 1, 0), width, i.k)
    if i.b_source == WeightSource.SCRATCHPAD:
        yield _granules("b", config, False, (i.b_address, i.n, i.b_row, 1, 0), width, i.k)


def _vector(
    i: Instruction, config: CoreConfig, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> Iterator[Access]:
    groups = -(-i.n // config.columns)
    if i.x_format != XFormat.ACCUMULATOR:
        size = 2 if i.x_format == XFormat.S16 else 1
        places = (i.x_address, i.m, i.x_row, 1, 0)
        yield _granules("x", config, False, places, groups * size, i.n * size)
    if i.second != Second.NONE:
        places = (i.r_address, i.m, i.r_row, 1, 0)
        yield _granules("r", config, False, places, groups * 2, i.n * 2)
    if i.function != Function.EXP:
        yield _slots("columns", "columns", False, i.column, 1 if i.broadcast else i.n)
    if i.function == Function.TABLE:
        yield _slots("table", "entries", False, i.table * TABLE_ENTRIES, TABLE_ENTRIES)
    if i.use_row:
        yield _slots("row records", "record", False, i.row_in, i.m)
    if i.function == Function.EXP:
        yield _slots("maxima", "maximum", False, i.row_in, i.m)
    if i.transpose:
        width = -(-i.m // config.columns)
        places = (i.y_address, i.n, i.y_row, 1, 0)
    else:
        width = groups * (2 if i.y_format == Format.S16 else 1)
        places = (i.y_address, i.m, i.y_row, 1, 0)
    yield _granules("y", config, True, places, width, width * config.columns)
    if i.statistic == Statistic.MAX:
        yield _slots("statistics", "maximum", True, i.stat_out, i.m)
    elif i.statistic != Statistic.NONE:
        yield _slots("statistics", "sum", True, i.stat_out, i.m)
        squares = _slots("statistics", "squares", True, i.stat_out, i.m)
        yield replace(squares, voids=i.statistic == Statistic.SUM)


def _row(
    i: Instruction, config: CoreConfig, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> Iterator[Access]:
    yield _slots("statistics", "sum", False, i.source, i.rows)
    if i.operation != RowOperation.RECIPROCAL:
        yield _slots("sums of squares", "squares", False, i.source, i.rows)
    yield _slots("row records", "record", True, i.destination, i.rows)
