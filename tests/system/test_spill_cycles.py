"""A program that spills, on the RTL: the golden model's bits, in the cycles that are estimated."""

import pytest

from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith_sim.check import check_tensors
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.model_bench import run_on_the_rtl


@pytest.mark.parametrize("bandwidth", [4, 1.6])
def test_spills_on_the_rtl(bandwidth: float) -> None:
    graph = encoder(64, heads=4, chunks=(48, 48, 32), layers=2)
    program = schedule(graph, PRESETS["tiny"], name="spills", seq_len=64)
    assert program.scratch_bytes
    codes = inputs_for(graph, 7)
    found = run_on_the_rtl(program, codes, 50, bandwidth=bandwidth)
    assert check_tensors(program, codes, 50, {"rtl": found.tensors}) is None
    assert found.estimated == pytest.approx(found.cycles, rel=0.01)
