"""Columns: one READ or WRITE for each beat of the segments whose rows are open."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systolith_boards.sdram.segments import Geometry
from systolith_boards.sdram.timing import BANKS, SdramTiming
from systolith_rtl.reset import without_reset


class Columns(wiring.Component):
    """Carry out segments, a beat every `words` cycles, without a gap between segments.

    The first command of a segment that comes when there is nothing to do follows three cycles
    after the segment. A WRITE waits until the words read before it have left the data pins, and
    one cycle more.

    Members:
        i: segments.
        fire: `Out(1)`, a column command in this cycle, or what would be one if not `error`;
        write, error, bank, column: `Out`, which.
        last: `Out(1)`, it is the last one of its burst.
        writes: `Out(1)`, it is a WRITE, and not an error;
        writes_next: `Out(1)`, the same of the next cycle.
        busy: `Out(BANKS)`, banks of segments that were not finished a cycle ago.
        idle: `Out(1)`, there are none.
    """

    i: stream.Interface
    fire: Signal
    write: Signal
    error: Signal
    bank: Signal
    column: Signal
    last: Signal
    writes: Signal
    writes_next: Signal
    busy: Signal
    idle: Signal

    def __init__(self, timing: SdramTiming, geometry: Geometry) -> None:
        self.timing = timing
        self.geometry = geometry
        super().__init__(
            {
                "i": In(stream.Signature(geometry.segment_layout)),
                "fire": Out(1),
                "write": Out(1),
                "error": Out(1),
                "bank": Out(range(BANKS)),
                "column": Out(geometry.column_bits),
                "last": Out(1),
                "writes": Out(1),
                "writes_next": Out(1),
                "busy": Out(BANKS),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The segment that is carried out, and the one behind it."""
        m = Module()
        geometry, words = self.geometry, self.geometry.words
        segment = Signal(geometry.segment_layout, reset_less=True)
        # What the banks and the pins are said to do without a segment ends by itself.
        without_reset(self.write, self.error, self.bank, self.column, self.last, self.busy)
        active = Signal()
        following = Signal(geometry.segment_layout, reset_less=True)
        waiting = Signal()
        ends = Signal()
        paced = Signal(init=1, reset_less=True)
        pace = Signal(range(words), reset_less=True)
        # From a READ on, its words have left the pins after CAS latency and `words` cycles.
        turn = self.timing.cas_latency + words + 1
        turned = Signal(init=1, reset_less=True)
        turning = Signal(range(turn), reset_less=True)
        # Decided a cycle ahead: all that a command sets off starts from a register.
        fire = Signal()
        take = ~active | (fire & ends)
        m.d.comb += [
            self.i.ready.eq(~waiting),
            fire.eq(active & paced & (turned | ~segment.write)),
            ends.eq(segment.length == 0),
            self.writes_next.eq(fire & segment.write & ~segment.error),
            self.idle.eq(~active & ~waiting & ~self.fire),
        ]
        m.d.sync += [
            self.fire.eq(fire),
            self.write.eq(segment.write),
            self.error.eq(segment.error),
            self.bank.eq(segment.bank),
            self.column.eq(segment.column),
            self.last.eq(segment.last & ends),
            self.writes.eq(self.writes_next),
        ]
        for bank in range(BANKS):
            m.d.sync += self.busy[bank].eq(
                (active & (segment.bank == bank))
                | (waiting & (following.bank == bank))
                | (self.fire & (self.bank == bank))
            )

        with m.If(~waiting):
            m.d.sync += [following.eq(self.i.payload), waiting.eq(self.i.valid)]
        with m.Elif(take):
            m.d.sync += waiting.eq(0)
        with m.If(take):
            m.d.sync += [segment.eq(following), active.eq(waiting)]
        with m.Elif(fire):
            m.d.sync += [
                segment.column.eq(segment.column + 1),
                segment.length.eq(segment.length - 1),
            ]

        # Both flags are low from the cycle after a command to the one before its time is over.
        with m.If(fire):
            m.d.sync += [paced.eq(0), pace.eq(words - 2)]
        with m.Else():
            m.d.sync += [paced.eq(paced | (pace == 0)), pace.eq(Mux(pace == 0, 0, pace - 1))]
        with m.If(fire & ~segment.write):
            m.d.sync += [turned.eq(0), turning.eq(turn - 2)]
        with m.Else():
            m.d.sync += [
                turned.eq(turned | (turning == 0)),
                turning.eq(Mux(turning == 0, 0, turning - 1)),
            ]
        return m
