"""LOAD: bytes from memory, or zeros, into the scratchpad, the column memory and the tables."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import COLUMN_RECORD_BYTES, CoreConfig
from systolith.isa import Opcode
from systolith.regs import FaultCause
from systolith_rtl.dma.bounds import ENTRY_BYTES, size_width
from systolith_rtl.dma.burst import MAX_BEATS, Splitter, burst_layout
from systolith_rtl.dma.fifo import BeatFifo, count
from systolith_rtl.dma.realign import Realigner
from systolith_rtl.dma.walk import Walker
from systolith_rtl.dma.writer import LoadWriter, tag_layout
from systolith_rtl.interfaces import (
    SIDE_SIGNATURE,
    EngineSignature,
    ReadSignature,
    WriteSignature,
)
from systolith_rtl.reset import without_reset
from systolith_rtl.settings import MEMORIES, LookupSignature
from systolith_rtl.skid import Skid

FIFO_BEATS = 256
"""Beats that are under way or wait to be written: enough for 120 cycles of memory latency."""

RUNS = 32
"""Runs under way. Runs of 8 beats and more are read at full rate at any latency up to 120."""

SIDE_WORD_BYTES = 4
"""Bytes of a write to column memory or tables."""

MAX_INSTRUCTIONS = 63
"""Instructions that may be under way; the queue of runs ends earlier."""


class LoadEngine(wiring.Component):
    """Walk, read ahead, realign, write.

    Reads of an instruction may be under way while an earlier one's bytes are still being written.
    A beat is asked for only when the FIFO has space for it.

    Members:
        engine: `Out(EngineSignature(Opcode.LOAD))`.
        lookup: the settings.
        burst: what to read.
        burst_next: `Out(1)`, it is offered in the next cycle, unless it is taken now or halted.
        beat: a beat and whether its response was an error, in order.
        beat_valid: `In(1)`.
        active: `In(1)`, beats are owed.
        read: the scratchpad, for index lists.
        write: the scratchpad.
        side: column memory and tables.
    """

    engine: wiring.PureInterface
    lookup: Sequence[wiring.PureInterface]
    burst: stream.Interface
    burst_next: Signal
    beat: data.View
    beat_valid: Signal
    active: Signal
    read: wiring.PureInterface
    write: wiring.PureInterface
    side: stream.Interface

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        beat = data.StructLayout({"data": config.axi_data_bits, "error": 1})
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.LOAD)),
                "lookup": Out(LookupSignature()).array(MEMORIES),
                "burst": Out(stream.Signature(burst_layout(config))),
                "burst_next": Out(1),
                "beat": In(beat),
                "beat_valid": In(1),
                "active": In(1),
                "read": Out(ReadSignature(config)),
                "write": Out(WriteSignature(config)),
                "side": Out(SIDE_SIGNATURE),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts, and count space and instructions."""
        m = Module()
        config, engine = self.config, self.engine
        without_reset(engine.fault_cause, engine.fault_address)
        m.submodules.walker = walker = Walker(config, Opcode.LOAD)
        m.submodules.splitter = splitter = Splitter(
            config,
            size_width=size_width(config),
            space_width=len(Signal(range(FIFO_BEATS + 1))),
        )
        m.submodules.fifo = fifo = BeatFifo(width=config.axi_data_bits, depth=FIFO_BEATS)
        m.submodules.realigner = realigner = Realigner(
            width=config.axi_bytes,
            size_width=size_width(config),
            tag=tag_layout(config),
            runs=RUNS,
        )
        m.submodules.writer = writer = LoadWriter(config)
        stopped = Signal()
        m.d.sync += stopped.eq(engine.halt | engine.fault)
        m.submodules.skid = skid = Skid(realigner.o.payload.shape())
        wiring.connect(m, realigner.o, skid.i)
        m.d.comb += realigner.o_next.eq(skid.i_next)

        for port, mine in zip(walker.lookup, self.lookup, strict=True):
            wiring.connect(m, port, wiring.flipped(mine))
        wiring.connect(m, wiring.flipped(self.read), walker.read)
        wiring.connect(m, wiring.flipped(self.write), writer.write)
        wiring.connect(m, wiring.flipped(self.side), writer.side)
        m.d.comb += [
            writer.i.valid.eq(skid.o.valid),
            writer.i.payload.eq(skid.o.payload),
            skid.o.ready.eq(writer.i.ready),
            writer.halt.eq(engine.halt | engine.fault),
        ]

        # Each run goes to the queue of runs, and if there is something to read, is cut. One that
        # is refused stays where it is.
        run = walker.o.p
        may_cut = splitter.i.ready | ~run.reads
        m.d.comb += [
            realigner.run.valid.eq(walker.o.valid & may_cut & ~run.refused),
            splitter.i.p.address.eq(run.address),
            splitter.i.p.more.eq(run.more),
            splitter.i.valid.eq(walker.o.valid & realigner.run.ready & run.reads),
            walker.o.ready.eq(realigner.run.ready & may_cut & ~run.refused),
            walker.halt.eq(engine.halt | engine.fault),
            self.burst.payload.eq(splitter.o.payload),
            self.burst_next.eq(splitter.o_next),
            self.burst.valid.eq(splitter.o.valid & ~stopped),
            splitter.o.ready.eq(self.burst.ready & ~stopped),
            fifo.data.eq(self.beat.data),
            fifo.error.eq(self.beat.error),
            fifo.push.eq(self.beat_valid),
        ]
        # Late by a cycle on either side, which is early enough for the splitter.
        space = Signal(range(FIFO_BEATS + 1), init=FIFO_BEATS)
        space_next = Signal.like(space, init=0)
        plenty = Signal(init=1)
        reserves = Signal()
        # `length + 1` less is `~length` more, and a beat that left is carried into the same sum.
        reserved = (~splitter.o.p.length[: exact_log2(MAX_BEATS)]) & reserves.replicate(
            exact_log2(MAX_BEATS)
        )
        change = Cat(fifo.left, reserved, reserves.replicate(len(space) - len(reserved)))
        m.d.comb += space_next.eq((Cat(Const(1, 1), space) + change)[1:])
        m.d.sync += [
            reserves.eq(splitter.reserve),
            space.eq(space_next),
            plenty.eq(space_next >= MAX_BEATS),
        ]
        m.d.comb += [splitter.space.eq(space), splitter.plenty.eq(plenty)]

        self._realign(m, walker, realigner)
        wiring.connect(m, fifo.o, realigner.i)
        self._find_fault(m, walker, fifo, realigner, writer, skid.empty, stopped)

        # Counted a cycle late: whoever offers commands is far away.
        unretired = count(
            m, "unretired", up=walker.began, down=writer.retire, limit=MAX_INSTRUCTIONS
        )
        m.d.comb += [
            walker.command.payload.eq(engine.command.payload),
            walker.command.valid.eq(engine.command.valid),
            walker.room.eq(unretired.room),
            engine.command.ready.eq(walker.command.ready),
            walker.drained.eq(~unretired.some),
            engine.retire.eq(writer.retire),
            engine.busy.eq(unretired.some | walker.began),
        ]
        m.d.sync += engine.idle.eq(~self.active & ~self.write.valid)
        moving = ~realigner.drained | skid.o.valid | (space != FIFO_BEATS)
        self._report_stalls(m, fifo, realigner, writer, moving)
        return m

    def _report_stalls(
        self, m: Module, fifo: BeatFifo, realigner: Realigner, writer: LoadWriter, moving: Value
    ) -> None:
        """Say what the engine waited for; `moving` are beats before the last part.

        Refusals come a cycle late, and from afar, so this is another cycle later. Nothing is lost:
        an instruction does not wait in its last cycles, in which its last write lands.
        """
        engine = self.engine
        held = Signal()
        ends = Signal()
        starved = Signal()
        m.d.sync += [
            held.eq(writer.held),
            ends.eq(~moving),
            starved.eq((self.active | self.burst.valid) & realigner.i.ready & ~fifo.o.valid),
            engine.stall.dram.eq(starved),
            # While beats move, a refusal costs nothing before it holds one of them.
            engine.stall.bank.eq(held | (ends & (self.write.refused | self.read.refused))),
        ]

    def _realign(self, m: Module, walker: Walker, realigner: Realigner) -> None:
        """Say where each run's bytes go."""
        lane_bits = exact_log2(self.config.axi_bytes)
        granule_bits = exact_log2(self.config.columns)
        run = walker.o.p
        # A byte address on the core; column memory and tables are written in 32-bit words, which
        # take the place of beats.
        byte = Cat(Const(0, granule_bits), run.place)
        column = Cat(Const(0, exact_log2(COLUMN_RECORD_BYTES // SIDE_WORD_BYTES)), run.place)
        entry = run.place[exact_log2(SIDE_WORD_BYTES // ENTRY_BYTES) :]
        tag = realigner.run.p.tag
        m.d.comb += [
            realigner.run.p.source.eq(Mux(run.zero, run.lane, run.address[:lane_bits])),
            realigner.run.p.destination.eq(run.lane),
            realigner.run.p.more.eq(run.more),
            realigner.run.p.zero.eq(run.zero),
            tag.place.eq(Mux(run.side, Mux(run.tables, entry, column), byte[lane_bits:])),
            tag.side.eq(run.side),
            tag.tables.eq(run.tables),
            tag.last.eq(run.last),
            tag.address.eq(run.address[lane_bits:]),
        ]

    def _find_fault(
        self,
        m: Module,
        walker: Walker,
        fifo: BeatFifo,
        realigner: Realigner,
        writer: LoadWriter,
        drained: Signal,
        stopped: Signal,
    ) -> None:
        """Wait for what came before the failing beat or run to be written and retired."""
        engine = self.engine
        run = walker.o.p
        lane_bits = exact_log2(self.config.axi_bytes)
        # Beats that this run has had so far; once everything before the failing one has left, the
        # tag is that of its run.
        had = Signal(size_width(self.config) + 1 - lane_bits, reset_less=True)
        beat = Signal(self.config.axi_address_bits - lane_bits, reset_less=True)
        so_far = Mux(realigner.first, 0, had)
        begin = Signal.like(beat, reset_less=True)
        index = Signal.like(had, reset_less=True)
        m.d.sync += [
            begin.eq(realigner.tag.address),
            index.eq(so_far),
            beat.eq(begin + index),
        ]
        with m.If(realigner.i.valid & realigner.i.ready):
            m.d.sync += had.eq(so_far + 1)

        failed = fifo.failed & realigner.i.ready & realigner.drained
        refused = walker.o.valid & run.refused & realigner.idle
        # Two cycles late, as `beat` is: what is at fault stays at the head of its queue.
        found, certain = Signal(2), Signal(2)
        m.d.sync += [
            found.eq(Cat(failed, refused) & (~stopped & drained & writer.drained).replicate(2)),
            certain.eq(found),
        ]
        with m.If(~stopped):
            with m.If(certain[0]):
                m.d.sync += [
                    stopped.eq(1),
                    engine.fault.eq(1),
                    engine.fault_cause.eq(FaultCause.AXI_ERROR),
                    engine.fault_address.eq(Cat(Const(0, lane_bits), beat)),
                ]
            with m.Elif(certain[1]):
                cause = Mux(run.outside, FaultCause.DRAM_LIMIT, FaultCause.SCRATCHPAD_BOUND)
                m.d.sync += [
                    stopped.eq(1),
                    engine.fault.eq(1),
                    engine.fault_cause.eq(cause),
                    engine.fault_address.eq(run.address),
                ]
