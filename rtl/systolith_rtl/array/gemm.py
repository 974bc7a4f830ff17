"""GEMM engine: products of small integers, left in the accumulators for the vector engine."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import Opcode, WeightSource
from systolith.numerics import Format
from systolith.regs import FaultCause
from systolith_rtl.array.accumulator import Accumulators
from systolith_rtl.array.array import SHARING, SystolicArray
from systolith_rtl.array.control import MIN_PERIOD, row_control
from systolith_rtl.array.exponents import ExponentShift
from systolith_rtl.array.feeder import RowFeeder
from systolith_rtl.array.loader import WeightLoader
from systolith_rtl.array.ring import WeightRing
from systolith_rtl.array.tiles import bits, feeder_plan, loader_plan, set_count
from systolith_rtl.interfaces import (
    DrainSignature,
    EngineSignature,
    ReadSignature,
    RingSignature,
)
from systolith_rtl.reset import local_reset

PLANS = 2
"""GEMMs whose weights may be loaded or about to be, while an earlier one's rows are fed."""


class GemmEngine(wiring.Component):
    """Carry out GEMM instructions: `sums[m, j]` of `A[m, :] * B[j, :]`, for the drain.

    The tile columns of B, C rows each, come one after the other; each leaves M rows of C sums in
    one half of the accumulators. INT4 weights go two to a multiplier: their tile columns have 2C
    rows of B, and leave M rows of 2C sums, which are drained as two times C. Within a tile column
    the tiles of R columns of A and B follow one another, and within a tile the rows of A. While
    the array works on a tile, the next tile's weights are loaded, be it the next GEMM's first one.
    So a tile takes `max(M, C, 5)` cycles, and there is no gap between tiles, tile columns and
    GEMMs, unless the engine must wait: for weights, of which a read may be refused, or for a half
    that is still to be drained.

    With nothing to wait for, cycles count from the command's acceptance in cycle 0::

        first request for weights    3
        first request for A          C + 3
        each further tile            max(M, C, 5) later
        drain.full, retire           R + C + L + 4 after the tile column's last request for A

    L is `config.read_latency`. With `config.int4`, sums of either kind pass one more register:
    R + C + L + 5. A word of exponents
    comes in one cycle before a group's first tile of INT4 weights, and after every
    `config.exponent_tiles` more; that shows in the first request for A, and in the period of those
    tiles where M <= C.

    So a GEMM takes `tiles * max(M, C, 5) + R + C + L + 4` cycles from its first request for A until
    its last sum has landed (less `max(M, C, 5) - M` after the last tile's last row). It retires
    with that sum: what retires it is not needed by its drain, which goes by `drain.full`.

    Members:
        engine: `Out(EngineSignature(Opcode.GEMM))`.
        a: `Out(ReadSignature(config))`, activations; one word a cycle while fed. Never refused,
            since it is the first in the scratchpad's order.
        b: `Out(ReadSignature(config))`, weights from the scratchpad.
        ring: `In(RingSignature(config))`, weights from STREAM.
        drain: `In(DrainSignature(config))`.
    """

    engine: Any
    a: Any
    b: Any
    ring: Any
    drain: Any

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.GEMM)),
                "a": Out(ReadSignature(config)),
                "b": Out(ReadSignature(config)),
                "ring": In(RingSignature(config)),
                "drain": In(DrainSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the units, hand out the plans, and tell control what goes on."""
        m = Module()
        m.submodules.ring = ring = WeightRing(self.config)
        m.submodules.loader = loader = WeightLoader(self.config)
        m.submodules.feeder = feeder = RowFeeder(self.config)
        array = SystolicArray(self.config)
        accumulators = Accumulators(self.config)
        # What is wide is reset as the engine is, but a cycle later, by a register that is near.
        # Control resets for two cycles, so what comes of it in between is gone, too.
        is_wide = self.config.columns > SHARING
        reset_sums = local_reset(m, "sums", Const(0)) if is_wide else None
        for name, part in (("array", array), ("accumulators", accumulators)):
            m.submodules[name] = reset_sums(part) if reset_sums else part
        wiring.connect(m, wiring.flipped(self.ring), ring.push)
        wiring.connect(m, wiring.flipped(self.drain), accumulators.drain)
        wiring.connect(m, wiring.flipped(self.a), feeder.a)
        wiring.connect(m, wiring.flipped(self.b), loader.b)

        # A sum's control meets it at the accumulators, `LEAD` cycles ahead.
        delay = array.latency + self.config.int4 - Accumulators.LEAD
        control = Signal(data.ArrayLayout(row_control(self.config), delay), reset_less=True)
        valid = Signal(delay)
        m.d.sync += [
            control.as_value().eq(Cat(feeder.control, control)),
            valid.eq(Cat(feeder.control.valid, valid)),
        ]
        m.d.comb += [
            loader.halt.eq(self.engine.halt),
            loader.available.eq(ring.available),
            loader.ring_data.eq(ring.data),
            loader.starts.eq(feeder.starts),
            loader.starts_next.eq(feeder.starts_next),
            ring.pop.eq(loader.pop),
            feeder.halt.eq(self.engine.halt),
            feeder.complete.eq(loader.complete),
            feeder.complete_copy.eq(loader.complete_copy),
            feeder.completes.eq(loader.completes),
            feeder.free.eq(accumulators.free),
            accumulators.claim.eq(feeder.claim),
            array.row.eq(feeder.a.data),
            array.is_signed.eq(feeder.is_signed),
            array.valid.eq(feeder.control.valid),
            array.swap.eq(feeder.control.valid & feeder.control.start),
            array.weights.eq(loader.weights),
            array.capture.eq(loader.capture),
            accumulators.control.eq(control[delay - 1]),
            accumulators.control.valid.eq(valid[-1]),
        ]
        if self.config.int4:
            self._shift(m, loader, feeder, array, accumulators)
        else:
            m.d.comb += accumulators.sums.eq(array.sums)
        self._plan(m, loader, feeder)
        self._report(m, loader, feeder, accumulators)
        return m

    def _shift(
        self,
        m: Module,
        loader: WeightLoader,
        feeder: RowFeeder,
        array: SystolicArray,
        accumulators: Accumulators,
    ) -> None:
        """Tell the array of INT4 weights, and put their exponents between it and accumulators."""
        m.submodules.shift = shift = ExponentShift(self.config)
        assert shift.LATENCY == accumulators.LEAD
        row = feeder.control
        m.d.comb += [
            array.int4.eq(row.int4),
            array.int4_weights.eq(loader.int4),
            shift.word.eq(loader.ring_data),
            shift.load.eq(loader.exponents),
            shift.begin.eq(feeder.begins),
            shift.control.eq(accumulators.control),
            shift.low_i.eq(array.sums),
            shift.high_i.eq(array.high),
            accumulators.sums.eq(shift.low_o),
            accumulators.high.eq(shift.high_o),
        ]

    def _plan(self, m: Module, loader: WeightLoader, feeder: RowFeeder) -> None:
        """Turn a command into two plans: the loader's comes first, the feeder's when it is ready.

        The loader is at most a tile ahead, so `PLANS` places suffice for it never to wait.
        """
        config = self.config
        command = self.engine.command
        k_bits, n_bits = bits(config.rows), bits(config.columns)
        granules = bits(config.word_granules)

        # With INT4, a group is two times C channels, of which the last one may lack the second C.
        n = command.p.n
        groups, group_part = n >> n_bits, (n[:n_bits] != 0)
        int4 = command.p.b_source == WeightSource.RING_S4
        pair = ~(groups[0] ^ group_part)
        if config.int4:
            group_part = Mux(int4, groups[0] | group_part, group_part)
            groups = Mux(int4, groups >> 1, groups)

        # A command waits here until the loader takes its plan. It is taken whether there is one or
        # not, since that is known late, and this goes to hundreds of registers.
        offers = Signal()
        vacant, open_ = (
            Signal(name=name, init=1, attrs={"keep": 1}) for name in ("vacant", "open")
        )
        load = Signal(loader_plan(config), reset_less=True)
        feed = Signal(feeder_plan(config), reset_less=True)
        # By the copy: what `ready` goes into is far away.
        accepted = command.valid & vacant & ~self.engine.halt
        taken = loader.plan.valid & loader.plan.ready
        empty = taken | (open_ & ~accepted)
        m.d.sync += [vacant.eq(empty), open_.eq(empty)]

        # The feeder's plan goes on through two places, each of which takes what is before it,
        # valid or not, while it holds nothing.
        held = [Signal(feed.shape(), name=f"plan{i}", reset_less=True) for i in range(PLANS)]
        valid = Signal(PLANS)
        m.d.comb += [
            command.ready.eq(open_ & ~self.engine.halt),
            loader.plan.valid.eq(offers),
            loader.plan.p.eq(load),
            feeder.plan.valid.eq(valid[1]),
            feeder.plan.p.eq(held[1]),
        ]
        m.d.sync += valid.eq(
            Cat(
                Mux(valid[0], valid[1], taken),
                Mux(valid[1], ~feeder.plan.ready, valid[0]),
            )
        )
        # The feeder's first place is free then, as it is in the next cycle if one of them is.
        m.d.sync += offers.eq(~empty & ~valid.all())
        for i, before in enumerate((feed, held[0])):
            with m.If(~valid[i]):
                m.d.sync += held[i].eq(before)

        with m.If(vacant):
            m.d.sync += [
                load.address.eq(command.p.b_address >> granules),
                load.outside.eq((command.p.b_address >> granules + bits(config.words)).any()),
                load.row_step.eq(command.p.b_row >> granules),
                load.k_tail.eq(command.p.k[:k_bits] - 1),
                load.n_tail.eq(n[:n_bits] - 1),
                load.scratchpad.eq(command.p.b_source == WeightSource.SCRATCHPAD),
                feed.address.eq(command.p.a_address >> granules),
                feed.outside.eq((command.p.a_address >> granules + bits(config.words)).any()),
                feed.row_step.eq(command.p.a_row >> granules),
                feed.is_signed.eq(command.p.a_format == Format.S8),
            ]
            set_count(m, feed.rows, command.p.m[: len(feed.rows.whole)])
            for plan in (load, feed):
                set_count(m, plan.k_tiles, command.p.k >> k_bits, command.p.k[:k_bits] != 0)
                set_count(m, plan.groups, groups, group_part)
            if config.int4:
                m.d.sync += [load.int4.eq(int4), feed.int4.eq(int4), feed.last_pair.eq(pair)]
        # What follows from other registers.
        with m.If(~valid[0] & feed.rows.one):
            m.d.sync += held[0].row_step.eq(1)
        with m.If(~valid[1]):
            m.d.sync += held[1].one.eq(held[0].rows.one & held[0].k_tiles.one & held[0].groups.one)

    def _report(
        self, m: Module, loader: WeightLoader, feeder: RowFeeder, accumulators: Accumulators
    ) -> None:
        """Drive what control sees of the engine."""
        config, engine = self.config, self.engine
        # Rows of different GEMMs are at least a tile apart.
        flight = config.rows + config.columns + config.read_latency + 12
        most = flight // MIN_PERIOD + 1
        landing = Signal(range(most + 1))
        taken = Signal(range(most + PLANS + 4))
        accepted = engine.command.valid & engine.command.ready
        for count, more in ((landing, feeder.issued), (taken, accepted)):
            with m.If(more & ~engine.retire):
                m.d.sync += count.eq(count + 1)
            with m.Elif(~more & engine.retire):
                m.d.sync += count.eq(count - 1)

        # The last requests are in the cycle of the halt.
        halted = Signal()
        m.d.sync += halted.eq(engine.halt)
        dry = Signal()
        m.d.sync += dry.eq(loader.dry)
        m.d.comb += [
            engine.stall.input.eq(dry & feeder.hungry),
            engine.stall.output.eq(feeder.undrained),
            engine.stall.bank.eq(feeder.hungry & self.b.refused),
            engine.retire.eq(accumulators.landed),
            engine.busy.eq(taken != 0),
            engine.idle.eq(engine.halt & halted & ~loader.reading & ~feeder.reading),
        ]

        # With nothing landing, the feeder's GEMM is the oldest. It is the loader's too, if the
        # feeder waits for just the tile that the loader cannot load.
        # Both stay so, and a cycle later is early enough.
        stuck, feeder_stuck = Signal(), Signal()
        m.d.sync += [
            stuck.eq(feeder.outside | (loader.outside & feeder.starved)),
            feeder_stuck.eq(feeder.outside),
        ]
        with m.If(stuck & ~feeder.issued & (landing == 0)):
            m.d.sync += engine.fault.eq(1)
        with m.If(~engine.fault):
            granule = Mux(feeder_stuck, feeder.granule, loader.granule)
            m.d.sync += engine.fault_address.eq(granule)
        m.d.comb += engine.fault_cause.eq(
            Mux(engine.fault, FaultCause.SCRATCHPAD_BOUND, FaultCause.NONE)
        )
