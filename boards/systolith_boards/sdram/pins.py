"""What connects a controller and a chip."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith_boards.sdram.timing import ADDRESS_BITS, BANKS, DQ_BITS

PINS_PER_ENABLE = 4
"""Pins of DQ that share a register which lets them drive."""


class SdramPinsSignature(wiring.Signature):
    """The pins of a chip, as its controller sees them, without the clock.

    All signals but `dqm` are active high; the chip's CS#, RAS#, CAS# and WE# are their inverses
    (`PinsN` in platforms of amaranth-boards). Outputs come straight from registers, and `dq_i`
    goes straight into one. A board may add registers on the way (`io.FFBuffer`), the same number
    to each output, and shift or invert the chip's clock: that only lengthens the time from a READ
    to its words, which the controller finds out.

    Members:
        cke: clock enable.
        cs, ras, cas, we: the command. Without `cs` there is none.
        ba: bank.
        a: row, column, or mode; A10 alone closes all banks.
        dqm: a high bit masks a byte, in a write together with it, in a read two cycles before it.
        dq_o: the word to write, in the cycle of WRITE and those after it.
        dq_oe: the FPGA drives all of DQ. It is low for a cycle between words read and written.
        dq_oes: copies of `dq_oe`, one for every `PINS_PER_ENABLE` pins, for boards where they are
            far apart.
        dq_i: DQ. With no register and no delay on the way, the first word of a READ that is on
            the pins in cycle 0 is here in cycle CAS latency.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "cke": Out(1),
                "cs": Out(1),
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "ba": Out(range(BANKS)),
                "a": Out(ADDRESS_BITS),
                "dqm": Out(DQ_BITS // 8),
                "dq_o": Out(DQ_BITS),
                "dq_oe": Out(1),
                "dq_oes": Out(DQ_BITS // PINS_PER_ENABLE),
                "dq_i": In(DQ_BITS),
            }
        )
