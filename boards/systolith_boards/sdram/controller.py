"""The controller: segments in, pins out."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith_boards.sdram.columns import Columns
from systolith_boards.sdram.memory_test import MemoryTest
from systolith_boards.sdram.pins import SdramPinsSignature
from systolith_boards.sdram.rows import Rows
from systolith_boards.sdram.segments import Geometry, Turns
from systolith_boards.sdram.timing import ADDRESS_BITS, DQ_BITS, SdramTiming
from systolith_boards.sdram.words import DELAYS, MASK_BITS, Reader, Writer


class Controller(wiring.Component):
    """Start a chip, test it, then carry out segments of reads and writes, each kind in order.

    Members:
        reads, writes: segments; there must be room for, or be, all of a segment's beats.
        data: `In`, the beat of the next WRITE,
        strobe: `In`, and which of its bytes,
        take: `Out(1)`, taken in this cycle, if there is one;
        written: `Out(1)`, a cycle later: it was the last one of its burst.
        beat: `Out`, the beat of a READ,
        beat_valid: `Out(1)`, in this cycle.
        pins: the chip.
        ready: `Out(1)`, segments are taken.
        failed: `Out(1)`, the chip failed the test. Only a reset ends that.
        delay: `Out`, cycles of delay that reads are taken with; chosen when `ready`.
    """

    reads: stream.Interface
    writes: stream.Interface
    data: Signal
    strobe: Signal
    take: Signal
    written: Signal
    beat: Signal
    beat_valid: Signal
    pins: wiring.PureInterface
    ready: Signal
    failed: Signal
    delay: Signal

    def __init__(self, timing: SdramTiming, geometry: Geometry) -> None:
        self.timing = timing
        self.geometry = geometry
        segment = stream.Signature(geometry.segment_layout)
        super().__init__(
            {
                "reads": In(segment),
                "writes": In(segment),
                "data": In(geometry.words * DQ_BITS),
                "strobe": In(geometry.words * MASK_BITS),
                "take": Out(1),
                "written": Out(1),
                "beat": Out(geometry.words * DQ_BITS),
                "beat_valid": Out(1),
                "pins": Out(SdramPinsSignature()),
                "ready": Out(1),
                "failed": Out(1),
                "delay": Out(range(DELAYS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Segments through rows and columns, words beside them."""
        m = Module()
        timing, geometry = self.timing, self.geometry
        m.submodules.turns = turns = Turns(geometry)
        m.submodules.rows = rows = Rows(timing, geometry)
        m.submodules.columns = columns = Columns(timing, geometry)
        m.submodules.writer = writer = Writer(geometry)
        m.submodules.reader = reader = Reader(timing, geometry)
        m.submodules.test = test = MemoryTest(geometry)
        wiring.connect(m, wiring.flipped(self.reads), turns.reads)
        wiring.connect(m, wiring.flipped(self.writes), turns.writes)
        wiring.connect(m, rows.o, columns.i)
        m.d.comb += [
            turns.starving.eq(columns.idle),
            rows.i.payload.eq(Mux(test.testing, test.o.payload, turns.o.payload)),
            # Nothing comes by the port before the test is over, nor by the test from then on.
            rows.i.valid.eq(test.o.valid | turns.o.valid),
            test.o.ready.eq(rows.i.ready),
            turns.o.ready.eq(rows.i.ready),
            rows.busy.eq(columns.busy),
            rows.idle.eq(columns.idle),
            rows.used.eq((columns.fire & ~columns.error) << columns.bank),
            rows.used_write.eq(columns.write),
            rows.grant.eq(~columns.fire),
            test.enable.eq(rows.initialized),
            test.sent.eq(writer.takes),
            test.word.eq(reader.word),
            test.word_valid.eq(reader.word_valid),
            self.ready.eq(test.ready),
            self.failed.eq(test.failed),
            self.delay.eq(test.delay),
        ]

        write = columns.fire & columns.write
        m.d.comb += [
            writer.start.eq(columns.writes),
            writer.starts_next.eq(columns.writes_next),
            writer.data.eq(self.data),
            writer.strobe.eq(self.strobe),
            writer.testing.eq(test.testing),
            writer.pattern.eq(test.pattern),
            writer.blocked.eq(~rows.initialized),
            # During the test, no beat is there to be taken.
            self.take.eq(write),
            # A read that is not carried out has beats too, with whatever is on the pins.
            reader.start.eq(columns.fire & ~columns.write),
            reader.delay.eq(test.delay),
            reader.dq_i.eq(self.pins.dq_i),
            self.beat.eq(reader.beat),
            self.beat_valid.eq(reader.beat_valid & test.ready),
        ]
        m.d.sync += self.written.eq(write & columns.last & test.ready)
        self._drive_pins(m, rows.command, columns, writer)
        return m

    def _drive_pins(
        self, m: Module, command: wiring.PureInterface, columns: Columns, writer: Writer
    ) -> None:
        """The registers of the command: a column's, else a row's, else none."""
        pins = self.pins
        layout = data.StructLayout({"kind": 3, "ba": 2, "a": ADDRESS_BITS})
        register = Signal(layout, reset_less=True)
        given = Signal()
        enable = Signal()
        column = columns.column << exact_log2(self.geometry.words)
        m.d.sync += enable.eq(1)
        m.d.comb += [
            pins.cke.eq(enable),
            pins.cs.eq(given),
            Cat(pins.ras, pins.cas, pins.we).eq(register.kind),
            pins.ba.eq(register.ba),
            pins.a.eq(register.a),
            pins.dqm.eq(writer.dqm),
            pins.dq_o.eq(writer.dq_o),
            pins.dq_oe.eq(writer.dq_oe),
            pins.dq_oes.eq(writer.dq_oes),
        ]
        with m.If(columns.fire):
            m.d.sync += [
                given.eq(~columns.error),
                register.kind.eq(Cat(0, 1, columns.write)),
                register.ba.eq(columns.bank),
                register.a.eq(column),
            ]
        with m.Else():
            m.d.sync += [
                given.eq(command.valid),
                register.kind.eq(command.kind),
                register.ba.eq(command.bank),
                register.a.eq(command.address),
            ]
