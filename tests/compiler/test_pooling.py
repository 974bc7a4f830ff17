"""Pooling: what is recognized behind a model's tokens, and what the core makes of them."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.calibrate import calibrate
from systolith.compiler.errors import CompileError
from systolith.compiler.graph import Graph, LayerNorm, Mean, Node, Normalize
from systolith.compiler.model import CompiledModel, build_qgraph
from systolith.compiler.options import Pooling, QuantizeOptions
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith.compiler.qgraph import QGraph
from systolith.compiler.quantize import quantize
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.models import BertShape, make_bert, make_tokens

TOKENS = 12
WIDTH = 64


class Tail:
    """Nodes behind a model's tokens."""

    def __init__(self) -> None:
        self.model = make_bert(BertShape(hidden=WIDTH))
        self.tokens = self.model.graph.output[0].name
        self.count = 0

    def add(self, kind: str, *inputs: str | np.ndarray, **attributes: object) -> str:
        """Append a node; arrays become weights."""
        names = []
        for each in inputs:
            if isinstance(each, str):
                names.append(each)
                continue
            names.append(f"tail.weight.{len(self.model.graph.initializer)}")
            self.model.graph.initializer.append(numpy_helper.from_array(each, names[-1]))
        self.count += 1
        out = f"tail.{self.count}"
        self.model.graph.node.append(helper.make_node(kind, names, [out], name=out, **attributes))
        return out

    def mask(self) -> str:
        """1 or 0 for each element of the tokens, as sentence-transformers writes it."""
        x = self.add("Unsqueeze", "attention_mask", np.array([-1]))
        x = self.add("Expand", x, self.add("Shape", self.tokens))
        return self.add("Cast", x, to=TensorProto.FLOAT)

    def mean(self) -> str:
        """The mean of the valid tokens, likewise."""
        mask, axis = self.mask(), np.array([1])
        total = self.add("ReduceSum", self.add("Mul", self.tokens, mask), axis, keepdims=0)
        count = self.add("ReduceSum", mask, axis, keepdims=0)
        return self.add("Div", total, self.add("Clip", count, np.array(1e-9, np.float32)))


def mean_of_sentence_transformers(tail: Tail) -> str:
    return tail.mean()


def mean_by_product(tail: Tail) -> str:
    mask = tail.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    row = tail.add("Unsqueeze", mask, np.array([1]))
    total = tail.add("Squeeze", tail.add("MatMul", row, tail.tokens), np.array([1]))
    return tail.add("Div", total, tail.add("ReduceSum", mask, np.array([1]), keepdims=1))


def unit_of_mean(tail: Tail) -> str:
    x = tail.mean()
    squares = tail.add("ReduceSum", tail.add("Mul", x, x), np.array([1]), keepdims=1)
    length = tail.add("Clip", tail.add("Sqrt", squares), np.array(1e-12, np.float32))
    return tail.add("Div", x, tail.add("Expand", length, tail.add("Shape", x)))


def first_token(tail: Tail) -> str:
    return tail.add("Gather", tail.tokens, np.array(0), axis=1)


def unit_of_first_token(tail: Tail) -> str:
    return tail.add("LpNormalization", first_token(tail), axis=-1, p=2)


def projection_of_mean(tail: Tail) -> str:
    weight = np.random.default_rng(3).normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32)
    return tail.add("Tanh", tail.add("MatMul", tail.mean(), weight))


def largest(tail: Tail) -> str:
    return tail.add("ReduceMax", tail.add("Mul", tail.tokens, tail.mask()), axes=[1], keepdims=0)


def weighted_mean(tail: Tail) -> str:
    weights = np.linspace(0.5, 1.5, TOKENS, dtype=np.float32)[None, :, None]
    total = tail.add("Mul", tail.add("Mul", tail.tokens, tail.mask()), weights)
    return tail.add("ReduceMean", total, axes=[1], keepdims=0)


