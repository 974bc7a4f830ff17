"""A strict model of an SDR SDRAM: it stores what it is told, and reports every broken rule.

It shares nothing with the controller but the pins and the numbers of the data sheet. It is a
component, so the same one runs in Amaranth's simulator, in Verilator and in Icarus Verilog.
"""

from enum import IntEnum

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith_boards.sdram.pins import SdramPinsSignature
from systolith_boards.sdram.timing import BANKS, DQ_BITS, SdramTiming

MOST_POSTPONED = 8
"""Refreshes that may be late."""

LEAST_REFRESHES = 8
"""Refreshes before the mode is set."""

MASK_LATENCY = 2
"""Cycles from DQM to the word that it masks in a read."""

AGE_BITS = 6
"""Of counters of the cycles since something; they stop at the highest number."""


class Violation(IntEnum):
    """A rule that was broken."""

    PAUSE = 0
    """A command before the pause after power-up was over."""
    SEQUENCE = 1
    """An access before the mode was set, or a mode before a precharge and 8 refreshes."""
    MODE = 2
    """A mode with another CAS latency than the clock asks for, or with reserved bits."""
    COMMAND = 3
    """A command that the model does not have: burst stop, auto precharge, no CKE."""
    OPEN_BANK = 4
    """ACTIVATE of an open bank."""
    CLOSED_BANK = 5
    """READ or WRITE in a closed bank."""
    BANKS_OPEN = 6
    """A refresh or a mode while a bank is open."""
    RCD = 7
    """READ or WRITE too soon after ACTIVATE."""
    RP = 8
    """ACTIVATE, refresh or mode too soon after PRECHARGE."""
    RAS = 9
    """PRECHARGE too soon after ACTIVATE."""
    RC = 10
    """ACTIVATE too soon after ACTIVATE of the same bank."""
    RRD = 11
    """ACTIVATE too soon after ACTIVATE of another bank."""
    RFC = 12
    """Any command too soon after a refresh."""
    MRD = 13
    """Any command too soon after a mode."""
    WR = 14
    """PRECHARGE too soon after a word written to that bank."""
    CUT = 15
    """READ, WRITE or PRECHARGE within a burst, which ends it."""
    LATE_REFRESH = 16
    """More than 8 refreshes are owed."""
    CONTENTION = 17
    """The controller drives DQ together with the chip, or in the cycle after it."""
    FLOATING = 18
    """A word is written, and the controller does not drive DQ."""


