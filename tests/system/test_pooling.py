"""Pooling from ONNX file to bits: golden model = instruction simulator = RTL, in estimated time."""

from functools import cache

import numpy as np
import pytest

from systolith.compiler import compile_model
from systolith.compiler.options import QuantizeOptions
from systolith.config import PRESETS
from systolith.host.inference import HostParts
from systolith.isa import INSTRUCTION_BYTES, Opcode, decode
from systolith.program import SCRATCH_BASE, Program
from systolith_sim.check import captured_run, check_tensors, first_difference, golden_tensors
from systolith_sim.checker import check_program
from systolith_sim.iss import IssDevice
from systolith_sim.model_bench import run_on_the_rtl
from systolith_sim.models import BertShape, make_bert, make_tokens

PLAIN = BertShape(hidden=36, heads=3, ffn=50, positions=96)
POOLED = BertShape(pooling=True)
PRE_NORM = BertShape(pooling=True, pre_norm=True)

MEAN = QuantizeOptions(pooling="mean")
UNIT = QuantizeOptions(pooling="mean", normalize=True)
FIRST = QuantizeOptions(pooling="cls", normalize=True)
MODEL = QuantizeOptions()

CASES = {
    "the model's own": (POOLED, MODEL, 11),
    "before a norm": (PRE_NORM, MODEL, 16),
    "mean": (PLAIN, MEAN, 13),
    "first token": (PLAIN, FIRST, 13),
    "one token": (PLAIN, UNIT, 1),
}

CUT = {
    "mean of blocks": (POOLED, MODEL, 64),
    "first of blocks": (BertShape(), FIRST, 64),
    "more tokens than channels": (PLAIN, UNIT, 70),
}
"""On `tiny`, these do not fit the scratchpad."""

ON_THE_RTL = [
    ("the model's own", "ecp5-85k"),
    ("mean", "ecp5-25k"),
    ("first token", "tiny"),
    ("mean of blocks", "tiny"),
]


@cache
def compiled(name: str, preset: str) -> Program:
    shape, options, tokens = (CASES | CUT)[name]
    return compile_model(
        make_bert(shape).SerializeToString(),
        config=PRESETS[preset],
        seq_len=tokens,
        calibration=make_tokens(shape, [tokens, -(-tokens // 2), 1] * 5),
        options=options,
    )


def codes_of(name: str, program: Program) -> tuple[dict[str, np.ndarray], int]:
    """Codes of an input that leaves some of the tokens to padding, if there are several."""
    (sample,) = make_tokens((CASES | CUT)[name][0], [-(-program.seq_len * 2 // 3)], seed=4)
    host = HostParts(program)
    padded, length = host.pad(sample)
    return host.prologue(padded), length


def is_cut(program: Program) -> bool:
    """Whether something goes to memory and comes back."""
    return program.scratch_bytes > 0


@pytest.mark.parametrize("preset", ["tiny", "ecp5-25k", "ecp5-85k", "large"])
@pytest.mark.parametrize("name", CASES)
def test_pooling_on_the_instruction_simulator(name: str, preset: str) -> None:
    program = compiled(name, preset)
    assert len(program.host) == 1
    codes, length = codes_of(name, program)
    assert check_tensors(program, codes, length, {}) is None
    check_program(program.code, program.config, limits=program.base_bytes)


@pytest.mark.parametrize("name", CUT)
def test_pooling_in_blocks_of_rows(name: str) -> None:
    """In any order of the engines."""
    program = compiled(name, "tiny")
    assert is_cut(program)
    codes, length = codes_of(name, program)
    expected = golden_tensors(program, codes, length)
    for seed in (1, 2):
        found = captured_run(IssDevice(program.config, seed=seed), program, codes, length)
        assert first_difference(program, {"golden": expected, "iss": found}) is None
    check_program(program.code, program.config, limits=program.base_bytes)


def test_padding_changes_nothing() -> None:
    """Whatever the tokens behind the length are, the bits of the result are the same."""
    program = compiled("the model's own", "ecp5-85k")
    codes, length = codes_of("the model's own", program)
    results = []
    for fill in (0, 1000):
        given = {name: value.copy() for name, value in codes.items()}
        for value in given.values():
            value[length:] = fill
        results.append(golden_tensors(program, given, length)[program.outputs[0].name])
    np.testing.assert_array_equal(*results)


def test_only_the_sentence_leaves_the_core() -> None:
    program = compiled("the model's own", "ecp5-85k")
    size = INSTRUCTION_BYTES
    code = [
        decode(program.code[at : at + size], program.config)
        for at in range(0, len(program.code), size)
    ]
    (store,) = (each for each in code if each.opcode == Opcode.STORE)
    assert store.n0 * store.n1 * store.n2 == 2 * POOLED.hidden
    assert store.base != SCRATCH_BASE


@pytest.mark.parametrize(("name", "preset"), ON_THE_RTL)
def test_pooling_on_the_rtl(name: str, preset: str) -> None:
    """The bits of the golden model, in the cycles of the estimate."""
    program = compiled(name, preset)
    codes, length = codes_of(name, program)
    found = run_on_the_rtl(program, codes, length)
    levels = {"golden": golden_tensors(program, codes, length), "rtl": found.tensors}
    assert first_difference(program, levels) is None
    assert found.cycles == pytest.approx(found.estimated, rel=0.03)
