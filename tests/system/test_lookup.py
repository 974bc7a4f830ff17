"""Token lookup from ONNX file to bits: golden model = instruction simulator = RTL, in time."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from systolith.compiler import compile_model
from systolith.compiler.options import QuantizeOptions
from systolith.config import PRESETS
from systolith.host.inference import HostParts, InputError
from systolith.program import Program
from systolith_sim.check import captured_run, check_tensors, first_difference, golden_tensors
from systolith_sim.checker import check_program
from systolith_sim.iss import IssDevice
from systolith_sim.model_bench import run_on_the_rtl
from systolith_sim.models import BertShape, make_bert, make_tokens

CASES = {
    "post-norm": (BertShape(), 13),
    "no whole beat": (BertShape(hidden=30, heads=3, pre_norm=True), 11),
    "one token": (BertShape(pooling=True), 1),
    "blocks of rows": (BertShape(pooling=True), 64),
}

ON_THE_RTL = [("post-norm", "ecp5-85k"), ("no whole beat", "tiny"), ("blocks of rows", "tiny")]


@cache
def compiled(name: str, preset: str) -> Program:
    shape, tokens = CASES[name]
    return compile_model(
        make_bert(shape).SerializeToString(),
        config=PRESETS[preset],
        seq_len=tokens,
        calibration=make_tokens(shape, [tokens, -(-tokens // 2), 1] * 5),
        options=QuantizeOptions(embedding="npu"),
    )


def codes_of(name: str, program: Program) -> tuple[dict[str, np.ndarray], int]:
    """Numbers of rows for tokens of both types, some of them padding."""
    (sample,) = make_tokens(CASES[name][0], [-(-program.seq_len * 2 // 3)], seed=4)
    sample["token_type_ids"][1:] = 1
    host = HostParts(program)
    padded, length = host.pad(sample)
    return host.prologue(padded), length


@pytest.mark.parametrize("preset", ["tiny", "ecp5-25k", "ecp5-85k", "large"])
@pytest.mark.parametrize("name", CASES)
def test_lookup_on_the_instruction_simulator(name: str, preset: str) -> None:
    program = compiled(name, preset)
    (line,) = (line for line in program.host if line.startswith("prologue"))
    assert "Gather" not in line
    codes, length = codes_of(name, program)
    assert check_tensors(program, codes, length, {}) is None
    check_program(program.code, program.config, limits=program.base_bytes)


def test_lookup_in_blocks_of_rows_in_any_order() -> None:
    program = compiled("blocks of rows", "tiny")
    assert program.scratch_bytes
    codes, length = codes_of("blocks of rows", program)
    expected = golden_tensors(program, codes, length)
    for seed in (1, 2):
        found = captured_run(IssDevice(program.config, seed=seed), program, codes, length)
        assert first_difference(program, {"golden": expected, "iss": found}) is None


def test_programs_with_tables_are_saved(tmp_path: Path) -> None:
    program = compiled("post-norm", "tiny")
    program.save(tmp_path / "program.systolith")
    again = Program.load(tmp_path / "program.systolith")
    (binding,) = again.inputs
    assert binding == program.inputs[0]
    assert binding.limits == (100, 2 * 13)
    assert binding.size == 4 * 2 * 13
    codes, length = codes_of("post-norm", again)
    assert check_tensors(again, codes, length, {}) is None


def test_tokens_that_no_table_has_are_named() -> None:
    program = compiled("post-norm", "tiny")
    host = HostParts(program)
    (sample,) = make_tokens(CASES["post-norm"][0], [5])
    for token in (100, -1):
        sample["input_ids"][2] = token
        padded, _ = host.pad(sample)
        with pytest.raises(InputError, match="the model's tables have 100 and 26 rows"):
            host.prologue(padded)


@pytest.mark.parametrize(("name", "preset"), ON_THE_RTL)
def test_lookup_on_the_rtl(name: str, preset: str) -> None:
    """The bits of the golden model, in the cycles of the estimate."""
    program = compiled(name, preset)
    codes, length = codes_of(name, program)
    found = run_on_the_rtl(program, codes, length)
    levels = {"golden": golden_tensors(program, codes, length), "rtl": found.tensors}
    assert first_difference(program, levels) is None
    assert found.cycles == pytest.approx(found.estimated, rel=0.02)
