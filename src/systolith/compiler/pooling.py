"""Pooling of a model's tokens: recognized in what lies behind the core, or added to the model.

What a model's epilogue does may be written in many ways, so it is tried, not matched: it is run on
random tokens of several lengths, and each of its values is held to the pooling that the core has.
What equals one for all of them is taken over by the core, the rest stays with the host.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from inspect import cleandoc
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from systolith.compiler.errors import CompileError
from systolith.compiler.frontend import LoadedModel
from systolith.compiler.graph import First, Floats, Graph, Mean, Node, Normalize
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.pooled import LAYER
from systolith.compiler.prologue import HostModel
from systolith.compiler.submodel import describe, extract, float_value

MASK_INPUT = "attention_mask"
"""What the input is called that says which tokens are valid, where attention does not use one."""

OUTPUT = "sentence_embedding"
"""The output of a model that pooling was added to."""

TOLERANCE = 1e-4
"""Of the largest element, by which a value may differ from the pooling that it is taken for."""


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """What becomes of the rows of a tensor.

    Attributes:
        kind: the mean of the valid tokens, of all rows whether valid or not, or the first row.
        unit: whether the result is brought to unit length.
    """

    kind: Literal["mean", "mean of all", "first"]
    unit: bool

    def of(self, tokens: Floats, length: int) -> Floats:
        """Pool `[tokens, channels]`; return `[channels]`."""
        rows = {"mean": tokens[:length], "mean of all": tokens, "first": tokens[:1]}[self.kind]
        y = rows.mean(0)
        return y / np.linalg.norm(y) if self.unit else y

    def __str__(self) -> str:
        what = {
            "mean": "mean of the valid tokens",
            "mean of all": "mean of all tokens",
            "first": "the first token",
        }
        return what[self.kind] + (", brought to unit length" if self.unit else "")


_KINDS = tuple(
    Pooling(kind=kind, unit=unit)
    for kind in ("mean", "mean of all", "first")
    for unit in (False, True)
)


def move_pooling(loaded: LoadedModel, options: QuantizeOptions) -> LoadedModel:
    """Move a model's pooling to the core, as far as it can be, or add some to its tokens.

    Args:
        loaded: the model.
        options: what the user wants.

    Returns:
        The model, with a note if something changed.

    Raises:
        CompileError: pooling is to be added, and the core's result is no tokens.
    """
    if options.pooling == "host":
        return loaded
    is_tokens = loaded.graph.output not in loaded.graph.rows
    if options.pooling == "model":
        return take_pooling(loaded) if loaded.epilogue and is_tokens else loaded
    if not is_tokens:
        raise CompileError(
            "the model's result is not one row for each token", accepted="pooling as in the model"
        )
    kind = "first" if options.pooling == "cls" else "mean"
    return _append(loaded, Pooling(kind=kind, unit=options.normalize))


def _append(loaded: LoadedModel, pooling: Pooling) -> LoadedModel:
    """Add pooling to a model: its only output is then the sentence's."""
    graph = _with(loaded.graph, pooling)
    shape = [1, graph.widths[graph.output]]
    node = helper.make_node("Identity", [f"{OUTPUT}_in"], [OUTPUT])
    epilogue = helper.make_model(
        helper.make_graph(
            [node],
            "epilogue",
            [float_value(f"{OUTPUT}_in", shape)],
            [float_value(OUTPUT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=8,
    )
    return replace(
        loaded,
        graph=graph,
        masked=loaded.masked or pooling.kind == "mean",
        epilogue=epilogue.SerializeToString(),
        result=f"{OUTPUT}_in",
        outputs=(OUTPUT,),
        host=tuple(line for line in loaded.host if not line.startswith("epilogue")),
        notes=(*loaded.notes, f"pooling added to the model, on the core: {pooling}"),
    )


def recognized() -> dict[str, list[str]]:
    """What `ops.supported_operators` does not list, since it is no operator's rule."""
    paragraphs = cleandoc(take_pooling.__doc__ or "").split("\n\n")
    return {"systolith::Pooling": [" ".join(each.split()) for each in paragraphs]}


def take_pooling(loaded: LoadedModel) -> LoadedModel:
    """Of the tokens behind the last norm: the mean of the valid ones, of all, or the first one.

    Then, or not, to unit length. Recognized by what it does, however it is written; what comes
    behind it is the host's.
    """
    model = onnx.load_from_string(loaded.epilogue)
    found = _recognize(model, loaded)
    if found is None:
        return loaded
    name, shape, pooling = found
    tokens, *inputs = sorted(model.graph.input, key=lambda each: each.name != loaded.result)
    given = [tokens, float_value(name, shape), *inputs]
    rest = extract(model, given, list(model.graph.output), name="epilogue")
    known = {value.name for value in (*inputs, tokens)}
    (result,) = (value.name for value in rest.graph.input if value.name not in known)
    keeps = any(value.name == tokens.name for value in rest.graph.input)
    graph = _with(loaded.graph, pooling)
    if keeps:
        graph = replace(graph, others=(loaded.graph.output,))
    work = describe(rest)
    host = [line for line in loaded.host if not line.startswith("epilogue")]
    return replace(
        loaded,
        graph=graph,
        masked=loaded.masked or pooling.kind == "mean",
        epilogue=rest.SerializeToString(),
        result=result,
        others={loaded.graph.output: tokens.name} if keeps else {},
        host=(*host, *([f"epilogue: {work}"] if work else [])),
        notes=(*loaded.notes, f"pooling on the core: {pooling}"),
    )


def _with(graph: Graph, pooling: Pooling) -> Graph:
    """A graph whose output is pooled."""
    nodes: list[Node] = []
    name = graph.output
    if pooling.kind == "first":
        nodes.append(First(out=f"{name}.first", layer=LAYER, x=name, rows=1))
    else:
        masked = pooling.kind == "mean"
        nodes.append(Mean(out=f"{name}.mean", layer=LAYER, x=name, masked=masked))
    if pooling.unit:
        nodes.append(Normalize(out=f"{name}.unit", layer=LAYER, x=nodes[-1].out))
    widths = graph.widths | {node.out: graph.widths[name] for node in nodes}
    return replace(
        graph, nodes=(*graph.nodes, *nodes), output=nodes[-1].out, others=(), widths=widths
    )


def _recognize(
    model: onnx.ModelProto, loaded: LoadedModel
) -> tuple[str, tuple[int, ...], Pooling] | None:
    """The last value of an epilogue that is pooling: its name, its shape, and which."""
    names = [name for node in model.graph.node for name in node.output if name]
    outputs = {value.name: value for value in model.graph.output}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(outputs.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    host = HostModel(probe.SerializeToString())
    matches: dict[str, list[Pooling]] = {key: list(_KINDS) for key in names}
    shapes: dict[str, tuple[int, ...]] = {}
    for feeds, tokens, length in _probes(model, loaded):
        for name, value in host.run(feeds).items():
            shapes[name] = value.shape
            matches[name] = [each for each in matches[name] if _is(value, each, tokens, length)]
    name = next((name for name in reversed(names) if matches[name]), None)
    return None if name is None else (name, shapes[name], matches[name][0])


def _is(value: np.ndarray, pooling: Pooling, tokens: Floats, length: int) -> bool:
    if value.dtype != np.float32 or value.size != tokens.shape[1]:
        return False
    expected = pooling.of(tokens, length)
    return bool(np.abs(value.reshape(-1) - expected).max() <= TOLERANCE * np.abs(expected).max())


def _probes(
    model: onnx.ModelProto, loaded: LoadedModel
) -> Iterator[tuple[dict[str, np.ndarray], Floats, int]]:
    """Inputs of an epilogue; the tokens in them, `[tokens, channels]`, and how many are valid."""
    random = np.random.default_rng(0)
    total, width = loaded.seq_len, loaded.graph.widths[loaded.graph.output]
    mask = loaded.mask_input or MASK_INPUT
    for length in sorted({1, total // 2, total - 1, total} - {0}):
        tokens = random.normal(0, 2, (total, width)).astype(np.float32)
        feeds: dict[str, np.ndarray] = {}
        for value in model.graph.input:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            if value.name == loaded.result:
                feeds[value.name] = tokens.reshape(shape)
            elif value.name == mask:
                feeds[value.name] = (np.arange(total) < length).reshape(shape).astype(kind)
            else:
                feeds[value.name] = random.integers(0, 2, shape).astype(kind)
        yield feeds, tokens, length
