"""`GemmEngine` against its golden model: values, timing, stalls, tails, faults."""

from dataclasses import replace
from itertools import accumulate, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from systolith.config import CoreConfig, preset
from systolith.isa import WeightSource
from systolith.regs import FaultCause
from systolith_rtl.array.control import MIN_PERIOD
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.gemm_bench import (
    RING,
    SCRATCHPAD,
    Bench,
    Gemm,
    operands,
    run_gemms,
    run_into_fault,
)
from systolith_sim.testbench import SimulatorContext, simulate

TINY = replace(preset("tiny"), int4=False)
NARROW = replace(preset("ecp5-25k"), int4=False)
WIDE = replace(preset("ecp5-85k"), int4=False)
FAR = replace(TINY, scratchpad_bytes=128 << 10)
"""With a scratchpad whose words come later."""

# No shrinking: it would repeat the simulation for minutes, and the assertion names the culprit.
simulated = settings(max_examples=12, deadline=None, phases=set(Phase) - {Phase.shrink})


def words(config: CoreConfig, k: int) -> int:
    """Words of a row of `k` bytes."""
    return -(-k // config.rows)


@pytest.mark.parametrize("source", [RING, SCRATCHPAD], ids=str)
def test_hand_computed(source: WeightSource) -> None:
    a = np.array([[1, 2, 3, 4, 5], [-1, -2, -3, -4, -5]], np.int8)
    b = np.array([[1, 1, 1, 1, 1], [100, 10, 1, 0, -1], [-128, 0, 0, 0, 127]], np.int8)
    gemm = Gemm(a, b, source, a_address=100, b_address=3000, a_row=2, b_row=7)
    log = run_gemms(TINY, [gemm])
    # 5 * 127 - 128; the row of bytes beyond K is garbage.
    assert log.results[0].tolist() == [[15, 118, 507, 0], [-15, -118, -507, 0]]


@pytest.mark.parametrize("source", [RING, SCRATCHPAD], ids=str)
def test_extremes(source: WeightSource) -> None:
    """The largest sums of either sign, for u8 and for s8."""
    for values, dtype in (((255, 0), np.uint8), ((-128, 127), np.int8)):
        a = np.array([[value] * 64 for value in values], dtype)
        b = np.array([[value] * 64 for value in (-128, 127, 0)], np.int8)
        run_gemms(TINY, [Gemm(a, b, source, b_address=1000, a_row=16, b_row=16)])


@pytest.mark.parametrize("config", [TINY, NARROW, WIDE], ids=lambda config: f"{config.rows}")
@pytest.mark.parametrize("m", [1, 3, 9])
def test_timing(config: CoreConfig, m: int) -> None:
    """Every request, `full` and `retire` in its cycle: no gap between tiles and tile columns."""
    period = max(m, config.columns, 5)
    gemm = operands(m, 2 * config.columns, 2 * config.rows, a_row=2)
    log = run_gemms(config, [gemm])
    begin = config.columns + 3
    assert log.a == [begin + tile * period + row for tile in range(4) for row in range(m)]
    beyond = config.rows + config.columns + config.read_latency + 4
    landed = [begin + tile * period + m - 1 + beyond for tile in (1, 3)]
    assert log.full == landed
    assert log.retire == landed[-1:]
    assert log.busy == list(range(1, log.retire[0] + 1))
    # One word late in the ring's turn is no wait; the bench pushes from cycle 0 on.
    assert log.stall == []


@pytest.mark.parametrize("m", [1, 2, 7])
@pytest.mark.parametrize("source", [RING, SCRATCHPAD], ids=str)
def test_gemms_follow_without_a_gap(m: int, source: WeightSource) -> None:
    """One tile, and then several: the array never waits for the next instruction.

    Later GEMMs have so many tiles that halves are drained in time.
    """
    shapes = [(4, 4), (4, 24), (3, 21), (8, 24), (7, 30)]
    gemms = [
        operands(
            m, n, k, seed=i, source=source,
            a_address=100 * i, a_row=8, b_address=2000 + 100 * i, b_row=8,
        )
        for i, (n, k) in enumerate(shapes)
    ]  # fmt: skip
    tiles = sum(words(TINY, n) * words(TINY, k) for n, k in shapes)
    log = run_gemms(TINY, gemms)
    period = max(m, 5)
    assert log.a == [7 + tile * period + row for tile in range(tiles) for row in range(m)]
    assert len(log.retire) == len(gemms)
    assert log.stall == []


def test_wide_gemms_follow_without_a_gap() -> None:
    """Tiles of fewer rows than the array has columns take C cycles, from either source."""
    gemms = [
        operands(
            2, 8, 64, seed=i, source=source,
            a_address=100 * i, a_row=4, b_address=2000 + 100 * i, b_row=4,
        )
        for i, source in enumerate([RING, RING, SCRATCHPAD, SCRATCHPAD, RING])
    ]  # fmt: skip
    log = run_gemms(WIDE, gemms)
    assert log.a == [11 + 8 * tile + row for tile in range(4 * 5) for row in range(2)]


def test_scratchpad_weights_are_not_read_beyond_n() -> None:
    gemm = operands(2, 6, 9, source=SCRATCHPAD, a_row=3, b_address=500, b_row=3)
    log = run_gemms(TINY, [gemm])
    assert len(log.b) == 6 * 3


def test_rows_of_activations_may_overlap() -> None:
    """A row stride of 0 feeds one row again and again."""
    row = np.array([1, -2, 3, 4], np.int8)
    gemm = Gemm(np.stack([row] * 6), np.eye(4, dtype=np.int8), a_address=9, a_row=0)
    assert run_gemms(TINY, [gemm]).results[0].tolist() == [row.tolist()] * 6


def test_largest_m() -> None:
    gemm = operands(TINY.accumulator_rows, 4, 4, a_row=1, unsigned=True)
    run_gemms(TINY, [gemm])


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
        n = data.draw(st.integers(1, 3 * config.columns))
        k = data.draw(st.integers(1, 3 * config.rows))
        a_row, b_row = (words(config, k) + data.draw(st.integers(0, 2)) for _ in range(2))
        gemms.append(
            operands(
                m, n, k,
                seed=data.draw(st.integers(0, 999)),
                unsigned=data.draw(st.booleans()),
                source=data.draw(st.sampled_from([RING, SCRATCHPAD])),
                a_address=address, a_row=a_row,
                b_address=address + m * a_row, b_row=b_row,
            )
        )  # fmt: skip
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
        operands(7, 6, 22, a_row=6, unsigned=True),
        operands(3, 9, 10, source=SCRATCHPAD, a_address=500, a_row=3, b_address=2000, b_row=4),
    ]
    for chance in (0.0, 0.4):
        run_gemms(FAR, gemms, refuse=chance, late=chance, slow=chance)
        run_gemms(TINY, gemms, platform=SimulatedEcp5(), refuse=chance, late=chance, slow=chance)