TAILS: dict[Callable[[Tail], str], tuple[str, int]] = {
    mean_of_sentence_transformers: ("mean of the valid tokens", 0),
    mean_by_product: ("mean of the valid tokens", 0),
    unit_of_mean: ("mean of the valid tokens, brought to unit length", 0),
    first_token: ("the first token", 0),
    unit_of_first_token: ("the first token, brought to unit length", 0),
    projection_of_mean: ("mean of the valid tokens", 2),
    largest: ("", 6),
    weighted_mean: ("", 7),
}
"""What is on the core, and how many nodes stay on the host."""


def with_tail(write: Callable[[Tail], str], *, keep: bool = False) -> bytes:
    """A model with a tail; its tokens stay an output if `keep`."""
    tail = Tail()
    out = write(tail)
    outputs = list(tail.model.graph.output) if keep else []
    del tail.model.graph.output[:]
    tail.model.graph.output.extend(
        [*outputs, helper.make_tensor_value_info(out, TensorProto.FLOAT, ["batch", WIDTH])]
    )
    return tail.model.SerializeToString()


def compiled(model: bytes, **options: object) -> CompiledModel:
    samples = make_tokens(BertShape(hidden=WIDTH), [TOKENS, 7, 3] * 5)
    return build_qgraph(model, TOKENS, samples, QuantizeOptions(**options))  # pyright: ignore[reportArgumentType]


