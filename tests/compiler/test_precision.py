"""Weights of 4 bits through the compiler: fit, choice under a budget, image, golden = ISS."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systolith.compiler import compile_model
from systolith.compiler.errors import CompileError
from systolith.compiler.execute import run_float
from systolith.compiler.graph_file import from_bytes, to_bytes
from systolith.compiler.image import pack_int4
from systolith.compiler.model import PreparedModel, prepare_model
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith.compiler.qgraph import Input, Int4Weights, Matmul, Output, QGraph, View
from systolith.config import CoreConfig, preset
from systolith.host.session import Session
from systolith.program import Program
from systolith_sim.devices import open_device
from systolith_sim.golden.gemm import int4_ring_words
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.models import BertShape, make_bert, make_tokens

TOKENS = 16
SHAPE = BertShape(hidden=96, heads=3, layers=2, ffn=256, seed=1)
BLOCK = 16


@cache
def prepared() -> PreparedModel:
    samples = make_tokens(SHAPE, [5, 9, 12, TOKENS] * 24, seed=5)
    return prepare_model(make_bert(SHAPE).SerializeToString(), TOKENS, samples)


@cache
def quantized(**choices: object) -> QGraph:
    return prepared().qgraph(QuantizeOptions(**choices), block=BLOCK)  # pyright: ignore[reportArgumentType]


@cache
def inputs() -> tuple[np.ndarray, ...]:
    """New samples as the core gets them, `[tokens, channels]`."""
    loaded = prepared().loaded
    result = []
    for sample in make_tokens(SHAPE, [7, 11, TOKENS, TOKENS], seed=77):
        feeds, length = pad_inputs(sample, TOKENS, loaded.mask_input)
        result.append(HostModel(loaded.prologue).run(feeds)[loaded.graph.input][0, :length])
    return tuple(result)


def output(qgraph: QGraph, x: np.ndarray) -> np.ndarray:
    enter = next(each for each in qgraph.operators if isinstance(each, Input))
    leave = next(each for each in qgraph.operators if isinstance(each, Output))
    codes = np.rint(x / qgraph.tensors[enter.out].step).astype(np.int64)
    values = run_qgraph(qgraph, {enter.out: codes}, len(x))
    return values[leave.x][: len(x)] * qgraph.tensors[leave.x].step


def loss(qgraph: QGraph) -> float:
    """One minus the mean cosine of output tokens to floating point, on new samples."""
    graph, _ = prepared().graph(QuantizeOptions())
    turned = []
    for x in inputs():
        exact, y = run_float(graph, x[None])[0], output(qgraph, x)
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(y, axis=1)
        turned += list(1 - (exact * y).sum(1) / lengths)
    return float(np.mean(turned))


def rounded_to_nearest(qgraph: QGraph) -> QGraph:
    """The INT8 graph with its weights rounded to 4 bits where they are, without exponents."""

    def narrow(operator: object) -> object:
        if not isinstance(operator, Matmul) or isinstance(operator.b, View):
            return operator
        assert isinstance(operator.b, np.ndarray)
        codes = np.clip(np.rint(operator.b / 16), -8, 7).astype(np.int8) * 16
        return replace(operator, b=codes.astype(np.int8))

    return replace(qgraph, operators=tuple(narrow(each) for each in qgraph.operators))  # pyright: ignore[reportArgumentType]


def test_int4_weights_stay_close_to_floats() -> None:
    assert quantized(weights="int4").weights() == "int4"
    int8, int4 = loss(quantized()), loss(quantized(weights="int4"))
    assert int8 < int4 < 0.02
    assert int4 < 0.5 * loss(rounded_to_nearest(quantized()))


def test_mixed_is_between() -> None:
    mixed = quantized(weights="mixed", max_bytes=0.7)
    assert mixed.weights() == "mixed"
    assert loss(quantized()) < loss(mixed) < loss(quantized(weights="int4"))


@pytest.mark.parametrize("share", [0.55, 0.7, 0.9])
def test_a_limit_of_bytes_is_kept(share: float) -> None:
    options = QuantizeOptions(weights="mixed", max_bytes=share)
    _, choices = prepared().fit(options, block=BLOCK)
    whole = sum(choice.bytes_int8 for choice in choices)
    size = sum(choice.bytes for choice in choices)
    assert size <= share * whole
    # Not more than it takes: with one matrix fewer in 4 bits, it would not be kept.
    least = min(choice.bytes_int8 - choice.bytes_int4 for choice in choices if choice.bits == 4)
    most = max(choice.bytes_int8 - choice.bytes_int4 for choice in choices if choice.bits == 4)
    assert size + most > share * whole
    assert least > 0
    # What was chosen costs less for a byte than what was not.
    cost = {4: [0.0], 8: [np.inf]}
    for choice in choices:
        cost[choice.bits].append(choice.loss / (choice.bytes_int8 - choice.bytes_int4))
    assert max(cost[4]) <= min(cost[8])


def test_bytes_are_those_of_the_graph() -> None:
    options = QuantizeOptions(weights="mixed", max_bytes=0.7)
    _, choices = prepared().fit(options, block=BLOCK)
    total = 0.0
    for operator in prepared().qgraph(options, block=BLOCK).operators:
        if isinstance(operator, Matmul):
            if isinstance(operator.b, Int4Weights):
                total += operator.b.codes.size / 2 + operator.b.exponents.size / 4
            elif not isinstance(operator.b, View):
                total += operator.b.size
    assert total == sum(choice.bytes for choice in choices)


def test_a_limit_of_the_loss_is_kept_and_used() -> None:
    sizes = []
    for limit in (1e-5, 1e-3, 1.0):
        options = QuantizeOptions(weights="mixed", max_loss=limit)
        _, choices = prepared().fit(options, block=BLOCK)
        sizes.append(sum(choice.bytes for choice in choices))
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] == sum(choice.bytes_int4 for choice in choices)


def test_the_choice_repeats() -> None:
    options = QuantizeOptions(weights="mixed")
    first = prepared().fit(options, block=BLOCK)[1]
    samples = make_tokens(SHAPE, [5, 9, 12, TOKENS] * 24, seed=5)
    again = prepare_model(make_bert(SHAPE).SerializeToString(), TOKENS, samples)
    assert again.fit(options, block=BLOCK)[1] == first


def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(CompileError, match="max_bytes of at least"):
        prepared().fit(QuantizeOptions(weights="mixed", max_bytes=0.3), block=BLOCK)
    both = QuantizeOptions(weights="mixed", max_bytes=0.52, max_loss=1e-6)
    with pytest.raises(CompileError, match="a larger max_loss or a larger max_bytes"):
        prepared().fit(both, block=BLOCK)
    for wrong in (
        {"weights": "int2"},
        {"max_bytes": 0.7},
        {"weights": "int4", "max_loss": 0.1},
        {"weights": "mixed", "max_loss": 0.0},
        {"alpha_int4": 1.5},
    ):
        with pytest.raises(ValueError, match=next(reversed(wrong))):
            QuantizeOptions(**wrong)  # pyright: ignore[reportArgumentType]


def test_progress_is_told() -> None:
    for weights, rounds in (("int4", 1), ("mixed", 2)):
        samples = make_tokens(SHAPE, [TOKENS] * 8, seed=5)
        model = prepare_model(make_bert(SHAPE).SerializeToString(), TOKENS, samples)
        told = list[tuple[int, int]]()
        options = QuantizeOptions(weights=weights)  # pyright: ignore[reportArgumentType]
        _, choices = model.fit(
            options, block=BLOCK, progress=lambda done, total, told=told: told.append((done, total))
        )
        total = rounds * len(choices)
        assert told == [(done, total) for done in range(1, total + 1)]


def test_graphs_survive_a_file() -> None:
    graph = quantized(weights="int4")
    again = from_bytes(to_bytes(graph))
    x = inputs()[0]
    assert np.array_equal(output(graph, x), output(again, x))
    assert again.macs(int4=True) == graph.macs(int4=True) > 0
    assert graph.macs(int4=True) + graph.macs(int4=False) == graph.macs()


@given(
    n=st.integers(1, 70),
    k=st.integers(1, 140),
    size=st.sampled_from([(4, 4), (8, 2), (16, 8), (32, 32)]),
    seed=st.integers(0, 1 << 16),
)
@settings(max_examples=60, deadline=None)
def test_the_image_has_the_words_of_the_ring(
    n: int, k: int, size: tuple[int, int], seed: int
) -> None:
    rows, columns = size
    rng = np.random.default_rng(seed)
    codes = rng.integers(-8, 8, (n, k)).astype(np.int8)
    exponents = rng.integers(0, 4, (n, -(-k // rows))).astype(np.uint8)
    config = CoreConfig(
        rows=rows,
        columns=columns,
        scratchpad_bytes=16 << 10,
        ring_bytes=8 << 10,
        axi_data_bits=32,
        int4=True,
    )
    packed = pack_int4(Int4Weights(codes=codes, exponents=exponents, block=rows), config)
    expected = int4_ring_words(codes, exponents, rows=rows, columns=columns)
    assert packed == expected.tobytes()


def test_blocks_must_be_tiles() -> None:
    weights = Int4Weights(
        codes=np.zeros((4, 8), np.int8), exponents=np.zeros((4, 2), np.uint8), block=4
    )
    with pytest.raises(ValueError, match="blocks of 4 weights do not suit tiles of 16 rows"):
        pack_int4(weights, preset("ecp5-85k"))


@cache
def program(preset_name: str, weights: str) -> Program:
    config = replace(preset(preset_name), int4=True)
    return compile_model(
        make_bert(SHAPE).SerializeToString(),
        config=config,
        seq_len=TOKENS,
        calibration=make_tokens(SHAPE, [TOKENS] * 8, seed=5),
        options=QuantizeOptions(weights=weights),  # pyright: ignore[reportArgumentType]
        name="small",
    )


@pytest.mark.parametrize("weights", ["int4", "mixed"])
@pytest.mark.parametrize("name", ["ecp5-85k", "ecp5-25k", "large"])
def test_programs_give_the_bits_of_the_golden_model(name: str, weights: str) -> None:
    compiled = program(name, weights)
    assert compiled.weights == weights
    assert 0 < compiled.macs_int4 < compiled.macs
    session = Session(open_device("iss", compiled.config), compiled)
    graph = from_bytes(compiled.graph)
    enter = next(each for each in graph.operators if isinstance(each, Input))
    leave = next(each for each in graph.operators if isinstance(each, Output))
    for x in inputs():
        codes = np.zeros((TOKENS, x.shape[1]), np.int64)
        codes[: len(x)] = np.rint(x / graph.tensors[enter.out].step)
        found = session.run({enter.out: codes}, length=len(x))[leave.x]
        expected = run_qgraph(graph, {enter.out: codes}, len(x))[leave.x]
        assert np.array_equal(found, expected)


def test_a_core_without_int4_is_named() -> None:
    with pytest.raises(CompileError, match="no INT4"):
        compile_model(
            make_bert(SHAPE).SerializeToString(),
            config=replace(preset("ecp5-85k"), int4=False),
            seq_len=TOKENS,
            options=QuantizeOptions(weights="int4"),
        )


def test_the_roofline_counts_each_format_at_its_rate() -> None:
    compiled = program("ecp5-85k", "int4")
    int8 = compiled.macs - compiled.macs_int4
    assert compiled.array_cycles == int8 / 128 + compiled.macs_int4 / 256
    assert compiled.dram_bytes < program("ecp5-85k", "mixed").dram_bytes


def test_precision_is_in_the_file(tmp_path: Path) -> None:
    compiled = program("ecp5-85k", "mixed")
    path = tmp_path / "small.systolith"
    compiled.save(path)
    again = Program.load(path)
    assert again.precision == compiled.precision
    assert {row["bits"] for row in again.precision} == {4, 8}
    assert (again.macs_int4, again.weights) == (compiled.macs_int4, "mixed")
