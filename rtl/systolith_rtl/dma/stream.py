"""STREAM: weights from memory into the ring, at the full bandwidth of the bus."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.isa import Opcode
from systolith.regs import FaultCause
from systolith_rtl.dma.burst import MAX_BEATS, Splitter, burst_layout
from systolith_rtl.dma.fifo import Queue
from systolith_rtl.interfaces import EngineSignature, RingSignature
from systolith_rtl.reset import without_reset
from systolith_rtl.settings import BASE, BASE_HIGH, LIMIT, MEMORIES, LookupSignature

BEATS_UNDER_WAY = 192
"""Beats that cover 120 cycles of memory latency, and a burst being taken apart."""

INSTRUCTIONS_UNDER_WAY = 8
"""STREAMs whose words have not all been pushed."""

SIZE_WIDTH = 32
"""Bits of a STREAM's size."""


def stream_burst_beats(config: CoreConfig) -> int:
    """Beats of STREAM's longest burst: two fit the ring."""
    return min(MAX_BEATS, config.ring_bytes // config.axi_bytes // 2)


class StreamEngine(wiring.Component):
    """Ask for bursts as the ring has space for them, and push what arrives, word by word.

    Bursts of the next instructions are asked for while data of the first one arrives, so there is
    no gap between them. Every beat under way has its place in the ring reserved, so data is never
    refused, and no reader waits for another one.

    Members:
        engine: `Out(EngineSignature(Opcode.STREAM))`.
        lookup: the settings.
        ring: the words.
        burst: what to read.
        beat: a beat and whether its response was an error, in order.
        beat_valid: `In(1)`.
        active: `In(1)`, beats are owed.
    """

    engine: wiring.PureInterface
    lookup: Sequence[wiring.PureInterface]
    ring: wiring.PureInterface
    burst: stream.Interface
    beat: data.View
    beat_valid: Signal
    active: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        beat = data.StructLayout({"data": config.axi_data_bits, "error": 1})
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.STREAM)),
                "lookup": Out(LookupSignature()).array(MEMORIES),
                "ring": Out(RingSignature(config)),
                "burst": Out(stream.Signature(burst_layout(config))),
                "beat": In(beat),
                "beat_valid": In(1),
                "active": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The side that asks, the side that is answered, and a queue of instructions between."""
        m = Module()
        config = self.config
        without_reset(self.engine.fault_cause, self.engine.fault_address)
        word_beats = config.rows // config.axi_bytes
        ring_beats = config.ring_words * word_beats
        m.submodules.splitter = splitter = Splitter(
            config,
            size_width=SIZE_WIDTH,
            space_width=len(Signal(range(ring_beats + 1))),
            max_beats=stream_burst_beats(config),
        )
        m.submodules.instructions = instructions = Queue(
            data.StructLayout(
                {
                    "address": config.axi_address_bits,
                    "more": SIZE_WIDTH - exact_log2(config.rows),
                    "outside": 1,
                }
            ),
            depth=INSTRUCTIONS_UNDER_WAY,
        )
        stopped = Signal()
        m.d.comb += stopped.eq(self.engine.halt | self.engine.fault)
        taken = self._ask(m, splitter, instructions, stopped)
        self._answer(m, instructions, stopped)

        # Beats that are reserved and not yet pushed as words. `free` falls with it, a cycle after
        # a push, so `space` is never more than there is.
        under_way = Signal(range(ring_beats + 1))
        reserved = Signal(range(MAX_BEATS + 1))
        pushed = Signal(range(word_beats + 1))
        m.d.comb += pushed.eq(self.ring.push << exact_log2(word_beats))
        with m.If(splitter.reserve):
            m.d.comb += reserved.eq(splitter.o.p.length + 1)
        m.d.sync += [
            under_way.eq(under_way + reserved - pushed),
            splitter.space.eq((self.ring.free << exact_log2(word_beats)) - under_way),
        ]

        unretired = Signal(range(2 * INSTRUCTIONS_UNDER_WAY))
        m.d.sync += unretired.eq(unretired + taken - self.engine.retire)
        m.d.comb += [
            self.engine.busy.eq(unretired != 0),
            self.engine.idle.eq(~self.active),
        ]

        # Without a word in the ring, it is not its reader who holds bursts back.
        empty = self.ring.free == config.ring_words
        m.d.sync += [
            self.engine.stall.output.eq(splitter.held & ~empty & ~self.beat_valid),
            self.engine.stall.dram.eq((self.active | self.burst.valid) & ~self.beat_valid),
        ]
        return m

    def _ask(self, m: Module, splitter: Splitter, instructions: Queue, stopped: Signal) -> Signal:
        """Check instructions and have them cut into bursts.

        Returns:
            That an instruction is taken.
        """
        address_bits = self.config.axi_address_bits
        command = self.engine.command
        taken = Signal()
        base = Signal(address_bits, reset_less=True)
        limit = Signal(32, reset_less=True)
        index = Signal(3, reset_less=True)
        low, high = self.lookup
        offset = Signal(32, reset_less=True)
        # Bytes behind the first one.
        more = Signal(SIZE_WIDTH, reset_less=True)
        lane_bits = exact_log2(self.config.axi_bytes)
        address = Signal(address_bits, reset_less=True)
        end = Signal(33, reset_less=True)
        outside = Signal(reset_less=True)
        m.d.comb += [
            splitter.i.p.address.eq(Cat(Const(0, lane_bits), address[lane_bits:])),
            splitter.i.p.more.eq(more),
            instructions.i.p.address.eq(address),
            instructions.i.p.more.eq(more[exact_log2(self.config.rows) :]),
            instructions.i.p.outside.eq(outside),
            self.burst.payload.eq(splitter.o.payload),
            self.burst.valid.eq(splitter.o.valid & ~stopped),
            splitter.o.ready.eq(self.burst.ready & ~stopped),
        ]
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += [
                    command.ready.eq(~stopped),
                    taken.eq(command.valid & ~stopped),
                    low.place.eq(BASE + command.p.base[:3]),
                    high.place.eq(BASE_HIGH + command.p.base[:3]),
                ]
                with m.If(taken):
                    m.d.sync += [
                        base.eq(Cat(low.value, high.value)),
                        index.eq(command.p.base),
                        offset.eq(command.p.dram_offset),
                        more.eq(command.p.size - 1),
                    ]
                    m.next = "ADD"
            with m.State("ADD"):
                m.d.comb += low.place.eq(LIMIT + index)
                m.d.sync += [
                    limit.eq(low.value),
                    address.eq(base + offset),
                    end.eq(offset + more),
                ]
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += outside.eq(end >= limit)
                # The first byte at fault: the instruction's, or the one behind the limit.
                with m.If((end >= limit) & (offset < limit)):
                    m.d.sync += address.eq(base + limit)
                m.next = "CUT"
            with m.State("CUT"):
                ready = instructions.i.ready & splitter.i.ready
                m.d.comb += [
                    splitter.i.valid.eq(instructions.i.ready & ~outside),
                    instructions.i.valid.eq(splitter.i.ready),
                ]
                with m.If(ready):
                    m.next = "TAKE"
                    with m.If(outside):
                        m.next = "REFUSED"
            with m.State("REFUSED"):
                # Nothing more is asked for; the fault comes once earlier instructions are done.
                pass
        return taken

    def _answer(self, m: Module, instructions: Queue, stopped: Signal) -> None:
        """Make words of beats, push them, count them, retire."""
        config = self.config
        engine = self.engine
        word_beats = config.rows // config.axi_bytes

        word = Signal(8 * config.rows, reset_less=True)
        push = Signal()
        arrived = Signal()
        failed = Signal()
        position = Signal(range(word_beats))
        complete = self.beat_valid & (position == word_beats - 1)
        m.d.sync += [
            arrived.eq(self.beat_valid),
            failed.eq(self.beat_valid & self.beat.error),
            push.eq(complete & ~self.beat.error & ~failed & ~stopped),
        ]
        with m.If(self.beat_valid):
            # The first beat of a word ends up in its lowest bytes.
            m.d.sync += word.eq(Cat(word, self.beat.data)[config.axi_data_bits :])
            m.d.sync += position.eq(position + 1)
        m.d.comb += [self.ring.data.eq(word), self.ring.push.eq(push)]

        # The instruction that beats belong to: it is here long before its first beat.
        head = instructions.o
        present = Signal()
        address = Signal(config.axi_address_bits, reset_less=True)
        # Words behind the next one.
        more = Signal(SIZE_WIDTH - exact_log2(config.rows), reset_less=True)
        outside = Signal(reset_less=True)
        ends = push & (more == 0)
        m.d.sync += engine.retire.eq(ends)
        with m.If(arrived):
            m.d.sync += address.eq(address + config.axi_bytes)
        with m.If(push):
            m.d.sync += more.eq(more - 1)
        with m.If(~present | ends):
            m.d.comb += head.ready.eq(1)
            m.d.sync += present.eq(head.valid)
            with m.If(head.valid):
                m.d.sync += [
                    address.eq(head.p.address),
                    more.eq(head.p.more),
                    outside.eq(head.p.outside),
                ]

        with m.If(~stopped & present & (outside | failed)):
            m.d.sync += [
                engine.fault.eq(1),
                engine.fault_cause.eq(Mux(outside, FaultCause.DRAM_LIMIT, FaultCause.AXI_ERROR)),
                engine.fault_address.eq(address),
            ]
