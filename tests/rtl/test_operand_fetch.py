"""`OperandFetch`: what it reads, in which order, how fast, and that it never asks for too much."""

import random
from functools import cache

import pytest

from systolith.config import CoreConfig
from systolith_rtl.vector.fetch import DEPTH, POP_LATENCY, OperandFetch
from systolith_rtl.vector.loop import extent
from systolith_sim.testbench import SimulatorContext, simulate

MEMORY = random.Random(5).randbytes(2040) + bytes([0, 0x80] * 4)


@cache
def core(rows: int, columns: int, size: int = len(MEMORY)) -> CoreConfig:
    return CoreConfig(
        rows=rows, columns=columns, scratchpad_bytes=size, ring_bytes=1024, axi_data_bits=32
    )


FAR = 128 << 10
"""Bytes of a scratchpad whose words come later."""


def expected(config: CoreConfig, job: dict[str, int]) -> list[list[int]]:
    """The groups of a job, element by element."""
    size = 2 if job["words"] else 1
    groups = []
    for first in range(0, job["n"], config.columns):
        for row in range(job["m"]):
            start = (job["address"] + row * job["stride"]) * config.columns + first * size
            groups.append(
                [
                    int.from_bytes(MEMORY[at : at + size], "little", signed=bool(job["signed"]))
                    for at in range(start, start + size * config.columns, size)
                ]
            )
    return groups


def run(
    config: CoreConfig,
    jobs: list[dict[str, int]],
    *,
    refuse: float = 0.0,
    idle: float = 0.0,
    hold: int = 0,
) -> tuple[list[list[list[int]]], list[list[int]], list[list[int]]]:
    """Fetch some tensors, one after the other.

    Args:
        config: of the core.
        jobs: operands.
        refuse: probability that a read is refused.
        idle: probability that an available group is not popped.
        hold: cycles from the start in which nothing is popped.

    Returns:
        For each job its groups, and the cycles, from the start, of its grants and of its pops.
    """
    dut = OperandFetch(config)
    rng = random.Random(3)
    found, granted, popped = [], [], []

    async def testbench(ctx: SimulatorContext) -> None:
        for job in jobs:
            answers: dict[int, int] = {}
            groups, grants, pops = [], [], []
            count = len(expected(config, job))
            for name, value in job.items():
                if name not in ("m", "n"):
                    ctx.set(getattr(dut, name), value)
            for name, value in extent(config, job["m"], job["n"]).items():
                ctx.set(dut.extent[name], value)
            cycle = 0
            while len(groups) < count:
                ctx.set(dut.start, cycle == 0)
                ctx.set(dut.port.ready, rng.random() >= refuse)
                ctx.set(dut.port.data_valid, cycle in answers)
                ctx.set(dut.port.data, answers.pop(cycle, 0x5A5A5A5A))
                pop = ctx.get(dut.available) and cycle >= hold and rng.random() >= idle
                ctx.set(dut.pop, pop)
                if pop:
                    pops.append(cycle)
                _, _, grant, address, group, masked = await ctx.tick().sample(
                    dut.port.valid & dut.port.ready, dut.port.address, dut.group, dut.masked
                )
                if grant:
                    grants.append(cycle)
                    size = config.rows
                    word = MEMORY[address * size : (address + 1) * size]
                    answers[cycle + config.read_latency] = int.from_bytes(word, "little")
                if cycle - POP_LATENCY in pops:
                    groups.append(list(group))
                    marks = [masked >> lane & 1 for lane in range(config.columns)]
                    assert marks == [element == -32768 for element in group]
                cycle += 1
            found.append(groups)
            granted.append(grants)
            popped.append(pops)

    simulate(dut, testbench, max_cycles=5000)
    return found, granted, popped


def job(**changes: int) -> dict[str, int]:
    default = {"address": 0, "stride": 2, "m": 20, "n": 4, "words": 0, "signed": 0}
    return default | changes


@pytest.mark.parametrize("shape", [(4, 4), (8, 2), (8, 4), (4, 4, FAR), (8, 4, FAR)], ids=str)
@pytest.mark.parametrize(("refuse", "idle"), [(0.0, 0.0), (0.5, 0.2), (0.2, 0.7)])
def test_every_element(shape: tuple[int, int], refuse: float, idle: float) -> None:
    config = core(*shape)
    jobs = [
        job(m=1, n=1),
        job(m=7, n=3 * shape[1] - 1, stride=11, address=5, signed=1),
        job(m=5, n=3 * shape[1], stride=11, address=3),
        job(m=9, n=2 * shape[1] + 1, stride=6, address=10, words=1, signed=1),
        job(m=40, n=1, stride=0, address=len(MEMORY) // shape[1] - 2, words=1, signed=1),
    ]
    found, _, _ = run(config, jobs, refuse=refuse, idle=idle)
    assert found == [expected(config, each) for each in jobs]


@pytest.mark.parametrize(("config", "first"), [(core(8, 4), 7), (core(8, 4, FAR), 8)])
def test_a_group_per_cycle(config: CoreConfig, first: int) -> None:
    """The first read is granted 2 cycles after the start, and poppable 5 or 6 cycles later."""
    _, (bytes_granted, words_granted), (bytes_popped, words_popped) = run(
        config, [job(m=60), job(m=60, words=1)]
    )
    assert bytes_granted == words_granted == list(range(2, 62))
    assert bytes_popped == words_popped == list(range(first, first + 60))


def test_words_of_two_granules_take_two_cycles() -> None:
    _, (granted,), (popped,) = run(core(4, 4), [job(words=1)])
    assert granted == list(range(2, 42))
    assert popped == list(range(8, 48, 2))


def test_asks_for_no_more_than_it_has_room_for() -> None:
    """With nobody popping, it reads `DEPTH` groups; each pop makes room for one."""
    _, (granted,), _ = run(core(8, 4), [job(m=40)], hold=100)
    assert granted[:DEPTH] == list(range(2, 2 + DEPTH))
    assert granted[DEPTH] > 100
    assert granted[DEPTH:] == list(range(granted[DEPTH], granted[DEPTH] + 24))


def test_asks_for_nothing_behind_a_fault() -> None:
    """Its loop goes a step on, and here to an address that is inside again."""
    config = core(8, 4)
    dut = OperandFetch(config)
    granted: list[int] = []

    async def testbench(ctx: SimulatorContext) -> None:
        ctx.set(dut.stride, config.granules)
        for name, value in extent(config, 2, 4 * config.columns).items():
            ctx.set(dut.extent[name], value)
        ctx.set(dut.port.ready, 1)
        for cycle in range(20):
            ctx.set(dut.start, cycle == 0)
            _, _, valid, address = await ctx.tick().sample(dut.port.valid, dut.port.address)
            if valid:
                granted.append(address)
        assert ctx.get(dut.fault)
        assert ctx.get(dut.fault_address) == config.granules

    simulate(dut, testbench, max_cycles=100)
    assert granted == [0]
