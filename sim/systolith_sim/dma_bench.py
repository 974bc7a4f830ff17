"""What stands around a DMA in its tests: memory, scratchpad, ring, column memory, control."""

import random
from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import Any

from amaranth.hdl import Cat

from systolith.config import CoreConfig
from systolith.isa import OPERANDS, Engine, Instruction
from systolith.regs import FaultCause
from systolith_rtl.dma.dma import Dma
from systolith_rtl.interfaces import STALL_LAYOUT, WRITE_LATENCY
from systolith_sim.axi import AxiFaults, AxiMemory
from systolith_sim.testbench import ProtocolError, SimulatorContext, fill_settings, simulate

MOVERS = (Engine.STREAM, Engine.LOAD, Engine.STORE)
"""The engines of the DMA."""

UNKNOWN = 0x5A
"""What a scratchpad port shows when there is nothing to show."""

SETTLING = 40
"""Cycles after which a core that is done must have stayed quiet."""


class DmaBench:
    """A DMA with models of its neighbours, which hold it to their interfaces.

    Attributes:
        axi: the memory.
        scratchpad: bytes of the scratchpad; writes land as late as they may.
        words: words that were pushed into the ring, in order.
        side: writes to the side, as (tables, address, data).
        retired: for each engine, the cycles in which it retired.
        fault: engine, cause and address of the first fault, if any.
        retired_at_fault: instructions that each engine had retired when it came up.
        fetched: data and error of each fetched beat.
        pushes: cycles in which words were pushed.
        grants: cycles in which scratchpad writes were granted.
        stalls: for each engine, how many cycles it stood still for each cause while it was busy.
        opens: for each of `read`, `write`, `side`, the cycle before which it takes nothing, and for
            `ring`, before which nothing is taken from it; set it before `run`.
        closed: for `read` and `write`, cycles in which requests are refused; likewise.
    """

    def __init__(
        self,
        config: CoreConfig,
        memory: bytearray,
        *,
        bases: Sequence[int] = (0,),
        limits: Sequence[int] | None = None,
        scalars: Sequence[int] = (),
        latency: int = 30,
        stall: float = 0.0,
        memory_stall: float | None = None,
        drain: float = 1.0,
        interleave: bool = False,
        seed: int = 0,
        faults: AxiFaults | None = None,
        address_waits_for_data: bool = False,
    ) -> None:
        """Build everything.

        Args:
            config: of the core.
            memory: DRAM, from address 0 on.
            bases: base registers, from 0 on.
            limits: their limits; up to the end of memory if not given.
            scalars: run-time scalars.
            latency: of memory.
            stall: probability with which memory channels, scratchpad ports and the side stand
                still in a cycle.
            memory_stall: that of the memory channels, if it is another one.
            drain: probability with which the ring's reader takes a word in a cycle.
            interleave: whether memory mixes beats of different IDs.
            seed: of everything random.
            faults: where memory answers with an error.
            address_waits_for_data: memory accepts AW only while W is raised.
        """
        self.config = config
        self.dut = Dma(config)
        self.memory = memory
        self.limits = list(limits or [len(memory) - base for base in bases])
        self.bases = list(bases)
        self.scalars = list(scalars)
        reachable = [
            range(base, base + limit) for base, limit in zip(self.bases, self.limits, strict=True)
        ]
        self.axi = AxiMemory(
            memory,
            self.dut.axi,
            latency=latency,
            stall=stall if memory_stall is None else memory_stall,
            interleave=interleave,
            seed=seed,
            readable=reachable,
            writable=reachable,
            faults=faults,
            address_waits_for_data=address_waits_for_data,
        )
        self.scratchpad = bytearray(config.scratchpad_bytes)
        self.words: list[bytes] = []
        self.side: list[tuple[int, int, int]] = []
        self.retired: dict[Engine, list[int]] = {engine: [] for engine in MOVERS}
        self.fault: tuple[Engine, FaultCause, int] | None = None
        self.retired_at_fault: dict[Engine, int] = {}
        self.fetched: list[tuple[int, int]] = []
        self.pushes: list[int] = []
        self.grants: list[int] = []
        self.opens = {"read": 0, "write": 0, "side": 0, "ring": 0}
        self.closed: dict[str, Collection[int]] = {"read": (), "write": ()}
        self.stalls: dict[Engine, Counter[str]] = {engine: Counter() for engine in MOVERS}
        self.cycle = 0
        self._random = random.Random(seed + 1)
        self._stall = stall
        self._drain = drain
        self._occupied = 0
        self._was_busy = 0
        self._reads: deque[int | None] = deque([None] * (config.read_latency - 1))
        self._landing: deque[tuple[int, int, int, int]] = deque()
        self._shown: dict[str, int] = {}
        self._ports = {
            Engine.STREAM: self.dut.stream,
            Engine.LOAD: self.dut.load,
            Engine.STORE: self.dut.store,
        }

    def run(
        self,
        *instructions: Instruction,
        fetches: Sequence[int] = (),
        halt_at: int | None = None,
        max_cycles: int = 20_000,
    ) -> None:
        """Hand each engine its instructions, and wait until all are retired, or for a fault.

        After a fault, or in the cycle `halt_at`, every engine is halted, and the DMA must come to
        rest.

        Raises:
            ProtocolError: somebody's interface was violated.
            DeadlockError: it took longer than `max_cycles`.
            AssertionError: the DMA is not quiet in the end.
        """
        dut = self.dut
        queues = {engine: [i for i in instructions if i.engine is engine] for engine in MOVERS}
        halted = False

        def feeder(engine: Engine) -> Any:
            port = self._ports[engine]

            async def feed(ctx: SimulatorContext) -> None:
                for instruction in queues[engine]:
                    for field in OPERANDS[instruction.opcode]:
                        member = port.command.payload[field.name]
                        ctx.set(member, instruction.fields[field.name])
                    ctx.set(port.command.valid, 1)
                    taken = False
                    while not taken:
                        _, _, taken = await ctx.tick().sample(port.command.ready)
                        if halted:
                            return
                    ctx.set(port.command.valid, 0)

            feed.__qualname__ = f"feed {engine.name}"
            return feed

        async def fetch(ctx: SimulatorContext) -> None:
            for address in fetches:
                ctx.set(dut.fetch.request.payload, address)
                ctx.set(dut.fetch.request.valid, 1)
                taken = False
                while not taken:
                    _, _, taken = await ctx.tick().sample(dut.fetch.request.ready)
                ctx.set(dut.fetch.request.valid, 0)

        async def until_done(ctx: SimulatorContext) -> None:
            nonlocal halted
            beats = len(fetches) * 64 // self.config.axi_bytes
            while True:
                await ctx.tick()
                if self.fault or self.cycle == halt_at:
                    break
                done = all(len(self.retired[e]) >= len(q) for e, q in queues.items())
                if done and len(self.fetched) >= beats:
                    break
            if self.fault or halt_at is not None:
                for port in self._ports.values():
                    ctx.set(port.halt, 1)
                halted = True
                # A burst that is taken in this cycle is not new; no other may follow. The memory
                # notes what was accepted with an edge only after this process has run.
                await ctx.tick()
                raised = ctx.get(dut.axi.ar.valid), ctx.get(dut.axi.aw.valid)
                await ctx.tick()
                may_end_with = len(self.axi.reads) + raised[0], len(self.axi.writes) + raised[1]
                while not all(ctx.get(port.idle) for port in self._ports.values()):
                    await ctx.tick()
            else:
                assert not any(ctx.get(port.busy) for port in self._ports.values())
            while not ctx.get(dut.quiet):
                await ctx.tick()
            started = len(self.axi.reads) + len(self.axi.writes)
            for _ in range(SETTLING):
                await ctx.tick()
                assert ctx.get(dut.quiet)
            assert self.axi.idle
            assert started == len(self.axi.reads) + len(self.axi.writes)
            assert self.axi.refused_reads == 0
            if halted:
                assert (len(self.axi.reads), len(self.axi.writes)) == may_end_with  # pyright: ignore[reportPossiblyUnboundVariable]

        feeders = [feeder(engine) for engine in MOVERS if queues[engine]]
        simulate(
            self.dut,
            *feeders,
            fetch,
            until_done,
            monitors=[self, self.axi],  # pyright: ignore[reportArgumentType]
            max_cycles=max_cycles,
        )

    async def watch(self, ctx: SimulatorContext) -> None:
        """Be the neighbours, until the simulation ends."""
        dut = self.dut
        settings = {
            **{f"base{index}_lo": base & 0xFFFF_FFFF for index, base in enumerate(self.bases)},
            **{f"base{index}_hi": base >> 32 for index, base in enumerate(self.bases)},
            **{f"limit{index}": limit for index, limit in enumerate(self.limits)},
            **{f"scalar{index}": scalar for index, scalar in enumerate(self.scalars)},
        }
        fill_settings(ctx, dut.settings, settings)
        ctx.set(dut.ring.free, self.config.ring_words)
        ports = self._ports.values()
        sample = ctx.tick().sample(
            Cat(
                dut.read.valid & dut.read.ready,
                dut.write.valid & dut.write.ready,
                dut.ring.push,
                dut.side.valid & dut.side.ready,
                dut.fetch.data_valid,
                *(port.retire for port in ports),
                *(port.fault for port in ports),
                dut.read.valid & ~dut.read.ready,
                dut.write.valid & ~dut.write.ready,
            ),
            dut.read.address,
            dut.write.address,
            dut.write.data,
            dut.write.mask,
            dut.ring.data,
            dut.side.payload,
            dut.fetch.data,
            dut.fetch.error,
            Cat(port.busy for port in ports),
            *(port.stall for port in ports),
        )
        while True:
            (
                _,
                _,
                flags,
                read,
                address,
                data,
                mask,
                word,
                side,
                beat,
                error,
                busy,
                *stalls,
            ) = await sample
            read_granted, written, pushed, side_taken, fetched, *events = (
                bool(flags >> bit & 1) for bit in range(7 + 2 * len(MOVERS))
            )
            for name in ("write", "read"):
                self._show(ctx, f"{name}_refused", getattr(dut, name).refused, events.pop())
            self._count_stalls(busy, stalls)
            while self._landing and self._landing[0][0] <= self.cycle:
                self._land(*self._landing.popleft()[1:])
            if written:
                self.grants.append(self.cycle)
                self._landing.append((self.cycle + WRITE_LATENCY, address, data, mask))
            if pushed:
                self._push(word)
            if side_taken:
                self.side.append((side.tables, side.address, side.data))
            if fetched:
                self.fetched.append((beat, error))
            self._note(ctx, events)
            self._drive(ctx, read if read_granted else None)
            self.cycle += 1

    def _count_stalls(self, busy: int, stalls: list[Any]) -> None:
        """Count the first cause of each engine that was busy a cycle ago: they say so late."""
        for index, (engine, causes) in enumerate(zip(MOVERS, stalls, strict=True)):
            found = [name for name in STALL_LAYOUT.members if causes[name]]
            if self._was_busy >> index & 1 and found:
                self.stalls[engine][found[0]] += 1
        self._was_busy = busy

    def _land(self, address: int, data: int, mask: int) -> None:
        size = self.config.rows
        for lane, value in enumerate(data.to_bytes(size, "little")):
            if mask >> lane & 1:
                self.scratchpad[address * size + lane] = value

    def _push(self, word: int) -> None:
        if self._occupied == self.config.ring_words:
            raise ProtocolError(f"Cycle {self.cycle}: pushed into a full ring")
        self._occupied += 1
        self.pushes.append(self.cycle)
        self.words.append(word.to_bytes(self.config.rows, "little"))

    def _note(self, ctx: SimulatorContext, events: list[bool]) -> None:
        for engine, retired, fault in zip(
            MOVERS, events[: len(MOVERS)], events[len(MOVERS) :], strict=True
        ):
            if retired:
                self.retired[engine].append(self.cycle)
            if fault and self.fault is None:
                port = self._ports[engine]
                cause = FaultCause(ctx.get(port.fault_cause))
                self.fault = engine, cause, ctx.get(port.fault_address)
                self.retired_at_fault = {e: len(cycles) for e, cycles in self.retired.items()}

    def _drive(self, ctx: SimulatorContext, granted: int | None) -> None:
        """Set what the neighbours show in the next cycle."""
        dut = self.dut
        size = self.config.rows
        opened = self.cycle >= self.opens["ring"]
        if self._occupied and opened and self._random.random() < self._drain:
            self._occupied -= 1
        self._show(ctx, "free", dut.ring.free, self.config.ring_words - self._occupied)
        for name in ("read", "write", "side"):
            ready = self._random.random() >= self._stall and self.cycle >= self.opens[name]
            ready = ready and self.cycle not in self.closed.get(name, ())
            self._show(ctx, name, getattr(dut, name).ready, ready)

        # The word is read when the read is granted; its data is shown `read_latency` later.
        word = None
        if granted is not None:
            word = int.from_bytes(self.scratchpad[granted * size : granted * size + size], "little")
        self._reads.append(word)
        shown = self._reads.popleft()
        self._show(ctx, "data_valid", dut.read.data_valid, shown is not None)
        self._show(ctx, "data", dut.read.data, UNKNOWN if shown is None else shown)

    def _show(self, ctx: SimulatorContext, name: str, signal: Any, value: int) -> None:
        """Set a signal, if it changes: setting takes as long as much of the rest."""
        if self._shown.get(name) != value:
            self._shown[name] = value
            ctx.set(signal, value)
