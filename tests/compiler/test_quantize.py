"""The quantizer: its integers stand for the float graph, and keep the core's rules."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from systolith.compiler import compile_model
from systolith.compiler.calibrate import calibrate
from systolith.compiler.compare import compare_tensors, float_tensors, format_errors
from systolith.compiler.errors import CompileError
from systolith.compiler.execute import run_float
from systolith.compiler.graph import Activation, Attention, Graph, Linear
from systolith.compiler.graph_file import from_bytes
from systolith.compiler.legalize import move_biases, pad_heads, split_feed_forward
from systolith.compiler.model import PreparedModel, build_qgraph, prepare_model
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith.compiler.qgraph import Epilogue, Exp, Input, Map, Matmul, Output, QGraph, RowRecords
from systolith.config import preset
from systolith.host.session import Session
from systolith.isa import Statistic
from systolith.numerics import Format
from systolith_sim.devices import open_device
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.models import BertShape, make_bert, make_tokens

TOKENS = 16

SHAPES = {
    "plain": BertShape(ffn=256),
    "deep": BertShape(hidden=96, heads=3, layers=2, ffn=256, seed=1),
    "pre-norm": BertShape(pre_norm=True, layers=2, activation="relu"),
    "fused": BertShape(fused_qkv=True, activation="gelu_tanh"),
    "silu": BertShape(activation="silu", heads=8),
    "odd": BertShape(hidden=60, heads=5, ffn=100),
}

OPTIONS = QuantizeOptions(max_chunk=64)

PER_HEAD = frozenset({"q", "k", "v", "scores", "exp", "softmax_rows", "context"})

PARTS = PER_HEAD | {"stats", "norm_rows", "norm", "norm_copy"}
PARTS |= {"attention_output", "ffn_up", "ffn_down"}


@cache
def prepared(name: str) -> PreparedModel:
    shape = SHAPES[name]
    samples = make_tokens(shape, [4, 9, 9, TOKENS, TOKENS] * 4, seed=5)
    return prepare_model(make_bert(shape).SerializeToString(), TOKENS, samples)


def embedded(name: str, length: int, seed: int = 9) -> np.ndarray:
    """The core's input for a new sample, `[length, channels]`."""
    loaded = prepared(name).loaded
    feeds, _ = pad_inputs(
        make_tokens(SHAPES[name], [length], seed=seed)[0], TOKENS, loaded.mask_input
    )
    return HostModel(loaded.prologue).run(feeds)[loaded.graph.input][0, :length]


def golden(qgraph: QGraph, x: np.ndarray) -> dict[str, np.ndarray]:
    enter = next(each for each in qgraph.operators if isinstance(each, Input))
    codes = np.rint(x / qgraph.tensors[enter.out].step).astype(np.int64)
    return run_qgraph(qgraph, {enter.out: codes}, len(x))


def output(qgraph: QGraph, values: dict[str, np.ndarray], length: int) -> np.ndarray:
    leave = next(each for each in qgraph.operators if isinstance(each, Output))
    return values[leave.x][:length] * qgraph.tensors[leave.x].step


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", SHAPES)
def test_integers_are_close_to_floats(name: str) -> None:
    model = prepared(name)
    graph, _ = model.graph(OPTIONS)
    qgraph = model.qgraph(OPTIONS)
    for length in (1, 7, TOKENS):
        x = embedded(name, length)
        exact = run_float(graph, x[None])[0]
        assert cosine(output(qgraph, golden(qgraph, x), length), exact) > 0.998


@pytest.mark.parametrize("name", SHAPES)
def test_legal_graphs_compute_the_same(name: str) -> None:
    """Moved biases and split feed-forward parts change rounding errors only."""
    graph = prepared(name).loaded.graph
    moved = move_biases(graph)
    ranges = calibrate(moved, [embedded(name, 9)])
    split = split_feed_forward(moved, ranges, OPTIONS.chunks)
    assert len(split.nodes) > len(moved.nodes)
    x = np.stack([embedded(name, TOKENS, seed) for seed in (1, 2)])
    exact = run_float(graph, x)
    for other in (moved, split):
        assert set(other.widths) == {other.input, *(node.out for node in other.nodes)}
        np.testing.assert_allclose(run_float(other, x), exact, atol=2e-5)


