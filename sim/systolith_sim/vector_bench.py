"""Runs VECTOR instructions on the RTL and compares what they leave with `vector_reference`."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

from amaranth.sim import Simulator

from systolith.config import CoreConfig
from systolith.isa import Function
from systolith.numerics import Statistics
from systolith_rtl.vector.engine import VectorEngine
from systolith_sim.testbench import CLOCK_PERIOD, SimulatorContext, fill_settings
from systolith_sim.vector_reference import VectorReference, VectorState
from systolith_sim.vector_surroundings import POLITE, Job, Manners, Run, Surroundings


class VectorBench:
    """One engine, elaborated once; every run starts with a reset.

    Attributes:
        state: what the engine has to begin with, and after a run what it left.
        engine: the unit under test.
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.engine = VectorEngine(config)
        self._simulator = Simulator(self.engine)
        self._simulator.add_clock(CLOCK_PERIOD)
        self._simulator.add_testbench(self._testbench)

    def run(
        self,
        state: VectorState,
        jobs: Sequence[Job],
        manners: Manners = POLITE,
    ) -> list[Run]:
        """Load the engine's memories from `state`, carry out instructions one by one.

        Afterwards, `state` has the memory, records and statistics that the engine left. A fault
        ends the run.

        Raises:
            DeadlockError: an instruction was not retired in time.
            AssertionError: the engine broke a contract.
        """
        self.state = state
        self.jobs = jobs
        self._surroundings = Surroundings(self.engine, state, jobs, manners)
        self._runs: list[Run] = []
        self._simulator.reset()
        self._simulator.run()
        return self._runs

    async def _testbench(self, ctx: SimulatorContext) -> None:
        around = self._surroundings
        await self._load(ctx)
        for op, sums in self.jobs:
            self._runs.append(await around.carry_out(ctx, op, sums))
            if self._runs[-1].fault is not None or around.halted:
                return
        found = await around.read_statistics(ctx, 0, self.config.row_slots)
        assert found == self.state.statistics, "the statistics of a slot changed by themselves"

    async def _load(self, ctx: SimulatorContext) -> None:
        """Write what the instructions use: loading all of it would take most of a test."""
        dut = self.engine
        state = self.state
        ops = [op for op, _ in self.jobs]
        words = []
        for slot in {slot for op in ops for slot in range(op.column, op.column + op.n)}:
            if slot < self.config.column_slots:
                column = state.columns[slot]
                scale = (column.mant & 0xFFFF) | (column.shift & 0xFF) << 16
                words.append((0, 2 * slot, scale))
                words.append((0, 2 * slot + 1, column.off & 0xFFFF_FFFF))
        if any(op.function == Function.TABLE for op in ops):
            entries = [entry & 0xFFFF for entry in state.tables]
            pairs = zip(entries[::2], entries[1::2], strict=True)
            words += [(1, index, even | odd << 16) for index, (even, odd) in enumerate(pairs)]
        ctx.set(dut.side.valid, bool(words))
        for tables, address, word in words:
            ctx.set(dut.side.payload, {"tables": tables, "address": address, "data": word})
            _, _, ready = await ctx.tick().sample(dut.side.ready)
            assert ready, "the side stream was refused"
        ctx.set(dut.side.valid, 0)
        for slot in {
            slot for op in ops if op.use_row for slot in range(op.row_in, op.row_in + op.m)
        }:
            ctx.set(dut.rows.write, 1)
            ctx.set(dut.rows.write_slot, slot)
            ctx.set(dut.rows.record, state.records[slot]._asdict())
            await ctx.tick()
        ctx.set(dut.rows.write, 0)
        scalars = {f"scalar{index}": scalar for index, scalar in enumerate(state.scalars)}
        fill_settings(ctx, dut.settings, scalars)
        ctx.set(dut.y.ready, 1)
        # Statistics cannot be loaded: block RAM starts at 0.
        state.statistics[:] = [Statistics(0, 0, 0, 0)] * self.config.row_slots


@cache
def shared_bench(config: CoreConfig) -> VectorBench:
    """Return the bench of a core: elaboration takes seconds, a reset nothing."""
    return VectorBench(config)


def assert_as_defined(
    config: CoreConfig,
    state: VectorState,
    jobs: Sequence[Job],
    manners: Manners = POLITE,
) -> list[Run]:
    """Carry out instructions on the RTL and on the reference, compare what they leave.

    `state` is left as the RTL leaves it.
    """
    expected = deepcopy(state)
    runs = shared_bench(config).run(state, jobs, manners)
    reference = VectorReference(config)
    # As in the RTL after power-up.
    expected.statistics[:] = [Statistics(0, 0, 0, 0)] * config.row_slots
    for op, sums in jobs:
        reference.execute(expected, op, sums)
    wrong = [at for at, byte in enumerate(state.memory) if byte != expected.memory[at]]
    assert not wrong, f"bytes {wrong[:20]} after {[dict(op.fields) for op, _ in jobs]}"
    assert state.statistics == expected.statistics
    return runs
