"""What does not fit the scratchpad: cut into blocks of rows, stored and fetched, the same bits."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from systolith import isa
from systolith.compiler import compile_model
from systolith.compiler.allocate import CapacityError, place_tensors, written
from systolith.compiler.blocks import CutGraph, cut
from systolith.compiler.errors import CompileError
from systolith.compiler.moves import Fetch, Spill
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.qgraph import Exp, Matmul, QGraph, View
from systolith.compiler.schedule import schedule
from systolith.compiler.spill import Plan, plan_spills
from systolith.config import PRESETS, CoreConfig
from systolith.isa import Opcode
from systolith.program import (
    SCRATCH_BASE,
    Program,
)
from systolith_sim.check import captured_run, check_tensors, first_difference
from systolith_sim.checker import check_program
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import GraphBuilder, encoder, gemm, inputs_for
from systolith_sim.iss import IssDevice
from systolith_sim.models import BertShape, make_bert, make_tokens

TINY = PRESETS["tiny"]


def compiled(graph: QGraph, config: CoreConfig, tokens: int, **options: int) -> Program:
    return schedule(graph, config, name="test", seq_len=tokens, **options)  # pyright: ignore[reportArgumentType]


def with_scratchpad(config: CoreConfig, kib: int) -> CoreConfig:
    return dataclasses.replace(config, scratchpad_bytes=kib << 10)


def covered(graph: QGraph, program: Program) -> dict[str, np.ndarray]:
    """How often each element of each tensor is watched."""
    counts = {
        name: np.zeros((tensor.rows, tensor.columns), int) for name, tensor in graph.tensors.items()
    }
    for point in program.watch:
        point.part_of(counts)[:] += 1
    return counts


def assert_same(graph: QGraph, program: Program, length: int, *, seeds: tuple[int, ...]) -> None:
    """In any order of the engines, every element of every tensor is the golden model's."""
    assert all((count == 1).all() for count in covered(graph, program).values())
    codes = inputs_for(graph, 7)
    expected = run_qgraph(graph, codes, length)
    for seed in seeds:
        device = IssDevice(program.config, seed=seed, poison=seed)
        found = captured_run(device, program, codes, length)
        assert first_difference(program, {"golden": expected, "iss": found}) is None
    check_program(program.code, program.config, limits=program.base_bytes)


def moved(program: Program) -> dict[Opcode, int]:
    """Bytes that a program exchanges with its own memory."""
    total = {Opcode.LOAD: 0, Opcode.STORE: 0}
    for at in range(0, len(program.code), isa.INSTRUCTION_BYTES):
        each = isa.decode(program.code[at : at + isa.INSTRUCTION_BYTES], program.config)
        if each.opcode in total and each.base == SCRATCH_BASE:
            total[each.opcode] += each.n0 * each.n1 * each.n2
    return total


SCORES = {"tokens": 128, "width": 32, "heads": 2, "chunks": (32, 32)}
"""Scores take 32 KiB, all s16 rows 8 KiB, all s8 rows 4 KiB, q, k and v 2 KiB each."""

WIDE = {"tokens": 64, "width": 64, "heads": 4, "chunks": (48, 48, 32)}
"""Scores and all s16 rows take 8 KiB, all s8 rows 4 KiB, q, k and v 1 KiB each."""


@pytest.mark.parametrize(
    ("shape", "kib", "stored", "fetched"),
    [
        pytest.param(SCORES, 32, 8, 8, id="scores and context"),
        pytest.param(WIDE, 16, 24, 24, id="residual too"),
        pytest.param(WIDE, 8, 32, 64, id="what projections read too, for each head"),
        pytest.param(WIDE, 4, 32, 55.5, id="one head after the other", marks=pytest.mark.slow),
    ],
)
def test_less_and_less_stays_in_the_scratchpad(
    shape: dict[str, Any], kib: int, stored: float, fetched: float
) -> None:
    """In each of two layers; what is stored is in KiB."""
    graph = encoder(**shape, layers=2)
    tokens = shape["tokens"]
    config = dataclasses.replace(with_scratchpad(TINY, kib), row_slots=256)
    program = compiled(graph, config, tokens)
    assert moved(program) == {Opcode.LOAD: fetched * 1024, Opcode.STORE: stored * 1024}
    assert_same(graph, program, tokens - 14, seeds=(1, 2, 3))


@pytest.mark.parametrize("length", [1, 33, 64])
def test_padding_is_masked_in_blocks_too(length: int) -> None:
    graph = encoder(64, heads=2, layers=1)
    assert_same(graph, compiled(graph, with_scratchpad(TINY, 8), 64), length, seeds=(4,))


