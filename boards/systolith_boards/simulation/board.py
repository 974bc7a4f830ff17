"""A board's top, and a memory chip at its pins."""

from types import SimpleNamespace
from typing import Any

from amaranth.build.res import ResourceError
from amaranth.hdl import Fragment, Module, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.io import Direction, SimulationPort
from amaranth.lib.wiring import In, Out

from systolith_boards.sdram.chip import ChipModel, Violation
from systolith_boards.sdram.pins import SdramPinsSignature
from systolith_boards.system import LIGHTS, System
from systolith_boards.top import PIN_NAMES, Top


class SimulatedPlatform:
    """The pins of a board without a board: all that `Top` asks for."""

    is_simulated = True

    def __init__(self) -> None:
        pins = SdramPinsSignature().members
        memory = {
            PIN_NAMES.get(name, name): SimulationPort(
                Direction.Output, Shape.cast(member.shape).width
            )
            for name, member in pins.items()
            if not name.startswith("dq_")
        }
        memory["dq"] = SimulationPort(Direction.Bidir, Shape.cast(pins["dq_o"].shape).width)
        self.memory = SimpleNamespace(**memory)
        self.uart = SimpleNamespace(
            rx=SimulationPort(Direction.Input, 1), tx=SimulationPort(Direction.Output, 1)
        )
        self.leds = [SimulationPort(Direction.Output, 1) for _ in LIGHTS]

    def request(self, name: str, number: int = 0, *, dir: object = None) -> Any:
        """Return ports as a platform of amaranth-boards does.

        Raises:
            ResourceError: there is nothing of that name.
        """
        del dir
        if name == "led" and number < len(self.leds):
            return self.leds[number]
        if number == 0 and name in ("sdram", "uart"):
            return self.memory if name == "sdram" else self.uart
        raise ResourceError(f"{name}#{number}")


class Board(wiring.Component):
    """A `Top` and a `ChipModel`.

    Args:
        system: what is on the board.
        source: name of the oscillator.
        source_hz: its frequency.

    Members:
        rx: `In(1)`, from the host.
        tx: `Out(1)`, to the host.
        lights: `Out(8)`, the LEDs.
        violations: `Out`, rules of the chip that were broken, a bit for each `Violation`.
    """

    rx: Signal
    tx: Signal
    lights: Signal
    violations: Signal

    def __init__(self, system: System, source: str, source_hz: float) -> None:
        self._platform = SimulatedPlatform()
        self._top = Top(system, source, source_hz)
        self._chip = ChipModel(system.timing)
        super().__init__(
            {
                "rx": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "tx": Out(1),
                "lights": Out(len(LIGHTS)),
                "violations": Out(len(Violation)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wires between the pins."""
        m = Module()
        pins = self._platform
        m.submodules.top = Fragment.get(self._top, pins)
        m.submodules.chip = chip = self._chip
        for name in SdramPinsSignature().members:
            if not name.startswith("dq_"):
                port = getattr(pins.memory, PIN_NAMES.get(name, name))
                m.d.comb += getattr(chip.pins, name).eq(port.o)
        # All bits of DQ are driven together.
        m.d.comb += [
            chip.pins.dq_o.eq(pins.memory.dq.o),
            chip.pins.dq_oe.eq(pins.memory.dq.oe[0]),
            pins.memory.dq.i.eq(chip.pins.dq_i),
            pins.uart.rx.i.eq(self.rx),
            self.tx.eq(pins.uart.tx.o),
            self.violations.eq(chip.violations),
            *(self.lights[index].eq(led.o) for index, led in enumerate(pins.leds)),
        ]
        return m