def test_short_tiles_keep_their_distance_when_reads_are_refused() -> None:
    """A sum must be written before the same row's next one is read."""
    for seed in range(8):
        gemms = [
            operands(
                m,
                4,
                32,
                source=SCRATCHPAD,
                seed=seed,
                a_address=100 * m,
                a_row=8,
                b_address=500 + 100 * m,
                b_row=8,
            )
            for m in (1, 2, 3, 4)
        ]
        log = run_gemms(TINY, gemms, refuse=0.6, seed=seed)
        tiles = [m for m in (1, 2, 3, 4) for _ in range(8)]
        starts = [log.a[first] for first in accumulate(tiles[:-1], initial=0)]
        assert min(b - a for a, b in pairwise(starts)) >= MIN_PERIOD


def test_an_empty_ring_counts_as_input() -> None:
    """The loader asks from cycle 3 on; a word can be taken the cycle after it came."""
    gemm = operands(6, 12, 16, a_row=4)
    for opens in (2, 3, 20):
        log = run_gemms(TINY, [gemm], opens={"ring": opens})
        late = opens - 2
        assert log.a == list(range(7 + late, 7 + late + 6 * 12))
        assert log.stalls == ({"input": late} if late else {})


@pytest.mark.parametrize("m", [1, 6])
def test_halves_in_use_count_as_output(m: int) -> None:
    """The third tile column's first row waits for a half, from when nothing else is in its way."""
    gemm = operands(m, 12, 16, a_row=4)
    polite = run_gemms(TINY, [gemm])
    third = polite.a[m * 4 * 2]
    for opens in (third - m - 1, third - m, third + 30):
        log = run_gemms(TINY, [gemm], opens={"drain": opens})
        # The half is free the cycle after its last row has been drained.
        late = max(0, opens + m - third + 1)
        assert log.a[-1] == polite.a[-1] + late
        assert log.stalls == ({"output": late} if late else {})
        assert log.stall == list(range(third - 1, third - 1 + late))