def test_biases_that_attention_swallows() -> None:
    graph = move_biases(prepared("deep").loaded.graph)
    for node in graph.nodes:
        if isinstance(node, Attention):
            q, k, v = (graph.producers[name] for name in node.inputs)
            assert isinstance(q, Linear)
            assert isinstance(k, Linear)
            assert isinstance(v, Linear)
            assert q.bias.any()
            assert not k.bias.any()
            assert not v.bias.any()


def test_wide_channels_are_in_the_last_chunk() -> None:
    model = prepared("plain")
    graph, ranges = model.graph(OPTIONS)
    functions = [node for node in graph.nodes if isinstance(node, Activation)]
    widths = [graph.widths[node.out] for node in functions]
    assert widths == [64, 64, 64, 48, 16]
    largest = [ranges.absmax(node.out).max() for node in functions]
    smallest = [ranges.absmax(node.out).min() for node in functions]
    assert all(low <= high for low, high in zip(largest, smallest[1:], strict=False))


def test_padding_and_longer_buckets_change_no_bit() -> None:
    model = prepared("deep")
    x = embedded("deep", 9)
    short, long = model.qgraph(OPTIONS), model.qgraph(OPTIONS, 24)
    expected = golden(short, x)
    garbage = np.random.default_rng(2).normal(0, 1, (7, x.shape[1]))
    enter = next(each for each in short.operators if isinstance(each, Input))
    codes = np.rint(np.concatenate([x, garbage]) / short.tensors[enter.out].step)
    padded = run_qgraph(short, {enter.out: codes.astype(np.int64)}, 9)
    longer = golden(long, x)
    leave = next(each for each in short.operators if isinstance(each, Output)).x
    np.testing.assert_array_equal(padded[leave][:9], expected[leave][:9])
    np.testing.assert_array_equal(longer[leave][:9], expected[leave][:9])


@pytest.mark.parametrize("name", SHAPES)
def test_operators_say_where_they_come_from(name: str) -> None:
    qgraph = prepared(name).qgraph(OPTIONS)
    assert isinstance(qgraph.operators[0], Input)
    assert isinstance(qgraph.operators[-1], Output)
    for operator in qgraph.operators[1:-1]:
        assert not isinstance(operator, Input | Output)
        assert operator.part in PARTS, operator
        assert operator.layer
        assert (operator.head is not None) == (operator.part in PER_HEAD)


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_is_written_before_it_is_read(name: str) -> None:
    qgraph = prepared(name).qgraph(OPTIONS)
    written: set[str] = set()
    for operator in qgraph.operators:
        match operator:
            case Matmul():
                reads = [operator.a.tensor]
                reads += [] if isinstance(operator.b, np.ndarray) else [operator.b.tensor]
            case Map() | Exp():
                reads = [operator.x.tensor]
            case Output():
                reads = [operator.x]
            case _:
                reads = []
        if isinstance(operator, Matmul | Map) and operator.epilogue.residual:
            reads.append(operator.epilogue.residual.tensor)
        assert set(reads) <= written
        if isinstance(operator, Input):
            written.add(operator.out)
        elif isinstance(operator, Matmul | Map | Exp):
            written.add(operator.out.tensor)
    assert written == set(qgraph.tensors)


def epilogues(qgraph: QGraph) -> list[tuple[Matmul | Map, Epilogue]]:
    return [(each, each.epilogue) for each in qgraph.operators if isinstance(each, Matmul | Map)]


