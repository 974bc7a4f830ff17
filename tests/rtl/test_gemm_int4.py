"""`GemmEngine` with INT4: values, exponents, tails, both kinds in turn, exact cycles, reset."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from systolith.config import CoreConfig, preset
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.gemm_bench import (
    RING,
    RING4,
    SCRATCHPAD,
    Bench,
    Gemm,
    int4_operands,
    operands,
    run_gemms,
    run_into_fault,
)
from systolith_sim.testbench import SimulatorContext, simulate

TINY = replace(preset("tiny"), int4=True)
NARROW = replace(preset("ecp5-25k"), int4=True)
WIDE = replace(preset("ecp5-85k"), int4=True)
FAR = replace(TINY, scratchpad_bytes=128 << 10)
"""With a scratchpad whose words come later."""

# No shrinking: it would repeat the simulation for minutes, and the assertion names the culprit.
simulated = settings(max_examples=12, deadline=None, phases=set(Phase) - {Phase.shrink})

by_rows = pytest.mark.parametrize(
    "config", [TINY, NARROW, WIDE], ids=lambda config: f"{config.rows}"
)


def words(config: CoreConfig, k: int) -> int:
    """Words of a row of `k` bytes, and tiles along it."""
    return -(-k // config.rows)


def test_hand_computed() -> None:
    """Five channels on a 4 x 4 array, so one in the high chain, and two tiles of K = 5."""
    a = np.array([[1, 2, 3, 4, 5], [-1, -2, -3, -4, -5]], np.int8)
    b = np.array(
        [[1, 1, 1, 1, 1], [7, -8, 0, 0, 3], [0, 0, 0, 0, -8], [0] * 5, [1, 0, 0, 0, 7]], np.int8
    )
    exponents = np.array([[0, 0], [1, 0], [0, 3], [3, 3], [2, 1]])
    gemm = Gemm(a, b, RING4, a_address=100, a_row=2, exponents=exponents)
    log = run_gemms(TINY, [gemm])
    # 2 * (7 - 16) + 15; -8 * 5 * 8; 4 * 1 + 2 * 35.
    assert log.results[0].tolist() == [
        [15, -3, -320, 0, 74, 0, 0, 0],
        [-15, 3, 320, 0, -74, 0, 0, 0],
    ]


@by_rows
def test_extremes(config: CoreConfig) -> None:
    """The largest sums of either sign at every exponent, for u8 and for s8, in both chains."""
    k = 3 * config.rows
    n = min(2 * config.columns, 8)
    for values, dtype in (((255, 0), np.uint8), ((-128, 127), np.int8)):
        a = np.array([[value] * k for value in values], dtype)
        b = np.array([[(-8, 7)[j % 2]] * k for j in range(n)], np.int8)
        exponents = np.array([[j // 2] * 3 for j in range(n)])
        run_gemms(config, [Gemm(a, b, RING4, a_row=3, exponents=exponents)])


@by_rows
def test_every_exponent_in_every_place(config: CoreConfig) -> None:
    """Three words of exponents, each a different one for each channel, of ones times ones."""
    tiles = 2 * config.exponent_tiles + 1
    k, n = tiles * config.rows, 2 * config.columns
    a = np.ones((config.columns + 1, k), np.uint8)
    b = np.ones((n, k), np.int8)
    exponents = np.random.default_rng(1).integers(0, 4, (n, tiles))
    log = run_gemms(config, [Gemm(a, b, RING4, a_row=tiles, exponents=exponents)])
    assert log.results[0][0].tolist() == [config.rows * sum(1 << row) for row in exponents]


@by_rows
@pytest.mark.parametrize("m", [1, 3, 9])
def test_timing(config: CoreConfig, m: int) -> None:
    """Requests and `retire` in their cycles: no gap, except for words of exponents.

    These take one cycle each, which rows beyond C hide.
    """
    columns = config.columns
    tiles = config.exponent_tiles + 1
    gemm = int4_operands(config, m, 4 * columns, tiles * config.rows, a_row=tiles)
    log = run_gemms(config, [gemm])
    begins = [columns + 4]
    for tile in range(1, 2 * tiles):
        with_exponents = tile % tiles in (0, config.exponent_tiles)
        begins.append(begins[-1] + max(m, columns + with_exponents, 5))
    assert log.a == [begin + row for begin in begins for row in range(m)]
    landed = begins[-1] + m - 1 + config.rows + columns + config.read_latency + 5
    assert log.retire == [landed]
    assert landed in log.full
    assert log.stall == [] if m > columns else set(log.stall) <= set(range(landed))


def test_int8_on_a_core_with_int4_takes_one_more_cycle() -> None:
    """Everything else is as without."""
    gemm = operands(3, 8, 8, a_row=2)
    plain = run_gemms(replace(TINY, int4=False), [gemm])
    log = run_gemms(TINY, [gemm])
    assert (log.a, log.stall) == (plain.a, plain.stall)
    assert [log.full, log.retire] == [[t + 1 for t in each] for each in (plain.full, plain.retire)]


@by_rows
def test_twice_the_rate(config: CoreConfig) -> None:
    """2 R C products in each cycle, for as long as there is work: A is asked for without a gap."""
    m, groups, tiles = max(16, 2 * config.columns), 3, 2 * config.exponent_tiles
    n, k = groups * 2 * config.columns, tiles * config.rows
    gemm = int4_operands(config, m, n, k, a_row=tiles)
    log = run_gemms(config, [gemm])
    cycles = m * groups * tiles
    assert log.a == list(range(log.a[0], log.a[0] + cycles))
    assert m * n * k == cycles * 2 * config.rows * config.columns
    assert log.stall == []


@pytest.mark.parametrize("config", [TINY, NARROW], ids=lambda config: f"{config.rows}")
def test_kinds_follow_each_other_without_a_gap(config: CoreConfig) -> None:
    """INT4, INT8, INT4, weights from the scratchpad, INT4: M > C hides every exponent."""
    r, c = config.rows, config.columns
    m = max(c, 5) + 1
    gemms = [
        int4_operands(config, m, 2 * c, 4 * r, seed=1, a_row=12),
        operands(m, c, 6 * r, seed=2, a_address=200, a_row=12),
        int4_operands(config, m, 2 * c, 12 * r, seed=3, a_address=400, a_row=12),
        operands(
            m, c, 6 * r, seed=4, source=SCRATCHPAD, a_address=600, a_row=12, b_address=1200, b_row=6
        ),
        int4_operands(config, m, c, 5 * r, seed=5, a_address=800, a_row=12),
    ]
    tiles = 4 + 6 + 12 + 6 + 5
    log = run_gemms(config, gemms)
    assert log.a == list(range(log.a[0], log.a[0] + tiles * m))
    assert len(log.retire) == len(gemms)
    assert log.stall == []


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9, 12, 13, 17])
@pytest.mark.parametrize("k", [1, 4, 7, 8, 9, 30])
def test_tails(n: int, k: int) -> None:
    """A last group of at most C channels, and of more; K ends within a tile or exponents."""
    gemms = [int4_operands(TINY, m, n, k, seed=n, a_address=100 * m, a_row=8) for m in (1, 6)]
    run_gemms(TINY, gemms)
    run_gemms(TINY, gemms, refuse=0.3, late=0.4, slow=0.4, seed=k)


@pytest.mark.parametrize("m", [1, 2, 4, 5, 6, TINY.accumulator_rows])
def test_rows(m: int) -> None:
    other = operands(m, 4, 9, a_address=1000, a_row=3)
    run_gemms(TINY, [int4_operands(TINY, m, 8, 9, a_row=3), other])


@given(data=st.data())
@simulated
def test_matches_golden_model(data: st.DataObject) -> None:
    """Any shapes, sources and stalls: the same sums in the same order."""
    config = data.draw(st.sampled_from([TINY, TINY, TINY, NARROW]))
    _random_gemms(data, config, most=5)


@given(data=st.data())
@settings(simulated, max_examples=2)
def test_wide_array_matches_golden_model(data: st.DataObject) -> None:
    _random_gemms(data, WIDE, most=2)


def _random_gemms(data: st.DataObject, config: CoreConfig, *, most: int) -> None:
    address = 0
    gemms = []
    for _ in range(data.draw(st.integers(1, most))):
        m = data.draw(st.integers(1, 12))
        n = data.draw(st.integers(1, 5 * config.columns))
        k = data.draw(st.integers(1, 5 * config.rows))
        a_row, b_row = (words(config, k) + data.draw(st.integers(0, 2)) for _ in range(2))
        source = data.draw(st.sampled_from([RING4, RING4, RING, SCRATCHPAD]))
        options: dict[str, Any] = {
            "seed": data.draw(st.integers(0, 999)),
            "unsigned": data.draw(st.booleans()),
            "a_address": address,
            "a_row": a_row,
        }
        if source == RING4:
            gemms.append(int4_operands(config, m, n, k, **options))
        else:
            options |= {"b_address": address + m * a_row, "b_row": b_row, "source": source}
            gemms.append(operands(m, n, k, **options))
        address += m * a_row + n * b_row
    chance = st.sampled_from([0.0, 0.3, 0.7])
    run_gemms(
        config,
        gemms,
        refuse=data.draw(chance),
        late=data.draw(chance),
        slow=data.draw(chance),
        seed=data.draw(st.integers(0, 999)),
    )


def test_ecp5_engine_matches_golden_model() -> None:
    """The engine as it is built from DSP blocks and block RAMs, under stalls."""
    gemms = [
        int4_operands(TINY, 7, 13, 22, a_row=6),
        operands(3, 9, 10, source=SCRATCHPAD, a_address=500, a_row=3, b_address=2000, b_row=4),
        int4_operands(TINY, 2, 6, 22, a_address=1000, a_row=6, unsigned=False),
    ]
    for chance in (0.0, 0.4):
        run_gemms(FAR, gemms, refuse=chance, late=chance, slow=chance)
        run_gemms(TINY, gemms, platform=SimulatedEcp5(), refuse=chance, late=chance, slow=chance)


def test_a_fault_between_int4_gemms() -> None:
    """A beyond the scratchpad, while exponents of the GEMM before are still on their way."""
    fine = int4_operands(TINY, 3, 8, 12, a_row=3)
    bad = int4_operands(TINY, 3, 8, 12, a_address=TINY.words - 4, a_row=2)
    _, where = run_into_fault(TINY, [fine, fine, bad, fine], retired=2)
    assert where == TINY.words * TINY.word_granules


@pytest.mark.parametrize("stop", range(8, 60, 3))
def test_a_reset_in_the_middle_leaves_nothing_behind(stop: int) -> None:
    """Halted in any phase of tiles and exponents, and reset: the next GEMMs are as if first."""
    first = [int4_operands(TINY, 5, 17, 30, seed=1, a_row=8)] * 3
    then = [
        int4_operands(TINY, 6, 13, 30, seed=1, a_row=8),
        operands(6, 9, 9, a_address=100, a_row=8),
        int4_operands(TINY, 6, 5, 9, seed=1, a_address=200, a_row=8),
    ]
    bench = Bench(TINY, first)
    again = Bench(TINY, then, dut=bench.dut)
    reset = Signal()

    async def testbench(ctx: SimulatorContext) -> None:
        engine = bench.dut.engine
        await bench.serve(ctx, lambda: bench.cycle == stop)
        ctx.set(engine.halt, 1)
        await bench.serve(ctx, lambda: bench.cycle == stop + TINY.read_latency + 1)
        assert ctx.get(engine.idle)
        ctx.set(reset, 1)
        ctx.set(engine.command.valid, 0)
        await ctx.tick()
        ctx.set(reset, 0)
        ctx.set(engine.halt, 0)
        await again.run(ctx)

    simulate(ResetInserter(reset)(bench.dut), testbench, max_cycles=3000)
    for gemm, result in zip(then, again.log.results, strict=True):
        np.testing.assert_array_equal(result, gemm.sums(TINY))