def test_refused_weights_count_as_bank() -> None:
    """From cycle 3 on, the first word is refused; later, rows of the tile before hide it."""
    gemm = operands(6, 12, 16, source=SCRATCHPAD, a_row=4, b_address=500, b_row=4)
    for opens in (3, 4, 20):
        log = run_gemms(TINY, [gemm], opens={"b": opens})
        late = opens - 3
        assert log.a == list(range(7 + late, 7 + late + 6 * 12))
        assert log.stalls == ({"bank": late} if late else {})


@pytest.mark.parametrize(
    ("source", "m", "options", "cause"),
    [
        # What comes late while a short tile keeps its distance costs nothing.
        (RING, 1, {"late": 0.5}, "input"),
        (RING, 6, {"late": 0.8}, "input"),
        (RING, 6, {"slow": 0.8}, "output"),
        (SCRATCHPAD, 1, {"refuse": 0.5}, "bank"),
        (SCRATCHPAD, 6, {"refuse": 0.8}, "bank"),
    ],
)
def test_what_is_late_is_what_counts(
    source: WeightSource, m: int, options: dict[str, float], cause: str
) -> None:
    """As many cycles as the last row is late, less those in which words of its tile came."""
    gemm = operands(m, 24, 16, source=source, a_row=4, b_address=500, b_row=4)
    polite = run_gemms(TINY, [gemm])
    for seed in range(3):
        log = run_gemms(TINY, [gemm], seed=seed, **options)
        assert set(log.stall) <= set(log.busy)
        assert set(log.stalls) == {cause}
        late = log.a[-1] - polite.a[-1]
        assert late > 40
        words = 0 if cause == "output" else 4 * 24
        assert late - words <= log.stalls[cause] <= late


@pytest.mark.parametrize("config", [TINY, NARROW], ids=lambda config: f"{config.rows}")
@pytest.mark.parametrize(
    ("changes", "address"),
    [
        # The third row of A; A as a whole; the second tile of A.
        ({"a_address": -2, "a_row": 1}, 0),
        ({"a_address": 1 << 20, "a_row": 1}, 1 << 20),
        ({"a_address": -1, "a_row": 0}, 0),
        # B, likewise, and its second group.
        ({"source": SCRATCHPAD, "b_address": -1, "b_row": 9}, 8),
        ({"source": SCRATCHPAD, "b_address": 1 << 20, "b_row": 9}, 1 << 20),
        ({"source": SCRATCHPAD, "b_address": -1, "b_row": 0}, 0),
    ],
    ids=str,
)
def test_bounds(config: CoreConfig, changes: dict[str, Any], address: int) -> None:
    """The first word beyond the scratchpad is a fault of its GEMM, when those before are done."""
    changes = changes.copy()
    for name in ("a_address", "b_address"):
        if changes.get(name, 0) < 0:
            changes[name] += config.words
    address += 0 if address >= 1 << 20 else config.words
    fine = operands(3, config.columns, config.rows, a_row=1)
    bad = operands(3, 2 * config.columns, 2 * config.rows, **changes)
    cause, where = run_into_fault(config, [fine, fine, bad, fine], retired=2)
    assert cause == FaultCause.SCRATCHPAD_BOUND
    assert where == address * config.word_granules


