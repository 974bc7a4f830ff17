"""The core in Amaranth's simulator, as a device: nothing to build, but a thousand times slower."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import numpy as np
from amaranth.hdl import ClockDomain, Module, Value
from amaranth.lib import wiring
from amaranth.sim import Simulator

from systolith.config import CoreConfig
from systolith.host.device import DeviceError
from systolith.isa import Engine
from systolith.program import WatchPoint
from systolith_rtl.export import flat_ports
from systolith_sim.memory_model import AxiViolationError, MemoryModel, MemoryTiming
from systolith_sim.simulated import MEMORY_BYTES, Activity, Capture, SimulatedDevice
from systolith_sim.testbench import CLOCK_PERIOD, SimulatorContext
from systolith_sim.verilator.design import Design, core_design

CSR_PATIENCE = 10_000
"""Cycles after which a register access counts as unanswered."""

_RESET_CYCLES = 4

_Stalled = Callable[[int], bool]
"""Whether a channel of the register port, by number, stands still in this cycle."""


class PysimDevice(SimulatedDevice):
    """A core in Amaranth's simulator, out of reset, with an AXI4 memory.

    It takes the same cycles as `VerilatorDevice` with the same timing.

    Args:
        config: the core.
        memory_bytes: DRAM.
        timing: of the memory.
        probed: whether it can `watch`.
        trace: where to write waveforms in VCD, if anywhere.
        design: what to simulate instead of the core of `config`.

    Raises:
        ValueError: `memory_bytes` is no multiple of 4096.
    """

    name = "pysim"
    chunk = 100

    def __init__(
        self,
        config: CoreConfig,
        *,
        memory_bytes: int = MEMORY_BYTES,
        timing: MemoryTiming | None = None,
        probed: bool = True,
        trace: Path | None = None,
        design: Design | None = None,
    ) -> None:
        super().__init__(config, memory_bytes=memory_bytes, timing=timing or MemoryTiming())
        design = design or core_design(config, probed=probed)
        self._probed = design.probed
        self._model = MemoryModel(self.memory, self.timing, config.axi_bytes)
        self._mirror = np.zeros(config.scratchpad_bytes, np.uint8)
        self._retired = 0
        self._closing = ExitStack()
        self._start(design.make(), trace)

    def _start(self, core: wiring.Component, trace: Path | None) -> None:
        """Put the core under a clock that the device drives itself, and reset it."""
        m = Module()
        m.domains.sync = sync = ClockDomain("sync")
        m.submodules.core = core  # pyright: ignore[reportArgumentType]
        self._ports: dict[str, Value] = {name: port for name, (port, _) in flat_ports(core).items()}
        self._values = dict.fromkeys(self._ports, 0)
        self._clock, reset = sync.clk, sync.rst
        assert reset is not None
        contexts = list[SimulatorContext]()

        async def hold(ctx: SimulatorContext) -> None:
            # The context is all that is needed of a testbench: outputs are read and inputs are
            # written between clock edges, so that there is nothing to wait for. Only waveforms
            # need time to go by.
            contexts.append(ctx)
            while True:
                await ctx.delay(CLOCK_PERIOD / 2)

        simulator = Simulator(m)
        simulator.add_testbench(hold, background=True)
        if trace is not None:
            self._closing.enter_context(simulator.write_vcd(str(trace)))
        self._pass_time = simulator.advance if trace is not None else None
        simulator.advance()
        self._context = contexts[0]
        self._context.set(reset, 1)
        for _ in range(_RESET_CYCLES):
            self._edge()
        self._context.set(reset, 0)
        self._model.drive(self._put)

    def write_csr(self, offset: int, value: int) -> None:
        """Write a 32-bit register.

        Raises:
            DeviceError: the core does not answer, or breaks a rule of AXI.
        """
        if self._is_start(offset, value):
            for capture in self._captures:
                capture.complete = False
            self._started = self._model.cycle
        self._put("s_axil_awaddr", offset)
        self._put("s_axil_wdata", value)
        self._put("s_axil_wstrb", 15)
        address_done = data_done = False
        for stalled in self._access(offset):
            if not address_done and not stalled(0):
                self._put("s_axil_awvalid", 1)
            if not data_done and not stalled(1):
                self._put("s_axil_wvalid", 1)
            self._put("s_axil_bready", not stalled(2))
            answered = self._get("s_axil_bvalid")
            if answered and not (address_done and data_done):
                self._fail("AXI4-Lite: a response before address and data of a write")
            address_done |= self._transfers("s_axil_aw")
            data_done |= self._transfers("s_axil_w")
            done = self._transfers("s_axil_b")
            response = self._get("s_axil_bresp")
            self._cycle()
            if address_done:
                self._put("s_axil_awvalid", 0)
            if data_done:
                self._put("s_axil_wvalid", 0)
            if done:
                self._put("s_axil_bready", 0)
                if response:
                    self._fail(f"AXI4-Lite: write of register {offset:#x}: response {response}")
                return

    def read_csr(self, offset: int) -> int:
        """Read a 32-bit register.

        Raises:
            DeviceError: the core does not answer, or breaks a rule of AXI.
        """
        self._put("s_axil_araddr", offset)
        address_done = False
        for stalled in self._access(offset):
            if not address_done and not stalled(0):
                self._put("s_axil_arvalid", 1)
            self._put("s_axil_rready", not stalled(1))
            if self._get("s_axil_rvalid") and not address_done:
                self._fail("AXI4-Lite: read data before the address")
            address_done |= self._transfers("s_axil_ar")
            done = self._transfers("s_axil_r")
            response, value = self._get("s_axil_rresp"), self._get("s_axil_rdata")
            self._cycle()
            if address_done:
                self._put("s_axil_arvalid", 0)
            if done:
                self._put("s_axil_rready", 0)
                if response:
                    self._fail(f"AXI4-Lite: read of register {offset:#x}: response {response}")
                return value
        self._fail("unreachable")

    def step(self, cycles: int, *, until_interrupt: bool = False) -> bool:
        """Simulate so many cycles, or until the interrupt is raised; see the base class."""
        for _ in range(cycles):
            if until_interrupt and self._get("irq"):
                return True
            self._cycle()
        return False

    def inject(self, *, read_beat: int | None = None, write_beat: int | None = None) -> None:
        """Let the memory answer with an error, once; see the base class."""
        self._model.inject(read_beat=read_beat, write_beat=write_beat)

    @property
    def activity(self) -> Activity:
        """What the simulation did until now."""
        model = self._model
        return Activity(model.cycle, model.read_beats, model.write_beats, model.pending)

    def watch(self, points: Sequence[WatchPoint]) -> None:
        """From the next run on, capture these tensors as they are completed; () for none.

        Raises:
            NotImplementedError: the core has no probe.
            ValueError: a point lies outside of the scratchpad.
        """
        if points and not self._probed:
            raise NotImplementedError(f"{self.name}: open it with probed=True to watch tensors")
        self._captures = self._make_captures(points)

    def close(self) -> None:
        """Finish the waveforms."""
        self._closing.close()

    def _get(self, name: str) -> int:
        return self._context.get(self._ports[name])  # pyright: ignore[reportReturnType]

    def _put(self, name: str, value: int) -> None:
        # Each change lets the simulator settle, so only changes are made.
        if self._values[name] != value:
            self._values[name] = value
            self._context.set(self._ports[name], value)

    def _transfers(self, channel: str) -> bool:
        return bool(self._get(f"{channel}valid") and self._get(f"{channel}ready"))

    def _access(self, offset: int) -> Iterator[_Stalled]:
        """Yield, for each cycle of a register access, who stalls; give up after a long while."""
        for _ in range(CSR_PATIENCE):
            random = self._model.random.next() if self.timing.threshold else ~0
            yield lambda field, random=random: self._model.stalled(random, field)
        self._fail(f"AXI4-Lite: no answer from register {offset:#x} in {CSR_PATIENCE} cycles")

    def _cycle(self) -> None:
        try:
            self._model.take(self._get)
        except AxiViolationError as error:
            raise DeviceError(f"{self.name}: {error}") from error
        if self._probed:
            self._observe()
        self._edge()
        self._model.drive(self._put)

    def _edge(self) -> None:
        for level in (1, 0):
            self._context.set(self._clock, level)
            if self._pass_time is not None:
                self._pass_time()
        self._model.cycle += 1

    def _observe(self) -> None:
        """Capture what is complete, then follow the writes of this cycle."""
        retired = self._get("probe_retired")
        if retired != self._retired:
            for capture in self._captures:
                point = capture.point
                before, now = (_count(each, point.engine) for each in (self._retired, retired))
                if before < point.count <= now and not capture.complete:
                    self._capture(capture)
            self._retired = retired
        for port in ("probe_write0", "probe_write1"):
            if self._get(f"{port}_valid"):
                size = self.config.rows
                address = self._get(f"{port}_address") * size
                data = self._get(f"{port}_data").to_bytes(size, "little")
                mask = self._get(f"{port}_mask")
                for index in range(size):
                    if mask >> index & 1:
                        self._mirror[address + index] = data[index]

    def _capture(self, capture: Capture) -> None:
        for row, target in enumerate(capture.data):
            at = capture.address + row * capture.row
            target[:] = self._mirror[at : at + target.size]
        capture.complete = True

    def _fail(self, message: str) -> NoReturn:
        raise DeviceError(f"{self.name}: cycle {self._model.cycle}: {message}")


def _count(retired: int, engine: Engine) -> int:
    return retired >> (16 * engine) & 0xFFFF
