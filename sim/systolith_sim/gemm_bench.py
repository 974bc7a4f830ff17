"""GEMMs with their operands, and all that surrounds a `GemmEngine` to carry them out."""

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.hdl import Fragment

from systolith.config import CoreConfig
from systolith.isa import WeightSource
from systolith.numerics import Format
from systolith_rtl.array.gemm import GemmEngine
from systolith_rtl.interfaces import ACC_READ_LATENCY, STALL_LAYOUT
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.golden.gemm import gemm as gemm_sums
from systolith_sim.golden.gemm import int4_gemm, int4_ring_words, ring_words
from systolith_sim.testbench import SimulatorContext, simulate

RING = WeightSource.RING_S8
RING4 = WeightSource.RING_S4
SCRATCHPAD = WeightSource.SCRATCHPAD


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
    exponents: np.ndarray | None = None

    def channels(self, config: CoreConfig) -> int:
        """Rows of B in a tile."""
        return config.columns * (2 if self.source == RING4 else 1)

    def sums(self, config: CoreConfig) -> np.ndarray:
        """What is drained: columns beyond N are 0."""
        if self.exponents is None:
            sums = gemm_sums(self.a, self.b)
        else:
            sums = int4_gemm(self.a, self.b, self.exponents, rows=config.rows)
        return np.pad(sums, ((0, 0), (0, -len(self.b) % config.columns)))

    def ring(self, config: CoreConfig) -> np.ndarray:
        """Words that the ring brings."""
        shape = {"rows": config.rows, "columns": config.columns}
        if self.exponents is None:
            return ring_words(self.b, **shape)
        return int4_ring_words(self.b, self.exponents, **shape)

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
    """What happened, and in which cycles, counted from the first command's acceptance.

    `stall` has the cycles in which the engine stood still, `stalls` how many for each cause.
    """

    results: list[np.ndarray] = field(default_factory=list)
    a: list[int] = field(default_factory=list)
    b: list[int] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    retire: list[int] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    stall: list[int] = field(default_factory=list)
    stalls: Counter[str] = field(default_factory=Counter)


class Bench:
    """Scratchpad, STREAM, control and vector engine around an engine, all in one testbench.

    Each of `refuse`, `late` and `slow` is the probability that in a cycle reads of B are refused,
    no weights are pushed, and no row is drained; reads of A cannot be refused. None of these
    happens before the cycle `opens` of `b`, `ring` and `drain`. `dut` is a new engine unless one is
    given.
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
        dut: GemmEngine | None = None,
        opens: Mapping[str, int] | None = None,
    ) -> None:
        self.config = config
        self.dut = dut or GemmEngine(config)
        self.log = Log()
        self.refuse, self.late, self.slow = refuse, late, slow
        self.random = random.Random(seed)
        self.cycle = 0
        self.opens = {"b": 0, "ring": 0, "drain": 0} | dict(opens or {})
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
                words = gemm.ring(config)
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
        arriving = {port: deque([None] * (config.read_latency - 1)) for port in (dut.a, dut.b)}
        row = 0
        was_full = False
        was_refused = was_busy = False
        while not done():
            # Decide on this cycle.
            if self.commands:
                ctx.set(engine.command.payload, self.commands[0].command(config))
            ctx.set(engine.command.valid, bool(self.commands))
            for port in arriving:
                ctx.set(port.ready, self.random.random() >= self.refuse)
            if self.cycle < self.opens["b"]:
                ctx.set(dut.b.ready, 0)
            ctx.set(dut.b.refused, was_refused)
            push = (
                bool(self.words)
                and self.cycle >= self.opens["ring"]
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
            enable = enable and self.cycle >= self.opens["drain"]
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
                dut.a.valid,
                dut.a.address,
                dut.b.valid & dut.b.ready,
                dut.b.address,
                dut.b.valid & ~dut.b.ready,
            )
            if accepted:
                self.commands.popleft()
            for cycles, happened in (
                (log.retire, retire),
                (log.busy, busy),
                (log.a, reads[0]),
                (log.b, reads[2]),
            ):
                if happened:
                    cycles.append(self.cycle)
            causes = [name for name in STALL_LAYOUT.members if was_busy and stall[name]]
            assert len(causes) <= 1, "an engine waits for one thing at a time"
            log.stalls.update(causes)
            log.stall += [self.cycle - 1] * len(causes)
            was_busy = bool(busy)
            was_refused = bool(reads.pop())
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


def run_gemms(
    config: CoreConfig,
    gemms: list[Gemm],
    *,
    platform: SimulatedEcp5 | None = None,
    **options: Any,
) -> Log:
    """Carry out GEMMs, and hold each to the golden model."""
    bench = Bench(config, gemms, **options)
    tiles = sum(
        -(-gemm.b.shape[0] // gemm.channels(config))
        * -(-gemm.a.shape[1] // config.rows)
        * max(gemm.a.shape[0], config.columns, 5)
        for gemm in gemms
    )
    simulate(Fragment.get(bench.dut, platform), bench.run, max_cycles=500 + 20 * tiles)
    for gemm, result in zip(gemms, bench.log.results, strict=True):
        np.testing.assert_array_equal(result, gemm.sums(config))
    return bench.log


def operands(m: int, n: int, k: int, *, seed: int = 0, unsigned: bool = False, **more: Any) -> Gemm:
    """Return a GEMM of random operands: u8 or s8 activations, s8 weights."""
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 256, (m, k), np.uint8)
    b = generator.integers(-128, 128, (n, k), np.int8)
    return Gemm(a if unsigned else a.view(np.int8), b, **more)


def int4_operands(
    config: CoreConfig, m: int, n: int, k: int, *, seed: int = 0, unsigned: bool = True, **more: Any
) -> Gemm:
    """Return a GEMM of random operands: u8 or s8 activations, INT4 weights, exponents."""
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 256, (m, k), np.uint8)
    return Gemm(
        a if unsigned else a.view(np.int8),
        generator.integers(-8, 8, (n, k), np.int8),
        RING4,
        exponents=generator.integers(0, 4, (n, -(-k // config.rows))),
        **more,
    )


def run_into_fault(config: CoreConfig, gemms: list[Gemm], *, retired: int) -> tuple[int, int]:
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
