"""Operators that exporters take apart are found again, and nothing else is taken for them."""

from collections.abc import Callable
from itertools import product

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.clean import clean, convert

SHAPE = (1, 3, 4, 5)


class Graph:
    """A model in the making: a method for each operator, which returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __getattr__(self, operator: str) -> Callable[..., str]:
        def make(*operands: str | float, **attributes: int) -> str:
            names = [each if isinstance(each, str) else self._constant(each) for each in operands]
            out = f"{operator}.{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, names, [out], **attributes))
            return out

        return make

    def _constant(self, number: float) -> str:
        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.float32(number), name))
        return name

    def model(self, result: str, opset: int) -> onnx.ModelProto:
        """Everything so far, of an input `x`."""
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, SHAPE)],
            self.constants,
        )
        imports = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def cleaned(model: onnx.ModelProto) -> list[str]:
    """Operators of a model when it is clean; it has to compute the same."""
    folded = clean(convert(model))
    x = np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)
    before, after = (
        np.asarray(
            ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"x": x}
            )[0]
        )
        for each in (model, ir.to_proto(folded))
    )
    np.testing.assert_allclose(after, before, atol=2e-6)
    return [node.op_type for node in folded.graph]


HALVES: dict[str, Callable[[Graph, str, float], str]] = {
    "(x y) half": lambda g, y, half: g.Mul(g.Mul("x", y), half),
    "half (y x)": lambda g, y, half: g.Mul(half, g.Mul(y, "x")),
    "x (y half)": lambda g, y, half: g.Mul("x", g.Mul(y, half)),
    "(half y) x": lambda g, y, half: g.Mul(g.Mul(half, y), "x"),
    "(x half) y": lambda g, y, half: g.Mul(g.Mul("x", half), y),
    "y (half x)": lambda g, y, half: g.Mul(y, g.Mul(half, "x")),
}

ROOT, SCALE, CUBIC = 2**0.5, (2 / np.pi) ** 0.5, 0.044715

ERF: dict[str, Callable[[Graph], str]] = {
    "x / root + 1": lambda g: g.Add(g.Erf(g.Div("x", ROOT)), 1.0),
    "1 + x * root": lambda g: g.Add(1.0, g.Erf(g.Mul(1 / ROOT, "x"))),
}

CUBES: dict[str, Callable[[Graph], str]] = {
    "power": lambda g: g.Pow("x", 3.0),
    "x (x x)": lambda g: g.Mul("x", g.Mul("x", "x")),
    "(x x) x": lambda g: g.Mul(g.Mul("x", "x"), "x"),
}


@pytest.mark.parametrize(("half", "inner"), list(product(HALVES, ERF)))
def test_gelu(half: str, inner: str) -> None:
    graph = Graph()
    assert cleaned(graph.model(HALVES[half](graph, ERF[inner](graph), 0.5), 17)) == ["Gelu"]


@pytest.mark.parametrize(("half", "cube"), list(product(HALVES, CUBES)))
def test_gelu_by_the_hyperbolic_tangent(half: str, cube: str) -> None:
    graph = Graph()
    inner = graph.Add("x", graph.Mul(CUBES[cube](graph), CUBIC))
    outer = graph.Add(1.0, graph.Tanh(graph.Mul(SCALE, inner)))
    assert cleaned(graph.model(HALVES[half](graph, outer, 0.5), 17)) == ["Gelu"]


@pytest.mark.parametrize(
    ("half", "one", "root"), [(0.51, 1.0, ROOT), (0.5, 1.1, ROOT), (0.5, 1.0, 1 / ROOT)]
)
def test_other_constants_make_no_gelu(half: float, one: float, root: float) -> None:
    graph = Graph()
    inner = graph.Add(graph.Erf(graph.Div("x", root)), one)
    assert "Gelu" not in cleaned(graph.model(HALVES["(x y) half"](graph, inner, half), 17))


@pytest.mark.parametrize(("axis", "left"), [(3, 1), (-1, 1), (1, 3), (2, 3)])
def test_softmax_of_opset_11(axis: int, left: int) -> None:
    """It knows two dimensions; over the last axis, that is nothing special, over more it is."""
    graph = Graph()
    kinds = cleaned(graph.model(graph.Softmax("x", axis=axis), 11))
    assert len(kinds) == left
    assert "Softmax" in kinds