@pytest.mark.parametrize("tokens", [37, 50, 65])
def test_lengths_that_are_no_multiple_of_a_block(tokens: int) -> None:
    graph = encoder(tokens, heads=2)
    program = compiled(graph, with_scratchpad(TINY, 8), tokens)
    assert program.scratch_bytes
    assert_same(graph, program, tokens - 3, seeds=(5,))


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(9, 70),
    width=st.sampled_from([16, 32, 48, 96]),
    heads=st.sampled_from([1, 2, 3]),
    chunks=st.lists(st.sampled_from([16, 32, 80]), min_size=1, max_size=2),
    kib=st.sampled_from([2, 4, 8]),
    shape=st.sampled_from([(4, 4), (8, 2), (16, 8)]),
    seed=st.integers(0, 1 << 16),
)
def test_any_shape_gives_the_bits_of_the_golden_model_or_is_refused(
    tokens: int,
    width: int,
    heads: int,
    chunks: list[int],
    kib: int,
    shape: tuple[int, int],
    seed: int,
) -> None:
    config = CoreConfig(
        rows=shape[0],
        columns=shape[1],
        scratchpad_bytes=kib << 10,
        ring_bytes=2 << 10,
        accumulator_rows=32,
        column_slots=512,
        row_slots=128,
        axi_data_bits=32,
    )
    # Whole words for each head.
    width = -(-width // (heads * 16)) * heads * 16
    graph = encoder(tokens, width=width, heads=heads, chunks=tuple(chunks), seed=seed)
    try:
        program = compiled(graph, config, tokens)
    except CapacityError:
        event("refused")
        return
    event("cut" if program.notes else "whole")
    assert_same(graph, program, max(1, tokens - 5), seeds=(seed,))


def test_what_fits_is_not_cut() -> None:
    program = compiled(encoder(16), TINY, 16)
    assert program.scratch_bytes == 0
    assert not program.notes
    assert moved(program) == {Opcode.LOAD: 0, Opcode.STORE: 0}


def test_the_user_is_told() -> None:
    (note,) = compiled(encoder(64), with_scratchpad(TINY, 8), 64).notes
    assert note.startswith("activations do not fit the scratchpad: they are computed in blocks of ")


def test_the_roofline_counts_neither_spills_nor_weights_that_come_again() -> None:
    graph = encoder(64, layers=2)
    cut_program = compiled(graph, with_scratchpad(TINY, 8), 64)
    large = dataclasses.replace(TINY, scratchpad_bytes=256 << 10, table_slots=3)
    whole = compiled(graph, large, 64)
    assert cut_program.scratch_bytes
    assert not whole.scratch_bytes
    assert cut_program.macs == whole.macs
    # One of the four tables is loaded for each block of tokens, and the whole program has one more.
    difference = cut_program.dram_bytes - len(cut_program.code)
    assert difference == whole.dram_bytes - len(whole.code)


def test_gemms_longer_than_the_accumulators_are_cut() -> None:
    config = dataclasses.replace(PRESETS["ecp5-85k"], accumulator_rows=16)
    graph = gemm(40, 16, 16)
    assert_same(graph, compiled(graph, config, 40), 40, seeds=(6,))


def test_rows_beyond_the_row_file_are_cut() -> None:
    config = dataclasses.replace(PRESETS["ecp5-85k"], row_slots=32)
    graph = encoder(64)
    assert_same(graph, compiled(graph, config, 64), 60, seeds=(7,))


def test_what_does_not_fit_in_the_smallest_blocks_is_refused_with_numbers() -> None:
    with pytest.raises(CompileError, match=r"KiB are live, and the core has 2 KiB. Use a shorter"):
        compiled(encoder(64, width=256, heads=4), with_scratchpad(TINY, 2), 64)


def test_operators_that_mix_rows_are_refused() -> None:
    """A product of two activations outside of an attention."""
    builder = GraphBuilder(32, 0)
    x = builder.moments(builder.input("input", 32))
    _, narrow = builder.norm(x, "norm", statistic=x)
    out = builder.tensor("out", 32, builder.tensors[narrow].format)
    builder.linear(narrow, builder.whole(out), part="linear")
    last = builder.operators[-1]
    assert isinstance(last, Matmul)
    builder.operators[-1] = dataclasses.replace(last, b=builder.whole(narrow))
    builder.output(out)
    with pytest.raises(CapacityError, match="linear cannot be carried out row by row"):
        compiled(builder.finish(), with_scratchpad(TINY, 2), 32)


def plan_of(graph: QGraph, config: CoreConfig, rows: int, budget: int) -> tuple[CutGraph, Plan]:
    found = cut(graph, rows=rows, score_rows=rows, config=config)
    return found, plan_spills(found, config, budget)


def test_a_tensor_is_stored_once_and_before_it_is_fetched() -> None:
    config = with_scratchpad(TINY, 8)
    found, plan = plan_of(encoder(64, heads=4, layers=2), config, 8, config.granules)
    stored: Counter[str] = Counter()
    fetched: Counter[str] = Counter()
    made: set[str] = set()
    for step in plan.steps:
        if isinstance(step, Spill):
            assert step.x in made
            stored[step.x] += 1
        elif isinstance(step, Fetch):
            piece = found.pieces[step.name]
            assert step.name in stored or step.name in found.gathered or piece.tensor == "input"
            fetched[step.name] += 1
        target = written(step)
        if target is not None:
            made.add(target)
    assert set(stored.values()) == {1}
    # Some come back for each of the four heads.
    assert max(fetched.values()) >= 4


def test_fetches_come_before_they_are_needed() -> None:
    """Between a fetch and what needs it, the array has something to do."""
    config = with_scratchpad(TINY, 8)
    _, plan = plan_of(encoder(64, heads=4, layers=2), config, 8, config.granules)
    early = 0
    for position, step in enumerate(plan.steps):
        if isinstance(step, Fetch):
            following = plan.steps[position + 1]
            used = isinstance(following, Matmul) and following.a.tensor == step.out
            early += not used
    fetches = sum(isinstance(step, Fetch) for step in plan.steps)
    assert early > 0.8 * fetches


def test_heads_overlap_in_blocks_too() -> None:
    """Projections of the next head follow each block of scores, and V the last head's first."""
    found = cut(encoder(16, heads=2), rows=8, score_rows=8, config=TINY)
    parts = []
    for operator in found.graph.operators:
        head = getattr(operator, "head", None)
        if head is not None and isinstance(operator, Matmul | Exp):
            view = operator.out
            top = view.top or (view.first if view.rows is None and operator.part == "v" else 0)
            block = found.pieces[view.tensor].top if view.tensor in found.pieces else top
            parts.append((operator.part, head, block))
    assert parts == [
        *((part, 0, block) for block in (0, 8) for part in "vqk"),
        *(("scores", 0, 0), ("exp", 0, 0), ("q", 1, 0), ("k", 1, 0), ("context", 0, 0)),
        *(("scores", 0, 8), ("exp", 0, 8), ("q", 1, 8), ("k", 1, 8), ("context", 0, 8)),
        *(("scores", 1, 0), ("exp", 1, 0), ("v", 1, 0), ("v", 1, 8)),
        *(("scores", 1, 8), ("exp", 1, 8), ("context", 1, 0), ("context", 1, 8)),
    ]


def test_the_golden_model_knows_rows_of_a_tensor() -> None:
    """A product that reads rows 4 to 6 alone has those of the whole product."""
    graph = gemm(8, 16, 16)
    *before, last, output = graph.operators
    assert isinstance(last, Matmul)
    part = dataclasses.replace(
        last,
        a=dataclasses.replace(last.a, top=4, rows=3),
        out=View(tensor="out", first=0, columns=16, top=4, rows=3),
    )
    some = dataclasses.replace(graph, operators=(*before, part, output))
    codes = inputs_for(graph, 1)
    whole, rows = run_qgraph(graph, codes, 8)["out"], run_qgraph(some, codes, 8)["out"]
    np.testing.assert_array_equal(rows[4:7], whole[4:7])
    assert whole.any(1).all()
    assert not rows[:4].any()
    assert not rows[7:].any()


def test_an_onnx_file_longer_than_the_scratchpad() -> None:
    """From the file, with weights of 8 and of 4 bits."""
    shape = BertShape(hidden=64, heads=2, ffn=256, positions=80)
    config = with_scratchpad(TINY, 8)
    for weights in ("int8", "int4"):
        program = compile_model(
            make_bert(shape).SerializeToString(),
            config=config,
            seq_len=72,
            calibration=make_tokens(shape, [72, 30, 9]),
            options=QuantizeOptions(weights=weights),
        )
        assert program.scratch_bytes
        codes = {
            each.name: np.random.default_rng(3).integers(-3000, 3000, (each.rows, each.columns))
            for each in program.inputs
        }
        assert check_tensors(program, codes, 60, {}) is None


def test_long_exponentials_come_in_parts_between_projections() -> None:
    """The array runs no further ahead of the vector engine than two tiles."""
    config = dataclasses.replace(TINY, scratchpad_bytes=64 << 10)
    graph = encoder(64, width=32, heads=2)
    found = cut(graph, rows=8, score_rows=32, config=config)
    parts = [
        (operator.part, operator.out.top, operator.out.rows)
        for operator in found.graph.operators
        if isinstance(operator, Matmul | Exp) and operator.head is not None
    ]
    # Two tiles are 2 * 4 columns * 8 rows * 32 / 4 elements' time: 8 rows of 64 scores.
    first = parts.index(("exp", 0, 8))
    assert [part for part, *_ in parts[first : first + 7 : 2]] == ["exp"] * 4
    assert [top for _, top, _ in parts[first : first + 7 : 2]] == [0, 8, 16, 24]
    assert all(part in "qkv" for part, *_ in parts[first + 1 : first + 6 : 2])
    layout = plan_spills(found, config, config.granules)
    places = place_tensors(layout.graph, layout.steps, config)
    assert places["layer 0.0.p@0"].address == places["layer 0.0.scores@0"].address
