"""The instruction set, carried out byte by byte and element by element in plain Python.

Slow and simple: it is what the manual says, in the manual's order, with `numerics` for each number.
The instruction simulator is held to it.
"""

from collections import deque
from collections.abc import Sequence

from systolith import numerics
from systolith.config import CoreConfig
from systolith.isa import (
    INSTRUCTION_BYTES,
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
    decode,
)
from systolith.numerics import MASKED, NO_ROW, Column, Format, Row, Source


class Reference:
    """A core that carries out a program in program order.

    Args:
        config: the core.
        dram: all of memory; it is changed.
        bases: address of each base.
        scalars: run-time scalars.
    """

    def __init__(
        self, config: CoreConfig, dram: bytearray, bases: Sequence[int], scalars: Sequence[int]
    ) -> None:
        self.config = config
        self.dram = dram
        self.bases = bases
        self.scalars = scalars
        self.scratchpad = bytearray(config.scratchpad_bytes)
        self.columns = bytearray(8 * config.column_slots)
        self.tables = bytearray(512 * config.table_slots)
        self.statistics = {
            name: [0] * config.row_slots for name in ("maximum", "absmax", "total", "squares")
        }
        self.records = [Row(0, 0, 0)] * config.row_slots
        self.ring = deque[int]()
        self.halves = deque[list[list[int]]]()

    def run(self) -> int:
        """Carry out the program at base 0, and return the code of its HALT."""
        at = self.bases[0]
        while True:
            i = decode(bytes(self.dram[at : at + INSTRUCTION_BYTES]), self.config)
            if i.opcode == Opcode.HALT:
                return i.code
            getattr(self, f"_{i.opcode.name.lower()}")(i)
            at += INSTRUCTION_BYTES

    def _stream(self, i: Instruction) -> None:
        start = self.bases[i.base] + i.dram_offset
        self.ring.extend(self.dram[start : start + i.size])

    def _load(self, i: Instruction) -> None:
        memory = {
            Space.SCRATCHPAD: self.scratchpad,
            Space.COLUMNS: self.columns,
            Space.TABLES: self.tables,
        }[Space(i.space)]
        unit = {0: self.config.columns, 1: 8, 2: 2}[i.space]
        for i2 in range(i.n2):
            for i1 in range(i.n1):
                source = self._dram_address(i, i1, i2)
                if i.fill == Fill.GATHER:
                    at = self.config.columns * i.index + 4 * i1
                    index = int.from_bytes(self.scratchpad[at : at + 4], "little")
                    source = self._dram_address(i, index, i2)
                target = unit * (i.address + i2 * i.stride2 + i1 * i.stride1)
                for i0 in range(i.n0):
                    byte = 0 if i.fill == Fill.ZERO else self.dram[source + i0]
                    memory[target + i0] = byte

    def _store(self, i: Instruction) -> None:
        for i2 in range(i.n2):
            for i1 in range(i.n1):
                target = self._dram_address(i, i1, i2)
                source = self.config.columns * (i.address + i2 * i.stride2 + i1 * i.stride1)
                for i0 in range(i.n0):
                    self.dram[target + i0] = self.scratchpad[source + i0]

    def _dram_address(self, i: Instruction, i1: int, i2: int) -> int:
        scalar = self.scalars[i.scalar - 1] if i.scalar else 0
        moved = scalar * i.scalar_stride + i2 * i.dram_stride2 + i1 * i.dram_stride1
        return self.bases[i.base] + (i.dram_offset + moved & 0xFFFFFFFF)

    def _gemm(self, i: Instruction) -> None:
        r, c = self.config.rows, self.config.columns
        depth = -(-i.k // r)
        if i.b_source == WeightSource.RING_S4:
            self._int4_gemm(i, depth)
            return
        for g in range(-(-i.n // c)):
            b = [[0] * (depth * r) for _ in range(c)]
            if i.b_source == WeightSource.RING_S8:
                for kt in range(depth):
                    for column in range(c):
                        for row in range(r):
                            b[column][kt * r + row] = _s8(self.ring.popleft())
            else:
                for column in range(min(c, i.n - g * c)):
                    for k in range(i.k):
                        at = c * (i.b_address + (g * c + column) * i.b_row) + k
                        b[column][k] = _s8(self.scratchpad[at])
            half = list[list[int]]()
            for m in range(i.m):
                a = [self._element(i.a_address + m * i.a_row, k, i.a_format) for k in range(i.k)]
                half.append([sum(x * y for x, y in zip(a, row, strict=False)) for row in b])
            self.halves.append(half)

    def _int4_gemm(self, i: Instruction, depth: int) -> None:
        r, c = self.config.rows, self.config.columns
        for first in range(0, i.n, 2 * c):
            sums = [[0] * (2 * c) for _ in range(i.m)]
            word = 0
            for tile in range(depth):
                at = tile % (2 * r // c)
                if at == 0:
                    word = int.from_bytes(self._ring_word(), "little")
                for column in range(c):
                    for row, byte in enumerate(self._ring_word()):
                        k = tile * r + row
                        for channel, nibble in ((column, byte & 15), (c + column, byte >> 4)):
                            weight = nibble - 16 if nibble > 7 else nibble
                            shift = word >> 2 * (at * 2 * c + channel) & 3
                            for m in range(i.m if k < i.k else 0):
                                x = self._element(i.a_address + m * i.a_row, k, i.a_format)
                                sums[m][channel] += x * weight << shift
            self.halves.append([row[:c] for row in sums])
            if i.n > first + c:
                self.halves.append([row[c:] for row in sums])

    def _ring_word(self) -> bytes:
        return bytes(self.ring.popleft() for _ in range(self.config.rows))

    def _vector(self, i: Instruction) -> None:
        c = self.config.columns
        valid = min(i.n, self.scalars[i.length]) if i.mask else i.n
        for g in range(-(-i.n // c)):
            half = self.halves.popleft() if i.x_format == XFormat.ACCUMULATOR else None
            for m in range(i.m):
                group = list[int]()
                for j in range(g * c, min(g * c + c, i.n)):
                    x = (
                        half[m][j - g * c]
                        if half is not None
                        else self._element(i.x_address + m * i.x_row, j, i.x_format)
                    )
                    y = self._value(i, x, m, j)
                    group.append(y if j < valid else MASKED)
                self._write_group(i, m, g, group)
                self._take(i, m, g, group[: max(0, valid - g * c)])

    def _value(self, i: Instruction, x: int, m: int, j: int) -> int:
        y_format = Format(i.y_format)
        if i.function == Function.EXP:
            return numerics.exp2(x, self.statistics["maximum"][i.row_in + m], unit=i.unit)
        r = self._element(i.r_address + m * i.r_row, j, Format.S16) if i.second else 0
        source = Source.ACCUMULATOR if i.x_format == XFormat.ACCUMULATOR else Source.SCRATCHPAD
        if i.second == Second.MULTIPLY:
            source = Source.PRODUCT
        slot = i.column if i.broadcast else i.column + j
        record = self.columns[8 * slot : 8 * slot + 8]
        y = numerics.affine(
            x,
            r,
            source=source,
            column=Column(
                mant=int.from_bytes(record[0:2], "little", signed=True),
                shift=int.from_bytes(record[2:3], "little", signed=True),
                off=int.from_bytes(record[4:8], "little", signed=True),
            ),
            row=self.records[i.row_in + m] if i.use_row else NO_ROW,
            out_format=Format.U8 if i.function == Function.TABLE else y_format,
        )
        if i.function == Function.TABLE:
            raw = self.tables[512 * i.table : 512 * i.table + 512]
            entries = [
                int.from_bytes(raw[at : at + 2], "little", signed=True) for at in range(0, 512, 2)
            ]
            y = numerics.lookup(entries, y, out_format=y_format)
        return y

    def _write_group(self, i: Instruction, m: int, g: int, group: Sequence[int]) -> None:
        c = self.config.columns
        if i.transpose:
            for column, y in enumerate(group):
                at = c * (i.y_address + (g * c + column) * i.y_row) + m
                self.scratchpad[at] = y & 0xFF
                if m == i.m - 1:
                    padding = -i.m % c
                    self.scratchpad[at + 1 : at + 1 + padding] = bytes(padding)
            return
        size = 2 if i.y_format == Format.S16 else 1
        at = c * (i.y_address + m * i.y_row) + size * c * g
        padded = [*group, *[0] * (c - len(group))]
        raw = b"".join((y & 0xFFFF).to_bytes(2, "little")[:size] for y in padded)
        self.scratchpad[at : at + size * c] = raw

    def _take(self, i: Instruction, m: int, g: int, elements: Sequence[int]) -> None:
        if i.statistic == Statistic.NONE:
            return
        names = ("maximum", "absmax") if i.statistic == Statistic.MAX else ("total", "squares")
        before = numerics.statistics([])
        if g:
            values = {name: self.statistics[name][i.stat_out + m] for name in names}
            before = before._replace(**values)
        new = numerics.statistics(elements)
        now = numerics.Statistics(
            maximum=max(before.maximum, new.maximum),
            absmax=max(before.absmax, new.absmax),
            total=before.total + new.total,
            squares=before.squares + new.squares if i.statistic == Statistic.MOMENTS else 0,
        )
        for name in names:
            self.statistics[name][i.stat_out + m] = getattr(now, name)

    def _row(self, i: Instruction) -> None:
        eps = i.eps_mantissa << i.eps_shift
        for at in range(i.rows):
            total, squares = (self.statistics[name][i.source + at] for name in ("total", "squares"))
            self.records[i.destination + at] = {
                RowOperation.LAYER_NORM: lambda t, s: numerics.layer_norm_row(t, s, n=i.n, eps=eps),
                RowOperation.RMS_NORM: lambda _, s: numerics.rms_norm_row(s, n=i.n, eps=eps),
                RowOperation.RECIPROCAL: lambda t, _: numerics.recip(t),
            }[RowOperation(i.operation)](total, squares)

    def _element(self, granule: int, index: int, element: int) -> int:
        """An element of a row that begins at a granule."""
        size = 2 if element == Format.S16 else 1
        at = self.config.columns * granule + size * index
        raw = self.scratchpad[at : at + size]
        return int.from_bytes(raw, "little", signed=element != Format.U8)


def _s8(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
