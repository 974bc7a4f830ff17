"""What a program is emitted from: operators in order, with places; and how cut graphs get them."""

from collections.abc import Sequence
from dataclasses import dataclass

from systolith.compiler.allocate import CapacityError, Place, Slots, place_rows, place_tensors
from systolith.compiler.blocks import CutGraph, cut, tokens_of
from systolith.compiler.homes import Homes
from systolith.compiler.moves import Step
from systolith.compiler.qgraph import (
    Constant,
    Int4Weights,
    Lookup,
    Map,
    Matmul,
    QGraph,
    View,
    gathered_bytes,
    int4_bytes,
)
from systolith.compiler.spill import largest_segment, plan_spills
from systolith.config import COLUMN_RECORD_BYTES, TABLE_ENTRIES, CoreConfig

STREAM_SHARE = 4
"""Blocks have enough rows for weights to take at most one part in so many of the memory port."""

BUDGETS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7, 0.6)
"""Parts of the scratchpad to plan for, one after the other: places may leave gaps."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything that emission needs.

    Attributes:
        graph: tensors of the steps.
        steps: operators and transfers in program order.
        places: of tensors in the scratchpad.
        slots: of the row file.
        homes: of tensors in DRAM.
        note: how the graph was cut into blocks of rows; empty if it was not.
    """

    graph: QGraph
    steps: Sequence[Step]
    places: dict[str, Place]
    slots: Slots
    homes: Homes
    note: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether it was."""
        return bool(self.note)


def comfortable_rows(config: CoreConfig) -> int:
    """Rows of a block with which weights, streamed for each, are no burden to the memory port."""
    return STREAM_SHARE * config.macs_per_cycle // config.axi_bytes


def cut_to_fit(
    graph: QGraph, config: CoreConfig, *, least_rows: int, refusal: CapacityError
) -> Layout:
    """Cut a graph into blocks of rows, as large as is good, and plan what leaves the scratchpad.

    A block takes half of the scratchpad, so that the next one can be brought in meanwhile, and
    a block of scores a quarter. If that has no solution, smaller ones are tried.

    Args:
        graph: what does not fit as a whole.
        config: the core.
        least_rows: of a block between attentions.
        refusal: what to raise if blocks cannot be that small.

    Raises:
        CapacityError: the refusal, or why it cannot be cut.
    """
    total = tokens_of(graph)
    unit = config.rows
    most = min(total, config.accumulator_rows)
    sizes = _sizes(unit, most)
    score_sizes = [size for size in sizes if 8 * total * size <= config.scratchpad_bytes]
    for rows in sizes:
        if rows < min(least_rows, total):
            break
        trial = cut(graph, rows=rows, score_rows=sizes[-1], config=config)
        if 2 * largest_segment(trial, config) > config.granules and rows > unit:
            continue
        variants = [(size, True) for size in score_sizes or [unit]] + [(unit, False)]
        for score_rows, overlap in variants:
            candidate = cut(graph, rows=rows, score_rows=score_rows, config=config, overlap=overlap)
            for part in BUDGETS:
                try:
                    return _place(graph, candidate, config, int(part * config.granules))
                except CapacityError:
                    continue
    raise refusal


def _sizes(unit: int, most: int) -> list[int]:
    """Rows that blocks may have, the largest first."""
    size, sizes = unit, []
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, size][::-1]


def _place(graph: QGraph, candidate: CutGraph, config: CoreConfig, budget: int) -> Layout:
    plan = plan_spills(candidate, config, budget)
    return Layout(
        graph=plan.graph,
        steps=plan.steps,
        places=place_tensors(plan.graph, plan.steps, config),
        slots=place_rows(plan.graph, plan.steps, config),
        homes=Homes(graph, candidate.pieces, plan.steps),
        note=(
            f"activations do not fit the scratchpad: they are computed in blocks of "
            f"{candidate.rows} rows, scores of {candidate.score_rows}; {plan.stored / 1024:.0f} "
            f"KiB go to memory, and {plan.fetched / 1024:.0f} KiB come back"
        ),
    )


def least_streamed(graph: QGraph) -> int:
    """Bytes of weights, column records and tables, each fetched once for each operator."""
    total = 0
    tables: set[tuple[int, ...]] = set()
    for operator in graph.operators:
        if isinstance(operator, Constant):
            total += operator.values.nbytes
        if isinstance(operator, Lookup):
            total += gathered_bytes(operator, graph.tensors[operator.out.tensor].rows)
        if not isinstance(operator, Matmul | Map):
            continue
        total += COLUMN_RECORD_BYTES * len(operator.epilogue.columns.mant)
        if operator.epilogue.table is not None:
            tables.add(operator.epilogue.table)
        if isinstance(operator, Matmul):
            match operator.b:
                case View():
                    pass
                case Int4Weights(codes=codes, block=block):
                    n, k = codes.shape
                    total += int4_bytes(n, k, block)
                case weights:
                    total += weights.size
    return total + 2 * TABLE_ENTRIES * len(tables)
