"""The order in which every part of the vector engine walks a tensor: groups outer, rows inner."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from systolith.config import CoreConfig
from systolith_rtl.reset import without_reset

COLUMNS_WIDTH = 16
"""Bits of a number of columns, as in an instruction."""


def rows_shape(config: CoreConfig) -> int:
    """Bits of a number of rows, 1 to `row_slots`."""
    return bits_for(config.row_slots)


class TileLoop(wiring.Component):
    """Counts the rows of one group of C columns after the other.

    Each part of the engine that is a fixed or an unknown time behind another has its own loop,
    so nothing but valid bits has to travel between them. All outputs are registers; they describe
    the element group that the next `step` finishes.

    Members:
        start: `In(1)`, begin with `m` and `n`, which stay as they are until the loop is over.
        m: `In`, rows, at least 1.
        n: `In`, columns, at least 1.
        stop: `In(1)`, the loop is over.
        step: `In(1)`, go on to the next row. Means nothing when not `active`.
        active: `Out(1)`, high from the cycle after `start` until the last step. Other outputs
            mean nothing while it is low.
        idle: `Out(1)`, it is low; a register of its own, for what is loaded meanwhile.
        row: `Out`, from 0.
        left: `Out`, columns from the first of this group on, those of later groups included.
        first_row: `Out(1)`.
        last_row: `Out(1)`.
        first_group: `Out(1)`.
        last_group: `Out(1)`.
    """

    start: Signal
    stop: Signal
    m: Signal
    n: Signal
    step: Signal
    active: Signal
    idle: Signal
    row: Signal
    left: Signal
    first_row: Signal
    last_row: Signal
    first_group: Signal
    last_group: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "stop": In(1),
                "m": In(rows_shape(config)),
                "n": In(COLUMNS_WIDTH),
                "step": In(1),
                "active": Out(1),
                "idle": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "row": Out(range(config.row_slots)),
                "left": Out(unsigned(COLUMNS_WIDTH)),
                "first_row": Out(1),
                "last_row": Out(1),
                "first_group": Out(1),
                "last_group": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the counters; the flags are computed a step ahead, so they come from registers."""
        m = Module()
        without_reset(self.row, self.left, self.first_row, self.last_row)
        without_reset(self.first_group, self.last_group)
        columns = self.config.columns
        before_last = Signal.like(self.row, reset_less=True)
        with m.If(self.start):
            m.d.sync += [self.active.eq(1), self.idle.eq(0)]
        with m.Elif((self.step & self.last_row & self.last_group) | self.stop):
            m.d.sync += [self.active.eq(0), self.idle.eq(1)]
        # Between loops, what the next one begins with is loaded again and again: `start` would be
        # one more net to all of these.
        with m.If(self.idle):
            m.d.sync += [
                before_last.eq(self.m - 2),
                self.row.eq(0),
                self.first_row.eq(1),
                self.last_row.eq(self.m == 1),
            ]
        with m.Elif(self.step):
            m.d.sync += [
                self.row.eq(Mux(self.last_row, 0, self.row + 1)),
                self.first_row.eq(self.last_row),
                self.last_row.eq(Mux(self.last_row, self.m == 1, self.row == before_last)),
            ]
        # Not within the above, so that the enable does not come from theirs.
        with m.If(self.idle | (self.step & self.last_row)):
            m.d.sync += [
                self.left.eq(Mux(self.idle, self.n, self.left - columns)),
                self.first_group.eq(self.idle),
                self.last_group.eq(Mux(self.idle, self.n <= columns, self.left <= 2 * columns)),
            ]
        return m
