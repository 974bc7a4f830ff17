"""A whole model on the Verilated core: its tensors, and its cycles beside the estimate's."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from systolith import regs
from systolith.compiler.estimate import Memory, estimate
from systolith.program import Program
from systolith_sim.check import captured_run
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.verilator import VerilatorDevice


class Measured(NamedTuple):
    """What the core did with one input.

    Attributes:
        tensors: every watched tensor, by name.
        cycles: from start to interrupt.
        estimated: what the compiler says of the same memory.
    """

    tensors: dict[str, np.ndarray]
    cycles: int
    estimated: int


def run_on_the_rtl(
    program: Program, codes: Mapping[str, np.ndarray], length: int, *, bandwidth: float = 8.0
) -> Measured:
    """Run a program once, on a memory of 30 cycles of latency.

    Args:
        program: the compiled model.
        codes: of every NPU input, by name.
        length: valid tokens.
        bandwidth: bytes per cycle.
    """
    timing = {"bandwidth": bandwidth, "latency": 30}
    device = VerilatorDevice(program.config, probed=True, timing=MemoryTiming(**timing))
    try:
        tensors = captured_run(device, program, codes, length)
        cycles = device.read_csr(regs.offset("cycles_lo"))
    finally:
        device.close()
    estimated = estimate(program.code, program.config, Memory(**timing)).cycles
    return Measured(tensors, cycles, estimated)
