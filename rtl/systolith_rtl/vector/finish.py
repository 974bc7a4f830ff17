"""What happens to results before they are stored: masks, tails, and who they are."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.numerics import MASKED, WORD_WIDTH
from systolith_rtl.pipeline import unless_idle
from systolith_rtl.reset import without_reset
from systolith_rtl.vector.loop import COLUMNS_WIDTH

PLACE = data.StructLayout({"first_group": 1, "last_row": 1, "last_group": 1})
"""Where an element group is; as in `TileLoop`."""


class Finish(wiring.Component):
    """Turns C results into the C words that are stored: masked scores, and zeros in the tail.

    Members:
        start: `In(1)`, begin with the operands, which stay as they are until the end.
        tail: `In`, the last group's last column.
        masked: `In(1)`, columns from `length` on are masked.
        length: `In(32)`.
        stat_out: `In`, slot of the first row's statistics.
        coming: `In(1)`, results are there in the next cycle.
        place: `In(PLACE)`, with `coming`: which ones.
        transpose: `In(1)`, words are stored transposed.
        results: `In`, C results.
        valid: `Out(1)`, words are there, two cycles after `coming`. All that follows means
            something in that cycle.
        rows: `Out(1)`, the same, but only if they are stored in rows.
        turns: `Out(1)`, the same, but only if they are stored transposed, and a cycle earlier.
        words: `Out`, C words: the results, -32768 where masked, 0 from column n on.
        counted: `Out(C)`, words that statistics count.
        column: `Out(range(C))`, the last one before column n.
        slot: `Out`, of the row's statistics.
        first_group, last_row, last_group: `Out(1)`, as in `TileLoop`.
    """

    start: Signal
    tail: Signal
    masked: Signal
    length: Signal
    stat_out: Signal
    coming: Signal
    place: data.View
    transpose: Signal
    results: data.View
    valid: Signal
    rows: Signal
    turns: Signal
    words: data.View
    counted: Signal
    column: Signal
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
                "tail": In(range(config.columns)),
                "masked": In(1),
                "length": In(32),
                "stat_out": In(range(config.row_slots)),
                "coming": In(1),
                "place": In(PLACE),
                "transpose": In(1),
                "results": In(words),
                "valid": Out(1),
                "rows": Out(1),
                "turns": Out(1),
                "words": Out(words),
                "counted": Out(config.columns),
                "column": Out(range(config.columns)),
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
        place = self.place
        # The length comes out of a memory. The first result is further away.
        begin = Signal(4)
        length = Signal.like(self.length, reset_less=True)
        everything = Signal(reset_less=True)
        m.d.sync += [
            begin.eq(Cat(self.start, begin)),
            length.eq(self.length),
            everything.eq(~self.masked | length[COLUMNS_WIDTH:].any()),
        ]
        # Groups before the length, behind this one: below 0 where it is within this group, and
        # from then on. What exceeds the columns of an instruction is all of them.
        sub_width = exact_log2(config.columns)
        unmasked = Signal(signed(COLUMNS_WIDTH - sub_width + 1), reset_less=True)
        rest = Signal(sub_width, reset_less=True)
        ended = Signal(reset_less=True)  # Before this group.
        with m.If(begin[2]):
            m.d.sync += [
                Cat(rest, unmasked).eq(length[:COLUMNS_WIDTH] | everything.replicate(COLUMNS_WIDTH))
            ]
        with m.Elif(begin[3] | (self.coming & place.last_row)):
            m.d.sync += [unmasked.eq(unmasked - 1), ended.eq(unmasked[-1])]
        slot = Signal.like(self.slot, name="next_slot", reset_less=True)
        with m.If(begin[3] | self.coming):
            m.d.sync += slot.eq(Mux(begin[3] | place.last_row, self.stat_out, slot + 1))

        coming = Signal()
        inside = Signal(config.columns, reset_less=True)
        open_ = Signal(config.columns, reset_less=True)
        facts = {
            "column": self.tail | (~place.last_group).replicate(sub_width),
            "slot": slot,
            "first_group": place.first_group,
            "last_row": place.last_row,
            "last_group": place.last_group,
        }
        early = {
            name: Signal.like(getattr(self, name), name=f"early_{name}", reset_less=True)
            for name in facts
        }
        without_reset(self.counted, self.words, *(getattr(self, name) for name in facts))
        m.d.sync += coming.eq(self.coming)
        with m.If(unless_idle(platform, self.coming)):
            for lane in range(config.columns):
                m.d.sync += [
                    inside[lane].eq(~place.last_group | (self.tail >= lane)),
                    open_[lane].eq(~unmasked[-1] | (~ended & (rest > lane))),
                ]
            m.d.sync += [early[name].eq(fact) for name, fact in facts.items()]

        # Each goes to hundreds of registers.
        m.d.sync += [
            self.valid.eq(coming),
            self.rows.eq(coming & ~self.transpose),
        ]
        m.d.comb += self.turns.eq(coming & self.transpose)
        with m.If(unless_idle(platform, coming)):
            m.d.sync += self.counted.eq(inside & open_)
            m.d.sync += [getattr(self, name).eq(fact) for name, fact in early.items()]
            for lane in range(config.columns):
                word = Mux(open_[lane], self.results[lane], MASKED)
                m.d.sync += self.words[lane].eq(Mux(inside[lane], word, 0))
        return m
