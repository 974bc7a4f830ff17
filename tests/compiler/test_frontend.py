"""The front end: the graph computes what the ONNX file computes, or the file is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from systolith.compiler.errors import CompileError
from systolith.compiler.execute import run_float
from systolith.compiler.frontend import LoadedModel, load_model
from systolith.compiler.graph import MASKED_BELOW, Activation, Attention, LayerNorm, Linear
from systolith.compiler.ops import supported_operators
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith.compiler.rules import RULES
from systolith_sim.models import BertShape, make_bert, make_tokens, write_bert

TOKENS = 16

SHAPES = {
    "plain": BertShape(),
    "deep": BertShape(hidden=96, heads=3, layers=2, ffn=256, seed=1),
    "pooling": BertShape(pooling=True),
    "pre-norm": BertShape(pre_norm=True, activation="relu"),
    "fused": BertShape(fused_qkv=True, activation="gelu_tanh"),
    "silu": BertShape(activation="silu", heads=8),
    "half": BertShape(half=True, pooling=True),
    "old": BertShape(old=True, layers=2),
    "causal": BertShape(causal=True, layers=2),
    "biases": BertShape(relative="alone", heads=4, layers=2),
    "biases in the mask": BertShape(relative="joined", causal=True, heads=4),
    "classifier": BertShape(classifier=3),
    "shared": BertShape(shared=True, layers=3),
}


def load(model: onnx.ModelProto, seq_len: int | None = TOKENS) -> LoadedModel:
    return load_model(model.SerializeToString(), seq_len)


def run_loaded(model: LoadedModel, sample: dict[str, np.ndarray]) -> np.ndarray:
    """Run prologue, operator graph and epilogue in floating point; return the first output."""
    feeds, length = pad_inputs(sample, model.seq_len, model.mask_input)
    x = HostModel(model.prologue).run(feeds)[model.graph.input]
    # The graph runs without padding; what it would hold there is nobody's business.
    rows = model.graph.rows.get(model.graph.output, model.seq_len)
    y = np.full((1, rows, model.graph.widths[model.graph.output]), 7.0, np.float32)
    y[:, :length] = run_float(model.graph, x[:, :length])
    if not model.epilogue:
        return y[:, :length]
    host = HostModel(model.epilogue)
    feeds = feeds | {model.result: y.reshape(host.shapes[model.result])}
    return host.run(feeds)[model.outputs[0]]


@pytest.mark.parametrize("name", SHAPES)
def test_graph_computes_what_the_file_computes(name: str) -> None:
    model = make_bert(SHAPES[name])
    loaded = load(model)
    session = ort.InferenceSession(model.SerializeToString())
    for sample in make_tokens(SHAPES[name], [1, 7, TOKENS]):
        feeds = {key: value[None] for key, value in sample.items()}
        expected = np.asarray(session.run(None, feeds)[0])
        tolerance = 5e-3 if SHAPES[name].half else 2e-5
        np.testing.assert_allclose(run_loaded(loaded, sample), expected, atol=tolerance)


def test_structure() -> None:
    loaded = load(make_bert(BertShape(layers=2, heads=4)))
    kinds = Counter(type(node).__name__ for node in loaded.graph.nodes)
    assert kinds == {"Linear": 12, "LayerNorm": 5, "Add": 4, "Attention": 2, "Activation": 2}
    attention = next(node for node in loaded.graph.nodes if isinstance(node, Attention))
    assert (attention.heads, attention.masked) == (4, True)
    assert attention.scale == pytest.approx(1 / 4)
    norm = loaded.graph.nodes[0]
    assert isinstance(norm, LayerNorm)
    assert norm.eps == pytest.approx(1e-12)
    assert [node.function for node in loaded.graph.nodes if isinstance(node, Activation)] == [
        "gelu"
    ] * 2
    assert loaded.mask_input == "attention_mask"
    assert [line.split(":")[0] for line in loaded.host] == ["prologue"]


def test_layers_begin_with_their_projections() -> None:
    graph = load(make_bert(BertShape(layers=2))).graph
    counts = Counter(node.layer for node in graph.nodes)
    assert counts == {"embeddings": 1, "layer.0": 12, "layer.1": 12}
    assert graph.nodes[0].layer == "embeddings"


def test_nodes_know_their_onnx_names() -> None:
    model = make_bert(BertShape())
    names = {node.name for node in model.graph.node}
    graph = load(model).graph
    linear = next(node for node in graph.nodes if isinstance(node, Linear))
    assert set(linear.onnx) <= names
    assert any(name.endswith("/key/MatMul") or "/query/" in name for name in linear.onnx)


def test_external_data(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "model.onnx", external=True)
    assert (tmp_path / "model.onnx.data").stat().st_size > 100_000
    sample = make_tokens(BertShape(), [9])[0]
    expected = run_loaded(load(make_bert()), sample)
    np.testing.assert_array_equal(run_loaded(load_model(path, TOKENS), sample), expected)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(CompileError, match=r"model\.onnx\.data"):
        load_model(path, TOKENS)


def test_prologue_takes_all_model_inputs() -> None:
    loaded = load(make_bert(BertShape(pooling=True)))
    assert HostModel(loaded.prologue).inputs == ["input_ids", "attention_mask", "token_type_ids"]
    assert HostModel(loaded.epilogue).inputs == [loaded.result, "attention_mask"]


def test_fixed_shapes_need_no_length() -> None:
    model = make_bert()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
        value.type.tensor_type.shape.dim[1].dim_value = 12
    assert load(model, None).seq_len == 12
    with pytest.raises(CompileError, match="fixed to 12, not 16"):
        load(model)


def test_dynamic_shape_without_a_length() -> None:
    with pytest.raises(
        CompileError, match="'input_ids': its sequence dimension is dynamic"
    ) as info:
        load(make_bert(), None)
    assert info.value.accepted == "a length, as in --seq-len 32"


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 40])
def test_not_onnx(content: bytes) -> None:
    with pytest.raises(CompileError, match=r"not a valid ONNX model|has no nodes"):
        load_model(content, TOKENS)


def test_truncated_file() -> None:
    content = make_bert().SerializeToString()
    with pytest.raises(CompileError, match="not a valid ONNX model"):
        load_model(content[: len(content) // 2], TOKENS)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"there is no file .*nothing\.onnx"):
        load_model(tmp_path / "nothing.onnx", TOKENS)


@pytest.mark.parametrize(
    ("weight", "operator"),
    [
        ("encoder.layer.0.attention.self.key.weight", "MatMul"),
        ("encoder.layer.0.output.dense.bias", "Add"),
        ("encoder.layer.0.output.LayerNorm.weight", "LayerNormalization"),
        ("embeddings.word_embeddings.weight", "Gather"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(weight: str, operator: str, value: float) -> None:
    model = make_bert()
    tensor = next(each for each in model.graph.initializer if each.name == weight)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[3] = value
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    with pytest.raises(CompileError, match="NaN or infinite") as info:
        load(model)
    assert weight in str(info.value)
    assert info.value.operator == operator
    assert info.value.node


def insert(model: onnx.ModelProto, after: str, kind: str, **attributes: int) -> str:
    """Put a node with one input behind a tensor, in front of all its readers."""
    position = next(n for n, node in enumerate(model.graph.node) if after in node.output)
    new = helper.make_node(kind, [after], [f"{after}.new"], name=f"new/{kind}")
    new.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name == after:
                node.input[slot] = f"{after}.new"
    model.graph.node.insert(position + 1, new)
    return f"new/{kind}"


def output_of(model: onnx.ModelProto, name: str) -> str:
    """The tensor that a node makes."""
    return next(node.output[0] for node in model.graph.node if node.name == name)


def test_unsupported_operator_is_named() -> None:
    model = make_bert()
    node = insert(model, output_of(model, "/encoder/layer/0/output/dense/Add"), "Sin")
    with pytest.raises(CompileError) as info:
        load(model)
    assert (info.value.node, info.value.operator) == (node, "Sin")
    assert "the core has no such operator" in info.value.reason
    assert "LayerNormalization" in info.value.accepted
    assert str(info.value).startswith("Sin 'new/Sin': ")


def test_softmax_of_anything_else() -> None:
    model = make_bert()
    insert(model, output_of(model, "/encoder/layer/0/output/dense/Add"), "Softmax", axis=-1)
    with pytest.raises(CompileError, match="its input is not attention scores"):
        load(model)


def test_softmax_over_another_axis() -> None:
    model = make_bert()
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 2
    with pytest.raises(CompileError, match="its axis is 2; accepted: the last axis"):
        load(model)


def test_product_of_activations() -> None:
    model = make_bert()
    add = next(node for node in model.graph.node if node.name == "/encoder/layer/0/output/Add")
    add.op_type = "Mul"
    with pytest.raises(CompileError, match="no operand is a constant factor"):
        load(model)


def test_output_inside_the_core() -> None:
    model = make_bert(BertShape(layers=2))
    name = output_of(model, "/encoder/layer/0/output/LayerNorm/LayerNormalization")
    model.graph.output.append(helper.make_tensor_value_info(name, 1, ["batch", "sequence", 64]))
    with pytest.raises(CompileError, match="is a tensor inside the core"):
        load(model)


def test_no_layer_norm() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 4, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(CompileError, match="no LayerNormalization, only Relu"):
        load(model, None)


def test_causal_attention_is_a_bias() -> None:
    """A mask of padding and of what comes later: the length is the core's, the rest constant."""
    loaded = load(make_bert(BertShape(causal=True)))
    assert loaded.masked
    assert loaded.mask_input == "attention_mask"
    (attention,) = (node for node in loaded.graph.nodes if isinstance(node, Attention))
    assert attention.bias is not None
    later = np.triu(np.ones((TOKENS, TOKENS), bool), 1)
    np.testing.assert_array_equal(attention.bias[0] <= MASKED_BELOW, later)
    assert not attention.bias[0][~later].any()


