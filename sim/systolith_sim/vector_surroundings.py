"""What is around a vector engine: memories, accumulators, control and a ROW engine, for tests.

They are as unhelpful as their contracts allow: they refuse and delay at random, give noise for
bytes whose write has not landed, and keep the row file's ports busy.
"""

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

from amaranth.hdl import Value, ValueCastable

from systolith.isa import Instruction
from systolith.numerics import Row, Statistics
from systolith_rtl.interfaces import (
    ACC_READ_LATENCY,
    ROW_READ_LATENCY,
    STALL_LAYOUT,
    WRITE_LATENCY,
)
from systolith_rtl.vector.engine import VectorEngine
from systolith_sim.testbench import DeadlockError, SimulatorContext
from systolith_sim.vector_reference import Sums, VectorState

Job: TypeAlias = tuple[Instruction, Sums]
"""An instruction, and the accumulators that it drains."""


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How the surroundings behave.

    Attributes:
        seed: of everything that is left to chance.
        refuse: probability that a read is refused.
        refused: cycles in which all reads are.
        refused_r: cycles in which those of r are.
        late: probability, in each cycle, that the next half is not yet complete.
        drain_opens: cycle before which none is.
        rows: probability, in each cycle, of a read and of a write by ROW, in slots beside those
            of the instruction.
        halt: the cycle of the first instruction in which control halts the engine, if it does.
    """

    seed: int = 0
    refuse: float = 0.0
    refused: Collection[int] = ()
    refused_r: Collection[int] = ()
    late: float = 0.0
    drain_opens: int = 0
    rows: float = 0.0
    halt: int | None = None


POLITE = Manners()
"""Nobody is refused, and everything is in time."""


@dataclass(kw_only=True)
class Run:
    """What was seen of an instruction, in cycles from the one in which it was taken.

    Attributes:
        retired: when it was retired, or a fault was seen, or the engine was idle after a halt.
        issues: when rows were read from accumulators.
        writes: when the scratchpad was written.
        stalls: how many cycles counted as stalled, by cause.
        fault: the faulty granule, or None.
    """

    retired: int
    issues: list[int]
    writes: list[int]
    stalls: dict[str, int]
    fault: int | None


GARBAGE = 0x5A
"""Byte on data lines while nothing is valid."""


class Surroundings:
    """Scratchpad, accumulators, control and ROW, one cycle at a time.

    Args:
        dut: the engine.
        state: what is in the memories; kept up to date.
        jobs: the instructions of this run, whose records ROW must not touch.
        manners: how the surroundings behave.

    Attributes:
        halted: control has halted the engine.
    """

    def __init__(
        self, dut: VectorEngine, state: VectorState, jobs: Sequence[Job], manners: Manners
    ) -> None:
        self._dut = dut
        self._state = state
        self._config = dut.config
        self._manners = manners
        self._rng = random.Random(manners.seed)
        self.halted = False
        self._inputs: dict[int, Any] = {}
        self._cycle = 0
        # Reads under way, per port and cycle of their answer; writes not yet landed.
        self._refused = [0, 0]
        self._answers: list[dict[int, bytes]] = [{}, {}]
        self._writes: deque[tuple[int, int, bytes, int]] = deque()
        self._halves: deque[list[list[int]]] = deque()
        self._complete = False
        self._drained: dict[int, list[int]] = {}
        self._asked: dict[int, int] = {}
        # Slots that ROW must keep off: the statistics of this instruction, the records of all.
        self._busy_slots: set[int] = set()
        self._busy_records = {slot for op, _ in jobs for slot in range(op.row_in, op.row_in + op.m)}

    async def carry_out(self, ctx: SimulatorContext, op: Instruction, sums: Sums) -> Run:
        """Hand an instruction to the engine and see it through.

        Raises:
            DeadlockError: it was not retired in time.
            AssertionError: the engine broke a contract.
        """
        dut = self._dut
        engine = dut.engine
        self._halves.extend(sums)
        self._busy_slots = set(range(op.stat_out, op.stat_out + op.m)) if op.statistic else set()
        names = engine.command.payload.shape().members
        ctx.set(engine.command.payload, {name: op.fields[name] for name in names})
        ctx.set(engine.command.valid, 1)
        start = self._cycle
        run = Run(retired=0, issues=[], writes=[], stalls={}, fault=None)
        was_busy = False
        # Waiting takes at most a few cycles per event at the worst manners that tests have.
        groups = -(-op.n // self._config.columns)
        patience = 300 + 40 * groups * (op.m + self._config.columns)
        accepted = False
        while self._cycle - start < patience:
            now = self._cycle - start
            if now == self._manners.halt:
                self.halted = True
                ctx.set(engine.halt, 1)
            seen = await self._tick(ctx)
            if self.halted:
                # The engine looks at the halt in the next cycle.
                assert self._manners.halt is not None
                accesses = seen.x or seen.r or seen.write or seen.enable
                assert now <= self._manners.halt + 1 or not accesses, "access after a halt"
                assert not seen.idle or not any(self._answers), "idle with reads under way"
                if seen.idle:
                    run.retired = now
                    return run
                continue
            if not accepted and seen.ready:
                accepted = True
                ctx.set(engine.command.valid, 0)
            else:
                assert seen.busy or seen.fault, "not busy before the end"
            if seen.write:
                run.writes.append(now)
            if seen.enable:
                run.issues.append(now)
            for cause in STALL_LAYOUT.members:
                if was_busy and seen.stall[cause]:
                    # Of several causes, the first one counts.
                    run.stalls[cause] = run.stalls.get(cause, 0) + 1
                    break
            was_busy = bool(seen.busy)
            if seen.fault:
                for cycle in range(50):
                    seen = await self._tick(ctx)
                    assert seen.fault, "a fault does not last"
                    assert not seen.retire, "retired after a fault"
                    # The other parts learn of it in the next cycle.
                    assert cycle == 0 or not seen.active, "access after a fault"
                    assert not seen.ready, "a command was taken after a fault"
                run.fault = seen.fault_address
                run.retired = now
                return run
            if seen.retire:
                break
        else:
            raise DeadlockError(f"not retired after {patience} cycles: {op}")
        run.retired = now
        # Reads that are requested from the next cycle on see everything.
        newest = max((granted for granted, *_ in self._writes), default=0)
        assert newest <= self._cycle - WRITE_LATENCY, "retired before the last write had landed"
        assert not self._halves, "a half has not been released"
        if op.statistic:
            slots = self._state.statistics
            slots[op.stat_out : op.stat_out + op.m] = await self.read_statistics(
                ctx, op.stat_out, op.m
            )
        for _ in range(2 * WRITE_LATENCY):
            seen = await self._tick(ctx)
            assert not seen.active, "access after the end"
            assert not seen.busy, "busy after the end"
        return run

    async def read_statistics(
        self, ctx: SimulatorContext, first: int, count: int
    ) -> list[Statistics]:
        """Read slots one after the other, without other traffic."""
        rows = self._dut.rows
        found = []
        self._asked.clear()
        for offset in range(count + ROW_READ_LATENCY):
            self._set(ctx, rows.read, offset < count)
            ctx.set(rows.read_slot, (first + offset) % self._config.row_slots)
            seen = await self._tick(ctx, traffic=False)
            if offset >= ROW_READ_LATENCY:
                found.append(seen.statistics)
        return found

    async def _tick(self, ctx: SimulatorContext, *, traffic: bool = True) -> SimpleNamespace:
        """Set the inputs of one cycle, let it pass, and act on what the engine did."""
        dut = self._dut
        cycle = self._cycle
        self._drive_reads(ctx, cycle)
        self._drive_drain(ctx, cycle)
        if traffic:
            self._drive_rows(ctx, cycle)
        names = {
            "ready": dut.engine.command.ready,
            "retire": dut.engine.retire,
            "idle": dut.engine.idle,
            "busy": dut.engine.busy,
            "stall": dut.engine.stall,
            "fault": dut.engine.fault,
            "fault_address": dut.engine.fault_address,
            "x": dut.x.valid & dut.x.ready,
            "x_address": dut.x.address,
            "r": dut.r.valid & dut.r.ready,
            "r_address": dut.r.address,
            "x_refused": dut.x.valid & ~dut.x.ready,
            "r_refused": dut.r.valid & ~dut.r.ready,
            "write": dut.y.valid,
            "y_address": dut.y.address,
            "data": dut.y.data,
            "mask": dut.y.mask,
            "full": dut.drain.full,
            "enable": dut.drain.enable,
            "row": dut.drain.row,
            "release": dut.drain.release,
            "statistics": dut.rows.statistics,
        }
        _, _, *values = await ctx.tick().sample(*names.values())
        seen = SimpleNamespace(**dict(zip(names, values, strict=True)))
        seen.statistics = Statistics(*(seen.statistics[name] for name in Statistics._fields))
        seen.active = seen.x or seen.r or seen.write or seen.enable or seen.retire
        self._refused = [seen.x_refused, seen.r_refused]
        self._write(cycle, seen)
        self._read(cycle, 0, seen.x, seen.x_address)
        self._read(cycle, 1, seen.r, seen.r_address)
        self._drain(cycle, seen)
        if cycle in self._asked:
            slot = self._asked.pop(cycle)
            assert seen.statistics == self._state.statistics[slot], f"ROW read slot {slot}"
        self._cycle += 1
        return seen

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability

    def _set(self, ctx: SimulatorContext, signal: ValueCastable | Value, value: Any) -> None:
        """Set an input if it changes, since setting takes longer than comparing."""
        if self._inputs.get(id(signal)) != value:
            self._inputs[id(signal)] = value
            ctx.set(signal, value)

    def _drive_reads(self, ctx: SimulatorContext, cycle: int) -> None:
        garbage = bytes([GARBAGE]) * self._config.rows
        for port, answers in zip((self._dut.x, self._dut.r), self._answers, strict=True):
            closed = cycle in self._manners.refused
            closed |= port is self._dut.r and cycle in self._manners.refused_r
            self._set(ctx, port.ready, not closed and not self._chance(self._manners.refuse))
            self._set(ctx, port.data_valid, cycle in answers)
            self._set(ctx, port.data, int.from_bytes(answers.pop(cycle, garbage), "little"))
        for port, refused in zip((self._dut.x, self._dut.r), self._refused, strict=True):
            self._set(ctx, port.refused, refused)

    def _read(self, cycle: int, port: int, granted: int, address: int) -> None:
        """Answer with what has landed, and with noise where a write has not yet."""
        if not granted:
            return
        size = self._config.rows
        word = bytearray(self._state.memory[address * size : (address + 1) * size])
        for _, written, _, mask in self._writes:
            for byte in range(size):
                if written == address and mask >> byte & 1:
                    word[byte] = self._rng.randrange(256)
        self._answers[port][cycle + self._config.read_latency] = bytes(word)

    def _write(self, cycle: int, seen: SimpleNamespace) -> None:
        size = self._config.rows
        if seen.write:
            image = seen.data.to_bytes(size, "little")
            self._writes.append((cycle, seen.y_address, image, seen.mask))
        # What lands now is seen by reads that are granted in the next cycle.
        while self._writes and self._writes[0][0] + WRITE_LATENCY <= cycle + 1:
            _, address, image, mask = self._writes.popleft()
            for byte in range(size):
                if mask >> byte & 1:
                    self._state.memory[address * size + byte] = image[byte]

    def _drive_drain(self, ctx: SimulatorContext, cycle: int) -> None:
        drain = self._dut.drain
        # Once complete, a half stays so until it is released.
        if self._halves and not self._complete:
            closed = cycle < self._manners.drain_opens
            self._complete = not closed and not self._chance(self._manners.late)
        self._set(ctx, drain.full, bool(self._halves) and self._complete)
        garbage = [-0x5A5A5A5B] * self._config.columns
        self._set(ctx, drain.data, self._drained.pop(cycle, garbage))

    def _drain(self, cycle: int, seen: SimpleNamespace) -> None:
        if seen.enable:
            assert seen.full, "a row was read from a half that is not complete"
            self._drained[cycle + ACC_READ_LATENCY] = self._halves[0][seen.row]
        if seen.release:
            assert seen.full, "a half was released that is not complete"
            self._halves.popleft()
            self._complete = False

    def _drive_rows(self, ctx: SimulatorContext, cycle: int) -> None:
        rows = self._dut.rows
        slot = self._rng.randrange(self._config.row_slots)
        read = slot not in self._busy_slots and self._chance(self._manners.rows)
        self._set(ctx, rows.read, read)
        if read:
            ctx.set(rows.read_slot, slot)
            self._asked[cycle + ROW_READ_LATENCY] = slot
        slot = self._rng.randrange(self._config.row_slots)
        write = slot not in self._busy_records and self._chance(self._manners.rows)
        self._set(ctx, rows.write, write)
        if write:
            record = Row(self._rng.randint(-999, 999), self._rng.randint(1 << 15, 65535), 1)
            ctx.set(rows.write_slot, slot)
            ctx.set(rows.record, record._asdict())
            self._state.records[slot] = record
