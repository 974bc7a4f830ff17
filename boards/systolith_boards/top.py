"""A board's top: the system, its clocks, and the pins."""

from typing import Any

from amaranth.build.res import ResourceError
from amaranth.hdl import ClockDomain, Module
from amaranth.lib import io, wiring
from amaranth.lib.io import Direction

from systolith_boards.clocks import Clocks, pll
from systolith_boards.sdram.phase import chip_clock
from systolith_boards.sdram.pins import PINS_PER_ENABLE, SdramPinsSignature
from systolith_boards.system import LIGHTS, System

PIN_NAMES = {"cke": "clk_en"}
"""Where amaranth-boards calls a pin of the memory otherwise than we do."""


class Top(wiring.Component):
    """A system on a board; the platform has the pins, see `systolith_boards.boards`.

    Args:
        system: what is on it; its clock is made of the board's oscillator.
        source: name of that.
        source_hz: its frequency.

    Raises:
        ValueError: the PLL cannot make the system's clock.
    """

    def __init__(self, system: System, source: str, source_hz: float) -> None:
        self._system = system
        self._source = source
        degrees = chip_clock(system.timing).degrees
        self._settings = pll(source_hz, system.timing.frequency, degrees)
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        """Put a register at every pin of the memory.

        A platform that simulates has `is_simulated`, and the clock without a PLL.
        """
        m = Module()
        m.submodules.system = system = self._system
        memory = platform.request("sdram", 0, dir="-")
        if not getattr(platform, "is_simulated", False):
            m.domains += [ClockDomain("sync"), ClockDomain("sdram", reset_less=True)]
            m.submodules.clocks = clocks = Clocks(self._settings, memory.clk)
            oscillator = platform.request(self._source, dir="-")
            m.submodules.source = source = io.Buffer(Direction.Input, oscillator)
            m.d.comb += clocks.source.eq(source.i)

        uart = platform.request("uart", 0, dir={"rx": "-", "tx": "-", "rts": "-", "dtr": "-"})
        m.submodules.rx = rx = io.Buffer(Direction.Input, uart.rx)
        m.submodules.tx = tx = io.Buffer(Direction.Output, uart.tx)
        m.d.comb += [system.rx.eq(rx.i), tx.o.eq(system.tx)]

        pins = system.pins
        for name in SdramPinsSignature().members:
            if not name.startswith("dq_"):
                port = getattr(memory, PIN_NAMES.get(name, name))
                m.submodules[name] = buffer = io.FFBuffer(Direction.Output, port)
                m.d.comb += buffer.o.eq(getattr(pins, name))
        for index, enable in enumerate(pins.dq_oes):
            some = slice(index * PINS_PER_ENABLE, (index + 1) * PINS_PER_ENABLE)
            m.submodules[f"dq{index}"] = dq = io.FFBuffer(Direction.Bidir, memory.dq[some])
            m.d.comb += [dq.o.eq(pins.dq_o[some]), dq.oe.eq(enable), pins.dq_i[some].eq(dq.i)]

        for index in range(len(LIGHTS)):
            try:
                led = platform.request("led", index, dir="-")
            except ResourceError:
                break  # a board with fewer of them
            m.submodules[f"led{index}"] = light = io.FFBuffer(Direction.Output, led)
            m.d.comb += light.o.eq(system.lights[index])
        return m
