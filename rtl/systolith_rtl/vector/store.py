"""The way of the vector engine's words into the scratchpad."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.numerics import WORD_WIDTH
from systolith_rtl.interfaces import WriteSignature
from systolith_rtl.pipeline import unless_idle
from systolith_rtl.reset import without_reset
from systolith_rtl.vector.transpose import Transposer
from systolith_rtl.vector.walk import ADDRESS_WIDTH, STRIDE_WIDTH, walk_width


class Store(wiring.Component):
    """Writes C words per cycle as bytes or words, in rows or transposed.

    A group of bytes is one granule, a group of words two; where a scratchpad word is but one
    granule, words leave in two cycles, and the next may come two cycles later. Words are
    written two cycles after they are there, transposed ones when their block is complete.

    The write port is never refused, since the vector engine is the first in its order.

    Members:
        y: `Out(WriteSignature(config))`; its `ready` is not looked at.
        start: `In(1)`, begin with the operands, which stay as they are until the end.
        address: `In(32)`, granule of the first element.
        stride: `In(16)`, granules from row to row as stored.
        wide: `In(1)`, elements are s16.
        transpose: `In(1)`, rows are columns.
        stop: `In(1)`, request no write from now on.
        rows: `In(1)`, there are words, and they are stored in rows.
        turns: `In(1)`, there are words in the next cycle, and they are stored transposed.
        words: `In`, C words.
        column: `In(range(C))`, the last one of them that is stored transposed.
        last_row, last_group: `In(1)`, as in `TileLoop`.
        final: `Out(1)`, one cycle before the last write.
        fault: `Out(1)`, an address is outside of the scratchpad; stays high until reset.
        fault_address: `Out(32)`, that granule.
    """

    y: wiring.PureInterface
    start: Signal
    address: Signal
    stride: Signal
    wide: Signal
    transpose: Signal
    stop: Signal
    rows: Signal
    turns: Signal
    words: data.View
    column: Signal
    last_row: Signal
    last_group: Signal
    final: Signal
    fault: Signal
    fault_address: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "y": Out(WriteSignature(config)),
                "start": In(1),
                "address": In(ADDRESS_WIDTH),
                "stride": In(STRIDE_WIDTH),
                "wide": In(1),
                "transpose": In(1),
                "stop": In(1),
                "rows": In(1),
                "turns": In(1),
                "words": In(data.ArrayLayout(signed(WORD_WIDTH), config.columns)),
                "column": In(range(config.columns)),
                "last_row": In(1),
                "last_group": In(1),
                "final": Out(1),
                "fault": Out(1),
                "fault_address": Out(ADDRESS_WIDTH),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build what is written, where to, and the register in front of the port."""
        m = Module()
        without_reset(self.y.address, self.y.data, self.y.mask)
        config = self.config
        granule_width = 8 * config.columns
        sub_width = exact_log2(config.word_granules)
        sub_columns = exact_log2(config.columns)
        granules = config.word_granules
        beats = granules == 1

        words = self.words.as_value()
        narrow = Cat(word[:8] for word in self.words)
        m.submodules.transposer = turn = Transposer(config)
        m.d.comb += [
            turn.soon.eq(self.turns),
            turn.row.eq(narrow),
            turn.tail.eq(self.column),
            turn.last_row.eq(self.last_row),
            turn.last_group.eq(self.last_group),
        ]

        # What is written next, and which loops end with it. Where words leave in two beats, the
        # second one is the step.
        turned = Signal(reset_less=True)  # Near by.
        emit = Signal()
        second = Signal()
        wide = Signal(reset_less=True)  # Near the walk; `self.wide` is near the words.
        m.d.sync += wide.eq(self.wide)
        taken = turn.granule_valid | self.rows
        # Groups are the middle loop if rows are stored, and there is no outer one.
        ends = {
            "inner": Mux(turned, turn.last_column, self.last_row),
            "middle": turned & turn.last_block,
            "outer": Mux(turned, turn.final, self.last_group),
        }
        steps = taken
        if beats:
            again = emit & ~second & wide
            m.d.sync += second.eq(again)
            steps = (taken & ~wide) | again
            taken_ends = {name: Signal(name=f"{name}_end", reset_less=True) for name in ends}
            with m.If(taken):
                m.d.sync += [register.eq(ends[name]) for name, register in taken_ends.items()]
            ends = {name: Mux(again, taken_ends[name], end) for name, end in ends.items()}
            m.d.sync += emit.eq(taken | again)
        else:
            m.d.sync += emit.eq(taken)
        m.d.sync += turned.eq(self.transpose)
        m.d.sync += self.final.eq(
            steps & ends["inner"] & ends["outer"] & (ends["middle"] | ~turned)
        )
        written = Signal(len(words), reset_less=True)
        granule = written[:granule_width]
        bytes_ = Mux(turned, turn.granule, narrow)
        with m.If(taken if beats else unless_idle(platform, taken)):
            m.d.sync += written.eq(
                Cat(Mux(self.wide, words[:granule_width], bytes_), words[granule_width:])
            )

        # Inner, middle and outer loop go by a row, by one group or block, by C rows. Where the next
        # group and block begin is known ahead, so nothing is chosen behind a decision and in front
        # of a carry but what these go on from.
        width = walk_width(config, config.columns)
        address = Signal(width, reset_less=True)
        next_group = Signal(width, reset_less=True)
        next_block = Signal(width, reset_less=True)
        # What does not fit belongs to the first address, which is then the last.
        far = Signal(reset_less=True)
        at_fault = Signal(width, reset_less=True)
        # The first words are further away than the start. The operand's address is that of the
        # next block, before there is one.
        started, by_row, by_group = (Signal() for _ in range(3))
        moves, turns, opens = (Signal() for _ in range(3))
        go_block = steps & ends["inner"] & ends["middle"]
        m.d.sync += [
            started.eq(self.start),
            by_row.eq(steps & ~ends["inner"]),
            by_group.eq(steps & ends["inner"] & ~ends["middle"]),
            moves.eq(started | steps),
            turns.eq(started | (steps & ends["inner"])),
            opens.eq(started | go_block),
        ]
        # What begins with a loop begins with those within it.
        group = Mux(by_group, next_group, next_block)
        with m.If(moves):
            m.d.sync += address.eq(Mux(by_row, address + self.stride, group))
        with m.If(turns):
            m.d.sync += next_group.eq(group + Mux(wide, 2, 1))
        with m.If(started | opens):
            following = (next_block + (self.stride << sub_columns))[:width]
            m.d.sync += next_block.eq(Mux(started, self.address[:width], following))
        with m.If(started):
            m.d.sync += far.eq(self.address[width:].any())

        outside = address[exact_log2(config.granules) :].any() | far
        going = emit & ~self.stop & ~self.fault
        with m.If(going & outside):
            m.d.sync += self.fault.eq(1)
        # Until there is a fault, every address may be that of one.
        with m.If(~self.fault):
            m.d.sync += at_fault.eq(address)
        m.d.comb += self.fault_address.eq(Cat(at_fault, self.address[width:]))
        m.d.sync += self.y.valid.eq(going & ~outside)
        with m.If(unless_idle(platform, emit)):
            m.d.sync += self.y.address.eq(address[sub_width:] | second)
            if beats:
                half = written.word_select(second, granule_width)
                m.d.sync += self.y.data.eq(Mux(self.wide, half, granule))
                m.d.sync += self.y.mask.eq(-1)
            else:
                pair = written.replicate(granules // 2)
                m.d.sync += self.y.data.eq(Mux(self.wide, pair, granule.replicate(granules)))
                sub = address[:sub_width]
                m.d.sync += self.y.mask.eq(
                    Cat(
                        Mux(self.wide, sub >> 1 == index >> 1, sub == index).replicate(
                            config.columns
                        )
                        for index in range(granules)
                    )
                )
        return m
