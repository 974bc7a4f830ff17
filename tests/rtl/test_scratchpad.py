"""`Scratchpad` against a Python model: arbitration, latency, byte masks, throughput, clashes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest
from amaranth.hdl import Fragment

from systolith.config import BANKS, CoreConfig, preset
from systolith_rtl.ecp5 import Ecp5Primitives
from systolith_rtl.interfaces import WRITE_LATENCY
from systolith_rtl.memory.scratchpad import READERS, WRITERS, Scratchpad
from systolith_sim.ecp5 import SimulatedEcp5
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
WIDE = replace(SMALL, scratchpad_bytes=128 << 10)
"""The smallest whose block RAMs have registers on both ways, in two groups of bytes."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a port asks for in one cycle; `mask` and `data` of a write only."""

    address: int
    mask: int = 0
    data: int = 0


both = pytest.mark.parametrize("config", [SMALL, WIDE], ids=["small", "wide"])

Cycle = tuple[Sequence[Request | None], Sequence[Request | None]]
"""The requests of all readers and of all writers."""


@dataclass
class Trace:
    """What a scratchpad did, by cycle; the lists within by port."""

    read_granted: list[list[int]]
    write_granted: list[list[int]]
    data: list[list[int | None]]
    held: list[list[int]]
    clashes: list[int]


def run(config: CoreConfig, cycles: list[Cycle], platform: Ecp5Primitives | None = None) -> Trace:
    """Apply the requests cycle by cycle, whatever is granted, and some idle cycles after them."""
    dut = Scratchpad(config)
    trace = Trace([], [], [], [], [])

    async def testbench(ctx: SimulatorContext) -> None:
        idle: Cycle = ([None] * READERS, [None] * WRITERS)
        for reads, writes in [*cycles, *[idle] * (config.read_latency + 1)]:
            ports = zip([*dut.read, *dut.write], [*reads, *writes], strict=True)
            for port, request in ports:
                ctx.set(port.valid, request is not None)
                if request is not None:
                    ctx.set(port.address, request.address)
            for port, request in zip(dut.write, writes, strict=True):
                if request is not None:
                    ctx.set(port.data, request.data)
                    ctx.set(port.mask, request.mask)
            trace.read_granted.append([ctx.get(port.valid & port.ready) for port in dut.read])
            trace.write_granted.append([ctx.get(port.valid & port.ready) for port in dut.write])
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
    total = len(cycles) + config.read_latency + 1
    trace = Trace([], [], [[None] * READERS for _ in range(total)], [], [0, 0])
    for now, (reads, writes) in enumerate(cycles):
        ready = []
        for requests in (reads, writes):
            taken: set[int | None] = set()
            ready.append([])
            for request in requests:
                bank = None if request is None else request.address // config.bank_words
                ready[-1].append(int(bank is not None and bank not in taken))
                taken |= {bank}
        for index, request in enumerate(reads):
            if request is not None and ready[0][index]:
                trace.data[now + config.read_latency][index] = words.get(request.address, 0)
        for index, request in enumerate(writes):
            if request is not None and ready[1][index]:
                for byte in range(config.rows):
                    if request.mask >> byte & 1:
                        keep = words.get(request.address, 0) & ~(0xFF << 8 * byte)
                        words[request.address] = keep | request.data & 0xFF << 8 * byte
        trace.read_granted.append(ready[0])
        trace.write_granted.append(ready[1])
        asked = sum(request is not None for request in [*reads, *writes])
        trace.clashes.append(asked - sum(ready[0]) - sum(ready[1]))
    return trace


def traffic(
    config: CoreConfig, count: int, *, load: float, seed: int, near: int | None = None
) -> list[Cycle]:
    """Draw requests for every port, to the first `near` words of a bank or to any.

    No word is read in a cycle in which it is being written.
    """
    generator = random.Random(seed)

    def request(forbidden: set[int]) -> Request | None:
        bank = generator.randrange(BANKS)
        address = bank * config.bank_words + generator.randrange(near or config.bank_words)
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


def assert_model(config: CoreConfig, cycles: list[Cycle], seen: Trace) -> None:
    """Compare grants, answers and their cycles, and the clash count with the model's."""
    expected = expect(config, cycles)
    assert seen.read_granted[: len(cycles)] == expected.read_granted
    assert seen.write_granted[: len(cycles)] == expected.write_granted
    assert seen.data == expected.data
    assert seen.clashes[: len(cycles) + 2] == expected.clashes


@pytest.mark.parametrize("load", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("config", [SMALL, TINY, WIDE], ids=["small", "tiny", "wide"])
def test_random_traffic_matches_the_model(config: CoreConfig, load: float) -> None:
    """On all ports at once, with requests that change while they wait."""
    cycles = traffic(config, 600, load=load, seed=int(10 * load), near=16)
    seen = run(config, cycles)
    assert_model(config, cycles, seen)
    # Between answers, data stands still: nothing downstream has to move.
    for port in range(READERS):
        for now in range(1, len(seen.held)):
            if seen.data[now][port] is None:
                assert seen.held[now][port] == seen.held[now - 1][port]


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["tiny", "wide"])
def test_scratchpad_of_ecp5_blocks_matches_the_model(config: CoreConfig) -> None:
    """In the first words of each bank, so that reads find what was written."""
    cycles = traffic(config, 600, load=0.6, seed=3, near=8)
    assert_model(config, cycles, run(config, cycles, SimulatedEcp5()))


