"""Accumulators: the array's sums over k tiles, in two halves, one filling while one drains."""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.numerics import ACC_WIDTH
from systolith_rtl.array.control import row_control
from systolith_rtl.array.exponents import shifted_width
from systolith_rtl.array.pe import partial_width
from systolith_rtl.interfaces import ACC_READ_LATENCY, DrainSignature
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.pipeline import unless_idle

HALVES = 2

EVENT_STAGES = 4
"""Cycles for which what happens to a half is known before it happens."""


class Accumulators(wiring.Component):
    """Add the array's sums to what their rows have so far; hand out whole rows of complete halves.

    The sum of column c for a row whose control comes in cycle p is taken from `sums[c]` in cycle
    `p + LEAD + c`. Each column adds on its own, as many cycles after column 0::

        address -> read -> output register -> old (0 for the first tile) -> total -> written

    Five cycles pass from reading to having written, so the same row of a half may come again
    `control.MIN_PERIOD` cycles later at the earliest.

    Halves are filled alternately, and drained in the same order. `claim` takes the next one for a
    tile column, which is allowed while `free` is high. A half is full, and its GEMM `landed`, in
    the cycle in which the last column's last sum is being written, `LEAD + C` cycles after its
    control: a drain that is enabled in that very cycle reads it.

    INT4 brings two sums a cycle and column: two such columns of memories side by side, with the
    same control. The drain sees the low sums of a half first. Its `release` then turns it to the
    high ones, if the tile column was a `pair`, and only the next one hands the half back.

    Members:
        control: `In(row_control(config))`.
        sums: `In(ArrayLayout(signed(partial_width(R)), C))`.
        high: `In(ArrayLayout(signed(shifted_width(R)), C))`; only with INT4.
        claim: `In(1)`.
        free: `Out(1)`.
        landed: `Out(1)`, for one cycle per GEMM.
        drain: `In(DrainSignature(config))`.
    """

    LEAD = 5

    control: data.View
    sums: data.View
    high: data.View
    claim: Signal
    free: Signal
    landed: Signal
    drain: Any

    def __init__(self, config: CoreConfig) -> None:
        self.columns = config.columns
        self.depth = config.accumulator_rows
        self.int4 = config.int4
        high = data.ArrayLayout(signed(shifted_width(config.rows)), config.columns)
        super().__init__(
            {
                "control": In(row_control(config)),
                "sums": In(data.ArrayLayout(signed(partial_width(config.rows)), config.columns)),
                **({"high": In(high)} if config.int4 else {}),
                "claim": In(1),
                "free": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "landed": Out(1),
                "drain": In(DrainSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Number the rows, pass them from column to column, and keep the books."""
        m = Module()
        draining = Signal()
        upper = Signal()
        valid, stages = self._stages(m)
        reading = Signal(ACC_READ_LATENCY - 1)
        m.d.sync += reading.eq(Cat(draining, reading))
        high = Signal(ACC_READ_LATENCY - 1)
        if self.int4:
            m.d.sync += high.eq(Cat(upper, high))
        for c in range(self.columns):
            rows = self._column(m, c, valid[c:], stages[c:], draining, upper, platform)
            # Each column has registers of its own for what chooses, which Yosys would merge.
            is_second = Signal(name=f"second{c}", reset_less=True, attrs={"keep": 1})
            m.d.sync += is_second.eq(reading[-1])
            halves = [Mux(is_second, second, first) for first, second in rows]
            drained = halves[0]
            if self.int4:
                is_high = Signal(name=f"upper{c}", reset_less=True, attrs={"keep": 1})
                m.d.sync += is_high.eq(high[-1])
                drained = Mux(is_high, halves[1], halves[0])
            m.d.comb += self.drain.data[c].eq(drained)
        self._books(m, self._event(m, valid, stages), draining, upper)
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
                **({"int4": unsigned(1), "pair": unsigned(1)} if self.int4 else {}),
            }
        )
        count = self.columns + self.LEAD
        valid = Signal(count)
        stages = [Signal(layout, name=f"stage{i}", reset_less=True) for i in range(count)]
        m.d.sync += valid.eq(Cat(self.control.valid, valid))
        m.d.sync += stages[0].row.eq(now)
        for name in layout.members:
            if name != "row":
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
        upper: Signal,
        platform: object,
    ) -> list[list[Value]]:
        """Build one column, for which stage 0 asks for the old sum and stage 5 writes the new.

        Returns:
            For each chain of sums, what is read from its two halves.
        """
        addresses, asks = list[Signal](), list[Signal]()
        for half in range(HALVES):
            # A half never adds and drains at the same time.
            adding = valid[0] & (stages[0].half == half)
            asked = self.drain.enable & (draining == half)
            address = Signal(range(self.depth), name=f"address{c}_{half}", reset_less=True)
            with m.If(unless_idle(platform, adding | asked)):
                m.d.sync += address.eq(Mux(adding, stages[0].row, self.drain.row))
            addresses.append(address)
            asks.append(asked)

        read = list[list[Value]]()
        for chain, sums in enumerate((self.sums, self.high) if self.int4 else (self.sums,)):
            name = f"{c}h" if chain else f"{c}"
            mine = [stage.int4 if chain else Const(1) for stage in stages[:5]]
            rams = [BlockRam(width=ACC_WIDTH, depth=self.depth) for _ in range(HALVES)]
            old = Signal(signed(ACC_WIDTH), name=f"old{name}", reset_less=True)
            total = Signal(signed(ACC_WIDTH), name=f"total{name}", reset_less=True)
            for half, ram in enumerate(rams):
                m.submodules[f"ram{name}_{half}"] = ram
                enable = Signal(name=f"enable{name}_{half}")
                # Known a cycle ahead, since it goes to each block.
                writes = Signal(name=f"writes{name}_{half}")
                adding = valid[0] & (stages[0].half == half)
                again = adding & ~stages[0].first & mine[0]
                asked = asks[half] & (upper == chain) if self.int4 else asks[half]
                m.d.sync += [
                    enable.eq(again | asked),
                    writes.eq(valid[4] & (stages[4].half == half) & mine[4]),
                ]
                m.d.comb += [
                    ram.read_address.eq(addresses[half]),
                    ram.read_enable.eq(enable),
                    ram.write_address.eq(stages[5].row),
                    ram.write_data.eq(total),
                    ram.write_enable.eq(writes),
                ]
            first, second = (ram.read_data for ram in rams)
            with m.If(unless_idle(platform, valid[3] & mine[3])):
                m.d.sync += old.eq(Mux(stages[3].first, 0, Mux(stages[3].half, second, first)))
            with m.If(unless_idle(platform, valid[4] & mine[4])):
                m.d.sync += total.eq(old + sums[c])
            read.append([first, second])
        return read

    def _event(self, m: Module, valid: Value, stages: list[data.View]) -> data.View:
        """Return what is known of the row before the last stage: its sum is written a cycle later.

        The last stages of it have copies, since stages are where the columns are, and control and
        whoever drains are far from there.
        """
        layout = data.StructLayout(dict.fromkeys(("full", "half", "end", "pair"), unsigned(1)))
        ways = [Signal(layout, name=f"event{i}", attrs={"keep": 1}) for i in range(EVENT_STAGES)]
        there, stage = valid[-2 - EVENT_STAGES], stages[-2 - EVENT_STAGES]
        m.d.sync += [
            ways[0].full.eq(there & stage.last),
            ways[0].half.eq(stage.half),
            ways[0].end.eq(there & stage.end),
            *(later.eq(earlier) for earlier, later in pairwise(ways)),
        ]
        if self.int4:
            m.d.sync += ways[0].pair.eq(stage.pair)
        return ways[-1]

    def _books(self, m: Module, event: data.View, draining: Signal, upper: Signal) -> None:
        """Count halves that are claimed, and note which are full: this one, and the other one."""
        release = self.drain.release
        this_fills = event.full & (event.half == draining)
        other_fills = event.full & (event.half != draining)
        if self.int4:
            # Whether the drain will have the high sums still before it, known before it releases.
            this_pair, other_pair = Signal(), Signal()
            more = Signal()
            this_next = Mux(this_fills, event.pair, this_pair)
            other_next = Mux(other_fills, event.pair, other_pair)
            m.d.sync += [
                this_pair.eq(this_next),
                other_pair.eq(other_next),
                more.eq(this_next & ~upper),
            ]
            with m.If(release):
                m.d.sync += [upper.eq(more), more.eq(other_next & ~more)]
            release = release & ~more
            with m.If(release):
                m.d.sync += this_pair.eq(other_next)

        claimed = Signal(range(HALVES + 1))
        assert HALVES == 2
        with m.If(self.claim & ~release):
            m.d.sync += claimed.eq(claimed + 1)
        with m.Elif(~self.claim & release):
            m.d.sync += claimed.eq(claimed - 1)
        # Both are far away. Whoever claims one has seen a free one.
        m.d.sync += self.free.eq(release | Mux(self.claim, claimed == 0, self.free))

        other = Signal()
        this_full = self.drain.full | this_fills
        other_full = other | other_fills
        m.d.sync += [self.drain.full.eq(this_full), other.eq(other_full)]
        with m.If(release):
            m.d.sync += [self.drain.full.eq(other_full), other.eq(0), draining.eq(~draining)]

        m.d.sync += self.landed.eq(event.end)