class ChipModel(wiring.Component):
    """The chip, clocked by `sync`.

    Args:
        timing: its times at this clock.
        address_bits: log2 of the words that it stores; above them, addresses repeat.
        round_trip: cycles that DQ takes to the controller longer than with no delay.

    Members:
        pins: `In(SdramPinsSignature())`.
        violations: `Out`, a bit for each `Violation` that has been seen.
        first: `Out`, the first one.
        count: `Out(16)`, cycles in which there was one; stops at the highest number.
        refreshes: `Out(16)`, refreshes until now.
    """

    pins: wiring.PureInterface
    violations: Signal
    first: Signal
    count: Signal
    refreshes: Signal

    def __init__(
        self, timing: SdramTiming, *, address_bits: int | None = None, round_trip: int = 0
    ) -> None:
        chip = timing.chip
        self.timing = timing
        whole = chip.row_bits + chip.column_bits + 2
        self.address_bits = whole if address_bits is None else min(address_bits, whole)
        self.round_trip = round_trip
        super().__init__(
            {
                "pins": In(SdramPinsSignature()),
                "violations": Out(len(Violation)),
                "first": Out(range(len(Violation))),
                "count": Out(16),
                "refreshes": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Decode, keep the state of the banks, move words, and judge all of it."""
        m = Module()
        self._broken = Signal(len(Violation), name="broken")
        self._decode(m)
        self._start_up(m)
        self._banks(m)
        self._bursts(m)
        self._refresh(m)
        self._report(m)
        return m

    def _breaks(self, m: Module, violation: Violation, condition: Value) -> None:
        m.d.comb += self._broken[violation].eq(condition)

    @staticmethod
    def _age(m: Module, name: str, event: Value) -> Signal:
        """Cycles since `event`: 1 in the cycle after it."""
        age = Signal(AGE_BITS, init=(1 << AGE_BITS) - 1, name=name)
        with m.If(event):
            m.d.sync += age.eq(1)
        with m.Elif(~age.all()):
            m.d.sync += age.eq(age + 1)
        return age

    def _decode(self, m: Module) -> None:
        pins = self.pins
        code = Cat(pins.we, pins.cas, pins.ras)
        given = pins.cs & pins.cke
        names = ("nop", "stop", "read", "write", "activate", "precharge", "refresh", "mode")
        codes = (0b000, 0b001, 0b010, 0b011, 0b100, 0b101, 0b110, 0b111)
        for name, number in zip(names, codes, strict=True):
            command = Signal(name=f"is_{name}")
            m.d.comb += command.eq(given & (code == number))
            setattr(self, f"_is_{name}", command)
        self._any = Signal(name="any_command")
        self._column = Signal(name="is_access")
        m.d.comb += [
            self._any.eq(pins.cs & code.any()),
            self._column.eq(self._is_read | self._is_write),
        ]
        self._breaks(
            m,
            Violation.COMMAND,
            self._is_stop | (self._column & pins.a[10]) | (self._any & ~pins.cke),
        )

    def _start_up(self, m: Module) -> None:
        timing = self.timing
        pause = Signal(range(timing.startup + 1))
        closed = Signal()
        refreshed = Signal(range(LEAST_REFRESHES + 1))
        self._latency = Signal(3, name="latency")
        self._burst = Signal(4, name="burst")
        self._has_mode = Signal(name="has_mode")
        age = self._age(m, "since_mode", self._is_mode)
        with m.If(pause != timing.startup):
            m.d.sync += pause.eq(pause + 1)
        with m.If(self._is_precharge & self.pins.a[10]):
            m.d.sync += closed.eq(1)
        with m.If(self._is_refresh & (refreshed != LEAST_REFRESHES)):
            m.d.sync += refreshed.eq(refreshed + 1)
        mode = self.pins.a
        legal = (
            (self.pins.ba == 0)
            & (mode[7:] == 0)
            & ~mode[3]
            & (mode[:3] <= 3)
            & (mode[4:7] == timing.cas_latency)
        )
        with m.If(self._is_mode):
            m.d.sync += [
                self._has_mode.eq(1),
                self._latency.eq(mode[4:7]),
                self._burst.eq(Value.cast(1) << mode[:2]),
            ]
        self._breaks(m, Violation.PAUSE, self._any & (pause != timing.startup))
        self._breaks(
            m,
            Violation.SEQUENCE,
            ((self._is_activate | self._column) & ~self._has_mode)
            | (self._is_mode & (~closed | (refreshed != LEAST_REFRESHES))),
        )
        self._breaks(m, Violation.MODE, self._is_mode & ~legal)
        self._breaks(m, Violation.MRD, self._any & (age < timing.mrd))

    def _banks(self, m: Module) -> None:
        timing, pins = self.timing, self.pins
        any_activate = self._age(m, "since_any_activate", self._is_activate)
        rows, is_open = [], []
        broken: dict[Violation, list[Value]] = {
            violation: []
            for violation in (
                Violation.OPEN_BANK,
                Violation.CLOSED_BANK,
                Violation.RCD,
                Violation.RP,
                Violation.RAS,
                Violation.RC,
                Violation.WR,
                Violation.CUT,
            )
        }
        quiet = self._is_refresh | self._is_mode
        for bank in range(BANKS):
            mine = pins.ba == bank
            activate = self._is_activate & mine
            precharge = self._is_precharge & (mine | pins.a[10])
            opened = Signal(name=f"open_{bank}")
            row = Signal(timing.chip.row_bits, name=f"row_{bank}")
            with m.If(activate):
                m.d.sync += [opened.eq(1), row.eq(pins.a)]
            with m.Elif(precharge):
                m.d.sync += opened.eq(0)
            rows.append(row)
            is_open.append(opened)
            activated = self._age(m, f"since_activate_{bank}", activate)
            precharged = self._age(m, f"since_precharge_{bank}", precharge & opened)
            read = self._age(m, f"since_read_{bank}", self._is_read & mine)
            wrote = self._age(m, f"since_write_{bank}", self._is_write & mine)
            # The last word of a WRITE comes a burst's length less one after it.
            recovery = self._burst - 1 + timing.wr
            broken[Violation.OPEN_BANK].append(activate & opened)
            broken[Violation.CLOSED_BANK].append(self._column & mine & ~opened)
            broken[Violation.RCD].append(self._column & mine & (activated < timing.rcd))
            broken[Violation.RP].append((activate | quiet) & (precharged < timing.rp))
            broken[Violation.RAS].append(precharge & opened & (activated < timing.ras))
            broken[Violation.RC].append(activate & (activated < timing.rc))
            broken[Violation.WR].append(precharge & opened & (wrote < recovery))
            broken[Violation.CUT].append(precharge & opened & (read < self._burst))
        self._precharge_cuts = Cat(broken.pop(Violation.CUT)).any()
        for violation, conditions in broken.items():
            self._breaks(m, violation, Cat(conditions).any())
        self._breaks(m, Violation.RRD, self._is_activate & (any_activate < timing.rrd))
        self._breaks(m, Violation.BANKS_OPEN, quiet & Cat(is_open).any())
        self._row = Array(rows)[pins.ba]

    def _bursts(self, m: Module) -> None:
        """One burst at a time is started; its words pass the memory, then the CAS latency."""
        pins, chip = self.pins, self.timing.chip
        m.submodules.memory = memory = Memory(shape=DQ_BITS, depth=1 << self.address_bits, init=[])
        port = memory.read_port(domain="comb")
        write_port = memory.write_port(granularity=8)
        line = Signal(chip.row_bits + 2 + chip.column_bits)
        left = Signal(4)
        writes = Signal()
        start = Cat(pins.a[: chip.column_bits], pins.ba, self._row)
        inner = Signal(3)
        # Words of an aligned block of the burst's length come in order, from any of them on.
        block = (self._burst - 1)[:3]
        wrapped = Cat((line[:3] & ~block) | ((line[:3] + inner)[:3] & block), line[3:])
        now = Signal(len(line))
        moves_in = Signal()
        moves_out = Signal()
        m.d.comb += [
            now.eq(Mux(self._column, start, wrapped)),
            moves_in.eq(self._is_write | (~self._column & writes & (left != 0))),
            moves_out.eq(self._is_read | (~self._column & ~writes & (left != 0))),
            port.addr.eq(now),
            write_port.addr.eq(now),
            write_port.data.eq(pins.dq_o),
            write_port.en.eq(~pins.dqm & moves_in.replicate(2)),
        ]
        with m.If(self._column):
            m.d.sync += [
                line.eq(start),
                inner.eq(1),
                left.eq(self._burst - 1),
                writes.eq(self._is_write),
            ]
        with m.Elif(left != 0):
            m.d.sync += [inner.eq(inner + 1), left.eq(left - 1)]
        self._breaks(m, Violation.CUT, (self._column & (left != 0)) | self._precharge_cuts)
        self._breaks(
            m, Violation.FLOATING, moves_in & ~pins.dq_oe & (pins.dqm != (1 << len(pins.dqm)) - 1)
        )

        # What moves out in a cycle is on DQ a CAS latency later.
        words = [Signal(DQ_BITS, name=f"word_{stage}") for stage in range(1, 4)]
        valids = [Signal(name=f"valid_{stage}") for stage in range(1, 4)]
        for signal, before in zip(words, [port.data, *words], strict=False):
            m.d.sync += signal.eq(before)
        for signal, before in zip(valids, [moves_out, *valids], strict=False):
            m.d.sync += signal.eq(before)
        out = Mux(self._latency == 2, words[1], words[2])
        drives = Signal()
        drove = Signal()
        m.d.comb += drives.eq(Mux(self._latency == 2, valids[1], valids[2]))
        m.d.sync += drove.eq(drives)
        self._breaks(m, Violation.CONTENTION, pins.dq_oe & (drives | drove))

        mask = pins.dqm
        for _ in range(MASK_LATENCY):
            later = Signal(len(mask))
            m.d.sync += later.eq(mask)
            mask = later
        # Nobody drives: something that changes, so that nobody takes it for a word.
        noise = Signal(DQ_BITS, init=0x5A5A)
        m.d.sync += noise.eq(noise * 5 + 0x3A6B)
        seen = Cat(
            Mux(drives & ~mask[byte], out.word_select(byte, 8), noise.word_select(byte, 8))
            for byte in range(len(mask))
        )
        for _ in range(self.round_trip):
            later = Signal(DQ_BITS)
            m.d.sync += later.eq(seen)
            seen = later
        m.d.comb += pins.dq_i.eq(seen)

    def _refresh(self, m: Module) -> None:
        timing = self.timing
        refresh = self._is_refresh
        age = self._age(m, "since_refresh", refresh)
        cycle = Signal(range(timing.refresh))
        interval = Signal()
        # Biased: refreshes may be early as well as late.
        owed = Signal(range(2 * MOST_POSTPONED + 2), init=MOST_POSTPONED)
        m.d.comb += interval.eq(cycle == timing.refresh - 1)
        m.d.sync += cycle.eq(Mux(interval, 0, cycle + 1))
        most = 2 * MOST_POSTPONED + 1
        with m.If(~self._has_mode):
            m.d.sync += [owed.eq(MOST_POSTPONED), cycle.eq(0)]
        with m.Elif(refresh & ~interval & (owed != 0)):
            m.d.sync += owed.eq(owed - 1)
        with m.Elif(interval & ~refresh & (owed != most)):
            m.d.sync += owed.eq(owed + 1)
        m.d.sync += self.refreshes.eq(self.refreshes + refresh)
        self._breaks(m, Violation.LATE_REFRESH, owed == most)
        self._breaks(m, Violation.RFC, self._any & (age < timing.rfc))

    def _report(self, m: Module) -> None:
        broken = self._broken
        m.d.sync += self.violations.eq(self.violations | broken)
        with m.If(broken.any() & ~self.count.all()):
            m.d.sync += self.count.eq(self.count + 1)
        with m.If(self.count == 0):
            for violation in reversed(Violation):
                with m.If(broken[violation]):
                    m.d.sync += self.first.eq(violation)
