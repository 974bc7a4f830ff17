"""Control: registers, the state of the core, faults, and who may start what."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith import regs
from systolith.config import CoreConfig
from systolith.isa import Engine, Opcode
from systolith.regs import State
from systolith_rtl.control.blame import Blame
from systolith_rtl.control.counters import Counters
from systolith_rtl.control.csr import Csr
from systolith_rtl.control.decoder import Decoder
from systolith_rtl.control.dispatch import Dispatch
from systolith_rtl.control.fetch import Fetch
from systolith_rtl.control.queue import COUNTS_LAYOUT
from systolith_rtl.interfaces import (
    AxiLiteSignature,
    EngineSignature,
    FetchSignature,
)
from systolith_rtl.reset import local_reset
from systolith_rtl.settings import SettingSignature

RESET_CYCLES = 2
"""Cycles for which the engines are reset: two registers later (see `local_reset`), which is before
anything may start."""

SETTLE_CYCLES = 8
"""Cycles after `halt` before `idle` and `quiet` are believed: registers on the way to the DMA."""


class Control(wiring.Component):
    """Run programs.

    ::

        registers ── state
                       │ run
        memory ─► fetch ─► decode ─► dispatch ─► a queue per engine ─► engine
                                        ▲                                │
                                        └────── progress counts ◄────────┘

    START resets the engines, so every run begins in the same state, and fetch begins. HALT ends
    fetch; once nothing is owed on the memory port, the interrupt is raised. A fault halts the
    engines; once all of them are idle and nothing is owed, the interrupt is raised with the cause,
    the engine, and the oldest instruction that the engine has not retired. The first fault is
    reported, and of several in a cycle that of the lowest engine, then that of dispatch. RESET
    does the same while a program runs, without an interrupt, then resets the engines.

    Members:
        s_axil: `In(AxiLiteSignature())`.
        irq: `Out(1)`.
        state: `Out(State)`, the register `status`.
        fetch: `Out(FetchSignature(config))`.
        change: `Out(SettingSignature())`, of bases, limits and scalars.
        stream, load, store, gemm, vector, row: `In(EngineSignature(...))`.
        quiet: `In(1)`, no transaction on the memory port is outstanding.
        read_beat, write_beat: `In(1)`, for counters.
        clashes: `In(3)`, likewise.
        reset_engines: `Out(1)`, for everything but control.
        retired: `Out`, progress counts.
        waiting: `Out`, by engine, instructions dispatched and not yet handed over.
        working: `Out(6)`, `busy` of the engines.
    """

    s_axil: wiring.PureInterface
    irq: Signal
    state: Signal
    fetch: wiring.PureInterface
    change: wiring.PureInterface
    quiet: Signal
    read_beat: Signal
    write_beat: Signal
    clashes: Signal
    reset_engines: Signal
    retired: data.View
    waiting: data.View
    working: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature()),
                "irq": Out(1),
                "state": Out(State),
                "fetch": Out(FetchSignature(config)),
                "change": Out(SettingSignature()),
                **{
                    engine.name.lower(): In(EngineSignature(Opcode[engine.name]))
                    for engine in Engine
                },
                "quiet": In(1),
                "read_beat": In(1),
                "write_beat": In(1),
                "clashes": In(3),
                "reset_engines": Out(1),
                "retired": Out(COUNTS_LAYOUT),
                "waiting": Out(COUNTS_LAYOUT),
                "working": Out(len(Engine)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts, then run the state machine over them."""
        m = Module()
        m.submodules.csr = csr = Csr(self.config)
        decoder, fetcher, dispatch = (
            Decoder(self.config),
            Fetch(self.config),
            Dispatch(self.config),
        )
        for name, part in (("decoder", decoder), ("fetcher", fetcher), ("dispatch", dispatch)):
            m.submodules[name] = local_reset(m, name, self.reset_engines)(part)
        wiring.connect(m, csr.s_axil, wiring.flipped(self.s_axil))
        wiring.connect(m, wiring.flipped(self.fetch), fetcher.fetch)
        wiring.connect(m, fetcher.o, decoder.i)
        wiring.connect(m, decoder.o, dispatch.i)
        engines = [getattr(self, engine.name.lower()) for engine in Engine]
        for engine, port in zip(Engine, engines, strict=True):
            wiring.connect(m, getattr(dispatch, engine.name.lower()), wiring.flipped(port.command))
            m.d.comb += dispatch.retire[engine].eq(port.retire)
        m.d.comb += [
            fetcher.base.eq(Cat(csr.base0_lo, csr.base0_hi)),
            fetcher.limit.eq(csr.limit0),
            fetcher.size.eq(csr.program_size),
            self.retired.eq(dispatch.retired),
            self.waiting.eq(dispatch.waiting),
            self.working.eq(Cat(port.busy for port in engines)),
            self.irq.eq(csr.interrupt_pending[0] & csr.interrupt_enable[0]),
        ]
        self._export(m, csr, dispatch)

        state = self._run(m, csr, fetcher, dispatch, engines)
        self._blame(m, csr, dispatch, engines, state)
        # Nothing else happens in the cycles in which the reset and `run` are late.
        counters = local_reset(m, "counters", state.clear)(Counters(self.config))
        m.submodules.counters = counters
        # Engines say a cycle later why they waited. So it is known here, too, whether the cycle in
        # which an instruction saw the counts was one in vain: then it is offered now.
        busy = Signal(len(Engine))
        awaits = Signal(len(Engine))
        m.d.sync += [busy.eq(self.working), awaits.eq(dispatch.awaits)]
        m.d.comb += [
            counters.busy.eq(busy),
            counters.awaits.eq(awaits & ~Cat(port.command.valid for port in engines)),
            *(
                counters.stall[engine].eq(port.stall)
                for engine, port in zip(Engine, engines, strict=True)
            ),
            counters.read_beat.eq(self.read_beat),
            counters.write_beat.eq(self.write_beat),
            counters.clashes.eq(self.clashes),
            counters.index.eq(csr.counter),
            csr.count.eq(counters.value),
        ]
        m.d.sync += counters.run.eq(state.running)
        return m

    def _export(self, m: Module, csr: Csr, dispatch: Dispatch) -> None:
        """Show the host the progress counts, and the engines what the host sets."""
        wiring.connect(m, csr.change, wiring.flipped(self.change))
        for engine in Engine:
            register = getattr(csr, f"{engine.name.lower()}_retired")
            m.d.comb += register.eq(dispatch.retired[engine])

    def _run(
        self,
        m: Module,
        csr: Csr,
        fetcher: Fetch,
        dispatch: Dispatch,
        engines: list[wiring.PureInterface],
    ) -> SimpleNamespace:
        """Follow the state of the core."""
        # A cycle late, as is what follows from them: a host does not count cycles. But by the
        # response to an acknowledgement, the interrupt must be low.
        start = Signal()
        abort = Signal()
        m.d.sync += [
            start.eq(csr.control[regs.Control.START]),
            abort.eq(csr.control[regs.Control.ABORT]),
        ]
        acknowledge = csr.control[regs.Control.ACKNOWLEDGE]
        # A bit for each step, so that what follows from one is a gate away.
        idle, resets, prepares, runs, finishes, faulting, faulted = (
            Signal(name=name, init=name == "idle")
            for name in ("idle", "resets", "prepares", "runs", "finishes", "faulting", "faulted")
        )
        done = Signal()
        status = Signal(State)
        pending = Signal()
        running = Signal()
        m.d.comb += [
            running.eq(prepares | runs | finishes),
            Value.cast(status).eq(Cat(running | faulting, faulting | done, faulted)),
        ]
        # A bit that goes down, from where a step below puts it, until the time is `over`.
        timer = Signal(max(RESET_CYCLES + 2, SETTLE_CYCLES) + 1)
        over = Signal()
        abort_wanted = Signal()
        reset_wanted = Signal()
        halt = Signal()
        halt_code = Signal(32, reset_less=True)
        clear = Signal()
        matches = Signal()
        m.d.sync += matches.eq(Cat(csr.program_hash_lo, csr.program_hash_hi) == self.config.hash)
        # Engines are far away; what they say of a fault stays. What else is wrong is looked at a
        # cycle late, as one with it.
        faults = Signal(len(Engine))
        expired = self._watchdog(m, csr, running)
        by_engine = Signal()
        by_dispatch = Signal()
        by_watchdog = Signal()
        wrong = Signal()
        m.d.sync += [
            faults.eq(Cat(port.fault for port in engines)),
            by_engine.eq(Cat(port.fault for port in engines).any()),
            by_dispatch.eq(dispatch.refused),
            by_watchdog.eq(expired),
            wrong.eq(
                Cat(
                    *(port.fault for port in engines),
                    dispatch.refused,
                    expired,
                    abort_wanted,
                    reset_wanted,
                ).any()
            ),
        ]
        first_fault = Signal()
        m.d.comb += [fetcher.run.eq(runs), first_fault.eq(runs & wrong)]
        mismatch = Signal()
        resetting = Signal()
        # Cycles late, and only looked at long after `halt`; a fault has time for one more.
        fetched = Signal()
        still = Signal()
        calm = Signal()
        settled = Signal()
        m.d.sync += [
            fetched.eq(fetcher.idle),
            still.eq(Cat(port.idle for port in engines).all() & self.quiet & fetched),
            calm.eq(over & still),
            settled.eq(self.quiet & fetched),
            self.reset_engines.eq(resetting),
        ]
        m.d.comb += [
            csr.status.eq(status),
            self.state.eq(status),
            csr.interrupt_pending.eq(pending),
            csr.halt_code.eq(halt_code),
        ]
        # A copy for each engine, which is near it, and which Yosys must not merge with the others.
        for engine, port in zip(Engine, engines, strict=True):
            copy = Signal(name=f"halt_{engine.name.lower()}", attrs={"keep": 1})
            m.d.sync += copy.eq(halt)
            m.d.comb += port.halt.eq(copy)
        # Commands may come while the core is in between; they are remembered.
        with m.If(abort & running):
            m.d.sync += abort_wanted.eq(1)
        with m.If(csr.control[regs.Control.RESET]):
            m.d.sync += reset_wanted.eq(1)
        finished = Signal()
        clearing = Signal(init=1)
        m.d.sync += [finished.eq(finishes), clearing.eq(clear)]
        with m.If(finished):
            m.d.sync += halt_code.eq(dispatch.halt_code)
        with m.If(clearing):
            m.d.sync += [halt_code.eq(0), abort_wanted.eq(0)]
        with m.If(resets):
            m.d.sync += reset_wanted.eq(0)

        # What ends a step that does not just take its time. `idle` is what status calls IDLE or
        # DONE. Prefetch may still be owed instructions behind HALT, which stays.
        begins = idle & start & ~reset_wanted
        launches = begins & matches
        ends = Signal()
        fails = Signal()
        calms = Signal()
        begins_reset = Signal()
        m.d.comb += [
            mismatch.eq(begins & ~matches),
            ends.eq(finishes & over & settled & ~reset_wanted),
            fails.eq((runs & wrong) | (finishes & reset_wanted)),
            calms.eq(faulting & calm),
            begins_reset.eq(reset_wanted & (idle | faulted | calms)),
            clear.eq(begins | begins_reset),
            resetting.eq(resets | (prepares & timer[2 : RESET_CYCLES + 2].any())),
        ]
        halts = runs & ~wrong & dispatch.halted
        m.d.sync += [
            idle.eq((idle & ~start & ~reset_wanted) | (resets & over) | ends),
            resets.eq(begins_reset | (resets & ~over)),
            prepares.eq(launches | (prepares & ~over)),
            runs.eq((prepares & over) | (runs & ~wrong & ~dispatch.halted)),
            finishes.eq(halts | (finishes & ~reset_wanted & ~ends)),
            faulting.eq(fails | (faulting & ~calms)),
            faulted.eq(mismatch | ((calms | faulted) & ~reset_wanted)),
            done.eq(ends | (done & ~clear)),
            pending.eq(
                ends | mismatch | (calms & ~reset_wanted) | (pending & ~acknowledge & ~clear)
            ),
            # By the end of the reset, each unit's copy of it is high.
            halt.eq(fails | (halt & ~(resets & over))),
            timer.eq(
                Mux(
                    runs,
                    1 << SETTLE_CYCLES,
                    timer >> 1 | begins_reset << RESET_CYCLES - 1 | launches << RESET_CYCLES + 1,
                )
            ),
            over.eq((over | timer[1]) & ~(runs | begins_reset | launches)),
        ]
        return SimpleNamespace(
            clear=clear,
            running=running | faulting,
            faulted=first_fault,
            faults=faults,
            by_engine=by_engine,
            by_dispatch=by_dispatch,
            by_watchdog=by_watchdog,
            mismatch=mismatch,
        )

    def _watchdog(self, m: Module, csr: Csr, running: Value) -> Signal:
        """Return whether too many cycles have gone by without a retired instruction."""
        patience = Signal(32, reset_less=True)
        expired = Signal()
        retires = Signal(len(Engine))
        begins = Signal(init=1)
        watches = Signal()
        m.d.sync += [
            retires.eq(Cat(getattr(self, engine.name.lower()).retire for engine in Engine)),
            begins.eq(~running | retires.any()),
            watches.eq(csr.watchdog.any()),
            patience.eq(Mux(begins, csr.watchdog, patience - 1)),
            expired.eq((patience == 1) & watches & ~begins),
        ]
        return expired

    def _blame(
        self,
        m: Module,
        csr: Csr,
        dispatch: Dispatch,
        engines: list[wiring.PureInterface],
        state: SimpleNamespace,
    ) -> None:
        """Connect what faults come from, and the registers that tell of them."""
        m.submodules.blame = blame = Blame(self.config)
        m.d.comb += [
            blame.take.eq(state.faulted),
            blame.clear.eq(state.clear),
            blame.mismatch.eq(state.mismatch),
            blame.faults.eq(state.faults),
            blame.by_engine.eq(state.by_engine),
            blame.by_dispatch.eq(state.by_dispatch),
            blame.by_watchdog.eq(state.by_watchdog),
            blame.origins.eq(dispatch.origins),
            blame.pending.eq(dispatch.pending),
            blame.next_pc.eq(dispatch.next.pc),
            blame.next_tag.eq(dispatch.next.tag),
            blame.next_cause.eq(dispatch.cause),
            blame.base.eq(Cat(csr.base0_lo, csr.base0_hi)),
            blame.limit.eq(csr.limit0),
            csr.fault_engine.eq(blame.engine),
            csr.fault_cause.eq(blame.cause),
            csr.fault_pc.eq(blame.pc),
            csr.fault_tag.eq(blame.tag),
            Cat(csr.fault_address_lo, csr.fault_address_hi).eq(blame.address),
        ]
        for index, port in enumerate(engines):
            m.d.comb += [
                blame.causes[index].eq(port.fault_cause),
                blame.addresses[index].eq(port.fault_address),
            ]
