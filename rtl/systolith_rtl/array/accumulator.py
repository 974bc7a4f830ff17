"""Accumulators: the array's sums over k tiles, in two halves, one filling while one drains."""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.numerics import ACC_WIDTH
from systolith_rtl.array.pe import partial_width
from systolith_rtl.interfaces import ACC_READ_LATENCY, DrainSignature
from systolith_rtl.memory.block_ram import BlockRam

ROW_CONTROL = data.StructLayout(
    {
        "valid": unsigned(1),
        "start": unsigned(1),
        "first": unsigned(1),
        "half": unsigned(1),
        "last": unsigned(1),
        "end": unsigned(1),
    }
)
"""What goes with a row of activations to the accumulators of its sums.

`valid`: there is one. `start`: row 0 of its tile. `first`: its tile is the first one of a tile
column, so old sums do not count. `half`: where the sums belong. `last`: the tile column is
complete with it. `end`: so is the GEMM.
"""

HALVES = 2


class Accumulators(wiring.Component):
    """Add the array's sums to what their rows have so far; hand out whole rows of complete halves.

    The sum of column c for a row whose control comes in cycle p is taken from `sums[c]` in cycle
    `p + LEAD + c`. Each column adds on its own, as many cycles after column 0::

        address -> read -> output register -> old (0 for the first tile) -> total -> written

    Five cycles pass from reading to having written, so the same row of a half may come again
    `MIN_PERIOD` cycles later at the earliest.

    Halves are filled alternately, and drained in the same order. `claim` takes the next one for a
    tile column, which is allowed while `free` is high. A half is full, and its GEMM `landed`, in
    the cycle in which the last column's last sum is being written, `LEAD + C` cycles after its
    control: a drain that is enabled in that very cycle reads it.

    INT4 brings two sums a cycle and column: two such columns of memories side by side, with the
    same control, and a drain that takes a row of each in turn.

    Members:
        control: `In(ROW_CONTROL)`.
        sums: `In(ArrayLayout(signed(partial_width(R)), C))`.
        claim: `In(1)`.
        free: `Out(1)`.
        landed: `Out(1)`, for one cycle per GEMM.
        drain: `In(DrainSignature(config))`.
    """

    LEAD = 5
    MIN_PERIOD = 5

    control: data.View
    sums: data.View
    claim: Signal
    free: Signal
    landed: Signal
    drain: Any

    def __init__(self, config: CoreConfig) -> None:
        self.columns = config.columns
        self.depth = config.accumulator_rows
        super().__init__(
            {
                "control": In(ROW_CONTROL),
                "sums": In(data.ArrayLayout(signed(partial_width(config.rows)), config.columns)),
                "claim": In(1),
                "free": Out(1),
                "landed": Out(1),
                "drain": In(DrainSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Number the rows, pass them from column to column, and keep the books."""
        m = Module()
        draining = Signal()
        valid, stages = self._stages(m)
        reading = Signal(ACC_READ_LATENCY)
        m.d.sync += reading.eq(Cat(draining, reading))
        for c in range(self.columns):
            self._column(m, c, valid[c:], stages[c:], draining, reading[-1])
        self._books(m, valid[-2], stages[-2], draining)
        return m

    def _stages(self, m: Module) -> tuple[Signal, list[data.View]]:
        """Return the rows that are on their way: stage i holds what stage 0 held i cycles ago.

        A column uses five stages and the next column the same ones, shifted by one. So the
        control moves on beside the sums, and no wire spans the columns.
        """
        row = Signal(range(self.depth))
        now = Mux(self.control.start, 0, row)
        with m.If(self.control.valid):
            m.d.sync += row.eq(now + 1)

        layout = data.StructLayout(
            {
                "row": unsigned(len(row)),
                "first": unsigned(1),
                "half": unsigned(1),
                "last": unsigned(1),
                "end": unsigned(1),
            }
        )
        count = self.columns + self.LEAD
        valid = Signal(count)
        stages = [Signal(layout, name=f"stage{i}", reset_less=True) for i in range(count)]
        m.d.sync += valid.eq(Cat(self.control.valid, valid))
        m.d.sync += stages[0].row.eq(now)
        for name in ("first", "half", "last", "end"):
            m.d.sync += stages[0][name].eq(self.control[name])
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise(stages)]
        return valid, stages

    def _column(
        self,
        m: Module,
        c: int,
        valid: Value,
        stages: list[data.View],
        draining: Signal,
        drained: Value,
    ) -> None:
        """Build one column, for which stage 0 asks for the old sum and stage 5 writes the new."""
        rams = [BlockRam(width=ACC_WIDTH, depth=self.depth) for _ in range(HALVES)]
        old = Signal(signed(ACC_WIDTH), name=f"old{c}", reset_less=True)
        total = Signal(signed(ACC_WIDTH), name=f"total{c}", reset_less=True)
        for half, ram in enumerate(rams):
            m.submodules[f"ram{c}_{half}"] = ram
            # A half never adds and drains at the same time.
            adding = valid[0] & (stages[0].half == half)
            asked = self.drain.enable & (draining == half)
            address = Signal(range(self.depth), name=f"address{c}_{half}", reset_less=True)
            enable = Signal(name=f"enable{c}_{half}")
            with m.If(adding | asked):
                m.d.sync += address.eq(Mux(adding, stages[0].row, self.drain.row))
            m.d.sync += enable.eq((adding & ~stages[0].first) | asked)
            m.d.comb += [
                ram.read_address.eq(address),
                ram.read_enable.eq(enable),
                ram.write_address.eq(stages[5].row),
                ram.write_data.eq(total),
                ram.write_enable.eq(valid[5] & (stages[5].half == half)),
            ]
        first, second = (ram.read_data for ram in rams)
        with m.If(valid[3]):
            m.d.sync += old.eq(Mux(stages[3].first, 0, Mux(stages[3].half, second, first)))
        with m.If(valid[4]):
            m.d.sync += total.eq(old + self.sums[c])
        m.d.comb += self.drain.data[c].eq(Mux(drained, second, first))

    def _books(self, m: Module, valid: Value, stage: data.View, draining: Signal) -> None:
        """Count halves that are claimed, and note which are full.

        `stage` is the one before the last: its sum will be written in the next cycle.
        """
        claimed = Signal(range(HALVES + 1))
        with m.If(self.claim & ~self.drain.release):
            m.d.sync += claimed.eq(claimed + 1)
        with m.Elif(~self.claim & self.drain.release):
            m.d.sync += claimed.eq(claimed - 1)

        full = Signal(HALVES)
        with m.If(valid & stage.last):
            m.d.sync += full.bit_select(stage.half, 1).eq(1)
        with m.If(self.drain.release):
            m.d.sync += [full.bit_select(draining, 1).eq(0), draining.eq(~draining)]

        m.d.sync += self.landed.eq(valid & stage.end)
        m.d.comb += [
            self.free.eq(claimed != HALVES),
            self.drain.full.eq(full.bit_select(draining, 1)),
        ]
