"""`Scratchpad` against a Python model: arbitration, latency, byte masks, throughput, clashes."""

import random
from dataclasses import dataclass

import pytest
from amaranth.hdl import Fragment

from systolith.config import CoreConfig, preset
from systolith_rtl.ecp5 import Ecp5Primitives
from systolith_rtl.interfaces import READ_LATENCY
from systolith_rtl.memory.scratchpad import READERS, WRITERS, Scratchpad
from systolith_sim.testbench import SimulatorContext, simulate

TINY = preset("tiny")
SMALL = CoreConfig(
    rows=8,
    columns=2,
    scratchpad_bytes=4 * 16 * 8,
    ring_bytes=64,
    row_slots=32,
    axi_data_bits=32,
)
"""Sixteen words in a bank: random traffic meets itself all the time."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a port asks for in one cycle; `mask` and `data` of a write only."""

    address: int
    mask: int = 0
    data: int = 0


Cycle = tuple[list[Request | None], list[Request | None]]
"""The requests of all readers and of all writers."""


@dataclass
class Trace:
    """What a scratchpad did, by cycle; the lists within by port."""

    read_ready: list[list[int]]
    write_ready: list[list[int]]
    data: list[list[int | None]]
    held: list[list[int]]
    clashes: list[int]


def run(config: CoreConfig, cycles: list[Cycle], platform: Ecp5Primitives | None = None) -> Trace:
    """Apply the requests cycle by cycle, whatever is granted, and some idle cycles after them."""
    dut = Scratchpad(config)
    trace = Trace([], [], [], [], [])

    async def testbench(ctx: SimulatorContext) -> None:
        idle: Cycle = ([None] * READERS, [None] * WRITERS)
        for reads, writes in [*cycles, *[idle] * (READ_LATENCY + 1)]:
            ports = zip([*dut.read, *dut.write], [*reads, *writes], strict=True)
            for port, request in ports:
                ctx.set(port.valid, request is not None)
                if request is not None:
                    ctx.set(port.address, request.address)
            for port, request in zip(dut.write, writes, strict=True):
                if request is not None:
                    ctx.set(port.data, request.data)
                    ctx.set(port.mask, request.mask)
            trace.read_ready.append([ctx.get(port.ready) for port in dut.read])
            trace.write_ready.append([ctx.get(port.ready) for port in dut.write])
            trace.held.append([ctx.get(port.data) for port in dut.read])
            trace.data.append(
                [ctx.get(port.data) if ctx.get(port.data_valid) else None for port in dut.read]
            )
            trace.clashes.append(ctx.get(dut.clashes))
            await ctx.tick()

    simulate(Fragment.get(dut, platform), testbench, max_cycles=len(cycles) + 20)
    return trace


def expect(config: CoreConfig, cycles: list[Cycle]) -> Trace:
    """What the scratchpad should do: a dictionary of words, and the rules in plain loops."""
    words: dict[int, int] = {}
    total = len(cycles) + READ_LATENCY + 1
    trace = Trace([], [], [[None] * READERS for _ in range(total)], [], [0, 0])
    for now, (reads, writes) in enumerate(cycles):
        ready = []
        for requests in (reads, writes):
            taken: set[int] = set()
            ready.append([])
            for request in requests:
                bank = None if request is None else request.address // config.bank_words
                ready[-1].append(int(bank is not None and bank not in taken))
                taken |= {bank}
        for index, request in enumerate(reads):
            if request is not None and ready[0][index]:
                trace.data[now + READ_LATENCY][index] = words.get(request.address, 0)
        for index, request in enumerate(writes):
            if request is not None and ready[1][index]:
                for byte in range(config.rows):
                    if request.mask >> byte & 1:
                        keep = words.get(request.address, 0) & ~(0xFF << 8 * byte)
                        words[request.address] = keep | request.data & 0xFF << 8 * byte
        trace.read_ready.append(ready[0])
        trace.write_ready.append(ready[1])
        asked = sum(request is not None for request in [*reads, *writes])
        trace.clashes.append(asked - sum(ready[0]) - sum(ready[1]))
    return trace


def traffic(config: CoreConfig, count: int, *, load: float, seed: int) -> list[Cycle]:
    """Draw requests for every port; no word is read in a cycle in which it is being written."""
    generator = random.Random(seed)

    def request(forbidden: set[int]) -> Request | None:
        address = generator.randrange(config.words)
        if generator.random() > load or address in forbidden:
            return None
        return Request(
            address=address,
            mask=generator.choice([0, (1 << config.rows) - 1, generator.getrandbits(config.rows)]),
            data=generator.getrandbits(8 * config.rows),
        )

    cycles = []
    for _ in range(count):
        writes = [request(set()) for _ in range(WRITERS)]
        written = {write.address for write in writes if write is not None}
        cycles.append(([request(written) for _ in range(READERS)], writes))
    return cycles


@pytest.mark.parametrize("load", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("config", [SMALL, TINY], ids=["small", "tiny"])
def test_random_traffic_matches_the_model(config: CoreConfig, load: float) -> None:
    """Grants, answers and their cycles, byte masks and the clash count, on all ports at once."""
    cycles = traffic(config, 600, load=load, seed=int(10 * load))
    seen = run(config, cycles)
    expected = expect(config, cycles)
    assert seen.read_ready[: len(cycles)] == expected.read_ready
    assert seen.write_ready[: len(cycles)] == expected.write_ready
    assert seen.data == expected.data
    assert seen.clashes[: len(cycles) + 2] == expected.clashes
