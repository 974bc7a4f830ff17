"""Registers around a unit, so that its clock can be measured without the pins it would need."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Harness(wiring.Component):
    """Two registers before every input of a unit, its reset included, and two behind every output.

    Pins would limit the clock, and a core has more of them than a package: one bit each way is
    enough to keep every register of the unit. All paths into and out of the unit begin and end in
    a register, so the clock constrains them all.

    Args:
        unit: what to measure; its module is `top.unit`.

    Members:
        scan_in: `In(1)`, of the chain that feeds the inputs.
        scan_out: `Out(1)`, of the chain that collects the outputs.
    """

    scan_in: Signal
    scan_out: Signal

    def __init__(self, unit: wiring.Component) -> None:
        self.unit = unit
        super().__init__({"scan_in": In(1), "scan_out": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Chain the scan registers through all ports of the unit."""
        m = Module()
        m.domains.unit = domain = ClockDomain("unit", local=True)
        m.submodules.unit = DomainRenamer("unit")(self.unit)  # pyright: ignore[reportArgumentType]
        # The stubs take the second item for a flow; it is a member.
        ports = [
            (member.flow, port)  # pyright: ignore[reportAttributeAccessIssue]
            for _, member, port in self.unit.signature.flatten(self.unit)
        ]
        inputs = Cat(domain.rst, *(port for flow, port in ports if flow == In))
        outputs = Cat(port for flow, port in ports if flow == Out)

        # Without a reset of their own: a reset keeps registers out of the tiles of those without.
        scanned = Signal(len(inputs), reset_less=True)
        driven = Signal(len(inputs), reset_less=True)
        observed = Signal(len(outputs), reset_less=True)
        collected = Signal(len(outputs), reset_less=True)
        m.d.sync += [
            scanned.eq(Cat(self.scan_in, scanned)),
            # Inverted, else Yosys merges each bit with the next one of the chain.
            driven.eq(~scanned),
            observed.eq(outputs),
            collected.eq(Cat(0, collected) ^ observed),
        ]
        m.d.comb += [
            domain.clk.eq(ClockSignal("sync")),
            inputs.eq(driven),
            self.scan_out.eq(collected[-1]),
        ]
        return m
