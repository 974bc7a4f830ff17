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
from systolith_rtl.vector.fetch import ADDRESS_WIDTH, STRIDE_WIDTH, walk_width
from systolith_rtl.vector.transpose import Transposer


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
        turned: `In(1)`, there are words, and they are stored transposed.
        words: `In`, C words.
        columns: `In(range(C + 1))`, how many of them are stored transposed.
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
    turned: Signal
    words: data.View
    columns: Signal
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
                "turned": In(1),
                "words": In(data.ArrayLayout(signed(WORD_WIDTH), config.columns)),
                "columns": In(range(config.columns + 1)),
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
        granules = config.word_granules
        beats = granules == 1

        words = self.words.as_value()
        narrow = Cat(word[:8] for word in self.words)
        m.submodules.transposer = turn = Transposer(config)
        m.d.comb += [
            turn.valid.eq(self.turned),
            turn.row.eq(narrow),
            turn.columns.eq(self.columns),
            turn.last_row.eq(self.last_row),
            turn.last_group.eq(self.last_group),
        ]

        # What is written next, and which loops end with it.
        second = Signal()
        emit = Signal()
        inner_end = Signal(reset_less=True)
        middle_end = Signal(reset_less=True)
        outer_end = Signal(reset_less=True)
        written = Signal(len(words), reset_less=True)
        granule = written[:granule_width]
        with m.If(self.transpose):
            m.d.sync += emit.eq(turn.granule_valid)
            with m.If(turn.granule_valid):
                m.d.sync += [
                    granule.eq(turn.granule),
                    inner_end.eq(turn.last_column),
                    middle_end.eq(turn.last_block),
                    outer_end.eq(turn.final),
                ]
        with m.Else():
            if beats:
                m.d.sync += second.eq(emit & ~second & self.wide)
                m.d.sync += emit.eq(self.rows | (emit & ~second & self.wide))
            else:
                m.d.sync += emit.eq(self.rows)
            with m.If(self.rows):
                # Groups are the middle loop, and there is no outer one.
                m.d.sync += [
                    written.eq(Mux(self.wide, words, narrow)),
                    inner_end.eq(self.last_row),
                    middle_end.eq(0),
                    outer_end.eq(self.last_group),
                ]
        # Of two beats, the second one is the step.
        step = emit & (second | ~self.wide) if beats else emit
        m.d.comb += self.final.eq(step & inner_end & outer_end & (middle_end | ~self.transpose))

        # Inner, middle and outer loop go by a row, by one group or block, by C rows.
        width = walk_width(config, config.columns)
        address = Signal(width, reset_less=True)
        middle = Signal(width, reset_less=True)
        outer = Signal(width, reset_less=True)
        next_middle = Signal(width)
        next_outer = Signal(width)
        # What does not fit belongs to the first address, which is then the last.
        far = Signal(reset_less=True)
        at_fault = Signal(width, reset_less=True)
        # Copies near by; the first words are further away.
        started, begin, two = Signal(), Signal(), Signal(reset_less=True)
        m.d.sync += [started.eq(self.start), begin.eq(started), two.eq(self.wide)]
        m.d.comb += [
            next_middle.eq(middle + Mux(two, 2, 1)),
            next_outer.eq(outer + (self.stride << exact_log2(config.columns))),
        ]
        with m.If(begin):
            m.d.sync += [part.eq(self.address) for part in (address, middle)]
            m.d.sync += far.eq(self.address[width:].any())
        with m.Elif(step & ~inner_end):
            m.d.sync += address.eq(address + self.stride)
        with m.Elif(step & ~middle_end):
            m.d.sync += [address.eq(next_middle), middle.eq(next_middle)]
        with m.Elif(step):
            m.d.sync += [part.eq(next_outer) for part in (address, middle)]
        # Not within the above, so that the enable does not come from theirs.
        with m.If(begin | (step & inner_end & middle_end)):
            m.d.sync += outer.eq(Mux(begin, self.address, next_outer))

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