@pytest.mark.parametrize("name", SHAPES)
def test_residuals_have_the_steps_of_their_sums(name: str) -> None:
    qgraph = prepared(name).qgraph(OPTIONS)
    found = 0
    for operator, epilogue in epilogues(qgraph):
        if epilogue.residual is not None:
            found += 1
            tensors = [qgraph.tensors[view.tensor] for view in (operator.out, epilogue.residual)]
            assert tensors[0].step == tensors[1].step
            assert [tensor.format for tensor in tensors] == [Format.S16] * 2
    assert found >= 2 * SHAPES[name].layers


@pytest.mark.parametrize("name", SHAPES)
def test_statistics_are_taken_where_they_are_needed(name: str) -> None:
    qgraph = prepared(name).qgraph(OPTIONS)
    taken = {
        epilogue.statistic_name: epilogue.statistic
        for _, epilogue in epilogues(qgraph)
        if epilogue.statistic != Statistic.NONE
    }
    used = {
        operator.source: Statistic.MOMENTS
        for operator in qgraph.operators
        if isinstance(operator, RowRecords) and operator.part == "norm_rows"
    }
    used |= {
        operator.maximum: Statistic.MAX
        for operator in qgraph.operators
        if isinstance(operator, Exp)
    }
    assert taken == used


def test_keys_have_no_bias_and_scores_are_masked() -> None:
    qgraph = prepared("deep").qgraph(OPTIONS)
    for operator, epilogue in epilogues(qgraph):
        if operator.part == "k":
            assert not epilogue.columns.off.any()
        assert epilogue.mask_length == (operator.part == "scores")
    assert qgraph.length == "rows"


def with_scores_times(name: str, factor: float) -> PreparedModel:
    """The model with larger scores, and K's weights smaller or larger to match none of it."""
    model = prepared(name)
    nodes = tuple(
        replace(node, scale=node.scale * factor) if isinstance(node, Attention) else node
        for node in model.loaded.graph.nodes
    )
    graph = replace(model.loaded.graph, nodes=nodes)
    inputs = [embedded(name, TOKENS, seed) for seed in range(4)]
    return PreparedModel(replace(model.loaded, graph=graph), inputs, "scaled", ())


def largest_score(model: PreparedModel) -> float:
    graph, ranges = model.graph(OPTIONS)
    return max(
        float(ranges.absmax(f"{node.out}.scores").max())
        for node in graph.nodes
        if isinstance(node, Attention)
    )


def test_large_scores_take_the_coarse_unit() -> None:
    usual = largest_score(prepared("plain"))
    model = with_scores_times("plain", 150 / usual)
    qgraph = model.qgraph(OPTIONS)
    units = {operator.unit for operator in qgraph.operators if isinstance(operator, Exp)}
    assert units == {1}
    assert any("count in 2**-7" in note for note in qgraph.notes)
    x = embedded("plain", TOKENS, 2)
    graph, _ = model.graph(OPTIONS)
    values = golden(qgraph, x)
    assert cosine(output(qgraph, values, TOKENS), run_float(graph, x[None])[0]) > 0.995
    scores = values["layer.0.head.0.scores"]
    assert np.abs(scores.astype(int)).max() < 32767
    with pytest.raises(CompileError, match=r"its scores reach \d+ octaves"):
        with_scores_times("plain", 400 / usual).qgraph(OPTIONS)


def test_usual_scores_take_the_fine_unit() -> None:
    qgraph = prepared("plain").qgraph(OPTIONS)
    assert {each.unit for each in qgraph.operators if isinstance(each, Exp)} == {0}
    assert not qgraph.notes


def test_random_calibration_is_said() -> None:
    options = QuantizeOptions(pooling="host")
    model = build_qgraph(
        make_bert(BertShape(pooling=True)).SerializeToString(), TOKENS, options=options
    )
    assert "random tokens" in model.notes[0]
    assert model.host[1].startswith("epilogue: ")
    assert model.output in HostModel(model.epilogue).inputs
    assert {model.input, model.output} <= set(model.qgraph.tensors)


