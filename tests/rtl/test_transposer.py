"""`Transposer`: granules in order, tails, and one group per cycle."""

import random

import pytest

from systolith.config import CoreConfig
from systolith_rtl.vector.transpose import Transposer
from systolith_sim.testbench import SimulatorContext, simulate

Granule = tuple[list[int], bool, bool, bool]
"""Bytes, last of its block, last block of its group, last group."""


def run(
    size: int, m: int, n: int, *, stall: float = 0.0
) -> tuple[list[list[int]], list[Granule], list[int]]:
    """Send an [m, n] tensor of bytes group by group, with the gaps that are asked for.

    Returns:
        The tensor, the granules, and the cycles from the first row in which they left.
    """
    config = CoreConfig(
        rows=max(size, 4),
        columns=size,
        scratchpad_bytes=4096,
        ring_bytes=1024,
        axi_data_bits=32,
    )
    dut = Transposer(config)
    rng = random.Random(m * n)
    tensor = [[rng.randrange(1, 256) for _ in range(n)] for _ in range(m)]
    granules: list[Granule] = []
    cycles: list[int] = []

    # By cycle, what is sent; nothing in the first one, which says that there is a row behind it.
    sent: list[dict[str, int]] = [{}]
    for first in range(0, n, size):
        for row in range(m):
            while rng.random() < stall:
                sent.append({})
            # What is beyond the tensor is not zero: it must not be seen.
            group = [*tensor[row][first : first + size], *[0xEE] * size][:size]
            sent.append(
                {
                    "row": int.from_bytes(bytes(group), "little"),
                    "tail": min(size, n - first) - 1,
                    "last_row": row == m - 1,
                    "last_group": first + size >= n,
                }
            )
        sent += [{}] * (-m % size)

    async def sender(ctx: SimulatorContext) -> None:
        nothing = dict.fromkeys(("row", "tail", "last_row", "last_group"), 0)
        for now, following in zip(sent, [*sent[1:], {}], strict=True):
            ctx.set(dut.soon, bool(following))
            for name, value in (nothing | now).items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()

    async def receiver(ctx: SimulatorContext) -> None:
        cycle = -1
        while len(granules) < n * -(-m // size):
            _, _, valid, granule, *flags = await ctx.tick().sample(
                dut.granule_valid, dut.granule, dut.last_column, dut.last_block, dut.final
            )
            if valid:
                column, block, final = (bool(flag) for flag in flags)
                granules.append((list(granule.to_bytes(size, "little")), column, block, final))
                cycles.append(cycle)
            cycle += 1
        for _ in range(3 * size):
            _, _, valid = await ctx.tick().sample(dut.granule_valid)
            assert not valid, "a granule too many"

    simulate(dut, sender, receiver, max_cycles=2000)
    return tensor, granules, cycles


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize(
    ("size", "m", "n"),
    [(4, 1, 1), (4, 4, 4), (4, 3, 9), (4, 13, 7), (2, 5, 5), (8, 17, 11)],
    ids=str,
)
def test_granules(size: int, m: int, n: int, stall: float) -> None:
    tensor, granules, _ = run(size, m, n, stall=stall)
    expected = []
    for first in range(0, n, size):
        for top in range(0, m, size):
            for column in range(first, min(first + size, n)):
                rows = [tensor[row][column] if row < m else 0 for row in range(top, top + size)]
                flags = (
                    column == min(first + size, n) - 1,
                    top + size >= m,
                    first + size >= n,
                )
                expected.append((rows, *flags))
    assert granules == expected


def test_a_granule_per_cycle() -> None:
    """The first leaves two cycles after its block's last row, the others right behind it."""
    _, _, cycles = run(4, 16, 8)
    assert cycles == list(range(5, 5 + 32))
