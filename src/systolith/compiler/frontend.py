"""The front end: an ONNX file in, an operator graph and the host's two ONNX models out.

What lies before the first layer norm, matrix product or convolution is the host's prologue: token
lookup, the sum of embeddings, mask arithmetic. What lies after the last layer norm is its
epilogue: pooling, normalisation to unit length; but a head that reads the first token alone
belongs to the core. Everything between runs on the core, or the model is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from systolith.compiler import ops
from systolith.compiler.biases import Bias, join_biases
from systolith.compiler.clean import clean, convert, load
from systolith.compiler.dequantize import dequantize
from systolith.compiler.errors import CompileError
from systolith.compiler.graph import Attention, Graph, Node, PatchEmbedding
from systolith.compiler.layers import name_layers
from systolith.compiler.masks import check_masks
from systolith.compiler.patches import PatchGrid
from systolith.compiler.prologue import check_tables
from systolith.compiler.reading import Layout, Reading, out_name
from systolith.compiler.shapes import fix_shapes
from systolith.compiler.submodel import describe, extract, float_value
from systolith.compiler.tail import last_of_head

_ANCHORS = {"LayerNormalization", "MatMul", "Gemm", "Conv", "Attention", "Einsum"}
"""The first of these is where the core begins."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model, taken apart.

    Attributes:
        graph: what the core computes, in real numbers.
        seq_len: tokens.
        prologue: ONNX model from all of the model's inputs to `graph.input`, `[1, T, channels]`,
            or the image whose patches it is.
        epilogue: ONNX model from `result` and the model's inputs to its outputs; empty if the
            model's only output is `graph.output`.
        result: the epilogue's input that stands for `graph.output`.
        others: likewise, for the graph's other outputs.
        outputs: names of the model's outputs.
        patches: how the image falls into patches, if the input is one.
        masked: whether something depends on the length; if not, all inputs have T tokens.
        mask_input: the model input that says which tokens are valid, if there is one.
        host: what runs on the host, in words.
        notes: what the user should know.
    """

    graph: Graph
    seq_len: int
    prologue: bytes
    epilogue: bytes
    result: str
    outputs: tuple[str, ...]
    patches: PatchGrid | None
    masked: bool
    mask_input: str | None
    host: tuple[str, ...]
    notes: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)


def load_model(source: Path | str | bytes, seq_len: int | None = None) -> LoadedModel:
    """Load an ONNX model for one length.

    Args:
        source: a file, or its contents.
        seq_len: tokens; may be left out if the model's inputs have a fixed length. Images have as
            many as their model makes of them.

    Raises:
        CompileError: the model is not supported; the error says where, why, and what would be.
    """
    model = load(source if isinstance(source, bytes) else Path(source))
    seq_len = fix_shapes(model, seq_len)
    notes = dequantize(model)
    model = convert(model)
    cleaned = clean(model)
    norm = _last_norm(cleaned.graph)
    if seq_len is None:
        seq_len = _tokens(cleaned.graph)
    reading, last = _read(cleaned.graph, norm, seq_len)
    name = out_name(last)
    result = reading.values[name]
    assert isinstance(result, Layout)
    if reading.input is None:
        raise CompileError("the core would need nothing from the host", accepted="token inputs")
    graph = Graph(
        input=reading.input.name,
        output=result.tensor,
        widths=reading.widths,
        nodes=tuple(reading.nodes.values()),
    )
    graph = name_layers(graph.changed(graph.nodes))
    _check_patches(graph, seq_len)

    # The file's own nodes where they have the tensor: they may keep weights in fewer bytes.
    models, inputs = (model, ir.to_proto(cleaned)), list(model.graph.input)
    value = float_value(graph.input, reading.input.shape)
    prologue = _extract(models, inputs, [value], "prologue", keep_inputs=True)
    check_tables(prologue)
    mask_input = None
    if reading.masks:
        names = dict.fromkeys(mask.name for mask in reading.masks)
        values = [onnx.ValueInfoProto(name=each) for each in names]
        mask_input, biases = check_masks(
            _extract(models[1:], inputs, values, "masks"), reading.masks, seq_len
        )
        added = {mask.q: bias for mask, bias in zip(reading.masks, biases, strict=True)}
        graph = graph.changed(_with_bias(node, added) for node in graph.nodes)
    outputs = list(model.graph.output)
    epilogue = None
    # An epilogue that changes nothing still says what shape the first token's row has.
    if [value.name for value in outputs] != [name] or result.tensor in graph.rows:
        given = [float_value(name, result.index.shape), *inputs]
        epilogue = _extract(models, given, outputs, "epilogue")
    return LoadedModel(
        graph=graph,
        seq_len=seq_len,
        prologue=prologue.SerializeToString(),
        epilogue=b"" if epilogue is None else epilogue.SerializeToString(),
        # An output may be the core's result itself; the epilogue's input then has another name.
        result=name if epilogue is None else epilogue.graph.input[0].name,
        outputs=tuple(value.name for value in outputs),
        patches=reading.patches,
        masked=any(isinstance(node, Attention) and node.masked for node in graph.nodes),
        mask_input=mask_input,
        host=tuple(
            f"{part.graph.name}: {work}"
            for part in (prologue, epilogue)
            if part and (work := describe(part))
        ),
        notes=notes,
    )


def _last_norm(graph: ir.Graph) -> ir.Node:
    last: ir.Node | None = None
    for node in graph:
        if node.op_type == "LayerNormalization":
            last = node
    if last is None:
        kinds = sorted({node.op_type for node in graph})
        raise CompileError(
            f"the model has no LayerNormalization, only {', '.join(kinds)}",
            accepted="transformer encoders: layer norms, attention, feed-forward layers",
        )
    return last


def _tokens(graph: ir.Graph) -> int:
    """Tokens of a model of images: rows of its first layer norm."""
    node = next(each for each in graph if each.op_type == "LayerNormalization")
    value = node.inputs[0]
    shape = value.shape if value is not None else None
    if shape is None or not shape.is_static() or len(shape) != 3:
        raise CompileError(
            "the number of its tokens does not follow from the image",
            node=node.name or "",
            operator=node.op_type,
            accepted="a norm of shape [1, tokens, channels]",
        )
    return int(shape.numpy()[1])


def _read(graph: ir.Graph, norm: ir.Node, seq_len: int) -> tuple[Reading, ir.Node]:
    """Read the core's nodes; return the last of them, too."""
    head = last_of_head(norm)
    try:
        return _read_until(graph, head or norm, seq_len)
    except CompileError:
        if head is None:
            raise
    # What the core cannot have of a head, the host does.
    return _read_until(graph, norm, seq_len)


