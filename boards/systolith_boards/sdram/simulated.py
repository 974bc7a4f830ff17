"""Controller and chip together, for simulators: an AXI4 memory that keeps the rules of a chip."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_boards.sdram.chip import ChipModel, Violation
from systolith_boards.sdram.sdram import Sdram
from systolith_boards.sdram.timing import SdramTiming
from systolith_rtl.interfaces import AxiSignature


class SimulatedSdram(wiring.Component):
    """An `Sdram` whose pins go to a `ChipModel`.

    Args:
        timing: the chip, as the controller takes it.
        config: for the widths of AXI.
        chip: the model; one of `timing` that stores all words, if not given.

    Members:
        axi: `In(AxiSignature(config))`.
        ready, failed: `Out(1)`, as of `Sdram`.
        violations, first, refreshes: `Out`, as of `ChipModel`.

    Attributes:
        sdram: the controller.
        chip: the model.
    """

    axi: wiring.PureInterface
    ready: Signal
    failed: Signal
    violations: Signal
    first: Signal
    refreshes: Signal

    def __init__(
        self, timing: SdramTiming, config: CoreConfig, *, chip: ChipModel | None = None
    ) -> None:
        self.sdram = Sdram(timing, config)
        self.chip = chip or ChipModel(timing)
        super().__init__(
            {
                "axi": In(AxiSignature(config)),
                "ready": Out(1),
                "failed": Out(1),
                "violations": Out(len(Violation)),
                "first": Out(range(len(Violation))),
                "refreshes": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wires."""
        m = Module()
        m.submodules.sdram = sdram = self.sdram
        m.submodules.chip = chip = self.chip
        wiring.connect(m, wiring.flipped(self.axi), sdram.axi)
        wiring.connect(m, sdram.pins, chip.pins)
        m.d.comb += [
            self.ready.eq(sdram.ready),
            self.failed.eq(sdram.failed),
            self.violations.eq(chip.violations),
            self.first.eq(chip.first),
            self.refreshes.eq(chip.refreshes),
        ]
        return m
