"""`Accumulators`: sums over tiles, halves that fill and drain in turn, exact cycles."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from systolith.config import CoreConfig, preset
from systolith_rtl.array.accumulator import Accumulators
from systolith_rtl.interfaces import ACC_READ_LATENCY
from systolith_sim.testbench import SimulatorContext, simulate

TINY = replace(preset("tiny"), int4=False)
INT4 = replace(TINY, int4=True)
LEAD = 5


class Bench:
    """Tile columns on their way in, and what the drain reads, cycle by cycle.

    A tile column is `[tiles, m, C]` partial sums, `[tiles, m, 2 * C]` of INT4 weights. Rows come
    without gaps but for the distance of `period` cycles that a row must keep from itself.
    """

    def __init__(self, config: CoreConfig) -> None:
        self.dut = Accumulators(config)
        self.columns = config.columns
        self.cycle = 0
        self.landed: list[int] = []
        self.sums: dict[int, list[tuple[int, int]]] = {}

    async def step(self, ctx: SimulatorContext, **control: int) -> None:
        """Finish a cycle in which this control comes in."""
        dut = self.dut
        ctx.set(dut.control, {name: control.get(name, 0) for name in dut.control.shape().members})
        ctx.set(dut.claim, control.get("claim", 0))
        # What is not due to be added is nonsense.
        sums = [1234 + c for c in range(2 * self.columns)]
        for column, value in self.sums.pop(self.cycle, []):
            sums[column] = value
        ctx.set(dut.sums, sums[: self.columns])
        if dut.int4:
            ctx.set(dut.high, sums[self.columns :])
        *_, landed = await ctx.tick().sample(dut.landed)
        if landed:
            self.landed.append(self.cycle)
        ctx.set(dut.drain.enable, 0)
        ctx.set(dut.drain.release, 0)
        self.cycle += 1

    async def tile(
        self, ctx: SimulatorContext, sums: np.ndarray, *, rest: int = 0, **flags: int
    ) -> None:
        """Send a tile's rows and then `rest` cycles of nothing."""
        for row, values in enumerate(sums):
            final = row == len(sums) - 1
            for c, value in enumerate(values):
                due = self.cycle + LEAD + c % self.columns
                self.sums.setdefault(due, []).append((c, int(value)))
            await self.step(
                ctx,
                valid=1,
                start=row == 0,
                first=flags["first"],
                half=flags["half"],
                last=final and flags["final"],
                end=final and flags["final"] and flags["end"],
                claim=row == 0 and flags["first"],
                int4=len(values) > self.columns,
                pair=flags.get("pair", 0),
            )
        for _ in range(rest):
            await self.step(ctx)


def drained_row(ctx: SimulatorContext, dut: Accumulators) -> list[int]:
    sums: Any = ctx.get(dut.drain.data)
    return list(sums)


async def drain(
    ctx: SimulatorContext, dut: Accumulators, m: int, willing: Callable[[], bool]
) -> np.ndarray:
    """Take the m rows of what is next, in cycles in which one is willing, and release it."""
    result = np.zeros((m, 4), np.int64)
    reads: deque[int | None] = deque([None] * ACC_READ_LATENCY)
    row = 0
    while row < m or any(read is not None for read in reads):
        await ctx.tick()
        # `step` has cleared enable and release by now, or will not set them.
        read = reads.popleft()
        if read is not None:
            result[read] = drained_row(ctx, dut)
        go = row < m and bool(ctx.get(dut.drain.full)) and willing()
        reads.append(row if go else None)
        ctx.set(dut.drain.enable, go)
        ctx.set(dut.drain.row, row % 128)
        ctx.set(dut.drain.release, go and row == m - 1)
        row += go
    return result


def random_sums(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-130560, 130560, shape)


@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_tiles_add_up_and_land_in_time(m: int) -> None:
    """`full` and `landed` rise in the cycle of the last write, and a drain then reads it."""
    sums = random_sums((6, m, 4), m)
    bench = Bench(TINY)
    dut = bench.dut
    drained: list[list[int]] = []

    async def testbench(ctx: SimulatorContext) -> None:
        for k, tile in enumerate(sums):
            await bench.tile(
                ctx, tile, first=k == 0, half=0, final=k == 5, end=1, rest=max(0, 5 - m)
            )
        last = bench.cycle - 1 - max(0, 5 - m)
        while not ctx.get(dut.drain.full):
            await bench.step(ctx)
        assert bench.cycle == last + LEAD + 4
        reads: deque[int] = deque([0] * ACC_READ_LATENCY)
        # The last row first: it has just been written.
        for row in [*reversed(range(m)), *[None] * ACC_READ_LATENCY]:
            if reads.popleft():
                drained.append(drained_row(ctx, dut))
            reads.append(row is not None)
            ctx.set(dut.drain.enable, row is not None)
            ctx.set(dut.drain.row, row or 0)
            await bench.step(ctx)
        assert bench.landed == [last + LEAD + 4]

    simulate(dut, testbench, max_cycles=400)
    assert drained == sums.sum(axis=0)[::-1].tolist()


