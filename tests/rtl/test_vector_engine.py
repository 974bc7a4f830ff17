"""`VectorEngine` against `systolith.numerics`, in surroundings that refuse, delay and interfere."""

import random
from collections.abc import Iterator
from copy import deepcopy
from functools import cache

import pytest

from systolith.config import CoreConfig
from systolith.isa import (
    Function,
    IllegalInstructionError,
    Instruction,
    Mask,
    Opcode,
    Second,
    Statistic,
    XFormat,
    make,
)
from systolith.numerics import Format
from systolith_sim.vector_bench import (
    Manners,
    Run,
    Sums,
    VectorBench,
    VectorReference,
    VectorState,
    random_state,
)


def core(rows: int, columns: int) -> CoreConfig:
    """The smallest core of a shape: loading its memories takes most of a test."""
    return CoreConfig(
        rows=rows,
        columns=columns,
        scratchpad_bytes=max(2048, 64 * rows) * 4,
        ring_bytes=max(1024, 4 * rows * columns),
        accumulator_rows=32,
        column_slots=max(32, 4 * columns),
        row_slots=32,
        table_slots=1,
        axi_data_bits=32,
    )


SHAPES = [(4, 4), (8, 2), (8, 4)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


@cache
def bench(shape: tuple[int, int]) -> VectorBench:
    """One bench for each shape: elaboration takes seconds, a reset nothing."""
    return VectorBench(core(*shape))


class Draw:
    """Draws legal instructions at random addresses that do not overlap."""

    def __init__(self, config: CoreConfig, rng: random.Random) -> None:
        self.config = config
        self.rng = rng

    def region(self, index: int, rows: int, granules: int) -> tuple[int, int]:
        """Place a tensor into the third `index` of the scratchpad: its address and its stride."""
        stride = granules + self.rng.randrange(0, 5)
        stride += stride % 2
        third = self.config.granules // 3
        spare = third - rows * stride
        return (index * third + 1 & ~1) + (self.rng.randrange(max(1, spare - 2)) & ~1), stride

    def granules(self, columns: int, wide: bool) -> int:
        lanes = self.config.columns
        return -(-columns // lanes) * (2 if wide else 1)

    def instruction(self, **fixed: int) -> Instruction:
        """Draw until it is legal; `fixed` fields are as given."""
        rng = self.rng
        lanes = self.config.columns
        while True:
            fields = {
                "m": rng.choice((rng.randint(1, 3), rng.randint(1, 3 * lanes))),
                "n": rng.randint(1, 3 * lanes + 1),
                "x_format": rng.randrange(4),
                "y_format": rng.randrange(3),
                "second": rng.choice((0, 0, 1, 2)),
                "function": rng.choice((0, 0, 1)),
                "statistic": rng.randrange(4),
                "transpose": rng.choice((0, 0, 1)),
                "use_row": rng.randrange(2),
                "mask": rng.randrange(2),
                "broadcast": rng.choice((0, 0, 0, 1)),
                "length": rng.randrange(4),
                "tag": rng.randrange(1 << 16),
            } | fixed
            m, n = fields["m"], fields["n"]
            places = {
                "x": (m, self.granules(n, fields["x_format"] == XFormat.S16)),
                "y": (m, self.granules(n, fields["y_format"] == Format.S16)),
                "r": (m, self.granules(n, True)),
            }
            if fields["transpose"]:
                places["y"] = (n, self.granules(m, False))
            for index, (name, (rows, granules)) in enumerate(places.items()):
                address, stride = self.region(index, rows, granules)
                fields = {f"{name}_address": address, f"{name}_row": stride} | fields
            limit = self.config.row_slots - m
            fields = {
                "row_in": rng.randint(0, limit),
                "stat_out": rng.randint(0, limit),
                "column": rng.randint(0, max(0, self.config.column_slots - n)),
            } | fields
            try:
                return make(Opcode.VECTOR, self.config, **fields)
            except IllegalInstructionError:
                assert not set(fixed) - {"m", "n"} or rng.random() < 0.999, "hardly ever legal"

    def sums(self, op: Instruction) -> Sums:
        """Draw accumulators for an instruction that reads them."""
        if op.x_format != XFormat.ACCUMULATOR:
            return []
        lanes = self.config.columns
        return [
            [
                [
                    self.rng.randint(-(1 << bits), (1 << bits) - 1)
                    for bits in self.rng.choices((8, 16, 20, 31), k=lanes)
                ]
                for _ in range(op.m)
            ]
            for _ in range(-(-op.n // lanes))
        ]


def check(
    shape: tuple[int, int],
    state: VectorState,
    jobs: list[tuple[Instruction, Sums]],
    manners: Manners = Manners(),
) -> list[Run]:
    """Run instructions on the RTL and on the reference, compare what they leave."""
    dut = bench(shape)
    expected = deepcopy(state)
    runs = dut.run(state, jobs, manners)
    for op, sums in jobs:
        VectorReference(dut.config).execute(expected, op, sums)
    difference = [
        byte for byte in range(len(state.memory)) if state.memory[byte] != expected.memory[byte]
    ]
    assert not difference, f"bytes {difference[:20]} after {jobs[0][0]}"
    assert state.statistics == expected.statistics
    return runs


def random_jobs(seed: int, shape: tuple[int, int], count: int) -> Iterator:
    rng = random.Random(seed)
    config = core(*shape)
    draw = Draw(config, rng)
    for _ in range(count):
        op = draw.instruction()
        yield op, draw.sums(op)


MANNERS = [
    Manners(),
    Manners(seed=1, refuse=0.3, late=0.5, rows=0.5),
    Manners(seed=2, refuse=0.7, late=0.9, rows=0.9),
]


@every_shape
@pytest.mark.parametrize("manners", MANNERS, ids=["polite", "rough", "hostile"])
def test_any_instruction(shape: tuple[int, int], manners: Manners) -> None:
    """Formats, operands, functions, masks, statistics, tails: all at random."""
    seed = 10 * manners.seed
    rng = random.Random(seed)
    config = core(*shape)
    state = random_state(config, rng)
    state.scalars = [0, rng.randint(1, 8), 1 << 16, (1 << 32) - 1]
    check(shape, state, list(random_jobs(seed, shape, 30)), manners)
