"""The back end: a quantized graph becomes a program for one core."""

from collections.abc import Mapping
from typing import Any

from systolith.compiler import graph_file
from systolith.compiler.allocate import ONE_BY_ONE_BANKS, CapacityError, place_rows, place_tensors
from systolith.compiler.emit import Emitter, code_of
from systolith.compiler.homes import Homes
from systolith.compiler.layout import Layout, cut_to_fit, least_streamed
from systolith.compiler.moves import Step
from systolith.compiler.order import one_by_one, overlap_heads
from systolith.compiler.qgraph import Matmul, QGraph
from systolith.config import CoreConfig
from systolith.program import Program


def schedule(
    graph: QGraph,
    config: CoreConfig,
    *,
    name: str,
    seq_len: int,
    prologue: bytes = b"",
    epilogue: bytes = b"",
    host: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    precision: tuple[Mapping[str, Any], ...] = (),
    pooling: str = "model",
    spill: bool = True,
    least_rows: int = 0,
) -> Program:
    """Order, place and emit the operators of a graph.

    What does not fit the scratchpad as a whole is cut into blocks of rows.

    Args:
        graph: what to compute.
        config: the core that is to compute it.
        name: of the model.
        seq_len: tokens of its bucket.
        prologue: ONNX model that makes the graph's inputs.
        epilogue: ONNX model that takes its outputs; empty for none.
        host: what those two do, for reports.
        notes: what the user should know.
        precision: as in `Program`.
        pooling: as in `Program`.
        spill: whether to cut what does not fit.
        least_rows: of a block, if it is cut.

    Raises:
        CompileError: the graph does not fit the core; the message says what would.
    """
    try:
        layout = _whole(graph, config)
    except CapacityError as error:
        if not spill:
            raise
        layout = cut_to_fit(graph, config, least_rows=least_rows, refusal=error)
    homes, operators = layout.homes, layout.steps
    emitter = Emitter(layout.graph, operators, layout.places, layout.slots, config, homes)
    emitted = emitter.run()
    code = code_of(emitted.instructions)
    transferred = sum(each.size for each in (*homes.inputs, *homes.outputs))
    streamed = least_streamed(graph) if layout.is_cut else emitted.streamed
    return Program(
        name=name,
        config=config,
        seq_len=seq_len,
        weights=graph.weights(),
        code=code,
        image=emitter.image.to_bytes(),
        scratch_bytes=homes.scratch_bytes,
        inputs=homes.inputs,
        outputs=homes.outputs,
        watch=emitted.watch,
        macs=graph.macs(),
        macs_int4=graph.macs(int4=True),
        dram_bytes=len(code) + streamed + transferred,
        layers=tuple(label(operator) for operator in operators),
        host=host,
        prologue=prologue,
        epilogue=epilogue,
        notes=tuple(dict.fromkeys((*graph.notes, *notes, *([layout.note] if layout.note else [])))),
        graph=graph_file.to_bytes(graph),
        precision=precision,
        pooling=pooling,
    )


def _whole(graph: QGraph, config: CoreConfig) -> Layout:
    """A layout that keeps everything in the scratchpad; heads overlap if there is room for it."""
    for operator in graph.operators:
        if isinstance(operator, Matmul):
            rows = operator.a.rows_of(graph.tensors[operator.a.tensor])
            if rows > config.accumulator_rows:
                raise CapacityError(
                    f"{operator.layer} {operator.part}: a GEMM takes at most "
                    f"{config.accumulator_rows} rows on this core, and the model has {rows} "
                    f"tokens. Use a shorter --seq-len or a larger preset."
                )
    operators = overlap_heads(graph.operators)
    try:
        places = place_tensors(graph, operators, config)
    except CapacityError:
        operators = one_by_one(graph.operators)
        places = place_tensors(graph, operators, config, banks=ONE_BY_ONE_BANKS)
    return Layout(
        graph=graph,
        steps=operators,
        places=places,
        slots=place_rows(graph, operators, config),
        homes=Homes(graph, {}),
    )


def label(operator: Step) -> str:
    """Layer, part and head of an operator, as reports and fault messages name it."""
    words = [operator.layer, getattr(operator, "part", "")]
    head = getattr(operator, "head", None)
    if head is not None:
        words.append(f"head {head}")
    return " ".join(word for word in words if word)
