"""Quantized files as real numbers: graphs small enough to say what must be left of them."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from systolith.compiler.dequantize import ACCEPTED, dequantize
from systolith.compiler.errors import CompileError

SHAPE = (3, 4)

WEIGHT = np.array([[3, -2], [0, 127], [-128, 5], [64, -1]], np.int8)

node = helper.make_node


def make(
    nodes: Sequence[NodeProto],
    constants: dict[str, np.ndarray],
    *,
    shape: tuple[int, ...] = SHAPE,
    output: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of `x` and `y`; nodes are copied, and named after their first outputs."""
    nodes = [NodeProto.FromString(each.SerializeToString()) for each in nodes]
    for each in nodes:
        each.name = f"make {each.output[0]}"
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What a model computes, without ONNX Runtime's own ideas of where to use integers."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [each.op_type for each in model.graph.node if each.op_type != "Identity"]


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(SHAPE)
SCALE = {"scale": np.float32(1 / 127), "zero": np.int8(0)}
PAIR = [
    node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
    node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
]


def test_a_pair_hands_its_input_through() -> None:
    model = make([*PAIR, node("Neg", ["d"], ["y"])], SCALE)
    assert 0 < np.abs(run(model, X) + X).max() < 1 / 127
    (note,) = dequantize(model)
    assert "rounds activations in 1 places" in note
    assert kinds(model) == ["Neg"]
    np.testing.assert_array_equal(run(model, X), -X)


def test_codes_may_be_moved_about() -> None:
    nodes = [PAIR[0], node("Transpose", ["q"], ["t"]), node("Reshape", ["t", "shape"], ["r"])]
    nodes += [node("DequantizeLinear", ["r", "scale", "zero"], ["y"])]
    model = make(nodes, {**SCALE, "shape": np.array([2, 6])})
    dequantize(model)
    assert kinds(model) == ["Transpose", "Reshape"]
    np.testing.assert_array_equal(run(model, X), X.T.reshape(2, 6))


def test_weights_stay_in_integers() -> None:
    """Codes by a scale for each column; and real weights that are rounded in the graph."""
    axis = {"axis": 1}
    nodes = [
        *PAIR,
        node("DequantizeLinear", ["codes", "scales", "zeros"], ["w"], **axis),
        node("MatMul", ["d", "w"], ["m"]),
        node("QuantizeLinear", ["bias", "scale", "zero"], ["bias.q"]),
        node("DequantizeLinear", ["bias.q", "scale", "zero"], ["bias.d"]),
        node("Add", ["m", "bias.d"], ["y"]),
    ]
    constants = {
        **SCALE,
        "codes": WEIGHT,
        "scales": np.array([0.5, 0.25], np.float32),
        "zeros": np.array([1, -3], np.int8),
        "bias": np.array([0.4999, -0.2], np.float32),
    }
    model = make(nodes, constants)
    dequantize(model)
    linear = ["DequantizeLinear", "MatMul", "QuantizeLinear", "DequantizeLinear", "Add"]
    assert kinds(model) == linear
    weight = (WEIGHT.astype(np.float32) - [1, -3]) * [0.5, 0.25]
    # 0.4999 and -0.2 in steps of 1 / 127.
    bias = np.array([63, -25]) / 127
    np.testing.assert_allclose(run(model, X), X @ weight + bias, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("zero", [np.uint8(0), np.int8(-128)])
@pytest.mark.parametrize("moved", [False, True])
def test_codes_from_zero_on_are_a_relu_behind_a_product(zero: np.generic, moved: bool) -> None:
    """Quantizers leave it out, since rounding does the same."""
    constants = {
        "scale": np.float32(1 / 100),
        "zero": zero,
        "w": np.array([[1, -1], [0.5, 1], [0, 0.25], [1, -1]], np.float32),
        "bias": np.array([0.1, -0.2], np.float32),
    }
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["bias", "m"], ["a"])]
    source = "a"
    if moved:
        nodes.append(node("Identity", ["a"], ["i"]))
        source = "i"
    nodes += [
        node("QuantizeLinear", [source, "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = make(nodes, constants)
    before = run(model, X)
    assert (before == 0).any()
    dequantize(model)
    assert kinds(model) == ["MatMul", "Add", "Relu"]
    np.testing.assert_allclose(run(model, X), before, atol=0.006)


def test_codes_from_zero_on_are_no_relu_behind_what_is_never_negative() -> None:
    nodes = [
        node("Erf", ["x"], ["e"]),
        node("Add", ["e", "one"], ["a"]),
        node("QuantizeLinear", ["a", "scale"], ["q"]),
        node("DequantizeLinear", ["q", "scale"], ["y"]),
    ]
    model = make(nodes, {"one": np.float32(1), "scale": np.float32(2 / 255)})
    dequantize(model)
    assert kinds(model) == ["Erf", "Add"]


DYNAMIC = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
BEHIND = [
    node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
    node("Mul", ["s", "scale"], ["both"]),
    node("Mul", ["f", "both"], ["y"]),
]


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(7), np.array([4, -9], np.int8)])
def test_products_of_integers(zero: np.ndarray) -> None:
    scale = np.array([0.5, 0.125], np.float32)
    product = node("MatMulInteger", ["q", "codes", "z", "zero"], ["i"])
    constants = {"codes": WEIGHT, "zero": zero, "scale": scale}
    model = make([*DYNAMIC, product, *BEHIND], constants)
    exact = X @ ((WEIGHT.astype(np.float32) - zero) * scale)
    if zero.ndim == 0:
        np.testing.assert_allclose(run(model, X), exact, atol=0.6)
    (note,) = dequantize(model)
    assert "in 1 products" in note
    assert kinds(model) == ["MatMul", "Cast", "Mul", "Mul"]
    np.testing.assert_allclose(run(model, X), exact, rtol=1e-5, atol=1e-5)


def test_products_of_two_activations() -> None:
    """Both operands are rounded, one of them transposed then."""
    nodes = [
        *DYNAMIC,
        node("Transpose", ["q"], ["t"]),
        node("MatMulInteger", ["q", "t", "z", "z"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "s"], ["both"]),
        node("Mul", ["f", "both"], ["y"]),
    ]
    model = make(nodes, {})
    dequantize(model)
    np.testing.assert_allclose(run(model, X), X @ X.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zero", [np.uint8(128), np.array([100, 130], np.uint8)])
def test_convolutions_of_integers(zero: np.ndarray) -> None:
    codes = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2) * 10
    nodes = [
        *DYNAMIC,
        node("ConvInteger", ["q", "codes", "z", "zero"], ["i"], strides=[2, 2]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["y"]),
    ]
    model = make(nodes, {"codes": codes, "zero": zero}, shape=(1, 3, 4, 4))
    x = np.sin(np.arange(48, dtype=np.float32)).reshape(1, 3, 4, 4)
    dequantize(model)
    assert kinds(model) == ["Conv", "Cast", "Mul"]
    weight = codes.astype(np.float32) - zero.reshape(-1, 1, 1, 1)
    patches = x.reshape(3, 2, 2, 2, 2).transpose(1, 3, 0, 2, 4).reshape(4, -1)
    expected = (patches @ weight.reshape(2, -1).T).T.reshape(1, 2, 2, 2)
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-5, atol=1e-3)


