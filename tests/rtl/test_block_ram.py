# amaranth: UnusedElaboratable=no
# (What its constructor refuses is never used.)
"""`BlockRam`, portable and as ECP5 builds it, against a list of words."""

import random

import pytest
from amaranth.hdl import Fragment

from systolith_rtl.ecp5 import Ecp5Primitives
from systolith_rtl.memory.block_ram import BlockRam
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.testbench import SimulatorContext, simulate

every_platform = pytest.mark.parametrize(
    "platform", [None, SimulatedEcp5()], ids=["portable", "ecp5"]
)

# Width, depth, granularity: words of 36, 18, 9, 4, 2 and 1 bits in a block; columns that end
# before the block does; depths that are no power of two; memories that ECP5 has no block for.
SHAPES = [
    (36, 512, 36),
    (40, 64, 8),
    (54, 300, 27),
    (32, 1024, 8),
    (43, 1024, 43),
    (20, 700, 10),
    (24, 2048, 8),
    (27, 2048, 27),
    (11, 1500, 11),
    (16, 4096, 8),
    (10, 8192, 5),
    (3, 16384, 1),
    (16, 32, 8),
    (24, 7, 24),
    (2, 16385, 2),
]


def drive(
    ram: BlockRam, platform: Ecp5Primitives | None, *, cycles: int, seed: int
) -> tuple[list[int | None], list[int | None]]:
    """Read and write at random, never one address at once.

    Addresses come from few words, so that most reads see a write, and from both ends of the
    memory, so that every address bit matters.

    Returns:
        Of each cycle, what came out and what should have; None where nothing was asked for.
    """
    words = dict(enumerate(ram.init))
    generator = random.Random(seed)
    near = min(ram.depth, 8)
    seen: list[int | None] = []
    expected: list[int | None] = [None] * BlockRam.LATENCY

    async def testbench(ctx: SimulatorContext) -> None:
        for _ in range(cycles):
            read, write = (
                generator.choice(
                    [
                        generator.randrange(near),
                        ram.depth - 1 - generator.randrange(near),
                        1 << generator.randrange((ram.depth - 1).bit_length()),
                    ]
                )
                for _ in range(2)
            )
            enable = generator.getrandbits(len(ram.write_enable)) * generator.randrange(2)
            data = generator.getrandbits(ram.width)
            reading = not (enable and read == write) and generator.random() < 0.7
            ctx.set(ram.read_address, read)
            ctx.set(ram.read_enable, reading)
            ctx.set(ram.write_address, write)
            ctx.set(ram.write_data, data)
            ctx.set(ram.write_enable, enable)
            expected.append(words.get(read, 0) if reading else None)
            for group in range(len(ram.write_enable)):
                if enable >> group & 1:
                    mask = (1 << ram.granularity) - 1 << group * ram.granularity
                    words[write] = words.get(write, 0) & ~mask | data & mask
            seen.append(ctx.get(ram.read_data))
            await ctx.tick()

    simulate(Fragment.get(ram, platform), testbench, max_cycles=cycles + 1)
    expected = expected[:cycles]
    pairs = zip(seen, expected, strict=True)
    return [word if wanted is not None else None for word, wanted in pairs], expected


@every_platform
@pytest.mark.parametrize(("width", "depth", "granularity"), SHAPES)
def test_random_traffic_matches_a_list_of_words(
    platform: Ecp5Primitives | None, width: int, depth: int, granularity: int
) -> None:
    """Contents, latency and write enables, cycle by cycle."""
    generator = random.Random(width)
    init = [generator.getrandbits(width) for _ in range(depth)]
    ram = BlockRam(width=width, depth=depth, granularity=granularity, init=init)
    seen, expected = drive(ram, platform, cycles=400, seed=depth)
    assert seen == expected


@every_platform
def test_uninitialised_memory_is_zero(platform: Ecp5Primitives | None) -> None:
    seen, expected = drive(BlockRam(width=12, depth=600), platform, cycles=200, seed=1)
    assert seen == expected
    assert 0 in seen


def test_granularity_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width must be a multiple of 5, but is 12"):
        BlockRam(width=12, depth=64, granularity=5)


@every_platform
@pytest.mark.parametrize("depth", [32, 64])
def test_both_stages_hold(platform: Ecp5Primitives | None, depth: int) -> None:
    """Each takes what is before it while it is enabled, and keeps what it has while it is not."""
    init = [random.Random(depth).getrandbits(20) for _ in range(depth)]
    ram = BlockRam(width=20, depth=depth, init=init, holds=True)
    generator = random.Random(2)
    seen: list[int] = []
    expected: list[int] = []

    async def testbench(ctx: SimulatorContext) -> None:
        word = output = 0
        for cycle in range(300):
            address = generator.randrange(depth)
            # All that is compared comes from a read.
            reading, moving = (cycle < 2 or generator.random() < 0.5 for _ in range(2))
            ctx.set(ram.read_address, address)
            ctx.set(ram.read_enable, reading)
            ctx.set(ram.output_enable, moving)
            await ctx.tick()
            output = word if moving else output
            word = init[address] if reading else word
            if cycle >= 2:
                seen.append(ctx.get(ram.read_data))
                expected.append(output)

    simulate(Fragment.get(ram, platform), testbench, max_cycles=301)
    assert seen == expected
