"""Programs of INT4 and INT8 matmuls on the RTL: the simulator's bits, in the estimated cycles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from systolith import regs
from systolith.assembler import assemble
from systolith.compiler.estimate import Memory, estimate
from systolith.config import CoreConfig, preset
from systolith.isa import BASES, Engine, Opcode, WeightSource, make
from systolith_sim.checker import check_program
from systolith_sim.iss import IssDevice
from systolith_sim.iss.weights import stream_bytes
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.programs import RandomProgram, random_program
from systolith_sim.verilator import VerilatorDevice

INT4, INT8 = WeightSource.RING_S4, WeightSource.RING_S8

PAGE = 1 << 18
"""Bytes between bases, and their limit."""

SLACK = 16
"""Cycles by which a transfer may differ from the estimate."""


@dataclass(frozen=True)
class Step:
    """STREAM, GEMM and VECTOR of one matmul."""

    source: WeightSource
    m: int
    n: int
    k: int


def with_int4(name: str) -> CoreConfig:
    """A preset as it is, or would be, with INT4."""
    return replace(preset(name), int4=True)


def make_program(config: CoreConfig, steps: Sequence[Step]) -> RandomProgram:
    """Load A and column records, multiply A by random bytes again and again, store all results.

    Any bytes are weights and exponents.
    """
    random = np.random.default_rng(len(steps))
    c = config.columns
    m, n, k = (max(getattr(step, name) for step in steps) for name in "mnk")
    a_row = -(-k // config.rows) * config.word_granules
    lines = [
        f"c: LOAD space=COLUMNS base=1 n0={8 * n} n1=1 n2=1",
        f"x: LOAD base=2 n0={k} n1={m} n2=1 dram_stride1={k} stride1={a_row}",
    ]
    # Where the results are is another bank than that of A.
    address = config.granules // 4
    stores = list[str]()
    offset, stored = 8 * n + -8 * n % config.rows, 0
    for index, step in enumerate(steps):
        fields = {"m": step.m, "n": step.n, "k": step.k, "b_source": step.source}
        size = stream_bytes(config, make(Opcode.GEMM, config, **fields))
        shape = f"m={step.m} n={step.n}"
        y_row = -(-step.n // c)
        place = f"y_address={address} y_row={y_row}"
        lines += [
            f"w{index}: STREAM base=1 dram_offset={offset} size={size}",
            f"g{index}: GEMM {shape} k={step.k} a_row={a_row} b_source={step.source.name} after=x",
            f"v{index}: VECTOR {shape} x_format=ACCUMULATOR {place} after=c",
        ]
        # Nothing is stored before all is streamed: who goes first at the memory is another test's.
        stores.append(
            f"STORE base=3 dram_offset={stored} n0={step.n} n1={step.m} n2=1 address={address} "
            f"stride1={y_row} dram_stride1={step.n} after=v{len(steps) - 1}"
        )
        offset += size
        stored += step.m * step.n
        address += step.m * y_row
    assert max(offset, stored) <= PAGE
    code = assemble("\n".join([*lines, *stores, "HALT code=3"]), config)
    dram = random.integers(0, 256, BASES * PAGE, np.uint8)
    dram[: len(code)] = np.frombuffer(code, np.uint8)
    # Shifts that leave something of the sums.
    shifts = dram[PAGE + 2 : PAGE + 8 * n : 8]
    shifts[:] = random.integers(20, 30, shifts.size)
    program = RandomProgram(
        config=config,
        code=code,
        halt_code=3,
        dram=dram.tobytes(),
        bases=tuple(base * PAGE for base in range(BASES)),
        limits=(PAGE,) * BASES,
        scalars=(0,) * 4,
        expected=b"",
    )
    check_program(code, config, limits=dict(enumerate(program.limits)))
    device = IssDevice(config, memory_bytes=program.memory_bytes)
    return replace(program, expected=program.run(device))


STEPS = {
    # One tile column after the other, with and without a high part at the end.
    "even": [Step(INT4, 16, 4, 3)],
    "odd": [Step(INT4, 9, 5, 4)],
    "short": [Step(INT4, 1, 4, 9), Step(INT4, 3, 1, 20)],
    "mixed": [
        Step(INT4, 12, 5, 9),
        Step(INT8, 12, 3, 3),
        Step(INT4, 7, 2, 17),
        Step(INT8, 1, 2, 1),
    ],
}
"""M, and N and K in array columns and rows."""


SMALL = pytest.param("ecp5-25k-sdram", marks=pytest.mark.slow)
"""Not only slow: its simulator is built for nothing else."""


@pytest.mark.parametrize("name", ["tiny", "ecp5-85k", SMALL])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("bandwidth", "latency"), [(1.6, 60), (8.0, 30)])
def test_matmuls_take_the_estimated_cycles(
    name: str, steps: str, bandwidth: float, latency: int
) -> None:
    """Few rows and many, both kinds in turn, tails; a memory that limits and one that does not."""
    config = with_int4(name)
    scaled = [
        replace(step, n=step.n * config.columns - index, k=step.k * config.rows - index)
        for index, step in enumerate(STEPS[steps])
    ]
    program = make_program(config, scaled)
    timing = {"bandwidth": bandwidth, "latency": latency}
    device = VerilatorDevice(
        config, memory_bytes=program.memory_bytes, probed=True, timing=MemoryTiming(**timing)
    )
    assert program.run(device) == program.expected
    cycles = device.read_csr(regs.offset("cycles_lo"))
    finished = {(each.engine, each.count): each.cycle for each in device.retirements(cycles)}
    device.close()

    result = estimate(program.code, config, Memory(**timing))
    counts = dict.fromkeys(Engine, 0)
    wrong = []
    begun = 0
    for each in result.instructions[:-1]:
        engine = Engine(each.instruction.engine)
        counts[engine] += 1
        late = finished[engine, counts[engine]] - each.finished
        if engine == Engine.LOAD:
            begun = late
        # Who waits for A is as late as its LOAD, who waits for weights is not, and who waits for
        # both is something between.
        slack = SLACK if engine in (Engine.LOAD, Engine.STREAM, Engine.STORE) else 0
        if not min(0, begun) - slack <= late <= max(0, begun) + slack:
            wrong.append(f"{each.instruction.opcode.name} at {each.finished}: {late} cycles late")
    assert not wrong
    assert result.cycles == pytest.approx(cycles, abs=SLACK)


@pytest.mark.parametrize("name", ["tiny", "ecp5-25k-sdram", "ecp5-85k"])
def test_int4_is_twice_as_fast(name: str) -> None:
    """The same sums from INT8 weights take twice the cycles, where the array is what limits."""
    config = with_int4(name)
    m, n, k = 4 * config.columns, 8 * config.columns, 12 * config.rows
    cycles = {
        source: estimate(
            make_program(config, [Step(source, m, n, k)] * 3).code,
            config,
            Memory(bandwidth=64, latency=10),
        )
        .instructions[-2]
        .finished
        for source in (INT4, INT8)
    }
    tiles = 3 * 8 * 12
    assert cycles[INT8] - cycles[INT4] == pytest.approx(tiles * m // 2, rel=0.02)


@pytest.mark.parametrize("name", ["tiny", SMALL])
@pytest.mark.parametrize("seed", range(16))
def test_random_programs(name: str, seed: int) -> None:
    """All of DRAM after programs of every operator, INT4 among them: simulator = RTL."""
    program = random_program(with_int4(name), 2000 + seed, steps=16, largest=8 + seed)
    device = VerilatorDevice(program.config, memory_bytes=program.memory_bytes, probed=True)
    assert program.run(device) == program.expected
    device.close()
