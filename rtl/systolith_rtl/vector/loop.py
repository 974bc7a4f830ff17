"""The order in which every part of the vector engine walks a tensor: groups outer, rows inner."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from systolith.config import CoreConfig
from systolith_rtl.reset import without_reset

COLUMNS_WIDTH = 16
"""Bits of a number of columns, as in an instruction."""


def extent_layout(config: CoreConfig) -> data.StructLayout:
    """What is known of a tensor's extent, m rows of n columns, before it is walked.

    `rows_ahead` is -1 if the first row of a group is its last one, else how many rows are between
    the two; `groups_ahead` is likewise of groups; `tail` is the last group's last column. So counts
    that go down say by their sign that they are at the last one.
    """
    group_bits = COLUMNS_WIDTH - exact_log2(config.columns)
    return data.StructLayout(
        {
            "rows_ahead": signed(1 + bits_for(config.row_slots - 1)),
            "groups_ahead": signed(1 + group_bits),
            "tail": unsigned(exact_log2(config.columns)),
        }
    )


def extent(config: CoreConfig, m: Any, n: Any) -> dict[str, Any]:
    """Return what `extent_layout` holds for numbers, or for values, of rows and columns."""
    beyond = n - 1 - config.columns
    return {
        "rows_ahead": m - 2,
        "groups_ahead": beyond >> exact_log2(config.columns),
        "tail": beyond & (config.columns - 1),
    }


class TileLoop(wiring.Component):
    """Counts the rows of one group of C columns after the other.

    Each part of the engine that is an unknown time behind another has its own loop, so nothing but
    valid bits has to travel between them. All outputs are registers; they describe the element
    group that the next `step` finishes.

    Members:
        start: `In(1)`, begin with `extent`, which stays as it is until the loop is over. It may
            come two cycles after the last step, or later.
        extent: `In(extent_layout(config))`, rows and columns, at least 1 of each.
        stop: `In(1)`, the loop is over.
        step: `In(1)`, go on to the next row. Means nothing when not `active`.
        active: `Out(1)`, high from the cycle after `start` until the last step. Other outputs
            mean nothing while it is low.
        idle, loads: `Out(1)`, it has been low for a cycle; registers of their own, for what is
            loaded meanwhile.
        row: `Out`, from 0.
        first_row: `Out(1)`.
        last_row: `Out(1)`, which is high with `idle`, too.
        first_group: `Out(1)`.
        last_group: `Out(1)`.
    """

    start: Signal
    stop: Signal
    extent: data.View
    step: Signal
    active: Signal
    idle: Signal
    loads: Signal
    row: Signal
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
                "extent": In(extent_layout(config)),
                "step": In(1),
                "active": Out(1),
                "idle": Out(1),
                "loads": Out(1),
                "row": Out(range(config.row_slots)),
                "first_row": Out(1),
                "last_row": Out(1),
                "first_group": Out(1),
                "last_group": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the counters, a row and a group ahead, and so below 0 behind the one but last."""
        m = Module()
        without_reset(self.row, self.first_row, self.first_group)
        # A counter's next row or group is known in front of its sum, so nothing is behind the
        # carry, and what is the last one comes from a register's sign.
        rows = Signal.like(self.extent.rows_ahead, reset_less=True)
        groups = Signal.like(self.extent.groups_ahead, reset_less=True)
        # Else they are merged; ports would not say so. `again` is `last_row` for the counters here.
        idle, loads, last_row, again = (
            Signal(name=name, init=1, attrs={"keep": 1})
            for name in ("idle", "loads", "at_last", "again")
        )
        last_group = Signal(name="at_last_group", reset_less=True)
        m.d.comb += [self.last_row.eq(last_row), self.last_group.eq(last_group)]
        m.d.comb += [self.idle.eq(idle), self.loads.eq(loads)]
        # Between loops, what the next one begins with is loaded again and again: `start` would be
        # one more net to all of these.
        row_ahead = Mux(again, self.extent.rows_ahead, rows)
        group_ahead = Mux(loads, self.extent.groups_ahead, groups)
        with m.If(loads | self.step):
            m.d.sync += [
                rows.eq(row_ahead - 1),
                self.row.eq(Mux(again, 0, self.row + 1)),
                self.first_row.eq(again),
            ]
        with m.If(loads | (self.step & again)):
            m.d.sync += [
                groups.eq(group_ahead - 1),
                last_group.eq(group_ahead[-1]),
                self.first_group.eq(loads),
            ]
        # The last step is known late, and goes to one register.
        ends = (self.step & again & last_group) | self.stop
        runs = self.start | self.active
        m.d.sync += [
            self.active.eq(self.start | (self.active & ~ends)),
            idle.eq(~runs),
            loads.eq(~runs),
        ]
        with m.If(self.start | self.step | ~self.active):
            m.d.sync += [register.eq(row_ahead[-1] | ~runs) for register in (last_row, again)]
        return m
