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
        stop: `In(1)`, issue nothing from now on.
        operands: `In(1)`, what comes from the scratchpad is there.
        columns: `In(1)`, the records of the next group may be taken.
        drain: `Out(DrainSignature(config))`; its data is somebody else's.
        issue: `Out(1)`, an element group is sent.
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
    operands: Signal
    columns: Signal
    drain: wiring.PureInterface
    issue: Signal
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
                "operands": In(1),
                "columns": In(1),
                "drain": Out(DrainSignature(config)),
                "issue": Out(1),
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
        with m.If(self.start):
            m.d.sync += gap.eq(Mux(fill > period, fill, period))

        hold = Signal.like(gap)
        with m.If(self.issue & loop.last_row):
            m.d.sync += hold.eq(gap)
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        busy = Signal()
        m.d.sync += busy.eq(self.issue & self.two_writes)

        full = self.drain.full | ~self.drained
        open_ = (self.columns | ~loop.first_row) & (hold == 0) & ~busy & ~self.stop
        m.d.comb += [
            self.unfilled.eq(loop.active & ~full & open_),
            self.starved.eq(loop.active & full & ~self.operands & open_),
            self.issue.eq(loop.active & full & self.operands & open_),
            self.first_row.eq(loop.first_row),
            self.row.eq(loop.row),
            self.drain.enable.eq(self.issue & self.drained),
            self.drain.release.eq(self.issue & self.drained & loop.last_row),
            self.drain.row.eq(loop.row),
        ]
        return m