def test_calibration_must_not_be_empty() -> None:
    with pytest.raises(CompileError, match="no calibration samples"):
        build_qgraph(make_bert().SerializeToString(), TOKENS, [])


def compared(name: str, graph: Graph, qgraph: QGraph, *, spoil: str = "") -> list:
    samples = []
    for seed in (1, 2):
        x = embedded(name, 11, seed)
        values = golden(qgraph, x)
        if spoil:
            values = values | {spoil: values[spoil] // 2}
        samples.append((values, float_tensors(graph, x)))
    return compare_tensors(qgraph, samples)


@pytest.mark.parametrize("name", SHAPES)
def test_comparison_finds_every_tensor(name: str) -> None:
    model = prepared(name)
    qgraph = model.qgraph(OPTIONS)
    errors = compared(name, model.graph(OPTIONS)[0], qgraph)
    expected = {each.name for each in qgraph.tensors.values() if not each.name.endswith(".exp")}
    assert {each.tensor for each in errors} == expected
    for error in errors:
        assert error.snr > 20, error
        assert error.cosine > 0.995, error
        # An 8-bit tensor's largest element is at its limit; residuals have headroom.
        if qgraph.tensors[error.tensor].format == Format.S16:
            assert error.saturated == 0, error


def test_comparison_names_the_culprit() -> None:
    model = prepared("deep")
    qgraph = model.qgraph(OPTIONS)
    errors = compared("deep", model.graph(OPTIONS)[0], qgraph, spoil="layer.1.head.2.v")
    worst = min(errors, key=lambda each: each.snr)
    assert (worst.layer, worst.tensor) == ("layer.1", "layer.1.head.2.v")
    table = format_errors(errors)
    assert table.splitlines()[0].split() == [
        "tensor",
        "SNR",
        "dB",
        "cosine",
        "largest",
        "at",
        "limit",
    ]
    assert any(line.startswith("layer.1.head.*.v ") for line in table.splitlines())


def test_padded_heads_change_no_number_and_count_no_work() -> None:
    """Heads of 12 channels become 16 wide; what is added is 0, and no MAC of the model."""
    whole = move_biases(prepared("odd").loaded.graph)
    wide = pad_heads(whole, 8)
    attention = next(node for node in wide.nodes if isinstance(node, Attention))
    assert attention.padding == 4
    assert wide.widths[attention.q] == wide.widths[attention.out] == 5 * 16
    assert wide.widths[wide.output] == whole.widths[whole.output] == 60
    x = embedded("odd", 9)[None]
    np.testing.assert_allclose(run_float(wide, x), run_float(whole, x), atol=1e-5)
    linears = sum(n.weight.size for n in whole.nodes if isinstance(n, Linear))
    qgraph = prepared("odd").qgraph(QuantizeOptions())
    assert qgraph.macs() == TOKENS * (linears + 2 * TOKENS * 60)
    assert all(pad_heads(whole, 4).widths[name] == width for name, width in whole.widths.items())


@pytest.mark.parametrize("name", ["tiny", "ecp5-25k", "large"])
def test_odd_heads_run_on_every_core(name: str) -> None:
    shape = SHAPES["odd"]
    program = compile_model(
        make_bert(shape).SerializeToString(),
        config=preset(name),
        seq_len=TOKENS,
        calibration=make_tokens(shape, [TOKENS] * 4, seed=5),
    )
    graph = from_bytes(program.graph)
    enter = next(each for each in graph.operators if isinstance(each, Input))
    leave = next(each for each in graph.operators if isinstance(each, Output))
    codes = np.random.default_rng(1).integers(-9000, 9000, (TOKENS, 60))
    session = Session(open_device("iss", program.config), program)
    found = session.run({enter.out: codes}, length=11)[leave.x]
    assert np.array_equal(found, run_qgraph(graph, {enter.out: codes}, 11)[leave.x])
