"""Where tensors lie: scratchpad addresses and row-file slots, by lifetime.

All lifetimes are known, so allocation is done before anything is emitted: large tensors first,
each at the first free place from the start of the bank that suits its role. Roles keep operands
that are read in the same cycles in different banks: a GEMM's A and B, and the residual that the
drain reads beside A.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from systolith.compiler.errors import CompileError
from systolith.compiler.moves import Fetch, Spill, Step
from systolith.compiler.qgraph import (
    Constant,
    Exp,
    Input,
    Lookup,
    Map,
    Matmul,
    Output,
    QGraph,
    RowRecords,
    Tensor,
    View,
)
from systolith.config import BANKS, CoreConfig
from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format

_BANK_OF_PART = {
    "norm_copy": 1,
    "q": 2,
    "k": 3,
    "v": 2,
    "bias": 3,
    "scores": 3,
    "exp": 3,
    "context": 2,
    "ffn_up": 2,
}
"""Bank in which the search begins, by the part that writes a tensor; 0 for the residual stream."""

ONE_BY_ONE_BANKS = _BANK_OF_PART | {"norm_copy": 3}
"""The same where heads do not overlap, since scores take more than a bank: V is projected from the
norm's copy while they are exponentiated, wherever they lie, so the copy is put last."""


class CapacityError(CompileError):
    """The scratchpad is too small for what is live at once.

    Attributes:
        chunks_help: whether smaller feed-forward chunks may make it fit.
    """

    def __init__(self, reason: str, *, chunks_help: bool = True) -> None:
        super().__init__(reason)
        self.chunks_help = chunks_help


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor lies.

    Attributes:
        address: first granule.
        row: granules from row to row.
        rows: rows.
    """

    address: int
    row: int
    rows: int

    def shift(self, granules: int) -> "Place":
        """The place of the columns that begin `granules` further right."""
        return Place(address=self.address + granules, row=self.row, rows=self.rows)


@dataclass(kw_only=True)
class _Block:
    names: list[str]
    size: int
    start: int
    end: int
    bank: int
    top: bool


def element_bytes(tensor_format: Format) -> int:
    """Bytes of an element."""
    return 2 if tensor_format == Format.S16 else 1


def reads(operator: Step) -> list[View | str]:
    """What an operator reads from the scratchpad: views, or names of whole tensors."""
    match operator:
        case Matmul():
            found = [operator.a, operator.b, operator.epilogue.residual]
            return [view for view in found if isinstance(view, View)]
        case Map():
            found = [operator.x, operator.multiply, operator.epilogue.residual]
            return [view for view in found if isinstance(view, View)]
        case Exp():
            return [operator.x]
        case Lookup():
            return [operator.indices]
        case Output() | Spill():
            return [operator.x]
        case _:
            return []


def written(operator: Step) -> str | None:
    """The tensor that an operator writes, at least in part."""
    match operator:
        case Matmul() | Map() | Exp() | Lookup():
            return operator.out.tensor
        case Input() | Constant() | Fetch():
            return operator.out
        case _:
            return None


def name_of(read: View | str) -> str:
    """The tensor behind a read."""
    return read.tensor if isinstance(read, View) else read


def lifetimes(operators: Sequence[Step]) -> dict[str, tuple[int, int]]:
    """First and last position at which each tensor is written or read."""
    spans: dict[str, tuple[int, int]] = {}
    for position, operator in enumerate(operators):
        names = [name_of(read) for read in reads(operator)]
        target = written(operator)
        for name in [*names, *([target] if target else [])]:
            first, _ = spans.get(name, (position, position))
            spans[name] = (first, position)
    return spans


def place_tensors(
    graph: QGraph,
    operators: Sequence[Step],
    config: CoreConfig,
    *,
    banks: Mapping[str, int] = _BANK_OF_PART,
) -> dict[str, Place]:
    """Give every tensor an address.

    Args:
        graph: the quantized graph.
        operators: in program order.
        config: the core.
        banks: where the search begins, by the part that writes a tensor.

    Raises:
        CapacityError: they do not fit; the message says how much is needed, when, and what helps.
    """
    spans = lifetimes(operators)
    shared = share(graph, operators, spans)
    strides = {name: row_granules(graph.tensors[name], config) for name in spans}
    for name, home in shared.items():
        strides[name] = strides[home]

    blocks: dict[str, _Block] = {}
    parts = {}
    for operator in operators:
        target = written(operator)
        if target is not None:
            part = operator.origin if isinstance(operator, Fetch) else getattr(operator, "part", "")
            parts.setdefault(target, part)
    for name, (start, end) in spans.items():
        home = shared.get(name, name)
        block = blocks.get(home)
        if block is None:
            tensor = graph.tensors[home]
            blocks[home] = _Block(
                names=[name],
                size=_block_size(strides[home], tensor.rows, config),
                start=start,
                end=end,
                bank=banks.get(parts[home], 0),
                top=parts[home] == "ffn_up",
            )
        else:
            block.names.append(name)
            block.start, block.end = min(block.start, start), max(block.end, end)

    addresses = _fit(list(blocks.values()), config, operators)
    return {
        name: Place(address=addresses[home], row=strides[home], rows=graph.tensors[name].rows)
        for name in spans
        for home in (shared.get(name, name),)
    }


def storage(tensor: Tensor, config: CoreConfig) -> int:
    """Granules that a tensor takes if nothing else says how its rows lie."""
    return _block_size(row_granules(tensor, config), tensor.rows, config)


def _block_size(stride: int, rows: int, config: CoreConfig) -> int:
    """Granules of so many rows: an even number of words keeps every block at an even granule."""
    unit = 2 * config.word_granules
    return -(-stride * rows // unit) * unit


def row_granules(tensor: Tensor, config: CoreConfig) -> int:
    """Granules of a row, padded to whole words, which GEMMs read, and to whole s16 groups."""
    size = tensor.columns * element_bytes(tensor.format)
    unit = max(config.rows, config.columns * element_bytes(tensor.format))
    return -(-size // unit) * unit // config.columns


def share(
    graph: QGraph, operators: Sequence[Step], spans: dict[str, tuple[int, int]]
) -> dict[str, str]:
    """Which tensor may lie where another one lies: results written over operands that end there.

    A vector pass may overwrite its own operand element by element, and 16-bit elements by 8-bit
    ones in rows of the same stride. The residual stream thus stays in one place.
    """
    writers: dict[str, set[object]] = {}
    for position, operator in enumerate(operators):
        target = written(operator)
        if target is not None:
            # Exponentials of some rows each count as one writer.
            key = operator.x.tensor if isinstance(operator, Exp) else position
            writers.setdefault(target, set()).add(key)
    shared: dict[str, str] = {}
    for position, operator in enumerate(operators):
        match operator:
            case Matmul(transpose=False):
                source = operator.epilogue.residual
            case Map(transpose=False) | Exp():
                source = operator.x
            case _:
                continue
        target = written(operator)
        if source is None or target is None or len(writers[target]) != 1:
            continue
        old, new = graph.tensors[source.tensor], graph.tensors[target]
        whole = source.first == 0 and source.columns == old.columns == new.columns
        whole = whole and (source.rows is None or isinstance(operator, Exp))
        fits = element_bytes(new.format) == element_bytes(old.format) or isinstance(operator, Exp)
        others = [name_of(read) for read in reads(operator) if name_of(read) != source.tensor]
        if isinstance(operator, Map) and operator.part == "norm_copy":
            continue
        if whole and fits and spans[source.tensor][1] == position and target not in others:
            shared[target] = shared.get(source.tensor, source.tensor)
    return shared


def _fit(blocks: list[_Block], config: CoreConfig, operators: Sequence[Step]) -> dict[str, int]:
    """Place all blocks: by banks if that works, else packed from both ends."""
    for packed in (False, True):
        addresses, failed = _try_fit(blocks, config, packed=packed)
        if failed is None:
            return addresses
    assert failed is not None
    raise CapacityError(
        _too_large(blocks, failed, config, operators),
        chunks_help=_attention_demand(blocks, operators) <= config.granules,
    )


def _attention_demand(blocks: Sequence[_Block], operators: Sequence[Step]) -> int:
    """The most granules that are live while heads are under way."""
    demand = np.zeros(len(operators) + 1, np.int64)
    for block in blocks:
        demand[block.start] += block.size
        demand[block.end + 1] -= block.size
    in_head = [getattr(each, "head", None) is not None for each in operators]
    return int((np.cumsum(demand)[:-1] * in_head).max())


def _try_fit(
    blocks: list[_Block], config: CoreConfig, *, packed: bool
) -> tuple[dict[str, int], _Block | None]:
    """Place blocks, the largest first; return addresses, or the block that found no place.

    Packed, FFN activations lie at the top and everything else at the bottom, so that what is
    free is in one piece between them.
    """
    granules = config.granules
    # Of the blocks placed so far: first and last position, first and end granule.
    placed = np.empty((4, len(blocks)), np.int64)
    addresses: dict[str, int] = {}
    order = sorted(blocks, key=lambda each: (-each.size, each.start, each.names[0]))
    for count, block in enumerate(order):
        start, end, *_ = others = placed[:, :count]
        beside = others[2:, (start <= block.end) & (block.start <= end)]
        busy = sorted(zip(*beside.tolist(), strict=True))
        if not packed:
            address = _first_fit(busy, block.size, block.bank * granules // BANKS, granules)
        elif block.top:
            mirrored = sorted((granules - high, granules - low) for low, high in busy)
            below = _first_fit(mirrored, block.size, 0, granules)
            address = None if below is None else granules - below - block.size
        else:
            address = _first_fit(busy, block.size, 0, granules)
        if address is None:
            return addresses, block
        placed[:, count] = block.start, block.end, address, address + block.size
        addresses[block.names[0]] = address
    return addresses, None


def _first_fit(
    busy: Iterable[tuple[int, int]], size: int, preferred: int, granules: int
) -> int | None:
    """The first free place at or after `preferred`, else the first from 0 on."""
    spans = list(busy)
    for begin in (preferred, 0):
        address = begin
        for low, high in spans:
            if high <= address:
                continue
            if low >= address + size:
                break
            address = high
        if address + size <= granules:
            return address
    return None


def _too_large(
    blocks: Sequence[_Block], block: _Block, config: CoreConfig, operators: Sequence[Step]
) -> str:
    demand, position = max(
        (
            sum(each.size for each in blocks if each.start <= position <= each.end),
            position,
        )
        for position in range(block.start, block.end + 1)
    )
    operator = operators[position]
    where = f"{operator.layer} {getattr(operator, 'part', '')}".strip()
    need = demand * config.columns / 1024
    return (
        f"{block.names[0]} ({block.size * config.columns / 1024:.0f} KiB) does not fit into the "
        f"scratchpad: at {where}, tensors of {need:.0f} KiB are live, and the core has "
        f"{config.scratchpad_bytes / 1024:.0f} KiB. Use a shorter --seq-len or a larger preset."
    )


Slots = dict[tuple[str, str], int]
"""First slot of a name in a field of the row file: `maximum`, `sum` or `record`."""


def place_rows(graph: QGraph, operators: Sequence[Step], config: CoreConfig) -> Slots:
    """Give every statistic and every set of row records its slots.

    Raises:
        CapacityError: the row file is too small.
    """
    spans: dict[tuple[str, str], tuple[int, int, int]] = {}

    def touch(field: str, name: str, rows: int, position: int) -> None:
        first, _, most = spans.get((field, name), (position, position, 0))
        spans[field, name] = (first, position, max(most, rows))

    for position, operator in enumerate(operators):
        match operator:
            case Matmul() | Map():
                view = operator.a if isinstance(operator, Matmul) else operator.x
                rows = view.rows_of(graph.tensors[view.tensor])
                epilogue = operator.epilogue
                if epilogue.statistic != Statistic.NONE:
                    touch(field_of(epilogue.statistic), epilogue.statistic_name, rows, position)
                if epilogue.rows is not None:
                    touch("record", epilogue.rows, rows, position)
            case Exp():
                # Slots are those of the tensor's rows, also where an operator has some of them.
                rows = graph.tensors[operator.x.tensor].rows
                touch("maximum", operator.maximum, rows, position)
                touch("sum", operator.total, rows, position)
            case RowRecords():
                touch("sum", operator.source, operator.rows, position)
                touch("record", operator.out, operator.rows, position)
            case _:
                pass

    slots: Slots = {}
    for key, (start, end, rows) in sorted(spans.items(), key=lambda item: -item[1][2]):
        busy = sorted(
            (slots[other], slots[other] + spans[other][2])
            for other in slots
            if other[0] == key[0] and spans[other][0] <= end and start <= spans[other][1]
        )
        slot = _first_fit(busy, rows, 0, config.row_slots)
        if slot is None:
            raise CapacityError(
                f"the row file has {config.row_slots} slots, too few for {key[1]} with {rows} "
                f"rows beside what is live with it. Use a shorter --seq-len or a larger preset."
            )
        slots[key] = slot
    return slots


def field_of(statistic: Statistic) -> str:
    """The row-file field that a statistic is kept in."""
    return "maximum" if statistic == Statistic.MAX else "sum"


def source_field(operation: RowOperation) -> str:
    """The row-file field that a ROW operation reads."""
    del operation  # every operation so far reads sums
    return "sum"
