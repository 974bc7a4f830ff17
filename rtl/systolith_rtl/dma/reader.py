"""The first part of STORE: words of the scratchpad, taken apart into beats."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_rtl.dma.fifo import Queue
from systolith_rtl.interfaces import ReadSignature

WORDS = 16
"""Words that are read ahead: the latency of a read, and some for refused beats."""


class WordReader(wiring.Component):
    """Read the words that runs of bytes touch, and send the beats that they touch.

    A word per cycle while there is room for it; two cycles more for each run.

    Members:
        i: runs: first byte in the scratchpad, and how many behind it.
        read: the scratchpad.
        o: beats, run after run.
        halt: `In(1)`, request nothing.
    """

    i: stream.Interface
    read: wiring.PureInterface
    o: stream.Interface
    halt: Signal

    def __init__(self, config: CoreConfig, *, size_width: int) -> None:
        self.config = config
        self.size_width = size_width
        run = data.StructLayout({"byte": range(config.scratchpad_bytes), "more": size_width})
        super().__init__(
            {
                "i": In(stream.Signature(run)),
                "read": Out(ReadSignature(config)),
                "o": Out(stream.Signature(config.axi_data_bits)),
                "halt": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Requests, a queue of words, and which of their beats are wanted."""
        m = Module()
        config = self.config
        lane_bits = exact_log2(config.axi_bytes)
        word_bits = exact_log2(config.rows)
        position_bits = word_bits - lane_bits
        m.submodules.words = words = Queue(8 * config.rows, depth=WORDS)
        spans = data.StructLayout({"first": position_bits, "last": position_bits})
        m.submodules.spans = spans = Queue(spans, depth=WORDS)

        address = Signal(range(config.words), reset_less=True)
        left = Signal(self.size_width + 1 - word_bits, reset_less=True)
        first = Signal(position_bits, reset_less=True)
        last = Signal(position_bits, reset_less=True)
        room = Signal(range(WORDS + 1), init=WORDS)
        granted = Signal()
        freed = Signal()
        m.d.comb += [
            self.read.address.eq(address),
            granted.eq(self.read.valid & self.read.ready),
            spans.i.valid.eq(granted),
            spans.i.p.first.eq(first),
            spans.i.p.last.eq(Mux(left == 0, last, (1 << position_bits) - 1)),
            words.i.valid.eq(self.read.data_valid),
            words.i.payload.eq(self.read.data),
        ]
        m.d.sync += room.eq(room + freed - granted)
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    run = self.i.p
                    end = (run.byte[:word_bits] + run.more)[: self.size_width + 1]
                    m.d.sync += [
                        address.eq(run.byte[word_bits:]),
                        left.eq(end[word_bits:]),
                        first.eq(run.byte[lane_bits:word_bits]),
                        last.eq(end[lane_bits:word_bits]),
                    ]
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.read.valid.eq((room != 0) & ~self.halt)
                with m.If(granted):
                    m.d.sync += [address.eq(address + 1), left.eq(left - 1), first.eq(0)]
                    with m.If(left == 0):
                        m.next = "TAKE"

        begun = Signal()
        position = Signal(position_bits, reset_less=True)
        here = Mux(begun, position, spans.o.p.first)
        ends = here == spans.o.p.last
        sent = Signal()
        m.d.comb += [
            self.o.valid.eq(words.o.valid),
            self.o.payload.eq(words.o.payload.word_select(here, config.axi_data_bits)),
            sent.eq(self.o.valid & self.o.ready),
            freed.eq(sent & ends),
            words.o.ready.eq(freed),
            spans.o.ready.eq(freed),
        ]
        with m.If(sent):
            m.d.sync += [position.eq(here + 1), begun.eq(~ends)]
        return m
