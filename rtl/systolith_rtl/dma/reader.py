"""The first part of STORE: words of the scratchpad, taken apart into beats."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_rtl.dma.fifo import count
from systolith_rtl.interfaces import ReadSignature

WORDS = 16
"""Words that are read ahead: the latency of a read, and some for refused beats."""

PART = 32
"""Bits of a word that have a read address of their own."""


class WordReader(wiring.Component):
    """Read the words that runs of bytes touch, and send the beats that they touch.

    A word per cycle while there is room for it; two cycles more for each run.

    Members:
        i: runs: first byte in the scratchpad, and how many behind it.
        read: the scratchpad.
        o: beats, run after run.
        halt: `In(1)`, request nothing, from the next cycle on.
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
        parts = [Memory(shape=PART, depth=WORDS, init=[]) for _ in range(8 * config.rows // PART)]
        span = data.StructLayout({"first": position_bits, "last": position_bits})
        m.submodules.spans = spans = Memory(shape=span, depth=WORDS, init=[])
        write_word = Signal(range(WORDS))
        word = Signal(8 * config.rows)
        write_span, read_span = spans.write_port(), spans.read_port(domain="comb")

        address = Signal(range(config.words), reset_less=True)
        left = Signal(self.size_width + 1 - word_bits, reset_less=True)
        first = Signal(position_bits, reset_less=True)
        last = Signal(position_bits, reset_less=True)
        granted, freed, left_queue = Signal(), Signal(), Signal()
        # Room for words, a cycle late, and words that are here. A word's span is here before it.
        room = count(m, "room", up=left_queue, down=granted, limit=WORDS, init=WORDS)
        # Whether beats wait in a register behind the memory: what rotates wide ones has long wires.
        registered = position_bits > 0 and lane_bits > 2
        here_words = None
        if not registered:
            here_words = count(m, "words", up=self.read.data_valid, down=freed, limit=WORDS)
        m.d.comb += [
            self.read.address.eq(address),
            # Into a free place anything may be written.
            write_span.en.eq(room.some),
            write_span.data.first.eq(first),
            write_span.data.last.eq(Mux(left == 0, last, (1 << position_bits) - 1)),
        ]
        m.d.sync += [
            left_queue.eq(freed),
            write_span.addr.eq(write_span.addr + granted),
            write_word.eq(write_word + self.read.data_valid),
        ]
        for index, part in enumerate(parts):
            m.submodules[f"words{index}"] = part
            mine = slice(index * PART, (index + 1) * PART)
            write, read = part.write_port(), part.read_port(domain="comb")
            # One that reads all of a word would be far from most of it. Yosys merges what lacks
            # `keep`.
            place = Signal(range(WORDS), name=f"read_word{index}", attrs={"keep": 1})
            m.d.sync += place.eq(place + freed)
            m.d.comb += [
                write.en.eq(self.read.data_valid),
                write.addr.eq(write_word),
                write.data.eq(Value.cast(self.read.data)[mine]),
                read.addr.eq(place),
                word[mine].eq(read.data),
            ]
        # There is room, and no halt.
        may = Signal(init=1)
        m.d.sync += may.eq(room.some_next & ~self.halt)
        # A copy for data, which Yosys would merge without `keep`.
        reads, reading = (Signal(name=name, attrs={"keep": 1}) for name in ("reads", "reading"))
        reads_next = Mux(reads, ~granted | (left != 0), self.i.valid)
        m.d.sync += [reads.eq(reads_next), reading.eq(reads_next)]
        run = self.i.p
        end = (run.byte[:word_bits] + run.more)[: self.size_width + 1]
        m.d.comb += [
            self.i.ready.eq(~reads),
            self.read.valid.eq(reads & may),
            granted.eq(self.read.valid & self.read.ready),
        ]
        with m.If(~reading):
            m.d.sync += [
                address.eq(run.byte[word_bits:]),
                left.eq(end[word_bits:]),
                first.eq(run.byte[lane_bits:word_bits]),
                last.eq(end[lane_bits:word_bits]),
            ]
        with m.Elif(granted):
            m.d.sync += [
                address.eq(address + 1),
                left.eq(left - 1),
                first.eq(0),
            ]

        # The first word's span is in registers by the time the word is here.
        spanned, spans_next = Signal(), Signal()
        here_spans = count(m, "spans", up=granted, down=spans_next, limit=WORDS)
        here = Signal(position_bits, reset_less=True)
        until = Signal(position_bits, reset_less=True)
        ends = Signal(reset_less=True)
        final = ends if position_bits else Const(1)
        if here_words is None:
            # To choose a beat takes a gate, and to rotate one of 8 bytes or more at least three: a
            # register is between them. A word that finds nothing before it is not late by that,
            # as it passes by the queue.
            valid, moves, finishes, sent, some = (Signal() for _ in range(5))
            comes = self.read.data_valid
            passes = comes & ~some
            here_words = count(
                m, "words", up=comes & ~(passes & finishes), down=some & finishes, limit=WORDS
            )
            m.d.comb += [
                self.o.valid.eq(valid),
                some.eq(here_words.some),
                finishes.eq(moves & final),
                sent.eq(moves & (some | passes)),
                freed.eq(finishes & (some | passes)),
                spans_next.eq((~spanned | freed) & here_spans.some),
            ]
            m.d.sync += spanned.eq(spans_next | (spanned & ~freed))
            stored, arrived = (
                Value.cast(each).word_select(here, config.axi_data_bits)
                for each in (word, self.read.data)
            )
            beat = Signal(config.axi_data_bits, reset_less=True)
            # A copy for data, which Yosys would merge without `keep`.
            chooses = Signal(attrs={"keep": 1})
            here_words.some.attrs["keep"] = 1
            m.d.comb += [self.o.payload.eq(beat), moves.eq(~valid | self.o.ready)]
            m.d.sync += chooses.eq(here_words.some_next)
            with m.If(moves):
                m.d.sync += [valid.eq(some | comes), beat.eq(Mux(chooses, stored, arrived))]
        else:
            sent = Signal()
            m.d.comb += [
                self.o.valid.eq(here_words.some),
                self.o.payload.eq(word.word_select(here, config.axi_data_bits)),
                sent.eq(self.o.valid & self.o.ready),
                freed.eq(sent & final),
                spans_next.eq((~spanned | freed) & here_spans.some),
            ]
            m.d.sync += spanned.eq(spans_next | (spanned & ~freed))
        with m.If(spans_next):
            m.d.sync += read_span.addr.eq(read_span.addr + 1)
        # What comes next depends on registers alone; that a beat goes on, on much more.
        span = read_span.data
        begins = ~spanned | final
        with m.If(~spanned | sent):
            m.d.sync += [
                here.eq(Mux(begins, span.first, here + 1)),
                until.eq(Mux(begins, span.last, until)),
                ends.eq(Mux(begins, span.first == span.last, here + 1 == until)),
            ]
        return m
