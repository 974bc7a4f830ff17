"""What data sheets say of SDR SDRAM chips, and what it is in cycles of a clock."""

from dataclasses import dataclass, field
from math import ceil, floor

BANKS = 4
"""Banks of every chip of this class."""

DQ_BITS = 16
"""Data pins, two bytes."""

ADDRESS_BITS = 13
"""Address pins; A10 says "all banks" to a precharge."""

LEAST_CYCLES = 2
"""Cycles of tWR, tRRD and tMRD at any clock. Winbond states two cycles, others only a time."""

TOLERANCE = 0.01
"""Cycles that rounding up may leave out: data sheets call a period of 7 ns 143 MHz."""


@dataclass(frozen=True, kw_only=True)
class SdramChip:
    """A chip by its data sheet. Times are in nanoseconds unless the name says otherwise.

    Attributes:
        name: as it is ordered.
        source: where the numbers are from.
        row_bits: log2 of the rows of a bank.
        column_bits: log2 of the columns of a row, each of 16 bits.
        clock: shortest period for each CAS latency.
        rcd: ACTIVATE to READ or WRITE of that bank.
        rp: PRECHARGE to ACTIVATE of that bank, or to a refresh.
        ras: ACTIVATE to PRECHARGE of that bank.
        rc: ACTIVATE to ACTIVATE of that bank.
        rfc: refresh to refresh or ACTIVATE.
        wr: last word that is written to PRECHARGE of that bank (ISSI: tDPL).
        rrd: ACTIVATE to ACTIVATE of another bank.
        mrd: mode register to any command (Winbond: tRSC).
        refresh_ms: milliseconds in which every row is refreshed.
        refreshes: how many refresh commands that takes.
        startup_us: microseconds from power and clock to the first command.
    """

    name: str
    source: str
    row_bits: int = 13
    column_bits: int = 9
    clock: dict[int, float] = field(hash=False)
    rcd: float
    rp: float
    ras: float
    rc: float
    rfc: float
    wr: float
    rrd: float
    mrd: float
    refresh_ms: float = 64
    refreshes: int = 8192
    startup_us: float = 200

    def __post_init__(self) -> None:
        for name, lowest, highest in (("row_bits", 2, ADDRESS_BITS), ("column_bits", 5, 10)):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise ValueError(f"{name} must be from {lowest} to {highest}, but is {value}")
        if not self.clock or not set(self.clock) <= {2, 3}:
            raise ValueError(f"CAS latencies must be 2 and 3, or one of them, not {self.clock}")

    @property
    def bytes(self) -> int:
        """Size."""
        return BANKS * DQ_BITS // 8 << self.row_bits + self.column_bits


@dataclass(frozen=True, kw_only=True)
class SdramTiming:
    """A chip's times in cycles of its clock; `SdramTiming.at` makes one.

    Attributes:
        chip: whose.
        frequency: Hz.
        cas_latency: cycles from READ to the first word.
        rcd, rp, ras, rc, rfc, wr, rrd, mrd: as in `SdramChip`, at least so many cycles.
        refresh: cycles from refresh to refresh on average, at most.
        startup: cycles before the first command, at least.
    """

    chip: SdramChip
    frequency: float
    cas_latency: int
    rcd: int
    rp: int
    ras: int
    rc: int
    rfc: int
    wr: int
    rrd: int
    mrd: int
    refresh: int
    startup: int

    @classmethod
    def at(cls, chip: SdramChip, frequency: float) -> "SdramTiming":
        """Round a chip's times to cycles, and take the shortest CAS latency that it allows.

        Args:
            chip: the chip.
            frequency: its clock, Hz.

        Raises:
            ValueError: the chip is too slow for this clock, or the clock too slow for refreshes.
        """
        gigahertz = frequency / 1e9

        def cycles(time: float, least: int = 1) -> int:
            return max(least, ceil(time * gigahertz - TOLERANCE))

        allowed = [
            latency
            for latency, period in sorted(chip.clock.items())
            if period * gigahertz <= 1 + TOLERANCE
        ]
        if not allowed:
            period = min(chip.clock.values())
            raise ValueError(
                f"{chip.name} takes a clock of at most {1e3 / period:.0f} MHz "
                f"({period:g} ns), not {frequency / 1e6:g} MHz"
            )
        refresh = floor(chip.refresh_ms * 1e6 * gigahertz / chip.refreshes)
        rfc = cycles(chip.rfc)
        if refresh < 8 * rfc:
            raise ValueError(
                f"at {frequency / 1e6:g} MHz, {chip.name} needs a refresh of {rfc} cycles "
                f"every {refresh} cycles"
            )
        return cls(
            chip=chip,
            frequency=frequency,
            cas_latency=allowed[0],
            rcd=cycles(chip.rcd),
            rp=cycles(chip.rp),
            ras=cycles(chip.ras),
            rc=cycles(chip.rc),
            rfc=rfc,
            wr=cycles(chip.wr, LEAST_CYCLES),
            rrd=cycles(chip.rrd, LEAST_CYCLES),
            mrd=cycles(chip.mrd, LEAST_CYCLES),
            refresh=refresh,
            startup=cycles(chip.startup_us * 1e3),
        )


AS4C32M16 = SdramChip(
    name="AS4C32M16SB-7",
    source="Alliance Memory AS4C32M16SB data sheet, table 16, column -7",
    column_bits=10,
    clock={2: 10, 3: 7},
    rcd=21,
    rp=21,
    ras=42,
    rc=63,
    rfc=63,
    wr=14,
    rrd=14,
    mrd=14,
)
"""64 MB, on the larger ULX3S."""

IS42S16160 = SdramChip(
    name="IS42S16160-7",
    source=(
        "clock: ISSI IS42S16160B data sheet, revision D, key timing parameters, -7; rows: the "
        "slowest of the dies, 20 ns and 45 ns, with a refresh of 70 ns"
    ),
    clock={2: 10, 3: 7},
    rcd=20,
    rp=20,
    ras=45,
    rc=68,
    rfc=70,
    wr=15,
    rrd=15,
    mrd=15,
)
"""32 MB, on ULX3S. The name leaves the die open, so the times of rows have a margin."""

W9825G6KH = SdramChip(
    name="W9825G6KH-6",
    source=(
        "Winbond W9825G6JH data sheet, revision A04, section 9.5, columns -6 and -6I, of which "
        "the slower"
    ),
    clock={2: 10, 3: 6},
    rcd=18,
    rp=18,
    ras=42,
    rc=60,
    rfc=60,
    wr=0,
    rrd=0,
    mrd=0,
)
"""32 MB, on Icepi Zero. tWR, tRRD and tMRD are two cycles each."""

CHIPS = {chip.name: chip for chip in (AS4C32M16, IS42S16160, W9825G6KH)}
"""The chips by name."""
