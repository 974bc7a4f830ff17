"""`ExponentShift`: exponents wait for their rows, and shift each sum in its cycle."""

import random
from dataclasses import replace
from typing import Any

import pytest

from systolith.config import CoreConfig, preset
from systolith_rtl.array.control import MIN_PERIOD
from systolith_rtl.array.exponents import ExponentShift, shifted_width
from systolith_rtl.array.pe import partial_width
from systolith_sim.testbench import SimulatorContext, simulate

TINY = replace(preset("tiny"), int4=True)

TALL, SQUARE = (
    CoreConfig(
        rows=rows,
        columns=columns,
        scratchpad_bytes=1 << 14,
        ring_bytes=1 << 12,
        axi_data_bits=32,
        int4=True,
    )
    for rows, columns in ((64, 2), (8, 8))
)
"""Most tiles are on their way at a time in the first, and in the second a tile takes C cycles."""

Inputs = dict[int, dict[str, Any]]
"""Inputs that are not 0, by cycle."""


def run(config: CoreConfig, inputs: Inputs, cycles: int) -> list[tuple[list[int], list[int]]]:
    """Return low and high sums in each cycle; nonsense comes in where nothing else is said."""
    dut = ExponentShift(config)
    results = []

    async def testbench(ctx: SimulatorContext) -> None:
        for cycle in range(cycles):
            given = inputs.get(cycle, {})
            ctx.set(dut.load, "word" in given)
            ctx.set(dut.word, given.get("word", 0x5A5A5A5A))
            ctx.set(dut.begin, given.get("begin", 0))
            names = dut.control.shape().members
            ctx.set(dut.control, {name: given.get(name, 0) for name in names})
            for port, name in ((dut.low_i, "low"), (dut.high_i, "high")):
                sums = [1234 + c for c in range(config.columns)]
                for c, value in given.get(name, {}).items():
                    sums[c] = value
                ctx.set(port, sums)
            _, _, low, high = await ctx.tick().sample(dut.low_o, dut.high_o)
            results.append((list(low), list(high)))

    simulate(dut, testbench, max_cycles=cycles + 1)
    return results


def send_row(inputs: Inputs, config: CoreConfig, entered: int, **row: Any) -> int:
    """Add a row that entered the array in a cycle; return when its control comes."""
    p = entered + config.rows
    control = {name: row.get(name, 0) for name in ("start", "int4")}
    inputs.setdefault(p, {}).update(control | {"valid": 1})
    if row.get("start") and row["int4"]:
        inputs.setdefault(entered, {})["begin"] = 1
    for c, (low, high) in enumerate(row["sums"]):
        cycle = inputs.setdefault(p + ExponentShift.LATENCY - 1 + c, {})
        cycle.setdefault("low", {})[c] = low
        cycle.setdefault("high", {})[c] = high
    return p


def test_a_word_by_hand() -> None:
    """Two tiles of a 4 x 4 array: the low byte of each half word is for the low weights.

    Exponents 0, 1, 2, 3 of the low and 3, 2, 1, 0 of the high weights, then all 3.
    """
    word = 0b00_01_10_11_11_10_01_00 | 0xFFFF << 16
    inputs: Inputs = {0: {"word": word}}
    sums = [(1, 1), (1, 1), (-1, -1), (-8160, -8160)]
    p = send_row(inputs, TINY, 1, start=1, int4=1, sums=sums)
    send_row(inputs, TINY, 2, int4=1, sums=[(5, -5)] * 4)
    send_row(inputs, TINY, 6, start=1, int4=1, sums=[(-7, 9)] * 4)
    # The word is gone, and INT8 does not ask for any.
    send_row(inputs, TINY, 11, start=1, int4=0, sums=[(-130560, 0)] * 4)
    results = run(TINY, inputs, 30)
    due = [[(results[p + row + 5 + c][0][c], results[p + row + 5 + c][1][c]) for c in range(4)]
           for row in (0, 1, 5, 10)]  # fmt: skip
    assert due[0] == [(1, 8), (2, 4), (-4, -2), (-8160 * 8, -8160)]
    assert due[1] == [(5, -40), (10, -20), (20, -10), (40, -5)]
    assert due[2] == [(-56, 72)] * 4
    assert [low for low, _ in due[3]] == [-130560] * 4


def test_widths_hold_the_largest_sums() -> None:
    """The largest shifted sum of INT4 weights is half of that of INT8 weights."""
    for rows in (4, 8, 16, 32, 64):
        assert 1 << shifted_width(rows) - 2 <= 255 * 64 * rows < 1 << shifted_width(rows) - 1
        assert shifted_width(rows) < partial_width(rows)


@pytest.mark.parametrize("config", [TINY, TALL, SQUARE], ids=lambda config: f"{config.rows}")
@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_every_row_meets_its_tiles_exponents(config: CoreConfig, gaps: float) -> None:
    """Short and long tiles of both kinds, a word replaced as its last tile begins."""
    generator = random.Random(int(10 * gaps))
    columns, covered = config.columns, config.exponent_tiles
    period = max(MIN_PERIOD, columns)
    inputs: Inputs = {}
    expected: list[tuple[int, list[tuple[int, int]], bool]] = []
    exponents: list[list[int]] = []
    cycle = 8

    def load(at: int) -> None:
        word = generator.getrandbits(8 * config.rows)
        inputs.setdefault(at, {})["word"] = word
        fields = [word >> 2 * i & 3 for i in range(covered * 2 * columns)]
        exponents.extend(fields[t * 2 * columns :][: 2 * columns] for t in range(covered))

    load(0)
    for _ in range(120):
        int4 = generator.random() < 0.8
        m = generator.choice([1, 2, 5, 9])
        shifts = exponents.pop(0) if int4 else [0] * (2 * columns)
        for row in range(m):
            sums = [tuple(generator.randint(-8160, 8160) for _ in range(2)) for _ in range(columns)]
            p = send_row(inputs, config, cycle + row, start=row == 0, int4=int4, sums=sums)
            wanted = [
                (low << shifts[c], high << shifts[columns + c])
                for c, (low, high) in enumerate(sums)
            ]
            expected.append((p + ExponentShift.LATENCY, wanted, int4))
        if int4 and not exponents:
            load(cycle)
        cycle += max(m, period)
        while generator.random() < gaps:
            cycle += 1
    results = run(config, inputs, cycle + 2 * config.rows + columns + 10)
    assert len(expected) > 300
    for p, wanted, int4 in expected:
        due = [tuple(side[c] for side in results[p + c]) for c in range(columns)]
        if not int4:
            due, wanted = ([(low, 0) for low, _ in each] for each in (due, wanted))
        assert due == wanted, p
