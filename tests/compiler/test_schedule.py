"""The back end: whatever order, places and waits it chooses, the numbers are the graph's."""

import dataclasses

import numpy as np
import pytest

from systolith import isa
from systolith.compiler.errors import CompileError
from systolith.compiler.graph_file import from_bytes, to_bytes
from systolith.compiler.order import overlap_heads
from systolith.compiler.qgraph import QGraph
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS, CoreConfig
from systolith.host.session import Session
from systolith.isa import Opcode
from systolith.program import Program
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, gemm, inputs_for
from systolith_sim.iss import IssDevice

every_preset = pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)


def compiled(graph: QGraph, config: CoreConfig, tokens: int, *, spill: bool = False) -> Program:
    return schedule(graph, config, name="test", seq_len=tokens, spill=spill)


def assert_same(
    graph: QGraph, config: CoreConfig, tokens: int, length: int, **options: int
) -> None:
    """Every tensor of the instruction simulator equals the golden model's."""
    program = compiled(graph, config, tokens)
    device = IssDevice(config, **options)  # pyright: ignore[reportArgumentType]
    session = Session(device, program)
    device.watch(program.watch)
    inputs = inputs_for(graph, 7)
    outputs = session.run(inputs, length=length)
    expected = run_qgraph(graph, inputs, length)
    assert {point.name for point in program.watch} == set(graph.tensors)
    for name in graph.tensors:
        np.testing.assert_array_equal(device.captured[name], expected[name], name)
    for name, values in outputs.items():
        np.testing.assert_array_equal(values, expected[name], name)


@every_preset
@pytest.mark.parametrize("length", [1, 9, 16])
def test_encoder_in_program_order(config: CoreConfig, length: int) -> None:
    assert_same(encoder(16), config, 16, length, poison=1)


@every_preset
@pytest.mark.parametrize("seed", range(6))
def test_encoder_in_any_order_that_its_waits_allow(config: CoreConfig, seed: int) -> None:
    """The waits are enough: engines may run ahead of each other as they like."""
    assert_same(encoder(16, seed=seed), config, 16, 13, seed=seed, poison=seed)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 8), (5, 3, 17), (16, 33, 31), (7, 64, 16)])
def test_odd_shapes(m: int, n: int, k: int) -> None:
    assert_same(gemm(m, n, k), PRESETS["tiny"], m, m, poison=5)
    assert_same(gemm(m, n, k), PRESETS["ecp5-85k"], m, m, poison=5)


def test_results_wider_than_the_column_memory_are_cut() -> None:
    """On `ecp5-25k`, 1,024 column slots serve an FFN of 1,472 channels."""
    graph = encoder(16, width=128, heads=4, chunks=(1472, 64))
    assert_same(graph, PRESETS["ecp5-25k"], 16, 16, seed=3, poison=3)


def test_a_large_model_fits_although_memory_is_tight() -> None:
    """MiniLM's layer at 128 tokens leaves 16 of 256 KiB."""
    graph = encoder(128, width=384, heads=12, chunks=(704, 768, 64))
    assert_same(graph, PRESETS["ecp5-85k"], 128, 100)


def test_macs_and_bytes_are_those_of_the_model() -> None:
    graph = encoder(16, width=64, heads=2, chunks=(96, 32), layers=1)
    program = compiled(graph, PRESETS["ecp5-85k"], 16)
    weights = 4 * 64 * 64 + 2 * 64 * 128
    assert program.macs == 16 * weights + 2 * 16 * 16 * 64
    records = 3 * 64 + 2 + 64 + 64 + 128 + 2 * 64 + 6 * 64 + 1
    tables = 2 * 512
    exchanged = 2 * 16 * 64 * 2
    assert program.dram_bytes == len(program.code) + weights + 8 * records + tables + exchanged


def test_heads_overlap() -> None:
    """The next head's projections come between a head's scores and its context.

    The last head's V comes there itself, since nothing is left that could.
    """
    parts = [
        (operator.head, operator.part)
        for operator in overlap_heads(encoder(16).operators)
        if getattr(operator, "head", None) is not None
    ]
    assert parts == [
        *((0, part) for part in ("v", "q", "k", "scores", "exp", "softmax_rows")),
        *((1, part) for part in ("q", "k")),
        (0, "context"),
        *((1, part) for part in ("scores", "exp", "softmax_rows", "v", "context")),
    ]


def test_steps_are_adjacent() -> None:
    program = compiled(encoder(16), PRESETS["tiny"], 16)
    opcodes = [
        isa.decode(program.code[at : at + 64], program.config).opcode
        for at in range(0, len(program.code), 64)
    ]
    for index, opcode in enumerate(opcodes):
        if opcode == Opcode.STREAM:
            assert opcodes[index + 1 : index + 3] == [Opcode.GEMM, Opcode.VECTOR]
        if opcode == Opcode.GEMM:
            assert opcodes[index + 1] == Opcode.VECTOR
    assert opcodes[-1] == Opcode.HALT


def test_a_model_too_large_is_refused_with_numbers() -> None:
    with pytest.raises(CompileError, match=r"KiB are live, and the core has 16 KiB. Use a shorter"):
        compiled(encoder(64, width=128, heads=4), PRESETS["tiny"], 64)


def test_too_many_tokens_are_refused() -> None:
    config = dataclasses.replace(PRESETS["ecp5-85k"], accumulator_rows=16)
    with pytest.raises(CompileError, match="at most 16 rows on this core, and the model has 32"):
        compiled(gemm(32, 16, 16), config, 32)


def test_too_few_row_slots_are_refused() -> None:
    config = dataclasses.replace(PRESETS["ecp5-85k"], row_slots=32)
    with pytest.raises(CompileError, match="the row file has 32 slots"):
        compiled(gemm(64, 16, 16), config, 64)


def test_a_graph_survives_serialization() -> None:
    graph = encoder(16)
    again = from_bytes(to_bytes(graph))
    inputs = inputs_for(graph, 1)
    first, second = run_qgraph(graph, inputs, 9), run_qgraph(again, inputs, 9)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    with pytest.raises(ValueError, match="no quantized graph"):
        from_bytes(b"nonsense")
