"""How far the memory chip's clock is behind the core's, for both sides to find stable pins.

What is sent changes at the FPGA's pins in step with `sync`, and the chip looks at it with its own
clock. What the chip answers comes that much later, and the FPGA looks at it with `sync` again. The
start-up memory test finds the cycle in which it does; but only the phase decides whether there is
one: half a cycle, which is best for what is sent, leaves none for answers between 50 and 70 MHz.
"""

from dataclasses import dataclass

from systolith_boards.sdram.timing import SdramTiming

OUT = (1.5, 4.1)
"""Nanoseconds from `sync` at a register in an I/O cell to its pin, of fast and slow FPGAs."""

SETUP, HOLD = 0.9, 1.0
"""Nanoseconds that a pin must be stable before and after `sync` at a register in its I/O cell."""

SKEW = 0.5
"""Nanoseconds between two pins of the same FPGA that should change at once, the PLL's jitter and
the board's wires included. This and the two above are estimates for LFE5U, speed grade 6, near what
FPGA-DS-02012 calls tCOPLL, tSUPLL and tHPLL; no board has confirmed them."""

CHIP_SETUP, CHIP_HOLD = 1.5, 0.8
"""Nanoseconds that the chip's inputs must be stable before and after its clock."""

ACCESS = {2: 6.0, 3: 5.4}
"""Nanoseconds from the chip's clock to a word on its pins, at most, for each CAS latency."""

CHIP_KEEPS = 2.5
"""Nanoseconds from the chip's next clock for which the word stays, at least. This and the three
above are from Alliance Memory's AS4C32M16SB data sheet, table 16, column -7."""

LATEST = 4
"""Cycles from the READ's word to where it is looked for: more than any clock needs."""


@dataclass(frozen=True)
class ChipClock:
    """A phase of the memory chip's clock.

    Attributes:
        degrees: by how much it is behind `sync`.
        margin: nanoseconds that are left where least are, on both sides and both ways. Where it
            is below 0, some chips will not pass the memory test.
    """

    degrees: float
    margin: float


def chip_clock(timing: SdramTiming) -> ChipClock:
    """Return the phase that leaves most time at the pins.

    Args:
        timing: of the chip at its clock.
    """
    period = 1e9 / timing.frequency

    def between(cycles: int) -> ChipClock:
        """The middle of what is allowed if words are looked for so many cycles later."""
        earliest = max(
            CHIP_SETUP + SKEW,
            (cycles - 1) * period + HOLD - OUT[0] - CHIP_KEEPS,
        )
        latest = min(
            period - CHIP_HOLD - SKEW,
            cycles * period - SETUP - OUT[1] - ACCESS[timing.cas_latency],
        )
        behind = (earliest + latest) / 2
        return ChipClock(behind / period * 360, (latest - earliest) / 2)

    return max(map(between, range(1, LATEST + 1)), key=lambda clock: clock.margin)
