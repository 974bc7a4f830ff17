"""VECTOR as its definition says it, element by element, and instructions to try it on."""

import random
from dataclasses import dataclass

from systolith import numerics
from systolith.config import TABLE_ENTRIES, CoreConfig
from systolith.isa import (
    Function,
    IllegalInstructionError,
    Instruction,
    Mask,
    Opcode,
    Second,
    Statistic,
    XFormat,
    make,
)
from systolith.numerics import MASKED, NO_ROW, Column, Format, Row, Source, Statistics

Sums = list[list[list[int]]]
"""What a GEMM leaves: [tile column][row][C] sums."""


@dataclass(kw_only=True)
class VectorState:
    """All that an instruction can read or change.

    Attributes:
        memory: the scratchpad's bytes.
        columns: column records by slot.
        tables: entries, table after table.
        records: row records by slot.
        statistics: row statistics by slot.
        scalars: the run-time scalars.
    """

    memory: bytearray
    columns: list[Column[int]]
    tables: list[int]
    records: list[Row[int]]
    statistics: list[Statistics]
    scalars: list[int]


def random_state(config: CoreConfig, rng: random.Random) -> VectorState:
    """Draw everything; statistics are cleared, as they are after power-up.

    Scales and offsets are such that most results of elements and of sums of 16 to 20 bits lie
    within their formats, and some are saturated.
    """

    def column() -> Column[int]:
        return Column(
            mant=rng.randint(-(1 << 15), (1 << 15) - 1),
            shift=rng.randint(12, 26),
            off=rng.randint(-(1 << 15), 1 << 15),
        )

    def record() -> Row[int]:
        return Row(
            off=rng.randint(-(1 << 12), 1 << 12),
            mant=rng.choice((0, rng.randint(1 << 15, (1 << 16) - 1))),
            exp=rng.randint(-3, 3),
        )

    return VectorState(
        memory=bytearray(rng.randbytes(config.scratchpad_bytes)),
        columns=[column() for _ in range(config.column_slots)],
        tables=[
            rng.choice((rng.randint(-300, 300), rng.randint(-(1 << 15), (1 << 15) - 1)))
            for _ in range(config.table_slots * TABLE_ENTRIES)
        ],
        records=[record() for _ in range(config.row_slots)],
        statistics=[Statistics(0, 0, 0, 0)] * config.row_slots,
        scalars=[0] * 4,
    )


