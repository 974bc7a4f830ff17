"""GEMM engine: matrix products of int8 operands, left in the accumulators for the vector engine."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import Opcode, WeightSource
from systolith.numerics import Format
from systolith.regs import FaultCause
from systolith_rtl.array.accumulator import ROW_CONTROL, Accumulators
from systolith_rtl.array.array import SystolicArray
from systolith_rtl.array.feeder import RowFeeder
from systolith_rtl.array.loader import WeightLoader
from systolith_rtl.array.ring import WeightRing
from systolith_rtl.array.tiles import bits, feeder_plan, loader_plan
from systolith_rtl.interfaces import (
    DrainSignature,
    EngineSignature,
    ReadSignature,
    RingSignature,
)

PLANS = 2
"""GEMMs whose weights may be loaded or about to be, while an earlier one's rows are fed."""


class GemmEngine(wiring.Component):
    """Carry out GEMM instructions: `sums[m, j]` of `A[m, :] * B[j, :]`, for the drain.

    The tile columns of B, C rows each, come one after the other; each leaves M rows of C sums in
    one half of the accumulators. Within a tile column the tiles of R columns of A and B follow
    one another, and within a tile the rows of A. While the array works on a tile, the next tile's
    weights are loaded, be it the next GEMM's first one. So a tile takes `max(M, C, 5)` cycles,
    and there is no gap between tiles, tile columns and GEMMs, unless the engine must wait: for
    weights, for a half that is still to be drained, or for a read that is refused.

    With nothing to wait for, cycles count from the command's acceptance in cycle 0::

        first request for weights    2
        first request for A          C + 2
        each further tile            max(M, C, 5) later
        drain.full, retire           R + C + 8 after the tile column's last request for A

    So a GEMM takes `tiles * max(M, C, 5) + R + C + 8` cycles from its first request for A until
    its last sum has landed (less `max(M, C, 5) - M` after the last tile's last row). It retires
    with that sum: what retires it is not needed by its drain, which goes by `drain.full`.

    Members:
        engine: `Out(EngineSignature(Opcode.GEMM))`.
        a: `Out(ReadSignature(config))`, activations; one word a cycle while fed.
        b: `Out(ReadSignature(config))`, weights from the scratchpad.
        ring: `In(RingSignature(config))`, weights from STREAM.
        drain: `In(DrainSignature(config))`.

    Raises:
        ValueError: in elaboration: the configuration has INT4, which the engine cannot do yet.
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
        if self.config.int4:
            raise ValueError("the GEMM engine multiplies INT8 only, but the configuration has int4")
        m = Module()
        m.submodules.ring = ring = WeightRing(self.config)
        m.submodules.loader = loader = WeightLoader(self.config)
        m.submodules.feeder = feeder = RowFeeder(self.config)
        m.submodules.array = array = SystolicArray(self.config)
        m.submodules.accumulators = accumulators = Accumulators(self.config)
        wiring.connect(m, wiring.flipped(self.ring), ring.push)
        wiring.connect(m, wiring.flipped(self.drain), accumulators.drain)
        wiring.connect(m, wiring.flipped(self.a), feeder.a)
        wiring.connect(m, wiring.flipped(self.b), loader.b)

        # A sum's control meets it at the accumulators, `LEAD` cycles ahead.
        delay = array.latency - Accumulators.LEAD
        control = Signal(data.ArrayLayout(ROW_CONTROL, delay))
        m.d.sync += control.as_value().eq(Cat(feeder.control, control))
        m.d.comb += [
            loader.halt.eq(self.engine.halt),
            loader.available.eq(ring.available),
            loader.ring_data.eq(ring.data),
            loader.offer.eq(feeder.offer),
            loader.swap.eq(feeder.swap),
            ring.pop.eq(loader.pop),
            feeder.halt.eq(self.engine.halt),
            feeder.loaded.eq(loader.loaded),
            feeder.free.eq(accumulators.free),
            accumulators.claim.eq(feeder.claim),
            array.row.eq(feeder.a.data),
            array.is_signed.eq(feeder.is_signed),
            array.valid.eq(feeder.control.valid),
            array.swap.eq(feeder.control.valid & feeder.control.start),
            array.weights.eq(loader.weights),
            array.capture.eq(loader.capture),
            accumulators.control.eq(control[delay - 1]),
            accumulators.sums.eq(array.sums),
        ]
        self._plan(m, loader, feeder)
        self._report(m, loader, feeder, accumulators)
        return m

    def _plan(self, m: Module, loader: WeightLoader, feeder: RowFeeder) -> None:
        """Turn a command into two plans: the loader's comes first, the feeder's when it is ready.

        The loader is at most a tile ahead, so `PLANS` places suffice for it never to wait.
        """
        config = self.config
        command = self.engine.command
        k_bits, n_bits = bits(config.rows), bits(config.columns)
        granules = bits(config.word_granules)
        m_last, n_last, k_last = (
            (command.p[name] - 1)[: len(command.p[name])] for name in ("m", "n", "k")
        )

        planned = Signal()
        load = Signal(loader_plan(config), reset_less=True)
        feed = Signal(feeder_plan(config), reset_less=True)
        m.submodules.plans = plans = SyncFIFO(width=feed.shape().size, depth=PLANS)
        m.d.comb += [
            command.ready.eq(~planned & ~self.engine.halt),
            loader.plan.valid.eq(planned & plans.w_rdy),
            loader.plan.p.eq(load),
            plans.w_en.eq(planned & loader.plan.ready),
            plans.w_data.eq(feed),
            feeder.plan.valid.eq(plans.r_rdy),
            feeder.plan.p.eq(plans.r_data),
            plans.r_en.eq(feeder.plan.ready),
        ]
        with m.If(command.valid & command.ready):
            m.d.sync += [
                planned.eq(1),
                load.address.eq(command.p.b_address >> granules),
                load.row_step.eq(command.p.b_row >> granules),
                load.k_tiles.eq(k_last >> k_bits),
                load.k_tail.eq(k_last[:k_bits]),
                load.groups.eq(n_last >> n_bits),
                load.n_tail.eq(n_last[:n_bits]),
                load.scratchpad.eq(command.p.b_source == WeightSource.SCRATCHPAD),
                feed.address.eq(command.p.a_address >> granules),
                feed.row_step.eq(command.p.a_row >> granules),
                feed.rows.eq(m_last),
                feed.rest.eq(
                    Mux(
                        command.p.m < Accumulators.MIN_PERIOD,
                        Accumulators.MIN_PERIOD - command.p.m[:3],
                        0,
                    )
                ),
                feed.k_tiles.eq(k_last >> k_bits),
                feed.groups.eq(n_last >> n_bits),
                feed.is_signed.eq(command.p.a_format == Format.S8),
            ]
        with m.Elif(loader.plan.valid & loader.plan.ready):
            m.d.sync += planned.eq(0)

    def _report(
        self, m: Module, loader: WeightLoader, feeder: RowFeeder, accumulators: Accumulators
    ) -> None:
        """Drive what control sees of the engine."""
        config, engine = self.config, self.engine
        # Rows of different GEMMs are at least a tile apart.
        flight = config.rows + config.columns + 16
        most = flight // Accumulators.MIN_PERIOD + 1
        landing = Signal(range(most + 1))
        taken = Signal(range(most + PLANS + 3))
        accepted = engine.command.valid & engine.command.ready
        for count, more in ((landing, feeder.issued), (taken, accepted)):
            with m.If(more & ~engine.retire):
                m.d.sync += count.eq(count + 1)
            with m.Elif(~more & engine.retire):
                m.d.sync += count.eq(count - 1)

        # Refusals are counted in the cycle after, which spares everybody's `ready` a longer path.
        stall = Signal()
        m.d.sync += stall.eq(feeder.blocked | (loader.blocked & (feeder.starved | ~feeder.active)))
        m.d.comb += [
            engine.retire.eq(accumulators.landed),
            engine.busy.eq(taken != 0),
            engine.stall.eq(stall),
            engine.idle.eq(engine.halt & ~loader.reading & ~feeder.reading),
        ]

        # With nothing landing, the feeder's GEMM is the oldest. It is the loader's too, if the
        # feeder waits for just the tile that the loader cannot load.
        with m.If(~engine.fault & (landing == 0)):
            with m.If(feeder.outside):
                m.d.sync += [
                    engine.fault.eq(1),
                    engine.fault_address.eq(feeder.granule),
                ]
            with m.Elif(loader.outside & feeder.starved):
                m.d.sync += [
                    engine.fault.eq(1),
                    engine.fault_address.eq(loader.granule),
                ]
        m.d.comb += engine.fault_cause.eq(
            Mux(engine.fault, FaultCause.SCRATCHPAD_BOUND, FaultCause.NONE)
        )