@pytest.mark.parametrize("relative", ["alone", "joined"])
def test_biases_of_positions(relative: str) -> None:
    """Each head has its own, by distance, whether the file adds them to scores or to the mask."""
    loaded = load(make_bert(BertShape(relative=relative, heads=4)))  # pyright: ignore[reportArgumentType]
    assert loaded.masked
    (attention,) = (node for node in loaded.graph.nodes if isinstance(node, Attention))
    assert attention.bias is not None
    assert attention.bias.shape == (4, TOKENS, TOKENS)
    for offset in (-TOKENS + 1, -3, 0, 5, 6):
        diagonals = attention.bias.diagonal(offset, 1, 2)
        np.testing.assert_allclose(diagonals, diagonals[:, :1].repeat(diagonals.shape[1], 1))
    assert attention.bias.std() > 0.5


def test_a_constant_mask_that_hides_everything_is_refused() -> None:
    model = make_bert()
    low = np.zeros((TOKENS, TOKENS), np.float32)
    low[3] = -1e9
    change_scores(model, low)
    with pytest.raises(CompileError, match=r"what fits them, and hides no query's last key"):
        load(model)


def change_scores(model: onnx.ModelProto, addend: np.ndarray) -> None:
    """Add a constant to the scores, in front of the mask."""
    add = next(node for node in model.graph.node if node.name == "/encoder/layer/0/attention/Add")
    model.graph.initializer.append(numpy_helper.from_array(addend, "addend"))
    new = helper.make_node("Add", [add.input[0], "addend"], ["changed"], name="change")
    add.input[0] = "changed"
    model.graph.node.insert(list(model.graph.node).index(add), new)


