"""`rst` at any time: nothing is left behind, in small cores and large ones."""

import numpy as np
import pytest

from systolith import regs
from systolith.config import PRESETS
from systolith.regs import State
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.programs import RandomProgram, random_program
from systolith_sim.verilator import VerilatorDevice

TIMES = 40
"""Resets of each core."""

MEMORY_BYTES = 1 << 24


def run_to_the_end(device: VerilatorDevice, program: RandomProgram) -> None:
    """Hold all of DRAM to what the instruction simulator has made of it."""
    program.start(device)
    device.wait_interrupt(max_cycles=1_000_000)
    assert device.read_csr(regs.offset("status")) == State.DONE
    result = np.frombuffer(device.read_memory(0, len(program.expected)), np.uint8)
    np.testing.assert_array_equal(result, np.frombuffer(program.expected, np.uint8))


@pytest.mark.parametrize(
    "name",
    [name if name == "tiny" else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS],
)
def test_two_cycles_at_any_time(name: str) -> None:
    """As docs/integration.md says. The simulator's AXI rules see a `valid` that is withdrawn."""
    random = np.random.default_rng(1)
    config = PRESETS[name]
    programs = [random_program(config, seed, steps=4) for seed in range(3)]
    timing = MemoryTiming(latency=11, stall=0.2, seed=1, interleave=True)
    with VerilatorDevice(config, memory_bytes=MEMORY_BYTES, timing=timing) as device:
        for time in range(TIMES):
            program, following = (programs[index] for index in random.permutation(3)[:2])
            before = device.activity.cycles
            run_to_the_end(device, program)
            length = device.activity.cycles - before
            program.start(device)
            stop = int(random.integers(length))
            device.step(stop)
            device.reset(cycles=2)
            assert device.activity.pending == 0
            assert device.read_csr(regs.offset("status")) == State.IDLE, f"{time}: after {stop}"
            assert not device.step(20, until_interrupt=True), f"{time}: after {stop}"
            run_to_the_end(device, following)