class VectorReference:
    """VECTOR as its definition says it, one element at a time."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config

    def execute(self, state: VectorState, op: Instruction, sums: Sums) -> None:
        """Carry out one instruction on `state`. All operands are read before y is written."""
        result = [
            [self._element(state, op, sums, row, column) for column in range(op.n)]
            for row in range(op.m)
        ]
        length = state.scalars[op.length] if op.mask == Mask.LENGTH else op.n
        for elements in result:
            for column in range(length, op.n):
                elements[column] = MASKED
        for row, elements in enumerate(result):
            taken = numerics.statistics(elements[:length])
            slot = op.stat_out + row
            before = state.statistics[slot] if op.statistic else taken
            match op.statistic:
                case Statistic.MAX:
                    taken = before._replace(maximum=taken.maximum, absmax=taken.absmax)
                case Statistic.SUM:
                    taken = before._replace(total=taken.total, squares=0)
                case Statistic.MOMENTS:
                    taken = before._replace(total=taken.total, squares=taken.squares)
            if op.statistic:
                state.statistics[slot] = taken
        if op.transpose:
            result = [list(column) for column in zip(*result, strict=True)]
        self._store(state, op, result)

    def _element(
        self, state: VectorState, op: Instruction, sums: Sums, row: int, column: int
    ) -> int:
        lanes = self._config.columns
        y_format = Format(op.y_format)
        if op.x_format == XFormat.ACCUMULATOR:
            x = sums[column // lanes][row][column % lanes]
            source = Source.ACCUMULATOR
        else:
            x = self._load(state, op.x_address + row * op.x_row, column, Format(op.x_format))
            source = Source.SCRATCHPAD
        if op.function == Function.EXP:
            maximum = state.statistics[op.row_in + row].maximum
            return numerics.exp2(x, maximum, unit=op.unit)
        r = 0
        if op.second:
            r = self._load(state, op.r_address + row * op.r_row, column, Format.S16)
        if op.second == Second.MULTIPLY:
            source = Source.PRODUCT
        record = state.records[op.row_in + row] if op.use_row else NO_ROW
        if source == Source.ACCUMULATOR:
            record = record._replace(off=0)
        is_table = op.function == Function.TABLE
        y = numerics.affine(
            x,
            r,
            source=source,
            column=state.columns[op.column + (0 if op.broadcast else column)],
            row=record,
            out_format=Format.U8 if is_table else y_format,
        )
        if is_table:
            first = op.table * TABLE_ENTRIES
            table = state.tables[first : first + TABLE_ENTRIES]
            y = numerics.lookup(table, y, out_format=y_format)
        return y

    def _load(self, state: VectorState, granule: int, column: int, kind: Format) -> int:
        size = 2 if kind == Format.S16 else 1
        first = granule * self._config.columns + column * size
        image = state.memory[first : first + size]
        return int.from_bytes(image, "little", signed=kind != Format.U8)

    def _store(self, state: VectorState, op: Instruction, result: list[list[int]]) -> None:
        lanes = self._config.columns
        size = 2 if op.y_format == Format.S16 else 1
        for row, elements in enumerate(result):
            padded = elements + [0] * (-len(elements) % lanes)
            image = b"".join(
                (element & (1 << 8 * size) - 1).to_bytes(size, "little") for element in padded
            )
            first = (op.y_address + row * op.y_row) * lanes
            state.memory[first : first + len(image)] = image


class VectorDraw:
    """Draws legal instructions, whose tensors lie at random places and do not overlap."""

    def __init__(self, config: CoreConfig, rng: random.Random) -> None:
        self.config = config
        self.rng = rng

    def _region(self, index: int, rows: int, granules: int) -> tuple[int, int]:
        """Place a tensor into the third `index` of the scratchpad: its address and its stride."""
        stride = granules + self.rng.randrange(0, 5)
        stride += stride % 2
        third = self.config.granules // 3
        spare = third - rows * stride
        return (index * third + 1 & ~1) + (self.rng.randrange(max(1, spare - 2)) & ~1), stride

    def _granules(self, columns: int, wide: bool) -> int:
        lanes = self.config.columns
        return -(-columns // lanes) * (2 if wide else 1)

    def instruction(self, **fixed: int) -> Instruction:
        """Draw until it is legal; `fixed` fields are as given."""
        rng = self.rng
        lanes = self.config.columns
        while True:
            fields = {
                "m": rng.choice((rng.randint(1, 3), rng.randint(1, 3 * lanes))),
                "n": rng.randint(1, 3 * lanes + 1),
                "x_format": rng.randrange(4),
                "y_format": rng.randrange(3),
                "second": rng.choice((0, 0, 1, 2)),
                "function": rng.choice((0, 0, 1)),
                "statistic": rng.randrange(4),
                "transpose": rng.choice((0, 0, 1)),
                "use_row": rng.randrange(2),
                "mask": rng.randrange(2),
                "broadcast": rng.choice((0, 0, 0, 1)),
                "length": rng.randrange(4),
                "tag": rng.randrange(1 << 16),
            } | fixed
            m, n = fields["m"], fields["n"]
            places = {
                "x": (m, self._granules(n, fields["x_format"] == XFormat.S16)),
                "y": (m, self._granules(n, fields["y_format"] == Format.S16)),
                "r": (m, self._granules(n, True)),
            }
            if fields["transpose"]:
                places["y"] = (n, self._granules(m, False))
            for index, (name, (rows, granules)) in enumerate(places.items()):
                address, stride = self._region(index, rows, granules)
                fields = {f"{name}_address": address, f"{name}_row": stride} | fields
            limit = self.config.row_slots - m
            fields = {
                "row_in": rng.randint(0, limit),
                "stat_out": rng.randint(0, limit),
                "column": rng.randint(0, max(0, self.config.column_slots - n)),
            } | fields
            try:
                return make(Opcode.VECTOR, self.config, **fields)  # pyright: ignore[reportArgumentType]
            except IllegalInstructionError:
                assert not set(fixed) - {"m", "n"} or rng.random() < 0.999, "hardly ever legal"

    def sums(self, op: Instruction) -> Sums:
        """Draw accumulators for an instruction that reads them."""
        if op.x_format != XFormat.ACCUMULATOR:
            return []
        lanes = self.config.columns
        return [
            [
                [
                    self.rng.randint(-(1 << bits), (1 << bits) - 1)
                    for bits in self.rng.choices((8, 16, 20, 31), k=lanes)
                ]
                for _ in range(op.m)
            ]
            for _ in range(-(-op.n // lanes))
        ]