def test_the_pooler_and_the_classifier_are_the_cores() -> None:
    loaded = load(make_bert(BertShape(classifier=3)))
    tail = [type(node).__name__ for node in loaded.graph.nodes[-5:]]
    assert tail == ["LayerNorm", "First", "Linear", "Activation", "Linear"]
    assert not any(line.startswith("epilogue") for line in loaded.host)


def test_mask_of_one_length_only_is_refused() -> None:
    """The model hides its first key if the last token is valid."""
    model = make_bert()
    mask = output_of(model, "/mask/Mul")
    position = next(n for n, node in enumerate(model.graph.node) if mask in node.output)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    model.graph.initializer.append(
        numpy_helper.from_array(np.eye(1, TOKENS, dtype=np.float32)[None, None], "first")
    )
    new = [
        helper.make_node("Gather", [mask, "last"], ["tail"], axis=3),
        helper.make_node("Add", ["tail", "high"], ["tail.high"]),
        helper.make_node("Relu", ["tail.high"], ["tail.valid"]),
        helper.make_node("Mul", ["tail.valid", "first"], ["changed"]),
        helper.make_node("Sub", [mask, "changed"], ["sum"], name="change"),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e5), "high"))
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name == mask:
                node.input[slot] = "sum"
    for node in reversed(new):
        model.graph.node.insert(position + 1, node)
    with pytest.raises(CompileError, match="is not a mask of padding") as info:
        load(model)
    assert info.value.operator == "Add"
    assert "/attention/Add" in info.value.node


