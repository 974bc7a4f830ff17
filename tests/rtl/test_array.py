"""`SystolicArray` against its golden model: sums, each in the one cycle that it is due."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Fragment

from systolith.config import CoreConfig, preset
from systolith_rtl.array.array import SystolicArray
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.golden.gemm import gemm
from systolith_sim.testbench import SimulatorContext, simulate

TINY = replace(preset("tiny"), int4=False)
INT4 = replace(TINY, int4=True)

Cycle = dict[str, int]
"""Inputs that are not 0 in a cycle."""


def as_word(values: np.ndarray) -> int:
    return int.from_bytes(values.tobytes(), "little")


def run(config: CoreConfig, cycles: list[Cycle], platform: Any = None) -> list[list[int]]:
    """Return all sums in each cycle, with INT4 the high ones behind the others."""
    dut = SystolicArray(config)
    inputs = ["row", "is_signed", "valid", "swap", "weights", "capture"]
    inputs += ["int4", "int4_weights"] if config.int4 else []
    results = []

    async def testbench(ctx: SimulatorContext) -> None:
        for cycle in cycles:
            for name in inputs:
                ctx.set(getattr(dut, name), cycle.get(name, 0))
            if config.int4:
                _, _, sums, high = await ctx.tick().sample(dut.sums, dut.high)
                results.append([*sums, *high])
            else:
                _, _, sums = await ctx.tick().sample(dut.sums)
                results.append(list(sums))

    simulate(Fragment.get(dut, platform), testbench, max_cycles=len(cycles) + 1)
    return results


def check(config: CoreConfig, *, m: int, tiles: int, bubbles: float, platform: Any = None) -> None:
    """Stream `tiles` tiles of `m` rows as early as they may come; look at every sum."""
    generator = random.Random(m)
    numbers = np.random.default_rng(m)
    rows, columns = config.rows, config.columns
    total = columns + tiles * 3 * (m + columns) + 2 * rows + 2 * columns
    cycles: list[Cycle] = [{} for _ in range(2 * total)]
    expected = []
    start = 0  # The first cycle in which a word of the next tile may come.
    last_row = -1
    for tile in range(tiles):
        is_signed = tile % 2
        a = numbers.integers(0, 256, (m, rows), np.uint8)
        if is_signed:
            a = a.view(np.int8)
        int4 = config.int4 and generator.random() < 0.6
        b = numbers.integers(-128, 128, (columns, rows), np.int8)
        sums = gemm(a, b)
        if int4:
            # Low nibbles for columns 0 to C - 1, high ones for as many more.
            nibbles = np.concatenate([((b & 15) ^ 8) - 8, b >> 4])
            sums = gemm(a, nibbles)
        t = start
        for column in generator.sample(range(columns), columns):
            while generator.random() < bubbles:
                t += 1
            cycles[t] |= {
                "weights": as_word(b[column]),
                "capture": 1 << column,
                "int4_weights": int4,
            }
            t += 1
        t = max(t, last_row + 1)
        start = t
        for row in range(m):
            while generator.random() < bubbles and row > 0:
                t += 1
            cycles[t] |= {
                "row": as_word(a[row]),
                "is_signed": is_signed,
                "valid": 1,
                "swap": row == 0,
                "int4": int4,
            }
            expected.append((t, sums[row]))
            last_row = t
            t += 1
    latency = rows + 4  # As the class promises.
    cycles = cycles[: last_row + latency + columns + 1]
    results = run(config, cycles, platform)
    assert len(expected) == tiles * m
    for t, sums in expected:
        due = [results[t + latency + c % columns][c] for c in range(len(sums))]
        assert due == sums.tolist(), f"row that came in cycle {t}"


@pytest.mark.parametrize("m", [1, 3, 4, 5, 9])
def test_tiles_follow_each_other(m: int) -> None:
    """A tile's weights are loaded while the one before is in use, up to the last cycle."""
    check(TINY, m=m, tiles=8, bubbles=0.0)


def test_bubbles() -> None:
    check(TINY, m=6, tiles=12, bubbles=0.4)


def test_ecp5_array() -> None:
    check(TINY, m=3, tiles=6, bubbles=0.2, platform=SimulatedEcp5())


@pytest.mark.parametrize("m", [1, 4, 7])
@pytest.mark.parametrize("bubbles", [0.0, 0.3])
def test_tiles_of_both_kinds_follow_each_other(m: int, bubbles: float) -> None:
    """INT4 and INT8 in random order, as early as either may come; two sums of each INT4 row."""
    check(INT4, m=m, tiles=16, bubbles=bubbles)


def test_other_int4_arrays() -> None:
    check(INT4, m=3, tiles=6, bubbles=0.2, platform=SimulatedEcp5())
    check(replace(preset("ecp5-25k"), int4=True), m=5, tiles=6, bubbles=0.2)


def test_narrow_array() -> None:
    check(preset("ecp5-25k"), m=5, tiles=4, bubbles=0.2)


def test_extremes() -> None:
    """The largest sums of both signs: R products of 255 and -128, and of -128 and -128."""
    b = np.full(4, -128, np.int8)
    cycles: list[Cycle] = [{"weights": as_word(b), "capture": 1 << c} for c in range(4)]
    cycles.append({"row": 0xFFFF_FFFF, "valid": 1, "swap": 1})
    cycles.append({"row": 0x8080_8080, "valid": 1, "is_signed": 1})
    cycles += [{}] * 20
    results = run(TINY, cycles)
    for c in range(4):
        assert results[4 + 8 + c][c] == 4 * 255 * -128
        assert results[5 + 8 + c][c] == 4 * 128 * 128