def run(model: CompiledModel, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run prologue, golden model and epilogue."""
    feeds, length = pad_inputs(sample, model.seq_len, model.mask_input)
    x = HostModel(model.prologue).run(feeds)[model.input][0]
    codes = np.rint(x / model.qgraph.tensors[model.input].step).astype(np.int64)
    values = run_qgraph(model.qgraph, {model.input: codes}, length)
    host = HostModel(model.epilogue)
    for name, shape in host.shapes.items():
        if name in values:
            tensor = model.qgraph.tensors[name]
            feeds[name] = (values[name] * tensor.step).astype(np.float32).reshape(shape)
    return host.run(feeds)


def exact(model: bytes, sample: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {name: value[None] for name, value in sample.items()}
    # Constants of the compiled length have no other.
    feeds = {name: np.pad(x, ((0, 0), (0, TOKENS - x.shape[1]))) for name, x in feeds.items()}
    return [np.asarray(each) for each in session.run(None, feeds)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.reshape(-1), b.reshape(-1)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("write", TAILS, ids=lambda each: each.__name__)
def test_what_the_model_does_is_recognized(write: Callable[[Tail], str]) -> None:
    what, left = TAILS[write]
    model = with_tail(write)
    made = compiled(model)
    assert made.notes == ((f"pooling on the core: {what}",) if what else ())
    nodes = onnx.load_from_string(made.epilogue).graph.node
    assert sum(node.op_type not in ("Identity", "Shape") for node in nodes) == left
    assert len(made.host) == (2 if left else 1)
    (sample,) = make_tokens(BertShape(hidden=WIDTH), [5], seed=4)
    (got,), (wanted,) = run(made, sample).values(), exact(model, sample)
    assert got.shape == wanted.shape
    assert cosine(got, wanted) > 0.998
    assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(wanted), rel=0.03)


def test_tokens_and_their_mean_are_both_handed_out() -> None:
    model = with_tail(unit_of_mean, keep=True)
    made = compiled(model)
    assert made.host[1:] == ()
    (sample,) = make_tokens(BertShape(hidden=WIDTH), [5], seed=4)
    results, wanted = list(run(made, sample).values()), exact(model, sample)
    assert [each.shape for each in results] == [(1, TOKENS, WIDTH), (1, WIDTH)]
    assert cosine(results[0][:, :5], wanted[0][:, :5]) > 0.998
    assert cosine(results[1], wanted[1]) > 0.998


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_is_added(pooling: Pooling, normalize: bool) -> None:
    """To tokens, and in place of what a model makes of them."""
    (sample,) = make_tokens(BertShape(hidden=WIDTH), [5], seed=4)
    plain = make_bert(BertShape(hidden=WIDTH)).SerializeToString()
    tokens = exact(plain, sample)[0][0, :5]
    wanted = tokens[0] if pooling == "cls" else tokens.mean(0)
    for model in (plain, with_tail(projection_of_mean)):
        made = compiled(model, pooling=pooling, normalize=normalize)
        assert made.outputs == ("sentence_embedding",)
        assert made.pooling == pooling
        (got,) = run(made, sample).values()
        assert got.shape == (1, WIDTH)
        assert cosine(got, wanted) > 0.998
        norm = 1 if normalize else np.linalg.norm(wanted)
        assert np.linalg.norm(got) == pytest.approx(norm, rel=0.03)


def test_the_host_pools_if_told_to() -> None:
    made = compiled(with_tail(unit_of_mean), pooling="host")
    assert made.notes == ()
    assert made.host[1].startswith("epilogue: ")
    assert made.qgraph.tensors[made.output].rows == TOKENS


def test_a_head_of_the_first_token_cannot_be_pooled() -> None:
    model = make_bert(BertShape(classifier=3)).SerializeToString()
    with pytest.raises(CompileError, match="not one row for each token"):
        build_qgraph(model, TOKENS, None, QuantizeOptions(pooling="mean"))


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="pooling must be one of model, mean, cls, host"):
        QuantizeOptions(pooling="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="normalize is for pooling mean or cls, and this is model"):
        QuantizeOptions(normalize=True)


def pooled_graph(columns: int, rows: int, *, norm: bool) -> QGraph:
    """A norm or nothing, the mean of the valid rows, unit length."""
    random = np.random.default_rng(columns)
    nodes: list[Node] = []
    if norm:
        gamma, beta = random.uniform(0.1, 3, columns), random.normal(0, 1, columns)
        nodes.append(LayerNorm(out="n", x="x", gamma=gamma, beta=beta, eps=1e-6, layer="layer.0"))
    nodes += [
        Mean(out="m", x="n" if norm else "x", masked=True, layer="pooling"),
        Normalize(out="y", x="m", layer="pooling"),
    ]
    widths = dict.fromkeys(["x", *(node.out for node in nodes)], columns)
    graph = Graph(input="x", output="y", widths=widths, nodes=tuple(nodes))
    samples = [random.normal(0, 2, (rows, columns)).astype(np.float32) for _ in range(10)]
    options = QuantizeOptions()
    ranges = calibrate(graph, samples)
    return quantize(graph, ranges, seq_len=rows, options=options, result="result")


@settings(max_examples=60)
@given(
    columns=st.integers(1, 70),
    rows=st.integers(1, 40),
    share=st.floats(0, 1),
    norm=st.booleans(),
    seed=st.integers(0, 99),
)
def test_mean_and_unit_length(columns: int, rows: int, share: float, norm: bool, seed: int) -> None:
    """Within rounding of what follows from the codes that the mean is taken of."""
    qgraph = pooled_graph(columns, rows, norm=norm)
    length = max(1, round(share * rows))
    x = np.random.default_rng(seed).normal(0, 1.5, (rows, columns)).astype(np.float32)
    codes = np.clip(np.rint(x / qgraph.tensors["x"].step), -32768, 32767).astype(np.int64)
    values = run_qgraph(qgraph, {"x": codes}, length)
    (across,) = (each for each in qgraph.tensors.values() if each.source.endswith(".T"))
    (ones,) = (values[name] for name in qgraph.tensors if name.endswith("pooling.exp"))
    np.testing.assert_array_equal(ones[0], 255 * (np.arange(rows) < length))
    real = values[across.name].astype(np.float64) * across.step
    mean = real[:, :length].mean(1)
    tensor = qgraph.tensors["pooling.mean"]
    got = values["pooling.mean"][0] * tensor.step
    assert (np.abs(got - mean) <= 0.51 * tensor.step + 2.0**-13 * np.abs(mean)).all()
    unit = got / max(float(np.linalg.norm(got)), 1e-12)
    tensor = qgraph.tensors["result"]
    result = values["result"][0] * tensor.step
    assert (np.abs(result - unit) <= 0.51 * tensor.step + 2.0**-12 * np.abs(unit)).all()
