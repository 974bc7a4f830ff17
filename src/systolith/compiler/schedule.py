"""The back end: a quantized graph becomes a program for one core."""

from collections.abc import Mapping
from typing import Any

from systolith.compiler import graph_file
from systolith.compiler.allocate import place_rows, place_tensors
from systolith.compiler.emit import Emitter, code_of
from systolith.compiler.order import overlap_heads
from systolith.compiler.qgraph import Operator, QGraph
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
) -> Program:
    """Order, place and emit the operators of a graph.

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

    Raises:
        CompileError: the graph does not fit the core; the message says what would.
    """
    operators = overlap_heads(graph.operators)
    places = place_tensors(graph, operators, config)
    slots = place_rows(graph, operators, config)
    emitter = Emitter(graph, operators, places, slots, config)
    emitted = emitter.run()
    code = code_of(emitted.instructions)
    transferred = sum(each.size for each in (*emitted.inputs, *emitted.outputs))
    return Program(
        name=name,
        config=config,
        seq_len=seq_len,
        weights=graph.weights(),
        code=code,
        image=emitter.image.to_bytes(),
        scratch_bytes=0,
        inputs=emitted.inputs,
        outputs=emitted.outputs,
        watch=emitted.watch,
        macs=graph.macs(),
        macs_int4=graph.macs(int4=True),
        dram_bytes=len(code) + emitted.streamed + transferred,
        layers=tuple(label(operator) for operator in operators),
        host=host,
        prologue=prologue,
        epilogue=epilogue,
        notes=tuple(dict.fromkeys((*graph.notes, *notes))),
        graph=graph_file.to_bytes(graph),
        precision=precision,
    )


def label(operator: Operator) -> str:
    """Layer, part and head of an operator, as reports and fault messages name it."""
    words = [operator.layer, getattr(operator, "part", "")]
    head = getattr(operator, "head", None)
    if head is not None:
        words.append(f"head {head}")
    return " ".join(word for word in words if word)
