"""The driver of boards on the gateware itself: link, arbiter and core in Verilator."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from systolith import regs
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.device import DeviceError
from systolith.host.serial_device import SerialDevice
from systolith.host.session import DeviceFaultError, Session
from systolith.program import Program
from systolith.regs import FaultCause
from systolith_boards.link.simulated import SimulatedPort, board_design
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.verilator import VerilatorDevice

CONFIG = PRESETS["tiny"]
GRAPH = encoder(16)
MEMORY = 1 << 18


# It builds a simulator of its own; by default, test_board_simulation has link and core together.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program() -> Program:
    return schedule(GRAPH, CONFIG, name="small", seq_len=16)


@pytest.fixture(name="simulator")
def _simulator() -> Iterator[VerilatorDevice]:
    design = board_design(CONFIG, memory_bytes=MEMORY)
    timing = MemoryTiming(latency=5, stall=0.1, seed=3)
    simulator = VerilatorDevice(CONFIG, memory_bytes=MEMORY, timing=timing, design=design)
    yield simulator
    simulator.close()


class LossyPort(SimulatedPort):
    """A port that changes a byte now and then, both ways."""

    def __init__(self, board: VerilatorDevice, rate: float) -> None:
        super().__init__(board)
        self.random = random.Random(9)
        self.rate = rate

    def _changed(self, data: bytes) -> bytes:
        return bytes(
            byte ^ 1 << self.random.randrange(8) if self.random.random() < self.rate else byte
            for byte in data
        )

    def write(self, data: bytes) -> None:
        """Send what becomes of it."""
        super().write(self._changed(data))

    def read(self, size: int, timeout: float) -> bytes:
        """Return what becomes of what has come."""
        return self._changed(super().read(size, timeout))


def test_a_program_runs_bit_exact(program: Program, simulator: VerilatorDevice) -> None:
    """Over a line that changes bytes; what the driver reports as a fault is one."""
    port = LossyPort(simulator, 1e-4)
    device = SerialDevice(CONFIG, "serial:simulated", port=port, silence_s=0.02, answer_s=20)
    assert (device.memory_bytes, device.clock_hz) == (MEMORY, 4_000_000)
    session = Session(device, program)
    assert simulator.read_memory(0, len(program.code)) == program.code
    for seed, length in ((1, 16), (2, 5)):
        inputs = inputs_for(GRAPH, seed)
        (output,) = session.run(inputs, length=length).values()
        (expected,) = (run_qgraph(GRAPH, inputs, length)[each.name] for each in program.outputs)
        np.testing.assert_array_equal(output, expected)
    assert session.counters().cycles > 0
    errors = device.errors()
    assert errors["bus_errors"] == errors["line_errors"] == 0
    assert errors["lost"] > 0
    device.write_csr(regs.offset("program_hash_lo"), 1)
    with pytest.raises(DeviceFaultError) as caught:
        session.run(inputs_for(GRAPH, 1), length=16)
    assert caught.value.cause == FaultCause.CONFIG_MISMATCH
    session.reset()


def test_errors_of_the_memory(simulator: VerilatorDevice) -> None:
    port = SimulatedPort(simulator)
    device = SerialDevice(CONFIG, "serial:simulated", port=port, silence_s=0.02, answer_s=20)
    data = bytes(range(64))
    device.write_memory(0x40, data)
    simulator.inject(read_beat=3)
    with pytest.raises(DeviceError, match="READ at 0x40: the bus answered with an error"):
        device.read_memory(0x40, 64)
    assert device.read_memory(0x40, 64) == data
