"""`GemmEngine` against its golden model: values, timing, stalls, tails, faults."""

import dataclasses
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Fragment
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from systolith.config import CoreConfig, preset
from systolith.isa import WeightSource
from systolith.numerics import Format
from systolith.regs import FaultCause
from systolith_rtl.array.gemm import GemmEngine
from systolith_rtl.interfaces import ACC_READ_LATENCY, READ_LATENCY
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.golden.gemm import gemm as gemm_sums
from systolith_sim.golden.gemm import ring_words
from systolith_sim.testbench import SimulatorContext, simulate

TINY = preset("tiny")
NARROW = preset("ecp5-25k")
WIDE = preset("ecp5-85k")

RING = WeightSource.RING_S8
SCRATCHPAD = WeightSource.SCRATCHPAD

# No shrinking: it would repeat the simulation for minutes, and the assertion names the culprit.
simulated = settings(max_examples=12, deadline=None, phases=set(Phase) - {Phase.shrink})


@dataclass(frozen=True)
class Gemm:
    """A GEMM with its operands; addresses and strides count words."""

    a: np.ndarray
    b: np.ndarray
    source: WeightSource = RING
    a_address: int = 0
    b_address: int = 0
    a_row: int = 0
    b_row: int = 0

    def command(self, config: CoreConfig) -> dict[str, int]:
        """The operands of the instruction."""
        return {
            "a_address": self.a_address * config.word_granules,
            "b_address": self.b_address * config.word_granules,
            "a_row": self.a_row * config.word_granules,
            "b_row": self.b_row * config.word_granules,
            "m": self.a.shape[0],
            "n": self.b.shape[0],
            "k": self.a.shape[1],
            "a_format": Format.S8 if self.a.dtype == np.int8 else Format.U8,
            "b_source": self.source,
        }


@dataclass
class Log:
    """What happened, and in which cycles, counted from the first command's acceptance."""

    results: list[np.ndarray] = field(default_factory=list)
    a: list[int] = field(default_factory=list)
    b: list[int] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    retire: list[int] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    stall: list[int] = field(default_factory=list)


