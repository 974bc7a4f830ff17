"""STORE: bytes from the scratchpad to memory, and no byte beside them."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.isa import Opcode
from systolith.regs import FaultCause
from systolith_rtl.dma.bounds import size_width
from systolith_rtl.dma.burst import Splitter, burst_layout
from systolith_rtl.dma.fifo import count
from systolith_rtl.dma.reader import WordReader
from systolith_rtl.dma.realign import Realigner
from systolith_rtl.dma.walk import Walker
from systolith_rtl.interfaces import EngineSignature, ReadSignature
from systolith_rtl.reset import without_reset
from systolith_rtl.settings import MEMORIES, LookupSignature

RUNS = 16
"""Runs that are cut into bursts ahead of their data."""

MAX_INSTRUCTIONS = 63
"""Instructions under way; the queues of runs and bursts end earlier."""


class StoreEngine(wiring.Component):
    """Walk, read ahead, realign, and hand bursts and beats to the write channel.

    Members:
        engine: `Out(EngineSignature(Opcode.STORE))`.
        lookup: the settings.
        read: the scratchpad.
        burst, beat: what to write, and its beats.
        beat_next: `In(1)`, `beat.ready` of the next cycle.
        stopped: `Out(1)`, nothing more may be written.
        held: `In(1)`, the memory is in the way of `beat`.
        sending: `In(1)`, not all beats of the bursts have been taken.
        done, done_last, done_error, done_address: responses, in order.
        active: `In(1)`, responses are owed.
    """

    engine: wiring.PureInterface
    lookup: Sequence[wiring.PureInterface]
    read: wiring.PureInterface
    burst: stream.Interface
    beat: stream.Interface
    beat_next: Signal
    stopped: Signal
    held: Signal
    sending: Signal
    done: Signal
    done_last: Signal
    done_error: Signal
    done_address: Signal
    active: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        beat = data.StructLayout({"data": config.axi_data_bits, "strobe": config.axi_bytes})
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.STORE)),
                "lookup": Out(LookupSignature()).array(MEMORIES),
                "read": Out(ReadSignature(config)),
                "burst": Out(stream.Signature(burst_layout(config))),
                "beat": Out(stream.Signature(beat)),
                "beat_next": In(1),
                "stopped": Out(1),
                "held": In(1),
                "sending": In(1),
                "done": In(1),
                "done_last": In(1),
                "done_error": In(1),
                "done_address": In(config.axi_address_bits),
                "active": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Send each run three ways: to be read, realigned and cut."""
        m = Module()
        config, engine = self.config, self.engine
        without_reset(engine.fault_cause, engine.fault_address)
        sizes = size_width(config)
        lane_bits = exact_log2(config.axi_bytes)
        m.submodules.walker = walker = Walker(config, Opcode.STORE)
        m.submodules.splitter = splitter = Splitter(config, size_width=sizes, space_width=1)
        m.submodules.reader = reader = WordReader(config, size_width=sizes)
        m.submodules.realigner = realigner = Realigner(
            width=config.axi_bytes, size_width=sizes, runs=RUNS
        )
        # A copy for the write channel, which Yosys would merge without `keep`.
        stopped, written = (
            Signal(name=name, attrs={"keep": 1}) for name in ("stopped", "stopped_writes")
        )
        failed, refused = Signal(), Signal()
        stops = engine.halt | engine.fault | ((failed | refused) & ~stopped)
        m.d.sync += [stopped.eq(stops), written.eq(stops)]
        m.d.comb += self.stopped.eq(written)
        for port, mine in zip(walker.lookup, self.lookup, strict=True):
            wiring.connect(m, port, wiring.flipped(mine))
        wiring.connect(m, wiring.flipped(self.read), reader.read)
        wiring.connect(m, reader.o, realigner.i)

        run = walker.o.p
        source = Cat(Const(0, exact_log2(config.columns)), run.place)
        everybody = Signal()
        m.d.comb += [
            everybody.eq(splitter.i.ready & reader.i.ready & realigner.run.ready & ~run.refused),
            walker.o.ready.eq(everybody),
            walker.halt.eq(engine.halt | engine.fault),
            splitter.i.valid.eq(walker.o.valid & everybody),
            splitter.i.p.address.eq(run.address),
            splitter.i.p.more.eq(run.more),
            splitter.i.p.last.eq(run.last),
            splitter.plenty.eq(1),
            reader.i.valid.eq(walker.o.valid & everybody),
            reader.i.p.byte.eq(source),
            reader.i.p.more.eq(run.more),
            reader.halt.eq(stops),
            realigner.run.valid.eq(walker.o.valid & everybody),
            realigner.run.p.source.eq(run.lane),
            realigner.run.p.destination.eq(run.address[:lane_bits]),
            realigner.run.p.more.eq(run.more),
            self.burst.payload.eq(splitter.o.payload),
            self.burst.valid.eq(splitter.o.valid & ~stopped),
            splitter.o.ready.eq(self.burst.ready & ~stopped),
            self.beat.valid.eq(realigner.o.valid),
            self.beat.p.data.eq(realigner.o.p.data),
            self.beat.p.strobe.eq(realigner.o.p.strobe),
            realigner.o.ready.eq(self.beat.ready),
            realigner.o_next.eq(self.beat_next),
        ]

        # Counted a cycle late: whoever offers commands is far away.
        unretired = count(
            m, "unretired", up=walker.began, down=engine.retire, limit=MAX_INSTRUCTIONS
        )
        m.d.comb += [
            walker.command.payload.eq(engine.command.payload),
            walker.command.valid.eq(engine.command.valid),
            walker.room.eq(unretired.room),
            engine.command.ready.eq(walker.command.ready),
            engine.busy.eq(unretired.some | walker.began),
        ]
        m.d.sync += engine.idle.eq(~self.active)
        # A cycle late; the response behind it retires nothing, either.
        failed_at = Signal.like(self.done_address, reset_less=True)
        m.d.sync += [
            failed.eq(self.done & self.done_error),
            failed_at.eq(self.done_address),
            engine.retire.eq(self.done & self.done_last & ~self.done_error & ~(stopped | failed)),
        ]

        # A word that is there a cycle more than `read_latency` after its grant is missing as long
        # after a refusal.
        starved = Signal()
        late = Signal(config.read_latency + 1)
        m.d.sync += [
            starved.eq(realigner.i.ready & ~reader.o.valid),
            late.eq(Cat(self.read.refused, late)),
            engine.stall.dram.eq(
                self.held
                | (
                    self.active
                    & ~self.sending
                    & splitter.idle
                    & ~walker.o.valid
                    & walker.command.ready
                )
            ),
        ]
        m.d.comb += engine.stall.bank.eq(starved & late[-1])

        # Bursts before a refused run must have their responses, for the fault to be the oldest.
        m.d.sync += refused.eq(walker.o.valid & run.refused & splitter.idle & ~self.active)
        with m.If(~stopped):
            with m.If(failed):
                m.d.sync += [
                    engine.fault.eq(1),
                    engine.fault_cause.eq(FaultCause.AXI_ERROR),
                    engine.fault_address.eq(failed_at),
                ]
            with m.Elif(refused):
                cause = Mux(run.outside, FaultCause.DRAM_LIMIT, FaultCause.SCRATCHPAD_BOUND)
                m.d.sync += [
                    engine.fault.eq(1),
                    engine.fault_cause.eq(cause),
                    engine.fault_address.eq(run.address),
                ]
        return m
