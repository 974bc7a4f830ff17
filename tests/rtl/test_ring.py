"""`WeightRing`: order, latency, and what it says of its room, in every cycle."""

import random
from collections import deque
from dataclasses import replace

import pytest

from systolith.config import CoreConfig, preset
from systolith_rtl.array.ring import WeightRing
from systolith_sim.testbench import SimulatorContext, simulate

TINY = preset("tiny")
FAR = replace(TINY, scratchpad_bytes=128 << 10)
"""With a scratchpad whose words come later, and so do those of the ring."""


def check(
    cycles: int, *, push: float, pop: float, seed: int = 0, config: CoreConfig = TINY
) -> tuple[int, int]:
    """Push and pop at random whenever it is allowed; return the least and the most free words."""
    dut = WeightRing(config)
    generator = random.Random(seed)
    free_seen = []

    async def testbench(ctx: SimulatorContext) -> None:
        content: deque[int] = deque()
        due: deque[int | None] = deque([None] * config.read_latency)
        for cycle in range(cycles):
            # Both follow from what happened up to the cycle before.
            assert ctx.get(dut.push.free) == TINY.ring_words - len(content), cycle
            assert ctx.get(dut.available) == bool(content), cycle
            free_seen.append(ctx.get(dut.push.free))
            word = due.popleft()
            if word is not None:
                assert ctx.get(dut.data) == word, cycle
            pops = bool(content) and generator.random() < pop
            pushes = len(content) < TINY.ring_words and generator.random() < push
            due.append(content.popleft() if pops else None)
            word = generator.getrandbits(8 * TINY.rows)
            if pushes:
                content.append(word)
            ctx.set(dut.pop, pops)
            ctx.set(dut.push.push, pushes)
            ctx.set(dut.push.data, word)
            await ctx.tick()

    simulate(dut, testbench, max_cycles=cycles + 1)
    return min(free_seen), max(free_seen)


@pytest.mark.parametrize(("push", "pop"), [(1.0, 1.0), (0.5, 0.5), (0.3, 0.9), (0.9, 0.9)], ids=str)
def test_words_come_in_order(push: float, pop: float) -> None:
    check(800, push=push, pop=pop)
    check(800, push=push, pop=pop, config=FAR)


def test_a_full_ring_keeps_its_words() -> None:
    least, most = check(1500, push=0.9, pop=0.3)
    assert least == 0
    assert most == TINY.ring_words


def test_one_word_a_cycle_passes_through_an_empty_ring() -> None:
    least, _ = check(300, push=1.0, pop=1.0)
    assert least == TINY.ring_words - 1