class Bench:
    """Scratchpad, STREAM, control and vector engine around an engine, all in one testbench.

    Each of `refuse`, `late` and `slow` is the probability that in a cycle reads are refused, no
    weights are pushed, and no row is drained.
    """

    def __init__(
        self,
        config: CoreConfig,
        gemms: list[Gemm],
        *,
        refuse: float = 0.0,
        late: float = 0.0,
        slow: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.dut = GemmEngine(config)
        self.log = Log()
        self.refuse, self.late, self.slow = refuse, late, slow
        self.random = random.Random(seed)
        self.cycle = 0
        # What nobody should use is not 0.
        self.memory = np.random.default_rng(seed).integers(
            0, 256, (config.words, config.rows), np.uint8
        )
        self.gemms = gemms
        self.commands = deque(gemms)
        self.words: deque[int] = deque()
        self.columns: deque[tuple[int, np.ndarray]] = deque()
        self.draining: deque[tuple[int, np.ndarray] | None] = deque([None] * ACC_READ_LATENCY)
        for gemm in gemms:
            self._place(gemm.a, gemm.a_address, gemm.a_row)
            if gemm.source == SCRATCHPAD:
                self._place(gemm.b, gemm.b_address, gemm.b_row)
            else:
                words = ring_words(gemm.b, rows=config.rows, columns=config.columns)
                self.words.extend(int.from_bytes(word.tobytes(), "little") for word in words)
            m, groups = gemm.a.shape[0], -(-gemm.b.shape[0] // config.columns)
            result = np.full((m, groups * config.columns), -1, np.int64)
            self.log.results.append(result)
            self.columns.extend((m, part) for part in np.split(result, groups, axis=1))

    def _place(self, matrix: np.ndarray, address: int, row: int) -> None:
        for i, values in enumerate(matrix):
            flat = self.memory.reshape(-1)
            first = (address + i * row) * self.config.rows
            part = flat[first : first + len(values)]
            part[:] = values.view(np.uint8)[: len(part)]

    async def run(self, ctx: SimulatorContext) -> None:
        """Serve the engine until every sum is drained and every GEMM has retired."""
        await self.serve(
            ctx,
            lambda: (
                not self.columns
                and not any(self.draining)
                and len(self.log.retire) == len(self.gemms)
            ),
        )

    async def serve(self, ctx: SimulatorContext, done: Callable[[], bool]) -> None:
        """Serve the engine until `done`."""
        dut, log, config = self.dut, self.log, self.config
        engine = dut.engine
        arriving = {port: deque([None] * (READ_LATENCY - 1)) for port in (dut.a, dut.b)}
        row = 0
        was_full = False
        while not done():
            # Decide on this cycle.
            if self.commands:
                ctx.set(engine.command.payload, self.commands[0].command(config))
            ctx.set(engine.command.valid, bool(self.commands))
            for port in arriving:
                ctx.set(port.ready, self.random.random() >= self.refuse)
            push = (
                bool(self.words)
                and ctx.get(dut.ring.free) > 0
                and self.random.random() >= self.late
            )
            ctx.set(dut.ring.push, push)
            if push:
                ctx.set(dut.ring.data, self.words.popleft())
            full = ctx.get(dut.drain.full)
            if full and not was_full:
                log.full.append(self.cycle)
            enable = full and bool(self.columns) and self.random.random() >= self.slow
            release = False
            ctx.set(dut.drain.enable, enable)
            if enable:
                rows, columns = self.columns[0]
                ctx.set(dut.drain.row, row)
                self.draining.append((row, columns))
                row += 1
                release = row == rows
                if release:
                    row = 0
                    self.columns.popleft()
            else:
                self.draining.append(None)
            ctx.set(dut.drain.release, release)
            was_full = full and not release

            # See what the engine makes of it.
            _, _, accepted, retire, busy, stall, data, *reads = await ctx.tick().sample(
                engine.command.valid & engine.command.ready,
                engine.retire,
                engine.busy,
                engine.stall,
                dut.drain.data,
                dut.a.valid & dut.a.ready,
                dut.a.address,
                dut.b.valid & dut.b.ready,
                dut.b.address,
            )
            if accepted:
                self.commands.popleft()
            for cycles, happened in (
                (log.retire, retire),
                (log.busy, busy),
                (log.stall, stall),
                (log.a, reads[0]),
                (log.b, reads[2]),
            ):
                if happened:
                    cycles.append(self.cycle)
            drained = self.draining.popleft()
            if drained is not None:
                to, columns = drained
                columns[to] = list(data)

            # The words that come in the next cycle; in others, the port has nonsense.
            for port, granted, address in ((dut.a, *reads[:2]), (dut.b, *reads[2:])):
                arriving[port].append(address if granted else None)
                word = arriving[port].popleft()
                value = self.memory[word] if word is not None else self.memory[self.cycle]
                ctx.set(port.data, int.from_bytes(value.tobytes(), "little"))
                ctx.set(port.data_valid, word is not None)
            self.cycle += 1


def run(
    config: CoreConfig,
    gemms: list[Gemm],
    *,
    platform: SimulatedEcp5 | None = None,
    **options: Any,
) -> Log:
    """Carry out GEMMs, and hold each to the golden model."""
    bench = Bench(config, gemms, **options)
    tiles = sum(
        -(-gemm.b.shape[0] // config.columns)
        * -(-gemm.a.shape[1] // config.rows)
        * max(gemm.a.shape[0], config.columns, 5)
        for gemm in gemms
    )
    simulate(Fragment.get(bench.dut, platform), bench.run, max_cycles=500 + 20 * tiles)
    for gemm, result in zip(gemms, bench.log.results, strict=True):
        # Columns beyond N are 0.
        b = np.pad(gemm.b, ((0, -len(gemm.b) % config.columns), (0, 0)))
        np.testing.assert_array_equal(result, gemm_sums(gemm.a, b))
    return bench.log


def operands(m: int, n: int, k: int, *, seed: int = 0, unsigned: bool = False, **more: Any) -> Gemm:
    """Return a GEMM of random operands."""
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 256, (m, k), np.uint8)
    b = generator.integers(-128, 128, (n, k), np.int8)
    return Gemm(a if unsigned else a.view(np.int8), b, **more)


def words(config: CoreConfig, k: int) -> int:
    """Words of a row of `k` bytes."""
    return -(-k // config.rows)


@pytest.mark.parametrize("source", [RING, SCRATCHPAD], ids=str)
def test_hand_computed(source: WeightSource) -> None:
    a = np.array([[1, 2, 3, 4, 5], [-1, -2, -3, -4, -5]], np.int8)
    b = np.array([[1, 1, 1, 1, 1], [100, 10, 1, 0, -1], [-128, 0, 0, 0, 127]], np.int8)
    gemm = Gemm(a, b, source, a_address=100, b_address=3000, a_row=2, b_row=7)
    log = run(TINY, [gemm])
    # 5 * 127 - 128; the row of bytes beyond K is garbage.
    assert log.results[0].tolist() == [[15, 118, 507, 0], [-15, -118, -507, 0]]


@pytest.mark.parametrize("source", [RING, SCRATCHPAD], ids=str)
def test_extremes(source: WeightSource) -> None:
    """The largest sums of either sign, for u8 and for s8."""
    for values, dtype in (((255, 0), np.uint8), ((-128, 127), np.int8)):
        a = np.array([[value] * 64 for value in values], dtype)
        b = np.array([[value] * 64 for value in (-128, 127, 0)], np.int8)
        run(TINY, [Gemm(a, b, source, b_address=1000, a_row=16, b_row=16)])


@pytest.mark.parametrize("config", [TINY, NARROW, WIDE], ids=lambda config: f"{config.rows}")
@pytest.mark.parametrize("m", [1, 3, 9])
def test_timing(config: CoreConfig, m: int) -> None:
    """Every request, `full` and `retire` in its cycle: no gap between tiles and tile columns."""
    period = max(m, config.columns, 5)
    gemm = operands(m, 2 * config.columns, 2 * config.rows, a_row=2)
    log = run(config, [gemm])
    begin = config.columns + 2
    assert log.a == [begin + tile * period + row for tile in range(4) for row in range(m)]
    landed = [begin + tile * period + m - 1 + config.rows + config.columns + 8 for tile in (1, 3)]
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
    log = run(TINY, gemms)
    period = max(m, 5)
    assert log.a == [6 + tile * period + row for tile in range(tiles) for row in range(m)]
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
    log = run(WIDE, gemms)
    assert log.a == [10 + 8 * tile + row for tile in range(4 * 5) for row in range(2)]


def test_scratchpad_weights_are_not_read_beyond_n() -> None:
    gemm = operands(2, 6, 9, source=SCRATCHPAD, a_row=3, b_address=500, b_row=3)
    log = run(TINY, [gemm])
    assert len(log.b) == 6 * 3


def test_rows_of_activations_may_overlap() -> None:
    """A row stride of 0 feeds one row again and again."""
    row = np.array([1, -2, 3, 4], np.int8)
    gemm = Gemm(np.stack([row] * 6), np.eye(4, dtype=np.int8), a_address=9, a_row=0)
    assert run(TINY, [gemm]).results[0].tolist() == [row.tolist()] * 6


def test_largest_m() -> None:
    gemm = operands(TINY.accumulator_rows, 4, 4, a_row=1, unsigned=True)
    run(TINY, [gemm])


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
    run(
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
        run(TINY, gemms, platform=SimulatedEcp5(), refuse=chance, late=chance, slow=chance)


def test_short_tiles_keep_their_distance_when_reads_are_refused() -> None:
    """A sum must be written before the same row's next one is read."""
    for seed in range(2):
        run(
            TINY, [operands(m, 4, 32, a_row=8, seed=seed) for m in (2, 3, 4)], refuse=0.6, seed=seed
        )


def test_stalls_are_reported() -> None:
    """Late weights, a late drain and refused reads each stall; a working array does not."""
    gemm = operands(6, 12, 16, a_row=4)
    assert run(TINY, [gemm]).stall == []
    chances: list[dict[str, Any]] = [{"late": 0.9}, {"slow": 0.9}, {"refuse": 0.5}]
    for options in chances:
        log = run(TINY, [gemm], **options)
        assert log.stall, options
        assert set(log.stall) <= set(log.busy)


def fault(config: CoreConfig, gemms: list[Gemm], *, retired: int) -> tuple[int, int]:
    """Run into a fault after `retired` GEMMs; return its cause and address."""
    bench = Bench(config, gemms, refuse=0.2)
    engine = bench.dut.engine
    seen = []

    async def testbench(ctx: SimulatorContext) -> None:
        await bench.serve(ctx, lambda: bool(ctx.get(engine.fault)))
        seen.extend([ctx.get(engine.fault_cause), ctx.get(engine.fault_address)])
        assert len(bench.log.retire) == retired
        end = bench.cycle + 50
        await bench.serve(ctx, lambda: bench.cycle == end)
        assert ctx.get(engine.fault)
        assert ctx.get(engine.fault_address) == seen[1]
        assert len(bench.log.retire) == retired

    simulate(bench.dut, testbench, max_cycles=2000)
    return seen[0], seen[1]


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
    cause, where = fault(config, [fine, fine, bad, fine], retired=2)
    assert cause == FaultCause.SCRATCHPAD_BOUND
    assert where == address * config.word_granules


@pytest.mark.parametrize("config", [TINY, NARROW], ids=lambda config: f"{config.rows}")
def test_largest_stride_does_not_wrap(config: CoreConfig) -> None:
    stride = 65535 // config.word_granules
    last = config.words - 1
    gemm = operands(3, 2, 4, a_address=last, a_row=stride)
    assert fault(config, [gemm], retired=0)[1] == (last + stride) * config.word_granules
    gemm = operands(3, 2, 4, source=SCRATCHPAD, b_address=last, b_row=stride)
    assert fault(config, [gemm], retired=0)[1] == (last + stride) * config.word_granules


def test_second_group_outside() -> None:
    """All four rows of the first group are inside, a fifth would be the last."""
    b_row = TINY.words // 5 + 1
    gemm = operands(3, 8, 4, source=SCRATCHPAD, b_address=0, b_row=b_row)
    assert fault(TINY, [gemm], retired=0)[1] == 5 * b_row


def test_the_last_word_is_inside() -> None:
    run(TINY, [operands(2, 4, 4, a_address=TINY.words - 2, a_row=1)])
    b_address = TINY.words - 12
    run(TINY, [operands(2, 6, 8, source=SCRATCHPAD, a_row=2, b_address=b_address, b_row=2)])


def test_halt_stops_requests() -> None:
    """No request from the cycle of `halt` on; idle when all words have come."""
    bench = Bench(TINY, [operands(20, 8, 16, source=SCRATCHPAD, a_row=4, b_address=900, b_row=4)])
    engine = bench.dut.engine

    async def testbench(ctx: SimulatorContext) -> None:
        await bench.serve(ctx, lambda: bench.cycle == 30)
        asked = len(bench.log.a), len(bench.log.b)
        assert min(asked) > 0
        ctx.set(engine.halt, 1)
        idle = []
        for _ in range(10):
            assert not ctx.get(engine.command.ready)
            idle.append(ctx.get(engine.idle))
            end = bench.cycle + 1
            await bench.serve(ctx, lambda end=end: bench.cycle == end)
        assert idle == [0] * READ_LATENCY + [1] * (10 - READ_LATENCY)
        assert (len(bench.log.a), len(bench.log.b)) == asked

    simulate(bench.dut, testbench, max_cycles=100)


def test_int4_is_refused() -> None:
    config = dataclasses.replace(TINY, int4=True)
    with pytest.raises(ValueError, match="multiplies INT8 only, but the configuration has int4"):
        Fragment.get(GemmEngine(config), None)
