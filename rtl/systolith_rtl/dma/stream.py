"""STREAM: weights from memory into the ring, at the full bandwidth of the bus."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
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

SIZE_WIDTH = 32
"""Bits of a STREAM's size."""


def stream_burst_beats(config: CoreConfig) -> int:
    """Beats of STREAM's longest burst: two fit the ring."""
    return min(MAX_BEATS, config.ring_bytes // config.axi_bytes // 2)


def stream_bursts(config: CoreConfig) -> int:
    """Bursts that STREAM may have under way."""
    return -(-BEATS_UNDER_WAY // stream_burst_beats(config))


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
        beat_last: `In(1)`, the same, and it is the last of its burst.
        active: `In(1)`, beats are owed.
    """

    engine: wiring.PureInterface
    lookup: Sequence[wiring.PureInterface]
    ring: wiring.PureInterface
    burst: stream.Interface
    burst_next: Signal
    beat: data.View
    beat_valid: Signal
    beat_last: Signal
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
                "beat_last": In(1),
                "active": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The side that asks, the side that is answered, and a queue of bursts between."""
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
        # Those under way, and the one that is offered.
        lane_bits = exact_log2(config.axi_bytes)
        m.submodules.bursts = bursts = Queue(
            data.StructLayout({"beat": config.axi_address_bits - lane_bits, "last": 1}),
            depth=1 << stream_bursts(config).bit_length(),
            trusted=True,
        )
        m.d.comb += [
            bursts.i.valid.eq(splitter.reserve),
            bursts.i.p.beat.eq(splitter.o.p.address[lane_bits:]),
            bursts.i.p.last.eq(splitter.o.p.last),
        ]
        stopped = Signal()
        taken, retires = Signal(), Signal()
        # Each instruction under way has a burst, but for those at either end.
        unretired = count(
            m, "unretired", up=taken, down=self.engine.retire, limit=stream_bursts(config) + 8
        )
        m.d.sync += self.engine.retire.eq(retires)
        address, refused = self._ask(m, splitter, taken, stopped)
        failed, failed_at = self._answer(m, bursts, retires, stopped)
        # What is before a refused instruction is done first.
        alone = Signal()
        m.d.sync += alone.eq(refused & (unretired.level == 1))
        fails = (failed | alone) & ~stopped
        m.d.sync += stopped.eq(self.engine.halt | self.engine.fault | fails)
        with m.If(fails):
            m.d.sync += [
                self.engine.fault.eq(1),
                self.engine.fault_cause.eq(
                    Mux(failed, FaultCause.AXI_ERROR, FaultCause.DRAM_LIMIT)
                ),
                self.engine.fault_address.eq(Mux(failed, failed_at, address)),
            ]

        # Beats that are reserved and not yet pushed as words. `free` falls with it, a cycle after
        # a push, so `space` is never more than there is.
        under_way = Signal(range(ring_beats + 1))
        reserves = Signal()
        length = splitter.o.p.length[: exact_log2(splitter.max_beats)]
        reserved = Signal.like(length)
        pushed = Signal(range(word_beats + 1))
        m.d.comb += pushed.eq(self.ring.push << exact_log2(word_beats))
        # A burst counts two cycles after it was reserved, which is before the next one is checked.
        space = Signal(range(ring_beats + 1))
        m.d.comb += space.eq((self.ring.free << exact_log2(word_beats)) - under_way)
        m.d.sync += [
            reserves.eq(splitter.reserve),
            reserved.eq(length & splitter.reserve.replicate(len(length))),
            # Beats of a burst are counted less one.
            under_way.eq((Cat(Const(1, 1), under_way) + Cat(reserves, reserved))[1:] - pushed),
            splitter.space.eq(space),
            splitter.plenty.eq(space >= splitter.max_beats),
        ]

        m.d.comb += self.engine.busy.eq(unretired.some)
        m.d.sync += self.engine.idle.eq(~self.active)

        # Without a word in the ring, it is not its reader who holds bursts back.
        empty = self.ring.free == config.ring_words
        m.d.sync += [
            self.engine.stall.output.eq(splitter.held & ~empty & ~self.beat_valid),
            self.engine.stall.dram.eq((self.active | self.burst.valid) & ~self.beat_valid),
        ]
        return m

    def _ask(
        self, m: Module, splitter: Splitter, taken: Signal, stopped: Signal
    ) -> tuple[Signal, Value]:
        """Check instructions and have them cut into bursts.

        Args:
            m: the module to build it in.
            splitter: what cuts them.
            taken: set here: an instruction is taken.
            stopped: no burst is offered.

        Returns:
            The first byte at fault, and that an instruction is refused.
        """
        address_bits = self.config.axi_address_bits
        command = self.engine.command
        base = Signal(address_bits, reset_less=True)
        limit = Signal(32, reset_less=True)
        index = Signal(3, reset_less=True)
        low, high = self.lookup
        offset = Signal(32, reset_less=True)
        # Bytes behind the first one.
        more = Signal(SIZE_WIDTH, reset_less=True)
        lane_bits = exact_log2(self.config.axi_bytes)
        word_bits = exact_log2(self.config.rows)
        address = Signal(address_bits, reset_less=True)
        end = Signal(33, reset_less=True)
        inside = Signal(reset_less=True)
        outside = ~inside
        # One register for each state: all others are enabled by one of them. No state is left once
        # an instruction is refused: its fault comes once earlier ones are done.
        take, add, compare, cut = (
            Signal(name=name, init=name == "take") for name in ("take", "add", "compare", "cut")
        )
        # A register, since whoever asks for commands has a long way to go from here.
        ready = Signal(init=1, attrs={"keep": 1})
        # How many cycles ago, one bit each.
        refused = Signal(6)
        done = cut & splitter.i.ready & ~outside
        m.d.comb += [
            splitter.i.p.address.eq(Cat(Const(0, lane_bits), address[lane_bits:])),
            splitter.i.p.more.eq(more),
            splitter.i.p.last.eq(1),
            splitter.i.valid.eq(cut & ~outside),
            self.burst.payload.eq(splitter.o.payload),
            self.burst_next.eq(splitter.o_next),
            self.burst.valid.eq(splitter.o.valid & ~stopped),
            splitter.o.ready.eq(self.burst.ready & ~stopped),
            command.ready.eq(ready),
            taken.eq(command.valid & ready),
            low.place.eq(Mux(take, BASE + command.p.base[:3], LIMIT + index)),
            high.place.eq(BASE_HIGH + command.p.base[:3]),
        ]
        takes = (take & ~taken) | done
        m.d.sync += [
            ready.eq(takes & ~(self.engine.halt | self.engine.fault)),
            take.eq(takes),
            add.eq(taken),
            compare.eq(add),
            cut.eq(compare | (cut & ~outside & ~splitter.i.ready)),
            refused.eq(Cat(refused[0] | (cut & outside), refused)),
        ]
        # Whatever is there is copied until it is taken.
        with m.If(take):
            m.d.sync += [
                base.eq(Cat(low.value, high.value)),
                index.eq(command.p.base),
                offset.eq(command.p.dram_offset),
                # Sizes are of whole words.
                more.eq(Cat(Const(-1, word_bits), command.p.size[word_bits:] - 1)),
            ]
        with m.If(add):
            m.d.sync += limit.eq(low.value)
        # The first byte at fault is the first one, or, if that is within the limit, the one behind
        # the limit: refused, the instruction is checked as one of a byte, and may be moved there.
        with m.If(add | refused[0]):
            m.d.sync += [end.eq(offset + more), address.eq(base + offset)]
        with m.If(compare | refused[0]):
            # The sign of a difference, since a comparison has a gate behind its carries.
            m.d.sync += inside.eq((end - limit)[-1])
        with m.If(refused[0]):
            m.d.sync += more.eq(0)
        with m.If(refused[3] & ~outside):
            m.d.sync += offset.eq(limit)
        return address, refused[-1]

    def _answer(
        self, m: Module, bursts: Queue, retires: Signal, stopped: Signal
    ) -> tuple[Signal, Signal]:
        """Make words of beats, push them, retire.

        Args:
            m: the module to build it in.
            bursts: those under way.
            retires: set here: the last word of an instruction is pushed.
            stopped: no word is pushed.

        Returns:
            That the beat before was an error, and its address.
        """
        config = self.config
        word_beats = config.rows // config.axi_bytes
        lane_bits = exact_log2(config.axi_bytes)
        inner = exact_log2(stream_burst_beats(config))

        word = Signal(8 * config.rows, reset_less=True)
        push = Signal()
        failed = Signal()
        failed_at = Signal(config.axi_address_bits, reset_less=True)
        # It ends an instruction.
        final = Signal(reset_less=True)
        position = Signal(range(word_beats))
        complete = self.beat_valid & (position == word_beats - 1)
        m.d.sync += [
            failed.eq(self.beat_valid & self.beat.error),
            push.eq(complete & ~self.beat.error & ~failed & ~stopped),
        ]
        with m.If(self.beat_valid):
            # The first beat of a word ends up in its lowest bytes.
            m.d.sync += word.eq(Cat(word, self.beat.data)[config.axi_data_bits :])
            m.d.sync += position.eq(position + 1)
        m.d.comb += [self.ring.data.eq(word), self.ring.push.eq(push)]

        # Bursts cross no boundary of as many beats as the longest one.
        head = bursts.o.p
        earlier = Signal(inner)
        with m.If(self.beat_last):
            m.d.sync += earlier.eq(0)
        with m.Elif(self.beat_valid):
            m.d.sync += earlier.eq(earlier + 1)
        here = (head.beat[:inner] + earlier)[:inner]
        m.d.sync += [
            failed_at.eq(Cat(Const(0, lane_bits), here, head.beat[inner:])),
            final.eq(self.beat_last & head.last),
        ]
        m.d.comb += [bursts.o.ready.eq(self.beat_last), retires.eq(push & final)]
        return failed, failed_at
