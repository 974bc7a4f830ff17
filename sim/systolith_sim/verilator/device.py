"""The core compiled by Verilator, as a device: some hundred thousand cycles per second."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from systolith import isa
from systolith.config import CoreConfig
from systolith.program import WatchPoint
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.simulated import MEMORY_BYTES, Activity, SimulatedDevice
from systolith_sim.toolchain import Announce, announce_on_stderr
from systolith_sim.verilator.build import library
from systolith_sim.verilator.design import Design, core_design
from systolith_sim.verilator.library import Retirement, Simulation

MOST_RETIREMENTS = len(isa.Engine) * isa.MAX_PER_ENGINE
"""Instructions of the longest program."""


class VerilatorDevice(SimulatedDevice):
    """A core in Verilator, out of reset, with an AXI4 memory.

    The first one of its kind takes half a minute to build; the result is cached.

    Args:
        config: the core.
        memory_bytes: DRAM.
        timing: of the memory.
        probed: whether it can `watch`; a few percent slower.
        trace: where to write waveforms in VCD, if anywhere; much slower.
        announce: told what takes its time while it is being built.
        design: what to simulate instead of the core of `config`.
        built: the library that simulates it, where it is not to be found or built.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: `memory_bytes` is no multiple of 4096.
    """

    name = "verilator"
    chunk = 50_000

    def __init__(
        self,
        config: CoreConfig,
        *,
        memory_bytes: int = MEMORY_BYTES,
        timing: MemoryTiming | None = None,
        probed: bool = False,
        trace: Path | None = None,
        announce: Announce = announce_on_stderr,
        design: Design | None = None,
        built: Path | None = None,
    ) -> None:
        super().__init__(config, memory_bytes=memory_bytes, timing=timing or MemoryTiming())
        design = design or core_design(config, probed=probed)
        path = built or library(design, traced=trace is not None, announce=announce)
        self._open(path, probed=design.probed)
        if trace is not None:
            self._simulation.trace_start(trace)

    def _open(self, path: Path, *, probed: bool) -> None:
        self._probed = probed
        self._ended = 0
        self._simulation = Simulation(
            path,
            name=self.name,
            memory=self.memory,
            timing=self.timing,
            scratchpad_bytes=self.config.scratchpad_bytes,
        )

    def write_csr(self, offset: int, value: int) -> None:
        """Write a 32-bit register.

        Raises:
            DeviceError: the core does not answer, or breaks a rule of AXI.
        """
        starts = self._is_start(offset, value)
        if starts:
            self._simulation.watch(self._captures)
            if self._probed:
                self._simulation.record(MOST_RETIREMENTS)
            self._started = self.activity.cycles
        self._simulation.write_register(offset, value)

    def read_csr(self, offset: int) -> int:
        """Read a 32-bit register.

        Raises:
            DeviceError: the core does not answer, or breaks a rule of AXI.
        """
        return self._simulation.read_register(offset)

    def step(self, cycles: int, *, until_interrupt: bool = False) -> bool:
        """Simulate so many cycles, or until the interrupt is raised; see the base class."""
        raised = self._simulation.run(cycles, until_interrupt=until_interrupt)
        if raised:
            self._ended = self.activity.cycles
        return raised

    def reset(self, cycles: int = 2) -> None:
        """Hold the core's `rst`, whatever is under way.

        Memory keeps what it has, and forgets transactions, as an interconnect does that is reset
        with the core.
        """
        self._simulation.reset(cycles)

    def inject(self, *, read_beat: int | None = None, write_beat: int | None = None) -> None:
        """Let the memory answer with an error, once; see the base class."""
        self._simulation.inject(read_beat=read_beat, write_beat=write_beat)

    @property
    def activity(self) -> Activity:
        """What the simulation did until now."""
        return self._simulation.activity

    def watch(self, points: Sequence[WatchPoint]) -> None:
        """From the next run on, capture these tensors as they are completed; () for none.

        Raises:
            NotImplementedError: the simulator was built without a probe.
            ValueError: a point lies outside of the scratchpad.
        """
        if points and not self._probed:
            raise NotImplementedError(f"{self.name}: open it with probed=True to watch tensors")
        self._captures = self._make_captures(points)
        self._simulation.watch(self._captures)

    @property
    def captured(self) -> dict[str, np.ndarray]:
        """What the last run captured: `[rows, columns]` in int8, uint8 or int16, by name."""
        for capture, complete in zip(self._captures, self._simulation.completed(), strict=True):
            capture.complete = complete
        return super().captured

    def retirements(self, cycles: int) -> list[Retirement]:
        """When each instruction of the last run was retired, in order.

        Args:
            cycles: what the run's `cycles` counter says: its first cycle is 0 in the result.

        Raises:
            NotImplementedError: the simulator was built without a probe.
        """
        if not self._probed:
            raise NotImplementedError(f"{self.name}: open it with probed=True to see retirements")
        first = self._ended - cycles
        return [replace(each, cycle=each.cycle - first) for each in self._simulation.recorded()]

    def close(self) -> None:
        """Free the core."""
        self._simulation.close()