def test_the_last_words_of_wide_banks_are_their_own() -> None:
    """Every bit of an address counts, in each bank: words apart by a power of two differ."""
    words = WIDE.bank_words
    places = [words - 1] + [words - 1 - (1 << bit) for bit in range(12)]
    cycles: list[Cycle] = []
    for bank in range(BANKS):
        for at in places:
            write = Request(address=bank * words + at, mask=255, data=(bank + 1) << 32 | at)
            cycles.append(([None] * READERS, [write, None]))
    for bank in range(BANKS):
        for at in places:
            reads: list[Request | None] = [None] * READERS
            reads[bank] = Request(address=bank * words + at)
            cycles.append((reads, [None, None]))
    assert_model(WIDE, cycles, run(WIDE, cycles))


@both
def test_first_port_wins(config: CoreConfig) -> None:
    """Every set of readers that want a bank, with every set of writers, in every bank."""
    cycles = []
    for bank, wants in product(range(BANKS), product([False, True], repeat=READERS + WRITERS)):
        base = bank * config.bank_words
        requests = [
            Request(address=base + port, mask=1, data=port) if wanted else None
            for port, wanted in enumerate(wants)
        ]
        cycles.append((requests[:READERS], requests[READERS:]))
    seen = run(config, cycles)
    for now, (reads, writes) in enumerate(cycles):
        for requests, ready in ((reads, seen.read_granted[now]), (writes, seen.write_granted[now])):
            asking = [port for port, request in enumerate(requests) if request is not None]
            assert [port for port, granted in enumerate(ready) if granted] == asking[:1]
    assert_model(config, cycles, seen)


@both
def test_last_port_is_not_held_up_by_other_banks(config: CoreConfig) -> None:
    """While all others fight for bank 0, DMA reads and LOAD writes elsewhere in every cycle."""
    words = config.bank_words
    cycles: list[Cycle] = [
        (
            [Request(address=0)] * 4 + [Request(address=words * (1 + now % 3) + now % words)],
            [Request(address=1), Request(address=words * (1 + (now + 1) % 3) + now % words)],
        )
        for now in range(60)
    ]
    seen = run(config, cycles)
    assert [ready[-1] for ready in seen.read_granted[:60]] == [1] * 60
    assert [ready[-1] for ready in seen.write_granted[:60]] == [1] * 60
    assert [data[-1] is not None for data in seen.data] == [
        *[False] * config.read_latency,
        *[True] * 60,
        False,
    ]


@both
@pytest.mark.parametrize("readers", [[0, 1, 2, 3], [1, 2, 3, 4], [0, 4]])
def test_different_banks_serve_everybody_in_every_cycle(
    config: CoreConfig, readers: list[int]
) -> None:
    """Four reads and two writes a cycle, answered in every cycle from the first answer on."""
    words = config.bank_words
    cycles = []
    for now in range(64):
        reads: list[Request | None] = [None] * READERS
        for position, port in enumerate(readers):
            reads[port] = Request(address=words * ((position + now) % BANKS) + now % words)
        writes: list[Request | None] = [
            Request(address=words * ((now + bank) % BANKS) + (now + 5) % words, mask=255, data=now)
            for bank in (0, 2)
        ]
        cycles.append((reads, writes))
    seen = run(config, cycles)
    assert_model(config, cycles, seen)
    assert set(seen.clashes) == {0}
    answers = [sum(data is not None for data in ports) for ports in seen.data]
    assert answers == [0] * config.read_latency + [len(readers)] * 64 + [0]


@both
def test_write_is_seen_by_reads_granted_later(config: CoreConfig) -> None:
    """Already in the next cycle, so well within `WRITE_LATENCY`; the cycle before sees the old."""
    write = Request(address=7, mask=0xFF, data=0x1122334455667788)
    touch = Request(address=7, mask=0b01000001, data=0xAABBCCDDEEFF0099)
    read = Request(address=7)
    idle: Cycle = ([None] * READERS, [None] * WRITERS)
    readers: list[Request | None] = [None, None, read, None, None]
    cycles: list[Cycle] = [
        (readers, [None, None]),
        ([None] * READERS, [write, None]),
        (readers, [None, None]),
        ([None] * READERS, [None, touch]),
        *[(readers, [None, None])] * WRITE_LATENCY,
        idle,
    ]
    seen = run(config, cycles)
    answers = [data[2] for data in seen.data if data[2] is not None]
    assert answers == [0, 0x1122334455667788] + [0x11BB334455667799] * WRITE_LATENCY


@both
def test_clashes_are_counted_two_cycles_later(config: CoreConfig) -> None:
    """Five readers and two writers of one bank: four and one are refused."""
    fight: Cycle = ([Request(address=3)] * READERS, [Request(address=5)] * WRITERS)
    idle: Cycle = ([None] * READERS, [None] * WRITERS)
    seen = run(config, [idle, fight, idle, fight, fight])
    assert seen.clashes == [0, 0, 0, 5, 0, 5, 5] + [0] * (config.read_latency - 1)