def test_mask_that_hides_too_little_is_refused() -> None:
    model = make_bert()
    low = next(
        node
        for node in model.graph.node
        if node.op_type == "Constant"
        and numpy_helper.to_array(node.attribute[0].t).ravel()[0] < -1e30
    )
    low.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(-3, np.float32)))
    with pytest.raises(CompileError, match="is not a mask of padding"):
        load(model)


def test_boolean_mask() -> None:
    """Where instead of Add, as older exporters write it."""
    shape = BertShape()
    model = make_bert(shape)
    add = next(node for node in model.graph.node if node.name == "/encoder/layer/0/attention/Add")
    scores, mask = add.input
    position = list(model.graph.node).index(add)
    low, zero = np.array(-1e30, np.float32), np.array(0, np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(low, "low"), numpy_helper.from_array(zero, "zero")]
    )
    output = add.output[0]
    model.graph.node.remove(add)
    keep = helper.make_node("Equal", [mask, "zero"], ["keep"], name="keep")
    where = helper.make_node("Where", ["keep", scores, "low"], [output], name="where")
    model.graph.node.insert(position, where)
    model.graph.node.insert(position, keep)
    sample = make_tokens(shape, [7])[0]
    expected = run_loaded(load(make_bert(shape)), sample)
    np.testing.assert_allclose(run_loaded(load(model), sample), expected, atol=1e-6)


def test_model_without_a_mask() -> None:
    model = make_bert()
    add = next(node for node in model.graph.node if node.name == "/encoder/layer/0/attention/Add")
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name == add.output[0]:
                node.input[slot] = add.input[0]
    model.graph.node.remove(add)
    loaded = load(model)
    assert not loaded.masked
    assert loaded.mask_input is None


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ([1, 0, 1, 1], "not ones followed by zeros"),
        ([0, 0, 0, 0], "not ones followed by zeros"),
    ],
)
def test_masks_with_holes(mask: list[int], reason: str) -> None:
    sample = {"input_ids": [5, 6, 7, 8], "attention_mask": mask}
    with pytest.raises(CompileError, match=reason):
        pad_inputs(sample, TOKENS, "attention_mask")


def test_padding() -> None:
    sample = {"input_ids": [[5, 6, 7, 8]], "attention_mask": [[1, 1, 1, 0]]}
    feeds, length = pad_inputs(sample, 6, "attention_mask")
    assert length == 3
    np.testing.assert_array_equal(feeds["input_ids"], [[5, 6, 7, 8, 0, 0]])
    feeds, length = pad_inputs({"input_ids": [5, 6]}, 3, "attention_mask")
    np.testing.assert_array_equal(feeds["attention_mask"], [[1, 1, 0]])
    with pytest.raises(CompileError, match="has 4 tokens; accepted: at most 3"):
        pad_inputs({"input_ids": [1, 2, 3, 4]}, 3, None)


def test_every_rule_is_documented() -> None:
    table = supported_operators()
    assert len(table) == len(RULES)
    assert {"MatMul", "Softmax", "LayerNormalization", "Gelu", "systolith::Silu"} <= set(table)
    for name, constraints in table.items():
        assert constraints, name
        assert all(constraint.endswith(".") for constraint in constraints), name