def test_halves_fill_and_drain_in_turn() -> None:
    """While a half is drained, slowly, the other one fills; no sum reaches the wrong one."""
    shapes = [(3, 6), (1, 9), (2, 5), (4, 7), (1, 128), (2, 6)]
    work = [random_sums((tiles, m, 4), m) for tiles, m in shapes]
    bench = Bench(TINY)
    dut = bench.dut
    generator = random.Random(3)
    results: list[np.ndarray] = []

    async def filler(ctx: SimulatorContext) -> None:
        for i, sums in enumerate(work):
            while not ctx.get(dut.free):
                await bench.step(ctx)
            for k, tile in enumerate(sums):
                final = k == len(sums) - 1
                await bench.tile(ctx, tile, first=k == 0, half=i % 2, final=final, end=i % 2)
        while len(results) < len(work):
            await bench.step(ctx)

    async def drainer(ctx: SimulatorContext) -> None:
        for sums in work:
            results.append(await drain(ctx, dut, sums.shape[1], lambda: generator.random() < 0.6))

    simulate(dut, filler, drainer, max_cycles=2000)
    for sums, result in zip(work, results, strict=True):
        np.testing.assert_array_equal(result, sums.sum(axis=0))
    assert len(bench.landed) == len(work) // 2


def test_int4_halves_are_drained_in_two_parts() -> None:
    """Tile columns of both kinds, with and without a high part to drain, slowly."""
    generator = random.Random(5)
    numbers = np.random.default_rng(5)
    kinds = [(True, True), (True, False), (False, False)]  # INT4, and its pair is drained.
    work = [
        (
            numbers.integers(
                -8160, 8160, (generator.randint(1, 4), generator.randint(5, 9), 4 + 4 * int4)
            ),
            int4,
            pair,
        )
        for int4, pair in [*kinds, *generator.choices(kinds, k=20)]
    ]
    bench = Bench(INT4)
    dut = bench.dut
    expected = []
    for sums, _, pair in work:
        total = sums.sum(axis=0)
        expected += [total[:, :4], total[:, 4:]] if pair else [total[:, :4]]
    results: list[np.ndarray] = []

    async def filler(ctx: SimulatorContext) -> None:
        for i, (sums, _, pair) in enumerate(work):
            while not ctx.get(dut.free):
                await bench.step(ctx)
            for k, tile in enumerate(sums):
                final = k == len(sums) - 1
                await bench.tile(ctx, tile, first=k == 0, half=i % 2, final=final, end=1, pair=pair)
        while len(results) < len(expected):
            await bench.step(ctx)

    async def drainer(ctx: SimulatorContext) -> None:
        for wanted in expected:
            results.append(await drain(ctx, dut, len(wanted), lambda: generator.random() < 0.7))

    simulate(dut, filler, drainer, max_cycles=6000)
    for wanted, result in zip(expected, results, strict=True):
        np.testing.assert_array_equal(result, wanted)
    assert len(bench.landed) == len(work)


def test_a_pair_is_handed_back_with_its_high_sums() -> None:
    """`full` stays while one release leads to the other, with no cycle between; `free` does not."""
    bench = Bench(INT4)
    dut = bench.dut

    async def testbench(ctx: SimulatorContext) -> None:
        sums = np.arange(5 * 8).reshape(5, 8)
        for half in (0, 1):
            await bench.tile(ctx, sums, first=1, half=half, final=1, end=0, pair=half == 0)
        for _ in range(20):
            await bench.step(ctx)
        rows = []
        # Row 3 in each of three cycles in a row: low and high of the first half, low of the second.
        for cycle in range(3 + ACC_READ_LATENCY):
            if cycle >= ACC_READ_LATENCY:
                rows.append(drained_row(ctx, dut))
            assert ctx.get(dut.drain.full) == (cycle < 3)
            assert ctx.get(dut.free) == (cycle >= 2)
            ctx.set(dut.drain.row, 3)
            ctx.set(dut.drain.enable, cycle < 3)
            ctx.set(dut.drain.release, cycle < 3)
            await bench.step(ctx)
        assert rows == [[24, 25, 26, 27], [28, 29, 30, 31], [24, 25, 26, 27]]

    simulate(dut, testbench, max_cycles=100)


def test_two_halves_may_be_claimed() -> None:
    bench = Bench(TINY)
    dut = bench.dut

    async def testbench(ctx: SimulatorContext) -> None:
        sums = random_sums((1, 5, 4), 0)[0]
        for half in (0, 1):
            assert ctx.get(dut.free)
            await bench.tile(ctx, sums, first=1, half=half, final=1, end=0)
        assert not ctx.get(dut.free)
        for _ in range(20):
            await bench.step(ctx)
        # The first half goes back; the second one is full already, and shows at once.
        for free in (0, 1):
            assert ctx.get(dut.drain.full)
            assert ctx.get(dut.free) == free
            ctx.set(dut.drain.release, 1)
            await bench.step(ctx)
        assert not ctx.get(dut.drain.full)
        assert ctx.get(dut.free)
        assert bench.landed == []

    simulate(dut, testbench, max_cycles=100)


def test_large_sums() -> None:
    """100 tiles of the largest sums go beyond 24 bits."""
    bench = Bench(TINY)
    dut = bench.dut

    async def testbench(ctx: SimulatorContext) -> None:
        tile = np.full((5, 4), -4 * 255 * 128)
        for k in range(100):
            await bench.tile(ctx, tile, first=k == 0, half=0, final=k == 99, end=0)
        while not ctx.get(dut.drain.full):
            await bench.step(ctx)
        ctx.set(dut.drain.enable, 1)
        for _ in range(ACC_READ_LATENCY):
            await bench.step(ctx)
        assert drained_row(ctx, dut) == [-100 * 4 * 255 * 128] * 4

    simulate(dut, testbench, max_cycles=1000)
