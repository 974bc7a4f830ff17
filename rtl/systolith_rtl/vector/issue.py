"""The only place where the vector engine waits: in front of its pipeline."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from systolith.config import CoreConfig
from systolith_rtl.interfaces import DrainSignature
from systolith_rtl.vector.loop import TileLoop, extent_layout
from systolith_rtl.vector.statistics import MIN_PERIOD


class Issue(wiring.Component):
    """Sends one element group after the other on its way, when all that it takes is there.

    What is behind it never stalls, so it also keeps the distances that the parts behind it need:
    two cycles between groups of words where each takes two writes; cycles behind a group of
    columns whose last block is filled up by the transposer, or whose rows come again before their
    statistics have been accumulated.

    Members:
        start: `In(1)`, begin with the operands, which stay as they are until the end.
        m: `In`, rows.
        extent: `In(extent_layout(config))`, rows and columns.
        drained: `In(1)`, x comes from an accumulator.
        two_writes: `In(1)`, a group takes two writes.
        transpose: `In(1)`, the result is transposed.
        statistic: `In(1)`, statistics are taken.
        stop: `In(1)`, issue nothing from the next cycle on.
        x_more: `In(1)`, x will be there in the next cycle even if it is taken in this one; or it
            comes from an accumulator.
        x_held: `In(1)`, it is there in this cycle.
        r_more, r_held: `In(1)`, so is the second operand, if there is one.
        columns: `In(1)`, the records of the next group may be taken in the next cycle, unless one
            is taken in this one.
        shared: `In(1)`, all groups have the same records.
        drain: `Out(DrainSignature(config))`; its data is somebody else's. A row is enabled as often
            as it waits for the second operand.
        issue: `Out(1)`, an element group is sent.
        pops_x: `Out(1)`, with an x from the scratchpad.
        first_row, last_row: `Out(1)`, it is the first or the last one of its group of columns.
        first_group, last_group: `Out(1)`, and this is the first or the last one.
        row: `Out`, its row.
        unfilled: `Out(1)`, a group could be issued if its accumulator were complete.
        starved: `Out(1)`, a group could be issued if its operands were there.
    """

    start: Signal
    m: Signal
    extent: data.View
    drained: Signal
    two_writes: Signal
    transpose: Signal
    statistic: Signal
    stop: Signal
    x_more: Signal
    x_held: Signal
    r_more: Signal
    r_held: Signal
    columns: Signal
    shared: Signal
    drain: wiring.PureInterface
    issue: Signal
    pops_x: Signal
    first_row: Signal
    last_row: Signal
    first_group: Signal
    last_group: Signal
    row: Signal
    unfilled: Signal
    starved: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "m": In(bits_for(config.row_slots)),
                "extent": In(extent_layout(config)),
                "drained": In(1),
                "two_writes": In(1),
                "transpose": In(1),
                "statistic": In(1),
                "stop": In(1),
                "x_more": In(1),
                "x_held": In(1),
                "r_more": In(1),
                "r_held": In(1),
                "columns": In(1),
                "shared": In(1),
                "drain": Out(DrainSignature(config)),
                "issue": Out(1),
                "pops_x": Out(1),
                "first_row": Out(1),
                "last_row": Out(1),
                "first_group": Out(1),
                "last_group": Out(1),
                "row": Out(range(config.row_slots)),
                "unfilled": Out(1),
                "starved": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the loop, the distances, and the one AND of everything."""
        m = Module()
        config = self.config
        m.submodules.loop = loop = TileLoop(config)
        m.d.comb += [
            loop.start.eq(self.start),
            loop.stop.eq(self.stop),
            loop.extent.eq(self.extent),
        ]

        # Cycles without an issue behind each group of columns.
        fill = Signal(exact_log2(config.columns))
        period = Signal(range(MIN_PERIOD))
        gap = Signal(range(max(MIN_PERIOD, config.columns)), reset_less=True)
        m.d.comb += fill.eq(Mux(self.transpose, -self.m, 0))
        with m.If(self.statistic & (self.m < MIN_PERIOD)):
            m.d.comb += period.eq(MIN_PERIOD - self.m)
        # The first group waits for its records for longer than these take.
        has_gap, gap_passes = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            gap.eq(Mux(fill > period, fill, period)),
            has_gap.eq(gap != 0),
            gap_passes.eq(gap[1:] == 0),
        ]

        ended = Signal()
        left = Signal.like(gap)
        # That `left` is at most 1: known as early as `left` itself.
        left_passes = Signal(init=1, reset_less=True)
        hold = Mux(ended, gap, left)
        m.d.sync += ended.eq(self.issue & loop.last_row)
        m.d.sync += [left.eq(Mux(hold == 0, 0, hold - 1)), left_passes.eq(hold <= 2)]

        # Whether a group may be issued in the next cycle if all that it takes is there, for the two
        # cases that one is issued in this cycle or not. `hold` is 0 if one is.
        taken = loop.first_row & ~self.shared
        behind_issue = ~self.two_writes & (
            ~loop.last_row | (~loop.last_group & ~has_gap & self.columns & ~taken)
        )
        behind_none = Mux(ended, gap_passes, left_passes) & (self.columns | ~loop.first_row)
        # So for the operands: of one that is taken in this cycle, there must be another.
        more = self.x_more & self.r_more
        some = (self.x_more | self.x_held) & (self.r_more | self.r_held)

        # All that is waited for, but the accumulator, is in registers.
        drained = Signal(reset_less=True, attrs={"keep": 1})  # Near by.
        m.d.sync += drained.eq(self.drained)
        waiting = loop.active & ~self.stop
        half, alone = waiting & drained, waiting & ~drained
        open_half, half_lacks, lacks_alone = (
            Signal(name=name) for name in ("open_half", "half_lacks", "lacks_alone")
        )
        # With copies for the loop, whose counters are many, and for what is decided next, so that
        # no gate with the accumulator is shared.
        half_goes, half_steps, half_went, goes_alone, steps_alone = (
            Signal(name=name, attrs={"keep": 1})
            for name in ("half_goes", "half_steps", "half_went", "goes_alone", "steps_alone")
        )
        # That the accumulator is full has come a long way, and so chooses last.
        full = self.drain.full

        def with_accumulator(after_issue: Value, after_none: Value) -> Value:
            if_full = half & Mux(half_went, after_issue, after_none)
            return Mux(full, if_full, half & after_none)

        def without(after_issue: Value, after_none: Value) -> Value:
            return alone & Mux(goes_alone, after_issue, after_none)

        goes = behind_issue & more, behind_none & some
        lacks = behind_issue & ~more, behind_none & ~some
        m.d.sync += [
            open_half.eq(with_accumulator(behind_issue, behind_none)),
            half_goes.eq(with_accumulator(*goes)),
            half_steps.eq(with_accumulator(*goes)),
            half_went.eq(with_accumulator(*goes)),
            half_lacks.eq(with_accumulator(*lacks)),
            goes_alone.eq(without(*goes)),
            steps_alone.eq(without(*goes)),
            lacks_alone.eq(without(*lacks)),
        ]
        m.d.comb += [
            self.unfilled.eq(open_half & ~full),
            self.starved.eq(lacks_alone | (half_lacks & full)),
            self.issue.eq(goes_alone | (half_goes & full)),
            loop.step.eq(steps_alone | (half_steps & full)),
            self.first_row.eq(loop.first_row),
            self.last_row.eq(loop.last_row),
            self.first_group.eq(loop.first_group),
            self.last_group.eq(loop.last_group),
            self.row.eq(loop.row),
            self.pops_x.eq(goes_alone),
            self.drain.enable.eq(open_half & full),
            self.drain.release.eq(half_steps & full & loop.last_row),
            self.drain.row.eq(loop.row),
        ]
        return m