@pytest.mark.parametrize("config", [TINY, NARROW], ids=lambda config: f"{config.rows}")
def test_largest_stride_does_not_wrap(config: CoreConfig) -> None:
    stride = 65535 // config.word_granules
    last = config.words - 1
    gemm = operands(3, 2, 4, a_address=last, a_row=stride)
    assert run_into_fault(config, [gemm], retired=0)[1] == (last + stride) * config.word_granules
    gemm = operands(3, 2, 4, source=SCRATCHPAD, b_address=last, b_row=stride)
    assert run_into_fault(config, [gemm], retired=0)[1] == (last + stride) * config.word_granules


def test_second_group_outside() -> None:
    """All four rows of the first group are inside, a fifth would be the last."""
    b_row = TINY.words // 5 + 1
    gemm = operands(3, 8, 4, source=SCRATCHPAD, b_address=0, b_row=b_row)
    assert run_into_fault(TINY, [gemm], retired=0)[1] == 5 * b_row


@pytest.mark.parametrize("source", [RING, SCRATCHPAD], ids=str)
def test_nothing_is_read_behind_a_word_outside(source: WeightSource) -> None:
    """The walk comes back inside with the next group, and nobody may hear of it."""
    outside, inside = {"address": TINY.words - 1, "row": 1}, {"address": 8, "row": 1}
    a, b = (outside, inside) if source == RING else (inside, outside)
    gemm = operands(
        3, 12, 4, source=source, a_address=a["address"], a_row=a["row"],
        b_address=b["address"], b_row=b["row"],
    )  # fmt: skip
    bench = Bench(TINY, [gemm, gemm, gemm])

    async def testbench(ctx: SimulatorContext) -> None:
        await bench.serve(ctx, lambda: bench.cycle == 100)
        assert ctx.get(bench.dut.engine.fault)

    simulate(bench.dut, testbench, max_cycles=200)
    assert len(bench.log.a) == (source == RING)
    assert len(bench.log.b) == (source == SCRATCHPAD)
    assert bench.log.retire == []


def test_every_count_of_tiles() -> None:
    """One, two and more rows, k tiles and groups, whole and in part."""
    shapes = list(product((1, 2, 3, 4), (3, 4, 7, 8, 9, 16), (1, 4, 5, 8, 9, 16)))
    # All of them would take minutes; each two sizes meet in some of these.
    shapes = shapes[::7] + shapes[3::11]
    gemms = list[Gemm]()
    address = 0
    for i, (m, n, k) in enumerate(shapes):
        source = (RING, SCRATCHPAD)[i % 2]
        b_address = address + 5 * m
        gemms.append(
            operands(
                m, n, k, seed=i, source=source,
                a_address=address, a_row=5, b_address=b_address, b_row=5,
            )
        )  # fmt: skip
        address = b_address + 5 * n * (source == SCRATCHPAD)
    rows = sum(m * words(TINY, n) * words(TINY, k) for m, n, k in shapes)
    assert len(run_gemms(TINY, gemms).a) == rows


def test_the_last_word_is_inside() -> None:
    run_gemms(TINY, [operands(2, 4, 4, a_address=TINY.words - 2, a_row=1)])
    b_address = TINY.words - 12
    run_gemms(TINY, [operands(2, 6, 8, source=SCRATCHPAD, a_row=2, b_address=b_address, b_row=2)])


@pytest.mark.parametrize("config", [TINY, FAR], ids=lambda config: f"{config.read_latency}")
def test_halt_stops_requests(config: CoreConfig) -> None:
    """No request later than in the cycle of `halt`; idle when all words have come."""
    bench = Bench(config, [operands(20, 8, 16, source=SCRATCHPAD, a_row=4, b_address=900, b_row=4)])
    engine = bench.dut.engine

    async def testbench(ctx: SimulatorContext) -> None:
        await bench.serve(ctx, lambda: bench.cycle == 30)
        assert bench.log.a
        assert bench.log.b
        ctx.set(engine.halt, 1)
        idle = []
        for _ in range(10):
            assert not ctx.get(engine.command.ready)
            idle.append(ctx.get(engine.idle))
            end = bench.cycle + 1
            await bench.serve(ctx, lambda end=end: bench.cycle == end)
        assert idle == [0] * (config.read_latency + 1) + [1] * (9 - config.read_latency)
        assert max(bench.log.a + bench.log.b) <= 30

    simulate(bench.dut, testbench, max_cycles=100)
