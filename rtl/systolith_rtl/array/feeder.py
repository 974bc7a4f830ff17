"""Row feeder: asks for the rows of A and sends them through the array, tile after tile."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.array.control import row_control
from systolith_rtl.array.tiles import Countdown, TileAddress, feeder_plan
from systolith_rtl.interfaces import READ_LATENCY, ReadSignature


class RowFeeder(wiring.Component):
    """Feed the rows of A, once for each tile of B, one row a cycle.

    A tile's first row waits until the tile's weights are loaded, for a new tile column also until
    a half of the accumulators is free, and until the last tile began at least `MIN_PERIOD` cycles
    ago, counting as if nothing had been in the way. A GEMM follows the one before as a tile
    follows another.

    A row is decided on in one cycle and asked for in the next, so that nothing depends on the
    state of the walk and on the scratchpad at once. It cannot be refused there, since A is the
    first in the scratchpad's order.

    Members:
        plan: `In(stream.Signature(feeder_plan(config)))`, taken with the last row of the one
            before, or when there is none.
        halt: `In(1)`, ask for nothing from the next cycle on.
        complete, closing, early: `In(1)`, of weights, see `WeightLoader`.
        swap: `Out(1)`, the first row of a tile is decided on.
        free: `In(1)`, the next half of the accumulators may be claimed.
        claim: `Out(1)`, it is, by a swap.
        a: `Out(ReadSignature(config))`; its `ready` is not looked at.
        control: `Out(row_control(config))`, of the row on `a.data`.
        is_signed: `Out(1)`, that row's bytes are s8, else u8.
        issued: `Out(1)`, the last row of a GEMM is decided on.
        active: `Out(1)`, there are rows to feed.
        starved: `Out(1)`, the next row needs weights that are not loaded yet.
        unloaded: `Out(1)`, a row could go if its weights had been granted.
        undrained: `Out(1)`, a row could go if a half were free.
        outside: `Out(1)`, the next row is beyond the scratchpad. It is not asked for.
        granule: `Out(32)`, its address.
        reading: `Out(1)`, a row is on its way.
    """

    plan: stream.Interface
    halt: Signal
    complete: Signal
    closing: Signal
    early: Signal
    swap: Signal
    free: Signal
    claim: Signal
    a: Any
    control: data.View
    is_signed: Signal
    issued: Signal
    active: Signal
    starved: Signal
    unloaded: Signal
    undrained: Signal
    outside: Signal
    granule: Signal
    reading: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "plan": In(stream.Signature(feeder_plan(config))),
                "halt": In(1),
                "complete": In(1),
                "closing": In(1),
                "early": In(1),
                "swap": Out(1),
                "free": In(1),
                "claim": Out(1),
                "a": Out(ReadSignature(config)),
                "control": Out(row_control(config)),
                "is_signed": Out(1),
                "issued": Out(1),
                "active": Out(1),
                "starved": Out(1),
                "unloaded": Out(1),
                "undrained": Out(1),
                "outside": Out(1),
                "granule": Out(32),
                "reading": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Ask row by row; what a row means to the array goes along with its request."""
        m = Module()
        plan = self.plan.p
        current = Signal(feeder_plan(self.config), reset_less=True)
        m.submodules.address = address = TileAddress(self.config)
        rows = Countdown("rows", len(current.rows))
        k_tiles = Countdown("k_tiles", len(current.k_tiles))
        groups = Countdown("groups", len(current.groups))
        first_row = Signal(reset_less=True)
        first_tile = Signal(reset_less=True)
        half = Signal()
        rest = Signal(len(current.rest))  # Cycles until a tile may begin.
        rested = Signal(init=1)  # There are none.

        # What the loader says in the cycle after a swap, or of an early one, is of the tile before.
        swapped = Signal()
        m.d.sync += swapped.eq(self.swap)
        loaded = Signal()
        m.d.comb += loaded.eq((self.complete | (self.closing & ~self.early)) & ~swapped)
        layout = data.StructLayout({"control": row_control(self.config), "is_signed": unsigned(1)})
        row = Signal(layout, reset_less=True)
        row_valid = Signal()
        waits = Signal()
        asks = Signal()
        goes = Signal()
        tile_end = Signal()
        column_end = Signal()
        take = Signal()
        # Whatever comes behind a GEMM's last row is a plan, be there one or not: it is known late.
        turn = Signal(init=1)
        last_tile = Signal(reset_less=True)
        next_last_tile = Signal()
        with m.If(turn):
            m.d.comb += next_last_tile.eq(plan.one_tile & plan.one_group)
        with m.Elif(k_tiles.last):
            m.d.comb += next_last_tile.eq(current.one_tile & (groups.left == 1))
        with m.Else():
            m.d.comb += next_last_tile.eq((k_tiles.left == 1) & groups.last)
        may = Signal()
        lane_free = Signal()
        has_weights = Signal()
        moves = ~self.active | may
        m.d.comb += [
            waits.eq(self.early | (swapped & ~self.complete)),
            asks.eq(row_valid & ~waits),
            self.a.valid.eq(asks),
            # What goes on behind a row that is halted does not matter.
            # `~waits & (~first_row | (loaded & rested & (~first_tile | self.free)))`, flattened.
            lane_free.eq(~first_row | (~swapped & rested & (~first_tile | self.free))),
            has_weights.eq(self.complete | Mux(first_row, self.closing, ~swapped)),
            may.eq(~address.outside & ~self.early & lane_free & has_weights),
            goes.eq(self.active & may),
            self.outside.eq(self.active & address.outside),
            self.swap.eq(goes & first_row),
            self.claim.eq(self.swap & first_tile),
            tile_end.eq(goes & rows.last),
            column_end.eq(tile_end & k_tiles.last),
            self.issued.eq(goes & turn),
            self.plan.ready.eq(~self.active | self.issued),
            take.eq(self.plan.valid & self.plan.ready),
            self.starved.eq(self.active & first_row & ~loaded),
            self.unloaded.eq(waits | (self.starved & rested)),
            self.undrained.eq(
                self.active & first_row & loaded & rested & first_tile & ~self.free & ~waits
            ),
            self.granule.eq(address.granule),
            address.start.eq(turn),
            address.base.eq(plan.address),
            address.base_outside.eq(plan.outside),
            address.row_step.eq(current.row_step),
            address.idle.eq(~self.active),
            address.advance.eq(may),
            address.tile_end.eq(rows.last),
            address.group_end.eq(k_tiles.last),
        ]

        # Short tiles wait from their last row on, and while a row waits, the next one does: so
        # what is in the way only makes more of the period.
        with m.If(tile_end):
            m.d.sync += [rest.eq(current.rest), rested.eq(current.rest == 0)]
        with m.Elif(~rested & ~waits):
            m.d.sync += [rest.eq(rest - 1), rested.eq(rest == 1)]
        with m.If(column_end):
            m.d.sync += half.eq(~half)

        with m.If(self.halt):
            m.d.sync += self.active.eq(0)
        with m.Elif(take):
            m.d.sync += self.active.eq(1)
        with m.Elif(self.issued):
            m.d.sync += self.active.eq(0)
        # Each on its own, so that no enable comes from another one.
        with m.If(moves):
            m.d.sync += first_row.eq(rows.last | turn)
            with m.If(turn):
                rows.load(m, plan.rows, plan.one_row)
                m.d.sync += turn.eq(~self.plan.valid | (plan.one_row & next_last_tile))
            with m.Elif(rows.last):
                rows.load(m, current.rows, current.one_row)
                m.d.sync += turn.eq(current.one_row & next_last_tile)
            with m.Else():
                rows.step(m)
                m.d.sync += turn.eq((rows.left == 1) & last_tile)
        with m.If(~self.active | (may & turn)):
            m.d.sync += current.eq(plan)
        with m.If(~self.active | (may & rows.last)):
            m.d.sync += [first_tile.eq(k_tiles.last | turn), last_tile.eq(next_last_tile)]
            with m.If(turn):
                k_tiles.load(m, plan.k_tiles, plan.one_tile)
            with m.Elif(k_tiles.last):
                k_tiles.load(m, current.k_tiles, current.one_tile)
            with m.Else():
                k_tiles.step(m)
        with m.If(~self.active | (may & rows.last & k_tiles.last)):
            with m.If(turn):
                groups.load(m, plan.groups, plan.one_group)
            with m.Else():
                groups.step(m)

        with m.If(may):
            m.d.sync += [
                self.a.address.eq(address.address),
                row.control.start.eq(first_row),
                row.control.first.eq(first_tile),
                row.control.half.eq(half),
                row.control.last.eq(column_end),
                row.control.end.eq(self.issued),
                row.is_signed.eq(current.is_signed),
            ]
            if self.config.int4:
                m.d.sync += [
                    row.control.int4.eq(current.int4),
                    row.control.pair.eq(current.int4 & (~groups.last | current.last_pair)),
                ]
        m.d.sync += row_valid.eq((goes | waits) & ~self.halt)

        arriving = Signal(READ_LATENCY)
        asked = [Signal(layout, name=f"row{i}") for i in range(READ_LATENCY + 1)]
        m.d.comb += [
            asked[0].eq(row),
            asked[0].control.valid.eq(asks),
            self.control.eq(asked[-1].control),
            self.is_signed.eq(asked[-1].is_signed),
            self.reading.eq(arriving.any()),
        ]
        m.d.sync += arriving.eq(Cat(asks, arriving))
        m.d.sync += [asked[i + 1].eq(asked[i]) for i in range(READ_LATENCY)]
        return m
