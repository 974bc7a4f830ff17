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
from systolith_rtl.dma.fifo import Queue, count
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
        burst_next: `Out(1)`, it is offered in the next cycle, unless it is taken now or halted.
        beat: a beat and whether its response was an error, in order.
        beat_valid: `In(1)`.
        active: `In(1)`, beats are owed.
    """

    engine: wiring.PureInterface
    lookup: Sequence[wiring.PureInterface]
    ring: wiring.PureInterface
    burst: stream.Interface
    burst_next: Signal
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
                "burst_next": Out(1),
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
                    "single": 1,
                    "outside": 1,
                }
            ),
            depth=INSTRUCTIONS_UNDER_WAY,
        )
        stopped = Signal()
        m.d.sync += stopped.eq(self.engine.halt | self.engine.fault)
        taken = self._ask(m, splitter, instructions, stopped)
        self._answer(m, instructions, stopped)

        # Beats that are reserved and not yet pushed as words. `free` falls with it, a cycle after
        # a push, so `space` is never more than there is.
        under_way = Signal(range(ring_beats + 1))
        reserves = Signal()
        reserved = Mux(reserves, splitter.o.p.length + 1, 0)
        pushed = Signal(range(word_beats + 1))
        m.d.comb += pushed.eq(self.ring.push << exact_log2(word_beats))
        # A burst counts two cycles after it was reserved, which is before the next one is checked.
        m.d.sync += [
            reserves.eq(splitter.reserve),
            under_way.eq(under_way + reserved - pushed),
            splitter.space.eq((self.ring.free << exact_log2(word_beats)) - under_way),
        ]

        unretired = count(
            m,
            "unretired",
            up=taken,
            down=self.engine.retire,
            limit=2 * INSTRUCTIONS_UNDER_WAY - 1,
        )
        m.d.comb += [
            self.engine.busy.eq(unretired.some),
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
        # There is no word behind the next one.
        single = Signal(reset_less=True)
        # One register for each state: all others are enabled by one of them. No state is left once
        # an instruction is refused: its fault comes once earlier ones are done.
        take, add, compare, cut = (
            Signal(name=name, init=name == "take") for name in ("take", "add", "compare", "cut")
        )
        may_start = ~(self.engine.halt | self.engine.fault)
        word_bits = exact_log2(self.config.rows)
        done = cut & instructions.i.ready & splitter.i.ready
        m.d.comb += [
            splitter.i.p.address.eq(Cat(Const(0, lane_bits), address[lane_bits:])),
            splitter.i.p.more.eq(more),
            instructions.i.p.address.eq(address),
            instructions.i.p.more.eq(more[word_bits:]),
            instructions.i.p.single.eq(single),
            instructions.i.p.outside.eq(outside),
            self.burst.payload.eq(splitter.o.payload),
            self.burst_next.eq(splitter.o_next),
            self.burst.valid.eq(splitter.o.valid & may_start),
            splitter.o.ready.eq(self.burst.ready & may_start),
        ]
        m.d.comb += [
            command.ready.eq(take & ~stopped),
            taken.eq(command.valid & take & ~stopped),
            low.place.eq(Mux(take, BASE + command.p.base[:3], LIMIT + index)),
            high.place.eq(BASE_HIGH + command.p.base[:3]),
            splitter.i.valid.eq(cut & instructions.i.ready & ~outside),
            instructions.i.valid.eq(cut & splitter.i.ready),
        ]
        m.d.sync += [
            take.eq((take & ~taken) | (done & ~outside)),
            add.eq(taken),
            compare.eq(add),
            cut.eq(compare | (cut & ~done)),
        ]
        # Whatever is there is copied until it is taken.
        with m.If(take):
            m.d.sync += [
                base.eq(Cat(low.value, high.value)),
                index.eq(command.p.base),
                offset.eq(command.p.dram_offset),
                more.eq(command.p.size - 1),
            ]
        with m.If(add):
            m.d.sync += [limit.eq(low.value), end.eq(offset + more), address.eq(base + offset)]
        with m.If(compare):
            m.d.sync += [outside.eq(end >= limit), single.eq(more[word_bits:] == 0)]
            # The first byte at fault: the instruction's, or the one behind the limit.
            with m.If((end >= limit) & (offset < limit)):
                m.d.sync += address.eq(base + limit)
        return taken

    def _answer(self, m: Module, instructions: Queue, stopped: Signal) -> None:
        """Make words of beats, push them, count them, retire."""
        config = self.config
        engine = self.engine
        word_beats = config.rows // config.axi_bytes

        word = Signal(8 * config.rows, reset_less=True)
        # Copies of two for what goes on with the head, which Yosys would merge without `keep`.
        push, pushed, final, reloads = (
            Signal(name=name, attrs={"keep": 1}) for name in ("push", "pushed", "final", "reloads")
        )
        pushes = Signal()
        arrived = Signal()
        failed = Signal()
        position = Signal(range(word_beats))
        complete = self.beat_valid & (position == word_beats - 1)
        m.d.sync += [
            arrived.eq(self.beat_valid),
            failed.eq(self.beat_valid & self.beat.error),
            push.eq(pushes),
            pushed.eq(pushes),
        ]
        m.d.comb += pushes.eq(complete & ~self.beat.error & ~failed & ~stopped)
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
        ends = push & final
        m.d.sync += engine.retire.eq(ends)
        m.d.comb += head.ready.eq(~present | ends)
        m.d.sync += present.eq(head.valid | (present & ~ends))
        # What comes next is known before it is known whether it comes now.
        begins = ~present | reloads
        ends_next = Mux(begins, head.p.single, more == 1)
        with m.If(~present | pushed):
            m.d.sync += [
                more.eq(Mux(begins, head.p.more, more - 1)),
                final.eq(ends_next),
                reloads.eq(ends_next),
            ]
        with m.If(~present | (pushed & reloads)):
            m.d.sync += [address.eq(head.p.address), outside.eq(head.p.outside)]
        with m.Elif(arrived):
            m.d.sync += address.eq(address + config.axi_bytes)

        with m.If(~stopped & present & (outside | failed)):
            m.d.sync += [
                stopped.eq(1),
                engine.fault.eq(1),
                engine.fault_cause.eq(Mux(outside, FaultCause.DRAM_LIMIT, FaultCause.AXI_ERROR)),
                engine.fault_address.eq(address),
            ]
