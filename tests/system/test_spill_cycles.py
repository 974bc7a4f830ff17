"""A program that spills, on the RTL: the golden model's bits, in the cycles that are estimated."""

import pytest

from systolith.compiler.estimate import Memory, estimate
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.session import Session
from systolith_sim.check import check_tensors
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.verilator import VerilatorDevice


@pytest.mark.parametrize("bandwidth", [4, 1.6])
def test_spills_on_the_rtl(bandwidth: float) -> None:
    graph = encoder(64, heads=4, chunks=(48, 48, 32), layers=2)
    program = schedule(graph, PRESETS["tiny"], name="spills", seq_len=64)
    assert program.scratch_bytes
    device = VerilatorDevice(
        program.config, probed=True, timing=MemoryTiming(bandwidth=bandwidth, latency=30)
    )
    session = Session(device, program)
    device.watch(program.watch)
    codes = inputs_for(graph, 7)
    session.run(codes, length=50)
    cycles = session.counters().cycles
    found = dict(device.captured)
    device.close()
    assert check_tensors(program, codes, 50, {"rtl": found}) is None
    estimated = estimate(program.code, program.config, Memory(bandwidth=bandwidth, latency=30))
    assert estimated.cycles == pytest.approx(cycles, rel=0.01)
