"""An SDRAM behind an AXI4 port: what a board puts beside the core."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_boards.sdram.axi import AxiPort
from systolith_boards.sdram.controller import Controller
from systolith_boards.sdram.pins import SdramPinsSignature
from systolith_boards.sdram.segments import Geometry
from systolith_boards.sdram.timing import SdramTiming
from systolith_boards.sdram.words import DELAYS
from systolith_rtl.interfaces import AxiSignature


class Sdram(wiring.Component):
    """A controller for one SDR SDRAM chip with 16 data pins, in the domain `sync`.

    After reset it starts the chip and tests it, which takes the chip's pause (200 us) and some
    thousand cycles. From then on the port serves the chip's bytes from address 0.

    Args:
        timing: the chip, at the frequency of `sync`.
        config: the core's, for the widths of AXI.

    Members:
        axi: `In(AxiSignature(config))`, memory; see `AxiPort`.
        pins: `Out(SdramPinsSignature())`, the chip.
        ready: `Out(1)`, the chip passed the test; the port accepts nothing before.
        failed: `Out(1)`, it did not; the port never accepts anything.
        delay: `Out(range(8))`, cycles of delay between chip and registers, as found by the test.

    Raises:
        ValueError: a beat of AXI is no burst of the chip.
    """

    axi: wiring.PureInterface
    pins: wiring.PureInterface
    ready: Signal
    failed: Signal
    delay: Signal

    def __init__(self, timing: SdramTiming, config: CoreConfig) -> None:
        self.timing = timing
        self.config = config
        self.geometry = Geometry.of(timing, config)
        super().__init__(
            {
                "axi": In(AxiSignature(config)),
                "pins": Out(SdramPinsSignature()),
                "ready": Out(1),
                "failed": Out(1),
                "delay": Out(range(DELAYS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Port and controller."""
        m = Module()
        m.submodules.port = port = AxiPort(self.config, self.geometry)
        m.submodules.controller = controller = Controller(self.timing, self.geometry)
        wiring.connect(m, wiring.flipped(self.axi), port.axi)
        wiring.connect(m, controller.pins, wiring.flipped(self.pins))
        wiring.connect(m, port.reads, controller.reads)
        wiring.connect(m, port.writes, controller.writes)
        m.d.comb += [
            port.enable.eq(controller.ready),
            controller.data.eq(port.data),
            controller.strobe.eq(port.strobe),
            port.take.eq(controller.take),
            port.written.eq(controller.written),
            port.beat.eq(controller.beat),
            port.beat_valid.eq(controller.beat_valid),
            self.ready.eq(controller.ready),
            self.failed.eq(controller.failed),
            self.delay.eq(controller.delay),
        ]
        return m