def _read_until(graph: ir.Graph, last: ir.Node, seq_len: int) -> tuple[Reading, ir.Node]:
    reading = Reading(seq_len)
    for node in _body(graph, last):
        ops.apply(reading, node)
    return reading, last


def _with_bias(node: Node, added: Mapping[str, Bias]) -> Node:
    """An attention with what its mask adds at every length; any other node as it is."""
    if not isinstance(node, Attention) or node.q not in added:
        return node
    return replace(node, bias=join_biases(node.bias, added[node.q]))


def _check_patches(graph: Graph, seq_len: int) -> None:
    """Refuse patches that are used in more than one way."""
    embeddings = [node for node in graph.nodes if isinstance(node, PatchEmbedding)]
    for node in embeddings:
        if len(embeddings) > 1 or len(node.table) != seq_len:
            raise CompileError(
                f"{len(node.table)} patches are read besides those among {seq_len} tokens",
                node=node.onnx[0],
                operator="Conv",
                accepted="patches that become tokens, and are read by nobody else",
            )


def _body(graph: ir.Graph, last: ir.Node) -> list[ir.Node]:
    """The nodes of the core up to a last one."""
    downstream: dict[ir.Node, bool] = {}
    for node in graph:
        before = [value.producer() for value in node.inputs if value is not None]
        downstream[node] = node.op_type in _ANCHORS or any(
            downstream.get(each, False) for each in before if each is not None
        )
    wanted, stack = {last}, [last]
    while stack:
        for value in stack.pop().inputs:
            node = value.producer() if value is not None else None
            if node is not None and downstream[node] and node not in wanted:
                wanted.add(node)
                stack.append(node)
    for node in graph:
        if not downstream[node] or node in wanted:
            continue
        for value in node.inputs:
            before = value.producer() if value is not None else None
            if before in wanted and before is not last:
                raise CompileError(
                    f"it needs '{value.name if value else ''}', a tensor inside the core, and is "
                    "not needed by the last layer norm",
                    node=node.name or "",
                    operator=node.op_type,
                    accepted="outputs that are made from the last layer norm",
                )
    names = {value.name for node in wanted for value in node.outputs if node is not last}
    for value in graph.outputs:
        if value.name in names:
            raise CompileError(
                f"output '{value.name}' is a tensor inside the core",
                accepted="outputs that are made from the last layer norm",
            )
    return [node for node in graph if node in wanted]


def _extract(
    models: Sequence[onnx.ModelProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    name: str,
    *,
    keep_inputs: bool = False,
) -> onnx.ModelProto:
    """Extract from the first model that has everything."""
    missing = ""
    for model in models:
        weights = {tensor.name for tensor in model.graph.initializer}
        given = [value for value in inputs if value.name not in weights]
        try:
            return extract(model, given, outputs, name=name, keep_inputs=keep_inputs)
        except KeyError as error:
            missing = str(error.args[0])
    raise CompileError(
        f"the host's {name} needs '{missing}', which is computed on the core",
        accepted="outputs that are made from the last layer norm",
    )
