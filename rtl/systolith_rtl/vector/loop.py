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
        start: `In(1)`, load `m` and `n`, which stay as they are until the loop is over.
        m: `In`, rows, at least 1.
        n: `In`, columns, at least 1.
        step: `In(1)`, go on to the next row. Ignored when not `active`.
        active: `Out(1)`, high from the cycle after `start` until the last step.
        row: `Out`, from 0.
        left: `Out`, columns from the first of this group on, those of later groups included.
        first_row: `Out(1)`.
        last_row: `Out(1)`.
        first_group: `Out(1)`.
        last_group: `Out(1)`.
    """

    start: Signal
    m: Signal
    n: Signal
    step: Signal
    active: Signal
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
                "m": In(rows_shape(config)),
                "n": In(COLUMNS_WIDTH),
                "step": In(1),
                "active": Out(1),
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
        without_reset(self.row, self.left)
        columns = self.config.columns
        before_last = Signal.like(self.row, reset_less=True)
        with m.If(self.start):
            m.d.sync += [
                before_last.eq(self.m - 2),
                self.active.eq(1),
                self.row.eq(0),
                self.left.eq(self.n),
                self.first_row.eq(1),
                self.last_row.eq(self.m == 1),
                self.first_group.eq(1),
                self.last_group.eq(self.n <= columns),
            ]
        with m.Elif(self.step & self.active):
            m.d.sync += [
                self.row.eq(Mux(self.last_row, 0, self.row + 1)),
                self.first_row.eq(self.last_row),
                self.last_row.eq(Mux(self.last_row, self.m == 1, self.row == before_last)),
            ]
            with m.If(self.last_row):
                m.d.sync += [
                    self.left.eq(self.left - columns),
                    self.first_group.eq(0),
                    self.last_group.eq(self.left <= 2 * columns),
                    self.active.eq(~self.last_group),
                ]
        return m
