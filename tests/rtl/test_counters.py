"""Performance counters against a count in Python."""

import dataclasses
import random
from collections import Counter

import pytest
from amaranth.hdl import ResetInserter, Signal

from systolith.config import PRESETS, CoreConfig
from systolith.isa import Engine
from systolith.regs import STALLS, Stall, stall_counter
from systolith_rtl.control.counters import ALWAYS, COUNTERS, SAME, Counters
from systolith_rtl.interfaces import STALL_LAYOUT
from systolith_sim.testbench import SimulatorContext, simulate

CONFIG = PRESETS["tiny"]
WITHOUT = dataclasses.replace(CONFIG, stall_counters=False)


async def drive(
    ctx: SimulatorContext, dut: Counters, generator: random.Random, cycles: int, density: float
) -> Counter[str]:
    """Let things happen; return how often each did while `run` was high."""
    counts: Counter[str] = Counter()
    for _ in range(cycles):
        run = generator.random() < 0.9
        busy, awaits = ([generator.random() < density for _ in Engine] for _ in range(2))
        waits = [
            [name for name in STALL_LAYOUT.members if generator.random() < density / 2]
            for _ in Engine
        ]
        read, write = (generator.random() < density for _ in range(2))
        clashes = generator.randint(0, 5) if generator.random() < density else 0
        ctx.set(dut.run, run)
        ctx.set(dut.busy, sum(bit << engine for engine, bit in zip(Engine, busy, strict=True)))
        ctx.set(dut.awaits, sum(bit << engine for engine, bit in zip(Engine, awaits, strict=True)))
        for engine in Engine:
            ctx.set(dut.stall[engine], dict.fromkeys(waits[engine], 1))
        ctx.set(dut.read_beat, read)
        ctx.set(dut.write_beat, write)
        ctx.set(dut.clashes, clashes)
        await ctx.tick()
        if run:
            counts["cycles"] += 1
            counts["read_beats"] += read
            counts["write_beats"] += write
            counts["bank_clashes"] += clashes
            for engine in Engine:
                name = engine.name.lower()
                counts[f"{name}_busy"] += busy[engine] or awaits[engine]
                causes = [each for each in STALLS[engine] if each.name.lower() in waits[engine]]
                if not busy[engine]:
                    causes = [Stall.AWAITED] if awaits[engine] else []
                counts[f"{name}_stall"] += bool(causes)
                if causes:
                    counts[stall_counter(engine, min(causes))] += 1
    ctx.set(dut.run, 0)
    return counts


async def read_all(ctx: SimulatorContext, dut: Counters) -> dict[str, int]:
    """Read every counter, each after the time it may take."""
    values = {}
    for index, name in enumerate(dut.names):
        ctx.set(dut.index, index)
        for _ in range(Counters.DELAY):
            await ctx.tick()
        values[name] = ctx.get(dut.value)
    return values


@pytest.mark.parametrize("config", [CONFIG, WITHOUT], ids=["all", "without stalls"])
def test_counts(config: CoreConfig) -> None:
    """Rare events and ones in every cycle, and nothing of what was before a reset."""
    dut = Counters(config)
    assert dut.names == (COUNTERS if config is CONFIG else ALWAYS)
    reset = Signal()
    generator = random.Random(0)

    async def bench(ctx: SimulatorContext) -> None:
        assert not any((await read_all(ctx, dut)).values())
        for density in (1.0, 0.1, 0.5):
            counts = await drive(ctx, dut, generator, 300, density)
            values = await read_all(ctx, dut)
            assert values == {name: counts[name] for name in dut.names}
            for engine in Engine if config.stall_counters else ():
                causes = [stall_counter(engine, cause) for cause in STALLS[engine]]
                total = sum(values[SAME.get(name, name)] for name in causes)
                assert values[f"{engine.name.lower()}_stall"] == total
            await drive(ctx, dut, generator, generator.randint(1, 40), density)
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)

    simulate(ResetInserter(reset)(dut), bench, max_cycles=10_000)


@pytest.mark.parametrize("config", [CONFIG, WITHOUT], ids=["all", "without stalls"])
def test_carries(config: CoreConfig) -> None:
    """Beyond 16 bits."""
    dut = Counters(config)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.run, 1)
        ctx.set(dut.clashes, 5)
        for _ in range(14_000):
            await ctx.tick()
        ctx.set(dut.run, 0)
        assert (await read_all(ctx, dut))["bank_clashes"] == 70_000

    simulate(dut, bench, max_cycles=20_000)


@pytest.mark.parametrize("config", [CONFIG, WITHOUT], ids=["all", "without stalls"])
def test_last_event_counts(config: CoreConfig) -> None:
    """An event in the last cycle is there `DELAY` cycles later, whichever counter is next."""
    for offset in range(len(COUNTERS)):
        dut = Counters(config)

        async def bench(ctx: SimulatorContext, dut: Counters = dut, offset: int = offset) -> None:
            for _ in range(offset):
                await ctx.tick()
            ctx.set(dut.index, COUNTERS.index("read_beats"))
            ctx.set(dut.run, 1)
            ctx.set(dut.read_beat, 1)
            await ctx.tick()
            ctx.set(dut.run, 0)
            for _ in range(Counters.DELAY - 1):
                await ctx.tick()
            assert ctx.get(dut.value) == 1

        simulate(dut, bench, max_cycles=200)
