"""Attention as one operator, which exporters write from opset 23 on, in all forms that it has."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from systolith.compiler.errors import CompileError
from systolith.compiler.execute import run_float
from systolith.compiler.frontend import LoadedModel, load_model
from systolith.compiler.prologue import HostModel

FILE = Path(__file__).parents[1] / "data" / "exported" / "bert-sdpa-dynamo-23.onnx"

TOKENS = 12

Change = Callable[[onnx.GraphProto, onnx.NodeProto], None]


def attention_model(change: Change) -> onnx.ModelProto:
    """The file that has Attention, changed in each of them."""
    model = onnx.load(FILE)
    for node in [each for each in model.graph.node if each.op_type == "Attention"]:
        change(model.graph, node)
    return model


def set_attribute(node: onnx.NodeProto, name: str, value: float) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def causal(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
    set_attribute(node, "is_causal", 1)


def scaled(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
    set_attribute(node, "scale", 0.2)


def no_mask(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """And no scale: it is the usual one."""
    del node.input[3:]
    kept = [each for each in node.attribute if each.name != "scale"]
    del node.attribute[:]
    node.attribute.extend(kept)


def added_mask(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Numbers to add, positions among them, instead of booleans."""
    name = f"{node.name}.added"
    low, zero = np.float32(-1e9), np.linspace(-1, 1, TOKENS, dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(low, f"{name}.low"))
    graph.initializer.append(numpy_helper.from_array(zero, f"{name}.zero"))
    new = helper.make_node("Where", [node.input[3], f"{name}.zero", f"{name}.low"], [name])
    graph.node.insert(list(graph.node).index(node), new)
    node.input[3] = name


def side_by_side(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Three dimensions: the operands before they were reshaped, the result in no need of it."""
    makers = {out: each for each in graph.node for out in each.output}
    for position in range(3):
        node.input[position] = makers[makers[node.input[position]].input[0]].input[0]
    (reader,) = (each for each in graph.node if node.output[0] in each.input)
    (reshape,) = (each for each in graph.node if reader.output[0] in each.input)
    reshape.input[0] = node.output[0]
    graph.node.remove(reader)
    for name in ("q_num_heads", "kv_num_heads"):
        set_attribute(node, name, 4)


def results(model: onnx.ModelProto) -> tuple[LoadedModel, np.ndarray, np.ndarray]:
    """A model as it is read, and what its graph and ONNX Runtime make of a sample."""
    ids = np.random.default_rng(4).integers(2, 100, (1, TOKENS))
    sample = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
    content = model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = np.asarray(session.run(None, sample)[0])
    read = load_model(content, TOKENS)
    x = HostModel(read.prologue).run(sample)[read.graph.input]
    return read, run_float(read.graph, x), expected


@pytest.mark.parametrize("change", [causal, scaled, no_mask, added_mask, side_by_side])
def test_attention_as_one_operator(change: Change) -> None:
    read, found, expected = results(attention_model(change))
    kinds = Counter(type(node).__name__ for node in read.graph.nodes)
    assert kinds == {"Linear": 12, "Attention": 2, "Add": 4, "LayerNorm": 5, "Activation": 2}
    assert read.masked == (change is not no_mask)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    _, _, unchanged = results(onnx.load(FILE))
    differs = float(np.abs(expected - unchanged).max())
    assert differs > 0.1 if change in (causal, scaled, added_mask) else differs < 1e-5


def softcap(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
    set_attribute(node, "softcap", 5.0)


def past(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    name = f"{node.name}.past"
    empty = np.ones((1, 4, 2, 8), np.float32)
    graph.initializer.append(numpy_helper.from_array(empty, name))
    node.input.extend([name, name])
    node.output.extend(["", ""])


def scores_out(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """The second attention adds the scores of the first one to its own."""
    name = "residual.scores"
    if any(name in each.output for each in graph.node):
        node.input[3] = name
    else:
        node.output.extend(["", "", name])


def fewer_keys(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Four heads of queries share two of keys and values."""
    side_by_side(graph, node)
    set_attribute(node, "kv_num_heads", 2)
    for name, value in (("first", 0), ("last", 16), ("axis", 2)):
        constant = numpy_helper.from_array(np.array([value]), f"{node.name}.{name}")
        graph.initializer.append(constant)
    for position in (1, 2):
        half = f"{node.name}.{position}"
        names = [f"{node.name}.{name}" for name in ("first", "last", "axis")]
        new = helper.make_node("Slice", [node.input[position], *names], [half])
        graph.node.insert(list(graph.node).index(node), new)
        node.input[position] = half


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (softcap, "it has a softcap; accepted: softcap 0"),
        (past, "it has a past, or lengths; accepted: Q, K, V and a mask"),
        (scores_out, "more than its first output is used; accepted: its first output only"),
        (fewer_keys, "Q has 4 heads and K has 2"),
    ],
)
def test_attention_that_the_core_has_not(change: Change, reason: str) -> None:
    model = attention_model(change)
    with pytest.raises(CompileError, match=reason) as info:
        load_model(model.SerializeToString(), TOKENS)
    assert info.value.operator == "Attention"
    assert "scaled_dot_product_attention" in info.value.node
