"""The clocks of a board, from one PLL of ECP5; and the memory chip's clock pin.

Source: Lattice FPGA-TN-02200, "ECP5 and ECP5-5G sysCLOCK PLL/DLL Design and Usage Guide".
"""

from dataclasses import dataclass

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In

VCO_HZ = (400e6, 800e6)
"""What the oscillator can do."""

PFD_HZ = (3.125e6, 400e6)
"""What its phase comparator can do."""

DIVIDERS = 128
"""Each divider is from 1 to this."""

OUTPUT_DIVIDERS = 64
"""That of the outputs, so that its phase, counted from one less than it, has seven bits."""

EIGHTHS = 8
"""The finest step of a phase, in parts of an oscillator's cycle."""

TOLERANCE = 1e-3
"""Most that a clock may be off, as a share of it."""


@dataclass(frozen=True, kw_only=True)
class PllSettings:
    """Dividers of EHXPLLL, its first output fed back.

    Attributes:
        input_divider: in front of the phase comparator.
        feedback_divider: of the first output, likewise.
        output_divider: of the oscillator, for either output.
        shift: of the second output behind the first, in eighths of an oscillator's cycle.
        frequency: of the outputs, Hz.
    """

    input_divider: int
    feedback_divider: int
    output_divider: int
    shift: int
    frequency: float


def pll(source: float, frequency: float, degrees: float) -> PllSettings:
    """Find dividers, with the fastest phase comparator of those that are nearest.

    Args:
        source: Hz.
        frequency: wanted, Hz.
        degrees: by which the second output is behind the first, from 0 to 360.

    Raises:
        ValueError: the PLL cannot make it; the message names what is near.
    """
    best: tuple[float, int, PllSettings] | None = None
    for input_divider in range(1, DIVIDERS + 1):
        if not PFD_HZ[0] <= source / input_divider <= PFD_HZ[1]:
            continue
        feedback = max(1, min(DIVIDERS, round(frequency * input_divider / source)))
        made = source * feedback / input_divider
        for divider in range(OUTPUT_DIVIDERS, 0, -1):
            if VCO_HZ[0] <= made * divider <= VCO_HZ[1]:
                settings = PllSettings(
                    input_divider=input_divider,
                    feedback_divider=feedback,
                    output_divider=divider,
                    shift=round(degrees / 360 * divider * EIGHTHS) % (divider * EIGHTHS),
                    frequency=made,
                )
                key = (abs(made - frequency), input_divider)
                if best is None or key < best[:2]:
                    best = (*key, settings)
                break
    if best is None or best[0] > TOLERANCE * frequency:
        near = "" if best is None else f"; near it is {best[2].frequency / 1e6:.3f} MHz"
        raise ValueError(
            f"the PLL cannot make {frequency / 1e6:g} MHz of {source / 1e6:g} MHz{near}"
        )
    return best[2]


class Clocks(wiring.Component):
    """Drives the domain `sync`, in reset until the PLL has locked, and the memory chip's clock.

    The domains are those of whoever has this as a part; `sdram` has no reset.

    Args:
        settings: of the PLL.
        pin: the memory chip's clock.

    Members:
        source: `In(1)`, the board's oscillator.
    """

    source: Signal

    def __init__(self, settings: PllSettings, pin: io.PortLike) -> None:
        self.settings = settings
        self._pin = pin
        super().__init__({"source": In(1)})

    def elaborate(self, platform: object) -> Module:
        """One EHXPLLL."""
        m = Module()
        s = self.settings
        locked = Signal()
        # A divider's counter starts at its phase: one less than the divider is none.
        phase = s.output_divider - 1
        m.submodules.pll = Instance(
            "EHXPLLL",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=s.input_divider,
            p_CLKFB_DIV=s.feedback_divider,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=s.output_divider,
            p_CLKOP_CPHASE=phase,
            p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED",
            p_CLKOS_DIV=s.output_divider,
            p_CLKOS_CPHASE=phase + s.shift // EIGHTHS,
            p_CLKOS_FPHASE=s.shift % EIGHTHS,
            i_CLKI=self.source,
            i_CLKFB=ClockSignal("sync"),
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(0),
            i_PHASESTEP=Const(0),
            i_PHASELOADREG=Const(0),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            i_ENCLKOS=Const(0),
            o_CLKOP=ClockSignal("sync"),
            o_CLKOS=ClockSignal("sdram"),
            o_LOCK=locked,
        )
        m.submodules.reset = ResetSynchronizer(~locked, domain="sync")
        # A clock gets to a pin in time only through the pin's own register.
        direction = io.Direction.Output
        m.submodules.chip = chip = io.DDRBuffer(direction, self._pin, o_domain="sdram")
        m.d.comb += [chip.o[0].eq(1), chip.o[1].eq(0)]
        return m