def test_a_model_without_integers_is_left_alone() -> None:
    model = make([node("Neg", ["x"], ["y"])], {})
    before = model.SerializeToString()
    assert dequantize(model) == ()
    assert model.SerializeToString() == before


OTHER = {"other": np.float32(0.5)}
REFUSED = {
    "another scale": (
        [PAIR[0], node("DequantizeLinear", ["q", "other", "zero"], ["y"])],
        "DequantizeLinear 'make y': its scale or zero point is not that of 'make q'",
    ),
    "integers out": (
        [node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
        "QuantizeLinear 'make y': its integers are the model's output 'y'",
    ),
    "a scale at run time": (
        [
            node("ReduceMax", ["x"], ["top"], keepdims=0),
            node("QuantizeLinear", ["x", "top", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "top", "zero"], ["y"]),
        ],
        "QuantizeLinear 'make q': its 'top' is computed at run time",
    ),
    "QOperator format": (
        [
            PAIR[0],
            node(
                "QLinearMatMul",
                ["q", "scale", "zero", "codes", "scale", "zero", "scale", "zero"],
                ["m"],
            ),
            node("DequantizeLinear", ["m", "scale", "zero"], ["y"]),
        ],
        "QLinearMatMul 'make m': it computes with the integers of a QuantizeLinear",
    ),
    "weights of ONNX Runtime's own": (
        [node("MatMulNBits", ["x", "codes", "scale"], ["y"], domain="com.microsoft", N=2, K=4)],
        "MatMulNBits 'make y': it computes with the integers of another form",
    ),
    "integers of a pair in a product": (
        [PAIR[0], node("MatMulInteger", ["q", "codes"], ["i"]), *BEHIND[:1]],
        "MatMulInteger 'make i': it computes with the integers of a QuantizeLinear",
    ),
    "integers of a cast in a product": (
        [
            node("Cast", ["x"], ["q"], to=TensorProto.INT8),
            node("MatMulInteger", ["q", "codes"], ["i"]),
        ],
        "MatMulInteger 'make i': its operand 'q' is neither constant nor",
    ),
    "codes that are counted": (
        [*DYNAMIC, node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)],
        "Cast 'make y': it computes with the integers of a DynamicQuantizeLinear",
    ),
    "sums that are not scaled": (
        [
            *DYNAMIC,
            node("MatMulInteger", ["q", "codes", "z"], ["i"]),
            node("Add", ["i", "i"], ["y"]),
        ],
        "Add 'make y': it computes with the integers of a MatMulInteger",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused(name: str) -> None:
    nodes, message = REFUSED[name]
    model = make(nodes, {**SCALE, **OTHER, "codes": WEIGHT})
    with pytest.raises(CompileError) as info:
        dequantize(model)
    assert str(info.value).startswith(message)
    assert info.value.accepted == ACCEPTED
