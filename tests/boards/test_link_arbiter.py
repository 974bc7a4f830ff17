"""Two masters on one memory: nothing lost, nothing mixed up, nobody forgotten."""

import random
from collections import deque
from itertools import pairwise
from typing import Any

import pytest

from systolith.config import preset
from systolith_boards.link import LINK_ID, Arbiter
from systolith_sim.axi import AxiFaults, AxiMemory
from systolith_sim.testbench import SimulatorContext, simulate

CONFIG = preset("ecp5-85k")
BEAT = CONFIG.axi_bytes
HALF = 1 << 15


class Master:
    """Random bursts of a master within its half of memory, addresses ahead of data or behind.

    Args:
        port: of the arbiter.
        ids: that it uses.
        base: of its half.
        bursts: how many, each way.
    """

    def __init__(self, port: Any, ids: list[int], base: int, bursts: int, seed: int) -> None:
        generator = random.Random(seed)
        self.port, self.random = port, generator
        self.memory = bytearray(2 * HALF)
        self.writes = [self._burst(ids, base, length) for length in [1, 16, 3, 7] * (bursts // 4)]
        self.reads = [self._burst(ids, base, length) for length in [2, 1, 16, 5] * (bursts // 4)]
        self.data = [
            [generator.getrandbits(8 * BEAT) for _ in range(length)] for _, _, length in self.writes
        ]
        self.responses: list[tuple[int, int]] = []
        self.beats: dict[int, list[tuple[int, int, int]]] = {}
        self.accepted: list[int] = []

    def _burst(self, ids: list[int], base: int, length: int) -> tuple[int, int, int]:
        page = self.random.randrange(HALF // 4096) * 4096
        start = self.random.randrange(4096 // BEAT - length) * BEAT
        return self.random.choice(ids), base + page + start, length

    async def _addresses(
        self, ctx: SimulatorContext, channel: Any, bursts: list[tuple[int, int, int]]
    ) -> None:
        for id_, address, length in bursts:
            for name, value in {
                "id": id_,
                "addr": address,
                "len": length - 1,
                "size": 3,
                "burst": 1,
                "valid": 1,
            }.items():
                ctx.set(getattr(channel, name), value)
            ready, waited = 0, -1
            while not ready:
                _, _, ready = await ctx.tick().sample(channel.ready)
                waited += 1
            self.accepted.append(waited)
            ctx.set(channel.valid, 0)
            for _ in range(self.random.choice([0, 0, 0, 9])):
                await ctx.tick()

    async def write_addresses(self, ctx: SimulatorContext) -> None:
        """Offer the addresses of all writes."""
        await self._addresses(ctx, self.port.aw, self.writes)

    async def read_addresses(self, ctx: SimulatorContext) -> None:
        """Offer the addresses of all reads."""
        await self._addresses(ctx, self.port.ar, self.reads)

    async def write_data(self, ctx: SimulatorContext) -> None:
        """Offer the beats of all writes."""
        w = self.port.w
        for words in self.data:
            for index, word in enumerate(words):
                ctx.set(w.data, word)
                ctx.set(w.strb, (1 << BEAT) - 1)
                ctx.set(w.last, index == len(words) - 1)
                ctx.set(w.valid, 1)
                ready = 0
                while not ready:
                    _, _, ready = await ctx.tick().sample(w.ready)
                ctx.set(w.valid, 0)
            for _ in range(self.random.choice([0, 0, 5])):
                await ctx.tick()

    async def take_responses(self, ctx: SimulatorContext) -> None:
        """Take the responses to all writes."""
        b = self.port.b
        while len(self.responses) < len(self.writes):
            ready = self.random.random() < 0.7
            ctx.set(b.ready, ready)
            _, _, valid, id_, resp = await ctx.tick().sample(b.valid, b.id, b.resp)
            if valid and ready:
                self.responses.append((id_, resp))

    async def take_beats(self, ctx: SimulatorContext) -> None:
        """Take the beats of all reads."""
        r = self.port.r
        left = sum(length for _, _, length in self.reads)
        while left:
            ready = self.random.random() < 0.8
            ctx.set(r.ready, ready)
            sample = ctx.tick().sample(r.valid, r.id, r.data, r.last, r.resp)
            _, _, valid, id_, data, last, resp = await sample
            if valid and ready:
                self.beats.setdefault(id_, []).append((data, last, resp))
                left -= 1

    def check_reads(self, memory: bytes) -> None:
        """Each ID has its beats, in order, of a memory that nobody wrote to."""
        for id_, beats in self.beats.items():
            mine = deque(beats)
            for other, address, length in self.reads:
                for index in range(length if other == id_ else 0):
                    at = address + index * BEAT
                    data, last, _ = mine.popleft()
                    assert data == int.from_bytes(memory[at : at + BEAT], "little")
                    assert last == (index == length - 1)
            assert not mine


@pytest.mark.parametrize(("seed", "stall", "late"), [(1, 0.0, False), (2, 0.4, True)])
def test_reads_and_writes_of_both(seed: int, stall: float, late: bool) -> None:
    """In a memory that takes an address together with its data at the earliest, too."""
    for writing in (True, False):
        dut = Arbiter(CONFIG)
        memory = bytearray(random.Random(seed).randbytes(2 * HALF))
        before = bytes(memory)
        core = Master(dut.core, [0, 1, 2], 0, 12, seed)
        link = Master(dut.link, [LINK_ID], HALF, 12, seed + 50)
        slave = AxiMemory(
            memory,
            dut.memory,
            latency=6,
            stall=stall,
            interleave=bool(stall),
            seed=seed,
            address_waits_for_data=late,
            faults=AxiFaults(writes={3}),
        )
        masters = core, link
        if writing:
            benches = [
                bench
                for each in masters
                for bench in (each.write_addresses, each.write_data, each.take_responses)
            ]
        else:
            benches = [
                bench for each in masters for bench in (each.read_addresses, each.take_beats)
            ]
        simulate(dut, *benches, monitors=[slave], max_cycles=5000)  # pyright: ignore[reportArgumentType]
        if not writing:
            assert memory == before
            core.check_reads(before)
            link.check_reads(before)
            continue
        expected = bytearray(before)
        for each in masters:
            for (_, address, _), words in zip(each.writes, each.data, strict=True):
                data = b"".join(word.to_bytes(BEAT, "little") for word in words)
                expected[address : address + len(data)] = data
            assert sorted(id_ for id_, _ in each.responses) == sorted(
                id_ for id_, *_ in each.writes
            )
        assert memory == expected
        assert sum(resp == 2 for each in masters for _, resp in each.responses) == 1
        # The memory sees each master's bursts in its order.
        for each, ids in ((core, {0, 1, 2}), (link, {LINK_ID})):
            seen = [(one.id, one.address, one.beats) for one in slave.writes if one.id in ids]
            assert seen == each.writes


def test_addresses_take_turns() -> None:
    """A core that never stops asking does not keep the link out, nor the link the core."""
    dut = Arbiter(CONFIG)
    order: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.core.ar.valid, 1)
        ctx.set(dut.link.ar.valid, 1)
        ctx.set(dut.link.ar.id, LINK_ID)
        ctx.set(dut.memory.ar.ready, 1)
        for _ in range(20):
            _, _, valid, id_ = await ctx.tick().sample(dut.memory.ar.valid, dut.memory.ar.id)
            if valid:
                order.append(id_)

    simulate(dut, bench, max_cycles=100)
    assert len(order) >= 18, "an address each cycle"
    assert all(one != other for one, other in pairwise(order))
