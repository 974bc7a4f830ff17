"""The only place where the vector engine waits: in front of its pipeline."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_rtl.interfaces import DrainSignature
from systolith_rtl.vector.loop import COLUMNS_WIDTH, TileLoop, rows_shape
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
        n: `In`, columns.
        drained: `In(1)`, x comes from an accumulator.
        two_writes: `In(1)`, a group takes two writes.
        transpose: `In(1)`, the result is transposed.
        statistic: `In(1)`, statistics are taken.
        stop: `In(1)`, issue nothing from the next cycle on.
        x: `In(1)`, x is there, or comes from an accumulator.
        r: `In(1)`, so is the second operand, if there is one.
        columns: `In(1)`, the records of the next group may be taken in the next cycle, unless one
            is taken in this one.
        shared: `In(1)`, all groups have the same records.
        drain: `Out(DrainSignature(config))`; its data is somebody else's. A row is enabled as often
            as it waits for the second operand.
        issue: `Out(1)`, an element group is sent.
        pops_x: `Out(1)`, with an x from the scratchpad.
        first_row: `Out(1)`, it is the first one of its group of columns.
        row: `Out`, its row.
        unfilled: `Out(1)`, a group could be issued if its accumulator were complete.
        starved: `Out(1)`, a group could be issued if its operands were there.
    """

    start: Signal
    m: Signal
    n: Signal
    drained: Signal
    two_writes: Signal
    transpose: Signal
    statistic: Signal
    stop: Signal
    x: Signal
    r: Signal
    columns: Signal
    shared: Signal
    drain: wiring.PureInterface
    issue: Signal
    pops_x: Signal
    first_row: Signal
    row: Signal
    unfilled: Signal
    starved: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "m": In(rows_shape(config)),
                "n": In(COLUMNS_WIDTH),
                "drained": In(1),
                "two_writes": In(1),
                "transpose": In(1),
                "statistic": In(1),
                "stop": In(1),
                "x": In(1),
                "r": In(1),
                "columns": In(1),
                "shared": In(1),
                "drain": Out(DrainSignature(config)),
                "issue": Out(1),
                "pops_x": Out(1),
                "first_row": Out(1),
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
            loop.m.eq(self.m),
            loop.n.eq(self.n),
            loop.step.eq(self.issue),
        ]

        # Cycles without an issue behind each group of columns.
        fill = Signal(exact_log2(config.columns))
        period = Signal(range(MIN_PERIOD))
        gap = Signal(range(max(MIN_PERIOD, config.columns)), reset_less=True)
        m.d.comb += fill.eq(Mux(self.transpose, -self.m, 0))
        with m.If(self.statistic & (self.m < MIN_PERIOD)):
            m.d.comb += period.eq(MIN_PERIOD - self.m)
        # The first group waits for its records for longer than these take.
        has_gap = Signal(reset_less=True)
        m.d.sync += [gap.eq(Mux(fill > period, fill, period)), has_gap.eq(gap != 0)]

        ended = Signal()
        left = Signal.like(gap)
        hold = Mux(ended, gap, left)
        m.d.sync += ended.eq(self.issue & loop.last_row)
        m.d.sync += left.eq(Mux(hold == 0, 0, hold - 1))

        # Whether a group may be issued in the next cycle if all that it takes is there, for the two
        # cases that one is issued in this cycle or not. `hold` is 0 if one is.
        taken = loop.first_row & ~self.shared
        behind_issue = ~self.two_writes & (
            ~loop.last_row | (~loop.last_group & ~has_gap & self.columns & ~taken)
        )
        behind_none = (hold[1:] == 0) & (self.columns | ~loop.first_row)
        open_ = Signal()
        waiting = loop.active & ~self.stop
        m.d.sync += open_.eq(waiting & Mux(self.issue, behind_issue, behind_none))

        # Written out, so that neither waits for the other's.
        drained = Signal(reset_less=True)  # Near by.
        m.d.sync += drained.eq(self.drained)
        full = self.drain.full | ~drained
        operands = self.x & self.r
        from_half = open_ & drained & self.drain.full
        m.d.comb += [
            self.unfilled.eq(open_ & ~full),
            self.starved.eq(open_ & full & ~operands),
            self.issue.eq(open_ & full & operands),
            self.first_row.eq(loop.first_row),
            self.row.eq(loop.row),
            self.pops_x.eq(open_ & ~drained & operands),
            self.drain.enable.eq(from_half),
            self.drain.release.eq(from_half & self.r & loop.last_row),
            self.drain.row.eq(loop.row),
        ]
        return m
