"""When column records and tables are loaded, and into which slots.

Column slots are used in a circle: records of several operators are loaded in one batch, a batch
ahead of need, so that the drain of a GEMM finds them there. Tables stay in their slot until
another one is needed there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from systolith.compiler.hazards import Region
from systolith.compiler.image import Image, pack_columns, pack_table
from systolith.compiler.moves import Step
from systolith.compiler.qgraph import Columns, Map, Matmul
from systolith.config import COLUMN_RECORD_BYTES, TABLE_ENTRIES, CoreConfig
from systolith.isa import Space, table_address
from systolith.program import IMAGE_BASE

_BATCHES = 4
"""Into how many batches the column slots are cut: one in use, one or two ahead, one ending."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A LOAD of column records or of a table.

    Attributes:
        region: the slots it fills.
        fields: operands of the instruction.
        size: bytes.
    """

    region: Region
    fields: dict[str, int]
    size: int


@dataclass(kw_only=True)
class _Piece:
    """Records of one VECTOR instruction: columns `start` to `stop` of an operator's result."""

    position: int
    start: int
    stop: int
    records: Columns
    index: int = 0
    slot: int = 0

    @property
    def size(self) -> int:
        return len(self.records.mant)


class LoadPlan:
    """The loads of a program, known before anything is emitted.

    Args:
        operators: in program order.
        image: takes records and tables.
        config: the core.
    """

    def __init__(self, operators: Sequence[Step], image: Image, config: CoreConfig) -> None:
        self._config = config
        self._due: dict[int, list[Load]] = {}
        self._pieces: dict[int, list[_Piece]] = {}
        self._tables: dict[int, int] = {}
        self._plan_columns(operators, image)
        self._plan_tables(operators, image)

    def due(self, position: int, start: int) -> list[Load]:
        """Loads to be emitted before the piece of an operator that begins at column `start`."""
        return self._due.get(self._piece(position, start).index, [])

    def slices(self, position: int, columns: int) -> list[tuple[int, int]]:
        """The column ranges into which an operator is cut, so that its records fit."""
        pieces = self._pieces[position]
        if len(pieces) == 1:
            return [(0, columns)]
        return [(piece.start, piece.stop) for piece in pieces]

    def slot(self, position: int, start: int) -> int:
        """The first column slot of the piece of an operator that begins at column `start`."""
        return self._piece(position, start).slot

    def table(self, position: int) -> int:
        """The table slot of an operator."""
        return self._tables[position]

    def _piece(self, position: int, start: int) -> _Piece:
        return next(piece for piece in self._pieces[position] if piece.start == start)

    def _plan_columns(self, operators: Sequence[Step], image: Image) -> None:
        largest = self._config.column_slots // 2
        pieces: list[_Piece] = []
        for position, operator in enumerate(operators):
            if isinstance(operator, Matmul | Map):
                own = _cut(position, operator, largest, self._config)
                self._pieces[position] = own
                pieces += own

        for index, piece in enumerate(pieces):
            piece.index = index

        batch_limit = self._config.column_slots // _BATCHES
        batches: list[list[_Piece]] = []
        for piece in pieces:
            if batches and sum(each.size for each in batches[-1]) + piece.size <= batch_limit:
                batches[-1].append(piece)
            else:
                batches.append([piece])

        cursor, ahead = 0, 0
        in_slots: list[tuple[int, int, int]] = []
        for batch in batches:
            size = sum(each.size for each in batch)
            if cursor + size > self._config.column_slots:
                cursor = 0
            first = cursor
            for piece in batch:
                piece.slot = cursor
                cursor += piece.size
            # Loads come one batch ahead, but after the last use of what they overwrite.
            replaced = [each for each in in_slots if each[0] < cursor and first < each[1]]
            last_use = max((use for _, _, use in replaced), default=-1)
            in_slots = [each for each in in_slots if each not in replaced]
            in_slots.append((first, cursor, batch[-1].index))
            when = max(ahead, last_use + 1)
            ahead = batch[0].index
            data = b"".join(pack_columns(each.records) for each in batch)
            self._due.setdefault(when, []).append(
                Load(
                    region=Region(resource="columns", start=first, width=size),
                    fields={
                        "base": IMAGE_BASE,
                        "space": Space.COLUMNS,
                        "dram_offset": image.add(data),
                        "address": first,
                        "n0": size * COLUMN_RECORD_BYTES,
                        "n1": 1,
                        "n2": 1,
                    },
                    size=len(data),
                )
            )

    def _plan_tables(self, operators: Sequence[Step], image: Image) -> None:
        content: list[bytes | None] = [None] * self._config.table_slots
        used = [-1] * self._config.table_slots
        ahead: list[int] = [0, 0]
        for position, operator in enumerate(operators):
            if not isinstance(operator, Matmul | Map) or operator.epilogue.table is None:
                continue
            data = pack_table(operator.epilogue.table)
            own = self._pieces[position]
            if data in content:
                slot = content.index(data)
            else:
                slot = used.index(min(used))
                content[slot] = data
                # Two tables ahead of need, but after the last use of the one it replaces.
                when = max(used[slot] + 1, ahead[-2])
                self._due.setdefault(when, []).append(
                    Load(
                        region=Region(resource="tables", start=slot, width=1),
                        fields={
                            "base": IMAGE_BASE,
                            "space": Space.TABLES,
                            "dram_offset": image.add(data),
                            "address": table_address(slot),
                            "n0": 2 * TABLE_ENTRIES,
                            "n1": 1,
                            "n2": 1,
                        },
                        size=len(data),
                    )
                )
            used[slot] = own[-1].index
            ahead.append(own[0].index)
            self._tables[position] = slot


def _cut(position: int, operator: Matmul | Map, largest: int, config: CoreConfig) -> list[_Piece]:
    """Cut an operator into pieces whose records fit into half the column memory."""
    records = operator.epilogue.columns
    total = len(records.mant)
    if total <= largest:
        return [_Piece(position=position, start=0, stop=total, records=records)]
    # Whole words of every format, so that pieces of a result begin at a word.
    unit = max(config.rows, config.columns)
    count = -(-total // largest)
    width = -(-total // count // unit) * unit
    return [
        _Piece(
            position=position,
            start=start,
            stop=min(start + width, total),
            records=Columns(
                mant=records.mant[start : start + width],
                shift=records.shift[start : start + width],
                off=records.off[start : start + width],
            ),
        )
        for start in range(0, total, width)
    ]
