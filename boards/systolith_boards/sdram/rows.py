"""Rows: start-up, refresh, and which row of which bank is open."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith_boards.sdram.segments import Geometry
from systolith_boards.sdram.timing import ADDRESS_BITS, BANKS, SdramTiming

A10 = 10
"""The bit of the address that, in a precharge, means all banks."""

ACTIVATE, PRECHARGE, REFRESH, MODE = 0b001, 0b101, 0b011, 0b111
"""Commands: RAS, CAS and WE from bit 0 on."""

REFRESHES_AT_START = 8
"""Refreshes that chips want before their mode is set."""

POSTPONED = 4
"""Refreshes that are owed at most before they go first. Chips allow 8."""

PASS_CYCLES = 4
"""Cycles from the grant of an ACTIVATE to the first column command of its segment, at least."""

ACTIVATE_CYCLES = 4
"""Cycles from the grant of an ACTIVATE to that of the next one, at least."""


class RefreshTimer(wiring.Component):
    """How many refreshes are owed.

    Args:
        timing: of the chip.

    Members:
        done: `In(1)`, one has been made.
        owed: `Out(1)`, one is due.
        urgent: `Out(1)`, `POSTPONED` are due.
        powered: `Out(1)`, the pause after power-up is over.
    """

    done: Signal
    owed: Signal
    urgent: Signal
    powered: Signal

    def __init__(self, timing: SdramTiming) -> None:
        self.timing = timing
        super().__init__({"done": In(1), "owed": Out(1), "urgent": Out(1), "powered": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Intervals, of which the pause is a number too."""
        m = Module()
        timing = self.timing
        cycle = Signal(range(timing.refresh), init=timing.refresh - 1)
        interval = Signal()
        pauses = -(-timing.startup // timing.refresh)
        pause = Signal(range(pauses + 1), init=pauses)
        count = Signal(range(16), init=REFRESHES_AT_START)
        m.d.sync += interval.eq(cycle == 1)
        with m.If(interval):
            m.d.sync += cycle.eq(timing.refresh - 1)
        with m.Else():
            m.d.sync += cycle.eq(cycle - 1)
        with m.If(~self.powered):
            m.d.sync += [pause.eq(pause - interval), self.powered.eq(pause == 0)]
        with m.Elif(interval & ~self.done):
            m.d.sync += count.eq(count + 1)
        with m.Elif(self.done & ~interval):
            m.d.sync += count.eq(count - 1)
        m.d.sync += self.urgent.eq(count >= POSTPONED)
        m.d.comb += self.owed.eq(count != 0)
        return m


class Rows(wiring.Component):
    """Open the row of one segment after the other, ahead of the column unit.

    A segment whose row is open takes 3 cycles, others the chip's times besides. A bank is closed
    only when no segment before needs it. Refreshes are made when there is nothing else to do, or,
    with everything before them finished, when `POSTPONED` of them are owed.

    Members:
        i: segments.
        o: the same, their rows open, no later than tRCD.
        busy: `In(BANKS)`, a bank is needed by a segment that was sent, as of a cycle ago.
        idle: `In(1)`, none is.
        used: `In(BANKS)`, this cycle's column command is for this bank,
        used_write: `In(1)`, and is a WRITE.
        command: `Out`, a command, wanted until `grant`. `kind` has RAS, CAS and WE, from bit 0, and
            means nothing without `valid`.
        grant: `In(1)`, it is on the pins in the next cycle.
        initialized: `Out(1)`, the chip's mode is set.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal
    idle: Signal
    used: Signal
    used_write: Signal
    command: wiring.PureInterface
    grant: Signal
    initialized: Signal

    def __init__(self, timing: SdramTiming, geometry: Geometry) -> None:
        self.timing = timing
        self.geometry = geometry
        segment = stream.Signature(geometry.segment_layout)
        command = {"valid": Out(1), "kind": Out(3), "bank": Out(range(BANKS))}
        super().__init__(
            {
                "i": In(segment),
                "o": Out(segment),
                "busy": In(BANKS),
                "idle": In(1),
                "used": In(BANKS),
                "used_write": In(1),
                "command": Out(
                    wiring.Signature({**command, "address": Out(ADDRESS_BITS)}),
                ),
                "grant": In(1),
                "initialized": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One machine for everything, since it has one command at a time."""
        m = Module()
        timing, geometry = self.timing, self.geometry
        m.submodules.refresh = refresh = RefreshTimer(timing)
        m.submodules.rows = rows = Memory(shape=geometry.row_bits, depth=BANKS, init=[])
        segment = Signal(geometry.segment_layout, reset_less=True)
        write_row, read_row = rows.write_port(), rows.read_port(domain="comb")
        opened = Signal(BANKS, reset_less=True)  # all banks are closed at the start
        recovered = self._recovery(m, segment.bank)
        closes = Signal()  # all banks
        is_open = Signal(reset_less=True)
        hit = Signal(reset_less=True)
        may_close = Signal(reset_less=True)
        has_mode = Signal()
        longest = max(timing.rfc, timing.rp, timing.mrd, timing.rcd, timing.rrd)
        timer = Signal(range(longest), reset_less=True)
        lag = max(0, timing.rcd - PASS_CYCLES, timing.rrd - ACTIVATE_CYCLES)
        command, grant = self.command, self.grant
        # A4 to A6: CAS latency; A0 to A2: log2 of the words of a burst, in order.
        mode = timing.cas_latency << 4 | exact_log2(geometry.words)
        row = Signal(ADDRESS_BITS)
        m.d.comb += [
            read_row.addr.eq(segment.bank),
            write_row.addr.eq(segment.bank),
            write_row.data.eq(segment.row),
            write_row.en.eq(self._activated),
            self.o.payload.eq(segment),
            # Bank and address depend on as little as they can. To close banks, and to refresh, the
            # chip looks at A10 alone; nothing is opened before the mode is set.
            row.eq(segment.row),
            command.bank.eq(Mux(has_mode, segment.bank, 0)),
            command.address.eq(Mux(has_mode, row & ~(is_open << A10), mode) | (closes << A10)),
            self.initialized.eq(has_mode),
        ]
        m.d.sync += [
            # A bank does not become busy, nor is it used, while its next segment waits here.
            may_close.eq(
                ~self.busy.bit_select(segment.bank, 1) & recovered.bit_select(segment.bank, 1)
            ),
            timer.eq(timer - 1),
            self._activated.eq(0),
        ]
        with m.If(self._activated):
            m.d.sync += opened.bit_select(segment.bank, 1).eq(1)

        def order(kind: int) -> None:
            m.d.comb += [command.valid.eq(1), command.kind.eq(kind)]

        def granted(then: str, cycles: int) -> None:
            """Go to a waiting state, whose successor comes `cycles` after the grant."""
            with m.If(grant):
                m.d.sync += timer.eq(cycles - 2)
                m.next = then

        with m.FSM():
            with m.State("POWER"), m.If(refresh.powered):
                m.next = "CLOSE"
            with m.State("TAKE"):
                m.d.sync += segment.eq(self.i.payload)
                # Ready or not does not depend on what there is: nothing moves without it anyway.
                m.d.comb += self.i.ready.eq(~refresh.urgent)
                with m.If(refresh.urgent | (refresh.owed & ~self.i.valid)):
                    m.next = "DRAIN"
                with m.Elif(self.i.valid):
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += [
                    is_open.eq(opened.bit_select(segment.bank, 1)),
                    hit.eq(read_row.data == segment.row),
                ]
                m.next = "OPEN"
            with m.State("OPEN"):
                # Without `valid`, the kind is none.
                m.d.comb += [
                    command.kind.eq(Mux(is_open, PRECHARGE, ACTIVATE)),
                    command.valid.eq(~segment.error & (~is_open | (~hit & may_close))),
                ]
                with m.If(segment.error | (is_open & hit)):
                    m.d.comb += self.o.valid.eq(1)
                    with m.If(self.o.ready):
                        m.next = "TAKE"
                with m.Elif(~is_open):
                    m.d.sync += self._activated.eq(grant)
                    granted("OPENING" if lag else "PASS", lag + 1)
                with m.Elif(may_close):
                    with m.If(grant):
                        m.d.sync += is_open.eq(0)
                    granted("CLOSING", timing.rp)
            with m.State("CLOSING"), m.If(timer == 0):
                m.next = "OPEN"
            with m.State("OPENING"), m.If(timer == 0):
                m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "TAKE"
            with m.State("DRAIN"), m.If(self.idle & recovered.all()):
                m.next = "CLOSE"
            with m.State("CLOSE"):
                order(PRECHARGE)
                m.d.comb += closes.eq(1)
                m.d.sync += opened.eq(0)
                granted("CLOSED", timing.rp)
            with m.State("CLOSED"), m.If(timer == 0):
                m.next = "REFRESH"
            with m.State("REFRESH"):
                order(REFRESH)
                m.d.comb += refresh.done.eq(grant)
                granted("REFRESHED", timing.rfc)
            with m.State("REFRESHED"), m.If(timer == 0):
                with m.If(refresh.owed):
                    m.next = "REFRESH"
                with m.Elif(has_mode):
                    m.next = "TAKE"
                with m.Else():
                    m.next = "MODE"
            with m.State("MODE"):
                order(MODE)
                granted("MODE_SET", timing.mrd)
            with m.State("MODE_SET"), m.If(timer == 0):
                m.d.sync += has_mode.eq(1)
                m.next = "TAKE"
        return m

    def _recovery(self, m: Module, bank: Value) -> Signal:
        """Count, for each bank, how long it must stay open; return which need not."""
        timing, words = self.timing, self.geometry.words
        # ACTIVATE comes tRP after PRECHARGE, which therefore keeps tRC too.
        least = max(timing.ras, timing.rc - timing.rp)
        # A column command comes tRCD after ACTIVATE at the earliest, and takes over from it.
        rest = least - timing.rcd
        # A count is looked at a cycle before the grant, and shows a cycle after the command. That
        # of an ACTIVATE shows yet another cycle later, before anything looks at it.
        activated = max(0, least - 3)
        read = max(words, rest) - 2
        written = max(words - 1 + timing.wr, rest) - 2
        # Exactly `left == 0` of each, known a cycle ahead.
        recovered = Signal(BANKS, init=-1, reset_less=True)
        self._activated = Signal(name="activated")
        for number in range(BANKS):
            left = Signal(
                range(max(activated, read, written) + 1), name=f"left_{number}", reset_less=True
            )
            with m.If(self.used[number]):
                m.d.sync += [
                    left.eq(Mux(self.used_write, written, read)),
                    recovered[number].eq(Mux(self.used_write, written == 0, read == 0)),
                ]
            with m.Elif(self._activated & (bank == number)):
                m.d.sync += [left.eq(activated), recovered[number].eq(activated == 0)]
            with m.Elif(~recovered[number]):
                m.d.sync += [left.eq(left - 1), recovered[number].eq(left == 1)]
        return recovered
