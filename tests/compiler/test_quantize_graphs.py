"""Graphs that no usual encoder has: every form and fusion of the quantizer is used."""

from collections.abc import Callable

import numpy as np
import pytest

from systolith.compiler.calibrate import calibrate
from systolith.compiler.compare import compare_tensors, float_tensors
from systolith.compiler.errors import CompileError
from systolith.compiler.graph import Activation, Add, Attention, Graph, LayerNorm, Linear, Node
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.qgraph import Map, Matmul, QGraph
from systolith.compiler.quantize import quantize
from systolith_sim.golden.qgraph import run_qgraph

WIDTH = 32


class Maker:
    """Makes nodes with random weights, all tensors of one width."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(11)
        self.nodes: list[Node] = []

    def linear(self, out: str, x: str) -> None:
        """Append a matmul with a bias."""
        weight = self.random.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        bias = self.random.normal(0, 0.2, WIDTH).astype(np.float32)
        self.nodes.append(Linear(out=out, x=x, weight=weight, bias=bias, layer="layer.0"))

    def norm(self, out: str, x: str) -> None:
        """Append a layer norm."""
        gamma = self.random.uniform(0.5, 1.5, WIDTH).astype(np.float32)
        beta = self.random.normal(0, 0.2, WIDTH).astype(np.float32)
        self.nodes.append(
            LayerNorm(out=out, x=x, gamma=gamma, beta=beta, eps=1e-6, layer="layer.0")
        )

    def add(self, out: str, a: str, b: str) -> None:
        """Append a sum."""
        self.nodes.append(Add(out=out, a=a, b=b, layer="layer.0"))

    def activation(self, out: str, x: str, function: str = "gelu") -> None:
        """Append a function of each element."""
        self.nodes.append(Activation(out=out, x=x, function=function, layer="layer.0"))

    def graph(self) -> Graph:
        """All nodes so far, from `x` to `y`."""
        names = ["x", *(node.out for node in self.nodes)]
        return Graph(
            input="x", output="y", widths=dict.fromkeys(names, WIDTH), nodes=tuple(self.nodes)
        )


def linear_between(make: Maker) -> None:
    """A projection between two norms, whose result has two readers (ALBERT's embeddings)."""
    make.norm("n", "x")
    make.linear("p", "n")
    make.linear("q", "p")
    make.add("s", "q", "p")
    make.norm("y", "s")


def activation_of_norm(make: Maker) -> None:
    """A function of a stored tensor, read by a matmul and by a sum."""
    make.norm("n", "x")
    make.activation("f", "n", "tanh")
    make.linear("p", "f")
    make.add("s", "f", "p")
    make.norm("y", "s")


def sum_of_two_linears(make: Maker) -> None:
    """One of them is fused with the sum, the other is stored."""
    make.norm("n", "x")
    make.linear("a", "n")
    make.linear("b", "n")
    make.add("s", "a", "b")
    make.norm("y", "s")


def sum_of_stored_tensors(make: Maker) -> None:
    """No matmul is there to do the sum."""
    make.norm("n", "x")
    make.linear("p", "n")
    make.activation("f", "p", "sigmoid")
    make.add("s", "n", "f")
    make.add("t", "s", "x")
    make.norm("y", "t")


def linear_of_input(make: Maker) -> None:
    """The input itself is read by a matmul, a sum and a norm."""
    make.linear("p", "x")
    make.add("s", "p", "x")
    make.norm("n", "x")
    make.add("t", "s", "n")
    make.norm("y", "t")


def output_is_a_linear(make: Maker) -> None:
    """The last tensor need not be a norm, for the quantizer."""
    make.norm("n", "x")
    make.linear("y", "n")


GRAPHS: list[Callable[[Maker], None]] = [
    linear_between,
    activation_of_norm,
    sum_of_two_linears,
    sum_of_stored_tensors,
    linear_of_input,
    output_is_a_linear,
]


def quantized(graph: Graph) -> QGraph:
    random = np.random.default_rng(5)
    samples = [random.normal(0, 2, (8, WIDTH)).astype(np.float32) for _ in range(20)]
    return quantize(
        graph, calibrate(graph, samples), seq_len=8, options=QuantizeOptions(), result="result"
    )


@pytest.mark.parametrize("write", GRAPHS, ids=lambda each: each.__name__)
def test_graph(write: Callable[[Maker], None]) -> None:
    make = Maker()
    write(make)
    graph = make.graph()
    qgraph = quantized(graph)
    x = np.random.default_rng(6).normal(0, 2, (8, WIDTH)).astype(np.float32)
    codes = np.rint(x / qgraph.tensors["x"].step).astype(np.int64)
    values = run_qgraph(qgraph, {"x": codes}, 8)
    errors = compare_tensors(qgraph, [(values, float_tensors(graph, x))])
    assert {each.tensor for each in errors} == set(qgraph.tensors)
    for error in errors:
        assert error.snr > 30, error
    assert "result" in qgraph.tensors


def test_sums_are_fused_where_they_can_be() -> None:
    make = Maker()
    sum_of_two_linears(make)
    operators = quantized(make.graph()).operators
    products = [each for each in operators if isinstance(each, Matmul)]
    assert [each.epilogue.residual is not None for each in products] == [False, True]
    assert not any(isinstance(each, Map) and each.epilogue.residual for each in operators)


def test_attention_needs_projections_of_its_own() -> None:
    make = Maker()
    make.norm("n", "x")
    make.linear("q", "n")
    make.linear("v", "n")
    make.nodes.append(
        Attention(out="c", onnx=("node",), q="q", k="q", v="v", heads=2, scale=1, masked=True)
    )
    make.linear("y", "c")
    with pytest.raises(CompileError, match="Attention 'node': 'q' is not a projection of its own"):
        quantized(make.graph())
