"""`Tables`: every distance of the exponential, every index of a table."""

import pytest

from systolith import numerics
from systolith.config import CoreConfig
from systolith.numerics import MASKED, Format
from systolith_rtl.vector.tables import Tables
from systolith_sim.testbench import SimulatorContext, simulate

CONFIG = CoreConfig(
    rows=4,
    columns=4,
    scratchpad_bytes=4096,
    ring_bytes=1024,
    table_slots=2,
    axi_data_bits=32,
)


def run(
    words: list[int], writes: list[tuple[int, int]] | None = None, **operands: int
) -> list[int]:
    """Write to the tables, then send words, four each cycle; return the results."""
    dut = Tables(CONFIG)
    lanes = CONFIG.columns
    results: list[int] = []

    async def testbench(ctx: SimulatorContext) -> None:
        for address, word in writes or []:
            ctx.set(dut.write, 1)
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, word)
            await ctx.tick()
        ctx.set(dut.write, 0)
        for name, value in operands.items():
            ctx.set(getattr(dut, name), value)
        valid = 0
        count = len(words) // lanes
        for cycle in range(count + dut.LATENCY):
            valid = (valid << 1 | (cycle < count)) & (1 << dut.LATENCY) - 1
            ctx.set(dut.valid, valid)
            if cycle < count:
                ctx.set(dut.word, words[cycle * lanes : (cycle + 1) * lanes])
            _, _, value = await ctx.tick().sample(dut.value)
            if cycle >= dut.LATENCY:
                results.extend(value)

    simulate(dut, testbench, max_cycles=5000)
    return results


def test_every_distance_that_counts() -> None:
    """All distances down to 11 octaves, some beyond, and the code of a masked score."""
    distances = [*range(-11 * 256, 1), *range(MASKED, -11 * 256, 997)]
    distances += [MASKED] * (-len(distances) % 4)
    expected = [0 if distance == MASKED else numerics.exp2(distance, 0) for distance in distances]
    assert expected[11 * 256] == 255
    assert run(distances, exp=1) == expected


@pytest.mark.parametrize("out_format", list(Format))
def test_every_index(out_format: Format) -> None:
    """Of a table with all magnitudes, saturated; the other slots are full of something else."""
    table = [(index * index * (-1) ** index) // 2 for index in range(256)]
    words = [(table[even] & 0xFFFF) | (table[even + 1] & 0xFFFF) << 16 for even in range(0, 256, 2)]
    writes = [(index, 0x1234_5678) for index in range(128)]
    writes += [(128 + index, word) for index, word in enumerate(words)]
    # An index may come as the bits of a word of any sign.
    indices = [index - 256 * (index % 2) for index in range(256)]
    expected = [numerics.lookup(table, index, out_format=out_format) for index in range(256)]
    assert run(indices, writes, table=1, out_format=out_format) == expected


def test_only_slots_of_the_core_are_written() -> None:
    """Least of all the exponential's, which is the last."""
    writes = [(address, 0) for address in range(2 * 128, 4 * 128)]
    assert run([0, -256, -512, -768], writes, exp=1) == [255, 128, 64, 32]
