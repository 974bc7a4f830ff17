"""Row statistics: trees over the C elements of a group, accumulated over the groups of a row."""

from collections.abc import Callable, Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.isa import Statistic
from systolith.numerics import MASKED, WORD_WIDTH
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.pipeline import register, unless_idle
from systolith_rtl.reset import without_reset
from systolith_rtl.vector.lanes import SQUARE_WIDTH, square_latency
from systolith_rtl.vector.row_file import (
    EXTREMES_LAYOUT,
    SUMS_LAYOUT,
    SlotReadSignature,
    SlotWriteSignature,
)

MIN_PERIOD = BlockRam.LATENCY + 3
"""Cycles after which a row may come again: it is read, combined in two cycles, written by then."""


def statistics_latency(config: CoreConfig) -> int:
    """Cycles from a row's words to the cycle in which the last of its statistics is written."""
    levels = exact_log2(config.columns)
    extremes = 1 + 2 * levels
    sums = 1 + square_latency(config) + levels
    return max(extremes, sums) + 2


class RowStatistics(wiring.Component):
    """Takes the statistic of the words that are stored, and adds it to that of earlier groups.

    ::

        words -> counted -> [square ->] tree -> combine, two cycles -> write
                   read what earlier groups gave ---^

    A level of a tree takes a cycle where it adds, two where it compares and chooses. Squares come
    from the lanes' auxiliary multipliers.

    Members:
        valid: `In(1)`, `words` are stored in this cycle.
        words: `In`, C words as stored.
        counted: `In(C)`, those that count; the others are -32768 or 0.
        slot: `In`, where the row's statistics are.
        first: `In(1)`, nothing has been taken of the row before.
        kind: `In(Statistic)`; steady from a cycle before the first words on, while anything is
            under way.
        square_valid: `Out(1)`, `word` wants squaring.
        word: `Out`, C words.
        square: `In`, their squares, `square_latency` cycles later.
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

        without_reset(self.word)
        # Where each row is that is on its way: element k is k cycles behind the words.
        is_extremes, is_moments, is_any = Signal(), Signal(), Signal()
        m.d.sync += [
            is_extremes.eq(self.kind == Statistic.MAX),
            is_moments.eq(self.kind == Statistic.MOMENTS),
            is_any.eq(self.kind != Statistic.NONE),
        ]
        chain = Signal(latency)
        valid = Cat(self.valid & is_any, chain)
        m.d.sync += chain.eq(valid)
        runs = unless_idle(platform, valid)
        places = [(self.slot, self.first)]
        for stage in range(latency):
            slot = Signal.like(self.slot, name=f"slot{stage}", reset_less=True)
            first = Signal(name=f"first{stage}", reset_less=True)
            with m.If(runs[stage]):
                m.d.sync += [slot.eq(places[-1][0]), first.eq(places[-1][1])]
            places.append((slot, first))

        magnitudes = []
        for lane, (word, counts) in enumerate(zip(self.words, self.counted, strict=True)):  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
            magnitude = Signal(WORD_WIDTH, name=f"magnitude{lane}", reset_less=True)
            absolute = Mux(word[-1], -word, word)[:WORD_WIDTH]
            nothing = Mux(is_extremes, MASKED, 0)
            with m.If(runs[0]):
                m.d.sync += self.word[lane].eq(Mux(counts, word, nothing))
            with m.If(unless_idle(platform, valid[0] & is_extremes)):
                m.d.sync += magnitude.eq(Mux(counts, absolute, 0))
            magnitudes.append(magnitude)
        m.d.comb += self.square_valid.eq(valid[1] & is_moments)

        # Extremes. The read is timed so that its data meets the end of the tree.
        words = list(self.word)  # pyright: ignore[reportArgumentType]
        ready = 1 + 2 * levels
        enable = valid & is_extremes.replicate(latency + 1)
        runs = unless_idle(platform, enable)
        maximum = _tree(m, "maximum", words, runs[1:], 2, _larger)
        absmax = _tree(m, "absmax", magnitudes, runs[1:], 2, _larger)
        first = places[ready][1]
        before = self.extremes.data
        written = self.extremes_write.data
        stages = runs[ready : ready + 2]
        for name, value, earlier, target in (
            ("maximum", maximum, before.maximum, written.maximum),
            ("absmax", absmax, before.absmax, written.absmax),
        ):
            m.d.comb += target.eq(_larger(m, f"{name}_combined", value, earlier, stages, first))
        self._connect(m, self.extremes, self.extremes_write, enable, places, ready)

        # Sums. The total waits for the squares, which a multiplier holds up, and the way to it.
        waits = square_latency(config)
        enable = valid & ~is_extremes.replicate(latency + 1)
        runs = unless_idle(platform, enable)
        total = _tree(m, "total", words, runs[1:], 1, _sum)
        ready = 1 + levels
        for stage in range(waits):
            total = register(m, f"total_waiting{stage}", total, runs[ready + stage])
        ready += waits
        squared = unless_idle(platform, enable & is_moments.replicate(latency + 1))
        squared = squared[1 + waits :]
        squares = _tree(m, "squares", list(self.square), squared, 1, _sum)  # pyright: ignore[reportArgumentType]
        first = places[ready][1]
        # Decided a cycle ahead, since it resets all of a register: MOMENTS keeps all squares, SUM
        # none.
        no_squares = Signal(reset_less=True)
        m.d.sync += no_squares.eq(places[ready - 1][1] | ~is_moments)
        before = self.sums.data
        written = self.sums_write.data
        for name, value, earlier, target in (
            ("total", total, before.total, written.total),
            ("squares", Mux(is_moments, squares, 0), before.squares, written.squares),
        ):
            # Only what is kept is of use.
            kept = Mux(no_squares if name == "squares" else first, 0, earlier)
            kept = register(m, f"{name}_before", kept, runs[ready])
            value = register(m, f"{name}_new", value, runs[ready])
            result = register(m, f"{name}_combined", kept + value, runs[ready + 1])
            m.d.comb += target.eq(result)
        self._connect(m, self.sums, self.sums_write, enable, places, ready)
        return m

    def _connect(
        self,
        m: Module,
        reader: wiring.PureInterface,
        writer: wiring.PureInterface,
        enable: Value,
        places: Sequence[tuple[Signal, Signal]],
        ready: int,
    ) -> None:
        """Read so that the data is there when the tree is ready; write two cycles later."""
        m.d.comb += [
            reader.read.eq(enable[ready - BlockRam.LATENCY]),
            reader.slot.eq(places[ready - BlockRam.LATENCY][0]),
            writer.write.eq(enable[ready + 2]),
            writer.slot.eq(places[ready + 2][0]),
        ]


def _sum(m: Module, name: str, a: Value, b: Value, enable: Value) -> Signal:
    """Add in one cycle."""
    return register(m, name, a + b, enable[0])


def _larger(
    m: Module, name: str, a: Value, b: Value, enable: Value, always_a: ValueLike = 0
) -> Signal:
    """Compare in one cycle, choose in the next: both in one are slower than a DSP block."""
    # The sign of a difference is faster than a comparison, whose carry leaves its chain.
    choose_a = register(m, f"{name}_choice", (b - a)[-1] | always_a, enable[0])
    a = register(m, f"{name}_a", a, enable[0])
    b = register(m, f"{name}_b", b, enable[0])
    return register(m, name, Mux(choose_a, a, b), enable[1])


def _tree(
    m: Module,
    name: str,
    values: Sequence[Value],
    enable: Value,
    cycles: int,
    combine: Callable[[Module, str, Value, Value, Value], Signal],
) -> Value:
    """Combine values pairwise, level by level, each so many cycles.

    Bit k of `enable` is high k cycles after the values are there.
    """
    level = 0
    while len(values) > 1:
        stages = enable[level * cycles : (level + 1) * cycles]
        values = [
            combine(m, f"{name}{level}_{index}", values[index], values[index + 1], stages)
            for index in range(0, len(values), 2)
        ]
        level += 1
    return values[0]
