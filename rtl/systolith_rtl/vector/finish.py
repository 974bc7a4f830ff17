"""What happens to results before they are stored: masks, tails, and who they are."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.numerics import MASKED, WORD_WIDTH
from systolith_rtl.reset import without_reset
from systolith_rtl.vector.loop import COLUMNS_WIDTH, TileLoop, rows_shape


class Finish(wiring.Component):
    """Turns C results into the C words that are stored: masked scores, and zeros in the tail.

    Members:
        start: `In(1)`, begin with the operands, which stay as they are until the end.
        m: `In`, rows.
        n: `In`, columns.
        masked: `In(1)`, columns from `length` on are masked.
        length: `In(32)`.
        stat_out: `In`, slot of the first row's statistics.
        coming: `In(1)`, results are there in the next cycle.
        transpose: `In(1)`, words are stored transposed.
        results: `In`, C results.
        valid: `Out(1)`, words are there, two cycles after `coming`. All that follows holds until
            the next words.
        rows: `Out(1)`, the same, but only if they are stored in rows.
        turned: `Out(1)`, the same, but only if they are stored transposed.
        words: `Out`, C words: the results, -32768 where masked, 0 from column n on.
        counted: `Out(C)`, words that statistics count.
        columns: `Out(range(C + 1))`, words before column n.
        slot: `Out`, of the row's statistics.
        first_group, last_row, last_group: `Out(1)`, as in `TileLoop`.
    """

    start: Signal
    m: Signal
    n: Signal
    masked: Signal
    length: Signal
    stat_out: Signal
    coming: Signal
    transpose: Signal
    results: data.View
    valid: Signal
    rows: Signal
    turned: Signal
    words: data.View
    counted: Signal
    columns: Signal
    slot: Signal
    first_group: Signal
    last_row: Signal
    last_group: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        words = data.ArrayLayout(signed(WORD_WIDTH), config.columns)
        super().__init__(
            {
                "start": In(1),
                "m": In(rows_shape(config)),
                "n": In(COLUMNS_WIDTH),
                "masked": In(1),
                "length": In(32),
                "stat_out": In(range(config.row_slots)),
                "coming": In(1),
                "transpose": In(1),
                "results": In(words),
                "valid": Out(1),
                "rows": Out(1),
                "turned": Out(1),
                "words": Out(words),
                "counted": Out(config.columns),
                "columns": Out(range(config.columns + 1)),
                "slot": Out(range(config.row_slots)),
                "first_group": Out(1),
                "last_row": Out(1),
                "last_group": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build a stage that says which columns are valid, and one that applies it."""
        m = Module()
        config = self.config
        m.submodules.loop = loop = TileLoop(config)
        m.d.comb += [
            loop.start.eq(self.start),
            loop.m.eq(self.m),
            loop.n.eq(self.n),
            loop.step.eq(self.coming),
        ]
        # Columns before the length, from the first of the group on; what exceeds the columns of
        # an instruction is all of them.
        unmasked = Signal(COLUMNS_WIDTH, reset_less=True)
        # It comes out of a memory. The first result is further away.
        begin = Signal(3)
        length = Signal.like(self.length, reset_less=True)
        everything = Signal(reset_less=True)
        m.d.sync += [
            begin.eq(Cat(self.start, begin)),
            length.eq(self.length),
            everything.eq(~self.masked | length[COLUMNS_WIDTH:].any()),
        ]
        with m.If(begin[-1]):
            m.d.sync += unmasked.eq(length[:COLUMNS_WIDTH] | _repeat(everything))
        with m.Elif(self.coming & loop.last_row & self.masked):
            some_left = _exceeds(unmasked, config.columns)
            m.d.sync += unmasked.eq(Mux(some_left, unmasked - config.columns, 0))

        coming = Signal()
        inside = Signal(config.columns, reset_less=True)
        open_ = Signal(config.columns, reset_less=True)
        facts = {
            "columns": Mux(loop.last_group, loop.left, config.columns),
            "slot": self.stat_out + loop.row,
            "first_group": loop.first_group,
            "last_row": loop.last_row,
            "last_group": loop.last_group,
        }
        early = {
            name: Signal.like(getattr(self, name), name=f"early_{name}", reset_less=True)
            for name in facts
        }
        without_reset(self.counted, self.words, *(getattr(self, name) for name in facts))
        m.d.sync += coming.eq(self.coming)
        with m.If(self.coming):
            m.d.sync += [
                inside.eq(_before(loop.left, config.columns)),
                open_.eq(_before(unmasked, config.columns)),
            ]
            m.d.sync += [early[name].eq(fact) for name, fact in facts.items()]

        # Each goes to hundreds of registers.
        m.d.sync += [
            self.valid.eq(coming),
            self.rows.eq(coming & ~self.transpose),
            self.turned.eq(coming & self.transpose),
        ]
        with m.If(coming):
            m.d.sync += self.counted.eq(inside & open_)
            m.d.sync += [getattr(self, name).eq(fact) for name, fact in early.items()]
            for lane in range(config.columns):
                word = Mux(open_[lane], self.results[lane], MASKED)
                m.d.sync += self.words[lane].eq(Mux(inside[lane], word, 0))
        return m


def _repeat(bit: Value) -> Value:
    return bit.replicate(COLUMNS_WIDTH)


def _exceeds(value: Value, columns: int) -> Value:
    """Whether a number is at least C, which is a power of two."""
    return value[exact_log2(columns) :].any()


def _before(count: Signal, columns: int) -> Cat:
    """Return for each of C columns whether it is one of the first `count`."""
    low = count[: exact_log2(columns)]
    many = _exceeds(count, columns)
    return Cat(many | (low > Const(lane)) for lane in range(columns))
