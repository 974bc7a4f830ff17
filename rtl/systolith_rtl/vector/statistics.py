"""Row statistics: trees over the C elements of a group, accumulated over the groups of a row."""

from collections.abc import Callable, Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.isa import Statistic
from systolith.numerics import MASKED, WORD_WIDTH
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.multiplier import Multiplier
from systolith_rtl.vector.lanes import SQUARE_WIDTH
from systolith_rtl.vector.row_file import (
    EXTREMES_LAYOUT,
    SUMS_LAYOUT,
    SlotReadSignature,
    SlotWriteSignature,
)

MIN_PERIOD = BlockRam.LATENCY + 2
"""Cycles after which a row may come again: it is read, combined and written by then."""


def statistics_latency(config: CoreConfig) -> int:
    """Cycles from a row's words to the cycle in which the last of its statistics is written."""
    return 2 + Multiplier.LATENCY + exact_log2(config.columns)


class RowStatistics(wiring.Component):
    """Takes the statistic of the words that are stored, and adds it to that of earlier groups.

    ::

        words -> counted -> [square ->] tree, a level a cycle -> combine -> write
                                  read what earlier groups gave ----^

    Squares come from the lanes' auxiliary multipliers.

    Members:
        valid: `In(1)`, `words` are stored in this cycle.
        words: `In`, C words as stored.
        counted: `In(C)`, those that count; the others are -32768 or 0.
        slot: `In`, where the row's statistics are.
        first: `In(1)`, nothing has been taken of the row before.
        kind: `In(Statistic)`; steady while anything is under way.
        square_valid: `Out(1)`, `word` wants squaring.
        word: `Out`, C words.
        square: `In`, their squares, two cycles later.
        extremes, sums, extremes_write, sums_write: `Out`, the row file.
    """

    valid: Signal
    words: data.View
    counted: Signal
    slot: Signal
    first: Signal
    kind: Signal
    square_valid: Signal
    word: data.View
    square: data.View
    extremes: wiring.PureInterface
    sums: wiring.PureInterface
    extremes_write: wiring.PureInterface
    sums_write: wiring.PureInterface

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        words = data.ArrayLayout(signed(WORD_WIDTH), config.columns)
        super().__init__(
            {
                "valid": In(1),
                "words": In(words),
                "counted": In(config.columns),
                "slot": In(range(config.row_slots)),
                "first": In(1),
                "kind": In(Statistic),
                "square_valid": Out(1),
                "word": Out(words),
                "square": In(data.ArrayLayout(unsigned(SQUARE_WIDTH), config.columns)),
                "extremes": Out(SlotReadSignature(config, EXTREMES_LAYOUT)),
                "sums": Out(SlotReadSignature(config, SUMS_LAYOUT)),
                "extremes_write": Out(SlotWriteSignature(config, EXTREMES_LAYOUT)),
                "sums_write": Out(SlotWriteSignature(config, SUMS_LAYOUT)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build both trees beside one chain of slots."""
        m = Module()
        config = self.config
        levels = exact_log2(config.columns)
        latency = statistics_latency(config)

        # Where each row is that is on its way: element k is k cycles behind the words.
        is_extremes = self.kind == Statistic.MAX
        is_moments = self.kind == Statistic.MOMENTS
        chain = Signal(latency)
        valid = Cat(self.valid & (self.kind != Statistic.NONE), chain)
        m.d.sync += chain.eq(valid)
        places = [(self.slot, self.first)]
        for stage in range(latency):
            slot = Signal.like(self.slot, name=f"slot{stage}", reset_less=True)
            first = Signal(name=f"first{stage}", reset_less=True)
            with m.If(valid[stage]):
                m.d.sync += [slot.eq(places[-1][0]), first.eq(places[-1][1])]
            places.append((slot, first))

        magnitudes = []
        for lane, (word, counts) in enumerate(zip(self.words, self.counted, strict=True)):
            magnitude = Signal(WORD_WIDTH, name=f"magnitude{lane}", reset_less=True)
            absolute = Mux(word[-1], -word, word)[:WORD_WIDTH]
            nothing = Mux(is_extremes, MASKED, 0)
            with m.If(valid[0]):
                m.d.sync += self.word[lane].eq(Mux(counts, word, nothing))
            with m.If(valid[0] & is_extremes):
                m.d.sync += magnitude.eq(Mux(counts, absolute, 0))
            magnitudes.append(magnitude)
        m.d.comb += self.square_valid.eq(valid[1] & is_moments)

        # Extremes. The read is timed so that its data meets the end of the tree.
        words = list(self.word)
        ready = 1 + levels
        maximum = _tree(m, "maximum", words, _larger, valid[1:] & is_extremes.replicate(latency))
        absmax = _tree(m, "absmax", magnitudes, _larger, valid[1:] & is_extremes.replicate(latency))
        before = self.extremes.data
        first = places[ready][1]
        with m.If(valid[ready] & is_extremes):
            m.d.sync += [
                self.extremes_write.data.maximum.eq(
                    Mux(first, maximum, _larger(maximum, before.maximum))
                ),
                self.extremes_write.data.absmax.eq(
                    Mux(first, absmax, _larger(absmax, before.absmax))
                ),
            ]
        m.d.comb += [
            self.extremes.read.eq(valid[ready - BlockRam.LATENCY] & is_extremes),
            self.extremes.slot.eq(places[ready - BlockRam.LATENCY][0]),
            self.extremes_write.write.eq(valid[ready + 1] & is_extremes),
            self.extremes_write.slot.eq(places[ready + 1][0]),
        ]

        # Sums. The total waits for the squares, which a multiplier holds up.
        total = _tree(m, "total", words, _plus, valid[1:] & ~is_extremes.replicate(latency))
        for stage in range(Multiplier.LATENCY):
            waiting = Signal(total.shape(), name=f"total_waiting{stage}", reset_less=True)
            with m.If(valid[ready + stage]):
                m.d.sync += waiting.eq(total)
            total = waiting
        squared = 1 + Multiplier.LATENCY
        moments = valid[squared:] & is_moments.replicate(latency + 1 - squared)
        squares = _tree(m, "squares", list(self.square), _plus, moments)
        ready = squared + levels
        before = self.sums.data
        first = places[ready][1]
        with m.If(valid[ready] & ~is_extremes):
            m.d.sync += self.sums_write.data.total.eq(Mux(first, 0, before.total) + total)
            m.d.sync += self.sums_write.data.squares.eq(
                Mux(is_moments, Mux(first, 0, before.squares) + squares, 0)
            )
        m.d.comb += [
            self.sums.read.eq(valid[ready - BlockRam.LATENCY] & ~is_extremes),
            self.sums.slot.eq(places[ready - BlockRam.LATENCY][0]),
            self.sums_write.write.eq(valid[ready + 1] & ~is_extremes),
            self.sums_write.slot.eq(places[ready + 1][0]),
        ]
        assert ready + 1 == latency
        return m


def _larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


def _plus(a: Value, b: Value) -> Value:
    return a + b


def _tree(
    m: Module,
    name: str,
    values: Sequence[Value],
    combine: Callable[[Value, Value], Value],
    enable: Value,
) -> Value:
    """Combine values pairwise, one level a cycle; bit k of `enable` is for level k."""
    level = 0
    while len(values) > 1:
        pairs = []
        for index in range(0, len(values), 2):
            value = combine(values[index], values[index + 1])
            register = Signal(value.shape(), name=f"{name}{level}_{index}", reset_less=True)
            with m.If(enable[level]):
                m.d.sync += register.eq(value)
            pairs.append(register)
        values = pairs
        level += 1
    return values[0]
