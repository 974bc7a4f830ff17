"""Row feeder: asks for the rows of A and sends them through the array, tile after tile."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.array.control import MIN_PERIOD, row_control
from systolith_rtl.array.tiles import Progress, TileAddress, feeder_plan
from systolith_rtl.interfaces import ReadSignature


class RowFeeder(wiring.Component):
    """Feed the rows of A, once for each tile of B, one row a cycle.

    A tile's first row waits until the tile's weights are loaded, for a new tile column also until
    a half of the accumulators is free, and until the last tile began at least `MIN_PERIOD` cycles
    ago, counting as if nothing had been in the way. A GEMM follows the one before as a tile
    follows another.

    The walk is a row ahead of the requests. What a row waits for is looked at a cycle before, but
    for the weights; so whether it is asked for comes from registers, and its request cannot be
    refused, since A is the first in the scratchpad's order.

    Members:
        plan: `In(stream.Signature(feeder_plan(config)))`, taken with the last row of the one
            before, or when there is none.
        halt: `In(1)`, ask for nothing from the next cycle on.
        complete, complete_copy: `In(1)`, the weights of the next tile are, see `WeightLoader`.
        completes: `In(1)`, what `complete` is in the next cycle.
        starts: `Out(1)`, a tile's first row waits for nothing but its weights; a register.
        starts_next: `Out(1)`, what it is in the next cycle.
        swap: `Out(1)`, it is asked for: `complete` and `starts`.
        free: `In(1)`, the next half of the accumulators may be claimed.
        claim: `Out(1)`, it is, by a swap.
        a: `Out(ReadSignature(config))`; `valid` is a register, and `ready` is not looked at.
        control: `Out(row_control(config))`, of the row on `a.data`.
        begins: `Out(1)`, it is the first one of a tile of INT4 weights; only with INT4.
        is_signed: `Out(1)`, that row's bytes are s8, else u8.
        issued: `Out(1)`, the last row of a GEMM was asked for in the cycle before.
        active: `Out(1)`, there are rows to feed.
        starved: `Out(1)`, the next row needs weights that are not loaded yet.
        hungry: `Out(1)`, a row could go if its weights had been granted, or there was no row.
        undrained: `Out(1)`, a row could go if a half had been free.
        outside: `Out(1)`, the next row is beyond the scratchpad. It is not asked for. All rows
            before it have been.
        granule: `Out(32)`, its address.
        reading: `Out(1)`, a row is on its way.
    """

    plan: stream.Interface
    halt: Signal
    complete: Signal
    complete_copy: Signal
    completes: Signal
    starts: Signal
    starts_next: Signal
    swap: Signal
    free: Signal
    claim: Signal
    a: Any
    control: data.View
    begins: Signal
    is_signed: Signal
    issued: Signal
    active: Signal
    starved: Signal
    hungry: Signal
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
                "complete_copy": In(1),
                "completes": In(1),
                "starts": Out(1),
                "starts_next": Out(1),
                "swap": Out(1),
                "free": In(1),
                "claim": Out(1),
                "a": Out(ReadSignature(config)),
                "control": Out(row_control(config)),
                **({"begins": Out(1)} if config.int4 else {}),
                "is_signed": Out(1),
                "issued": Out(1),
                "active": Out(1),
                "starved": Out(1),
                "hungry": Out(1),
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
        rows = Progress("rows", len(current.rows.whole))
        k_tiles = Progress("k_tiles", len(current.k_tiles.whole))
        groups = Progress("groups", len(current.groups.whole))
        first_row = Signal(reset_less=True)
        first_tile = Signal(reset_less=True)
        # Whatever comes behind a GEMM's last row is a plan, be there one or not: it is known late.
        turn = Signal(init=1)
        column_ends = Signal(init=1)  # The last row of the last k tile.
        half = Signal()

        # The row that the walk has left, and what is known of it: if it does not start a tile, it
        # follows; if it does, it is at the start once the tile before is long enough ago, and it
        # starts once the weights are complete, too.
        layout = data.StructLayout({"control": row_control(self.config), "is_signed": unsigned(1)})
        row = Signal(layout, reset_less=True)
        follows = Signal()
        at_start = Signal()
        # It is gone in the next cycle, or there is none, whatever the weights are.
        passes = Signal(init=1)
        # A copy, for the walk alone.
        self.starts.attrs["keep"] = 1
        walk_starts = Signal(attrs={"keep": 1})
        # All others in the scratchpad's order look at this one, so it is a register of its own.
        requested = Signal()
        asks = Signal()
        leaves = Signal()
        fails = Signal()
        lost, nothing = (Signal(name=name, attrs={"keep": 1}) for name in ("lost", "nothing"))
        granule = Signal(len(self.granule), reset_less=True)
        m.d.comb += [
            self.swap.eq(self.complete & self.starts),
            asks.eq(follows | self.swap),
            leaves.eq(passes | (self.complete_copy & walk_starts)),
            fails.eq(self.active & address.outside),
            self.claim.eq(self.swap & row.control.first),
            self.a.valid.eq(requested),
            self.plan.ready.eq(leaves & turn),
            self.outside.eq(lost & passes & ~follows),
            self.granule.eq(granule),
            self.starved.eq(at_start & ~self.complete),
            self.undrained.eq(at_start & ~self.starts & self.complete),
        ]

        # The walk goes on behind a row outside, but nothing comes of it.
        with m.If(~lost):
            m.d.sync += [lost.eq(fails), nothing.eq(fails), granule.eq(address.granule)]

        # Starts in the last `MIN_PERIOD - 2` cycles, and whether there were none.
        recent = Signal(MIN_PERIOD - 3)
        rested = Signal(init=1)
        m.d.sync += [recent.eq(Cat(self.swap, recent)), rested.eq(~Cat(self.swap, recent).any())]

        # Behind a start comes a rest, so there the next row need not be looked at.
        there = self.active & ~address.outside & ~nothing
        is_start = Mux(passes, there & first_row, 1) & rested & ~self.swap & ~self.halt
        drained = self.free | ~Mux(passes, first_tile, row.control.first)
        following = Signal()
        m.d.comb += [
            self.starts_next.eq(is_start & drained),
            following.eq(leaves & there & ~first_row & ~self.halt),
        ]
        m.d.sync += [
            passes.eq(leaves & ~(there & first_row)),
            follows.eq(following),
            at_start.eq(is_start),
            self.starts.eq(self.starts_next),
            walk_starts.eq(self.starts_next),
            requested.eq(following | (self.completes & self.starts_next)),
            self.hungry.eq(is_start | ~self.active),
            self.issued.eq(asks & row.control.end),
        ]
        with m.If(asks & row.control.last):
            m.d.sync += half.eq(~half)

        # Without a plan, the walk goes on from whatever there is, and `turn` stays.
        m.d.comb += [
            address.advance.eq(leaves),
            address.start.eq(turn),
            address.base.eq(plan.address),
            address.base_outside.eq(plan.outside),
            address.to_group.eq(column_ends),
            address.group.eq(current.address[: address.inside_bits]),
            address.to_tile.eq(rows.last & ~current.rows.one),
            address.first.eq(first_row),
            address.row_step.eq(current.row_step),
        ]
        with m.If(self.halt):
            m.d.sync += self.active.eq(0)
        with m.Elif(leaves & turn):
            m.d.sync += self.active.eq(self.plan.valid)
        # Each on its own, so that no enable comes from another one. A row with `turn` is always a
        # last one of a last tile, even if there is none.
        last_tile = Mux(
            k_tiles.last,
            current.k_tiles.one & groups.next_last,
            k_tiles.next_last & groups.last,
        )
        with m.If(leaves):
            m.d.sync += first_row.eq(rows.last)
            with m.If(turn):
                m.d.sync += turn.eq(~self.plan.valid | plan.one)
            with m.Elif(rows.last):
                m.d.sync += turn.eq(current.rows.one & last_tile)
            with m.Else():
                m.d.sync += turn.eq(rows.next_last & k_tiles.last & groups.last)
            new_one = [count.one | ~self.plan.valid for count in (plan.rows, plan.k_tiles)]
            last_row = Mux(rows.last, current.rows.one, rows.next_last)
            last_k = Mux(k_tiles.last, current.k_tiles.one, k_tiles.next_last)
            last_k = Mux(rows.last, last_k, k_tiles.last)
            m.d.sync += column_ends.eq(Mux(turn, new_one[0] & new_one[1], last_row & last_k))
        with m.If(leaves & rows.last):
            m.d.sync += first_tile.eq(k_tiles.last)
        for progress, name, goes in (
            (rows, "rows", leaves),
            (k_tiles, "k_tiles", leaves & rows.last),
            (groups, "groups", leaves & column_ends),
        ):
            progress.walk(
                m,
                goes,
                goes,
                turn=turn,
                new=plan[name],
                count=current[name],
                valid=self.plan.valid,
                again=name != "groups",
            )

        # Of the last row, only what goes along with it still counts.
        with m.If(turn):
            m.d.sync += current.eq(plan)
        is_signed, int4, last_pair = (
            Signal(name=name, reset_less=True) for name in ("is_signed", "int4", "last_pair")
        )
        with m.If(leaves & turn):
            m.d.sync += is_signed.eq(plan.is_signed)
            if self.config.int4:
                m.d.sync += [int4.eq(plan.int4), last_pair.eq(plan.last_pair)]
        with m.If(leaves):
            m.d.sync += [
                self.a.address.eq(address.address),
                row.control.start.eq(first_row),
                row.control.first.eq(first_tile),
                row.control.last.eq(column_ends),
                row.control.end.eq(turn),
                row.is_signed.eq(is_signed),
            ]
            if self.config.int4:
                m.d.sync += [
                    row.control.int4.eq(int4),
                    row.control.pair.eq(int4 & (~groups.last | last_pair)),
                ]

        latency = self.config.read_latency
        arriving = Signal(latency)
        asked = [Signal(layout, name=f"row{i}", reset_less=True) for i in range(latency + 1)]
        m.d.comb += [
            asked[0].eq(row),
            asked[0].control.half.eq(half),
            self.control.eq(asked[-1].control),
            self.control.valid.eq(arriving[-1]),
            self.is_signed.eq(asked[-1].is_signed),
            self.reading.eq(arriving.any()),
        ]
        if self.config.int4:
            coming = asked[-2].control
            m.d.sync += self.begins.eq(arriving[-2] & coming.start & coming.int4)
        m.d.sync += arriving.eq(Cat(asks, arriving))
        m.d.sync += [asked[i + 1].eq(asked[i]) for i in range(latency)]
        return m
