"""The parts of the DMA on their own: realigner, splitter, arbiter of reads."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Assert, Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import preset
from systolith_rtl.dma.burst import BOUNDARY, Splitter, check_max_beats
from systolith_rtl.dma.read import ReadChannel
from systolith_rtl.dma.realign import Realigner
from systolith_rtl.interfaces import AxiSignature
from systolith_rtl.skid import PingPong, Skid
from systolith_sim.formal import HandshakeProperty
from systolith_sim.testbench import (
    SimulatorContext,
    StreamMonitor,
    receive,
    send,
    simulate,
    stalls,
)
from systolith_sim.yosys import prove

CONFIG = preset("ecp5-85k")

Move = tuple[int, int, int, bool]
"""Source lane, destination lane, bytes, zeros."""


class SkiddedRealigner(wiring.Component):
    """A realigner and the skid that tells it of its `ready` a cycle ahead."""

    run: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, **options: Any) -> None:
        self.unit = Realigner(**options)
        self.skid = Skid(self.unit.o.payload.shape())
        super().__init__(
            {
                "run": In(self.unit.run.signature.flip()),
                "i": In(self.unit.i.signature.flip()),
                "o": Out(self.unit.o.signature),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect them."""
        m = Module()
        m.submodules.unit = self.unit
        m.submodules.skid = self.skid
        wiring.connect(m, wiring.flipped(self.run), self.unit.run)
        wiring.connect(m, wiring.flipped(self.i), self.unit.i)
        wiring.connect(m, self.unit.o, self.skid.i)
        wiring.connect(m, self.skid.o, wiring.flipped(self.o))
        m.d.comb += self.unit.o_next.eq(self.skid.i_next)
        return m


def realign(width: int, moves: list[Move], *, stall: float, seed: int) -> StreamMonitor:
    """Move runs of random bytes, and compare every byte, strobe and flag.

    Returns:
        The monitor of the results.
    """
    dut = SkiddedRealigner(width=width, size_width=12, tag=8)
    rng = random.Random(seed)
    runs, beats, expected = [], [], []
    for tag, (source, destination, size, zero) in enumerate(moves):
        wanted = bytes(size) if zero else rng.randbytes(size)
        if not zero:
            tail = rng.randbytes(-(source + size) % width)
            raw = rng.randbytes(source) + wanted + tail
            beats += [raw[at : at + width] for at in range(0, len(raw), width)]
        runs.append(
            {
                "source": destination if zero else source,
                "destination": destination,
                "more": size - 1,
                "zero": int(zero),
                "tag": tag & 0xFF,
            }
        )
        placed: list[int | None] = [None] * destination + list(wanted)
        placed += [None] * (-len(placed) % width)
        count = len(placed) // width
        for at in range(count):
            part = placed[at * width : (at + 1) * width]
            expected.append((part, at == 0, at == count - 1, tag & 0xFF))

    results: list[Any] = []

    async def run_sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.run, runs, stall=stalls(stall, seed=seed))

    async def beat_sender(ctx: SimulatorContext) -> None:
        payloads = [int.from_bytes(beat, "little") for beat in beats]
        await send(ctx, dut.i, payloads, stall=stalls(stall, seed=seed + 1))

    async def receiver(ctx: SimulatorContext) -> None:
        stall_o = stalls(stall, seed=seed + 2)
        results.extend(await receive(ctx, dut.o, len(expected), stall=stall_o))

    monitor = StreamMonitor(dut.o)
    cycles = 200 + 10 * len(expected)
    simulate(dut, run_sender, beat_sender, receiver, monitors=[monitor], max_cycles=cycles)
    for result, (part, first, last, tag) in zip(results, expected, strict=True):
        got = result.data.to_bytes(width, "little")
        marked = [got[lane] if result.strobe >> lane & 1 else None for lane in range(width)]
        assert (marked, result.first, result.last, result.tag) == (part, first, last, tag)
    return monitor


@pytest.mark.parametrize("width", [4, 8, 32])
@pytest.mark.parametrize(("stall", "seed"), [(0.0, 1), (0.4, 2)])
def test_realigner_moves_any_bytes_anywhere(width: int, stall: float, seed: int) -> None:
    rng = random.Random(seed)
    moves = [
        (
            rng.randrange(width),
            rng.randrange(width),
            rng.choice([1, 2, width, rng.randrange(1, 5 * width)]),
            rng.random() < 0.2,
        )
        for _ in range(40)
    ]
    realign(width, moves, stall=stall, seed=seed)


def test_realigner_does_every_move_of_a_narrow_bus() -> None:
    moves = [(a, b, size, False) for a in range(4) for b in range(4) for size in range(1, 10)]
    realign(4, moves, stall=0.0, seed=5)


def test_realigner_takes_a_beat_every_cycle() -> None:
    """101 beats of results each, and one cycle more where moving touches one more beat."""
    moves = [(0, 0, 808, False), (3, 1, 805, False), (1, 3, 805, False)]
    cycles = realign(8, moves, stall=0.0, seed=3).cycles
    assert len(cycles) == 3 * 101
    assert cycles[-1] - cycles[0] == 3 * 101 - 1 + 1


def cut(
    runs: list[tuple[int, int]], *, space: int = 32, max_beats: int = 32
) -> list[tuple[int, int, int]]:
    """Cut runs, and return address, beats, last of the bursts."""
    dut = Splitter(CONFIG, size_width=20, space_width=6, max_beats=max_beats)
    bursts: list[tuple[int, int, int]] = []

    async def sender(ctx: SimulatorContext) -> None:
        ctx.set(dut.space, space)
        ctx.set(dut.plenty, space >= max_beats)
        await send(ctx, dut.i, [{"address": a, "more": s - 1, "last": 1} for a, s in runs])

    async def receiver(ctx: SimulatorContext) -> None:
        for _ in runs:
            last = 0
            while not last:
                [burst] = await receive(ctx, dut.o, 1)
                last = burst.last
                bursts.append((burst.address, burst.length + 1, last))

    simulate(dut, sender, receiver, monitors=[StreamMonitor(dut.o)], max_cycles=4000)
    return bursts


def test_splitter_by_hand() -> None:
    assert cut([(0, 8)]) == [(0, 1, 1)]
    assert cut([(7, 2)]) == [(0, 2, 1)]
    assert cut([(0, 256)]) == [(0, 32, 1)]
    assert cut([(1, 256)]) == [(0, 32, 0), (256, 1, 1)]
    assert cut([(0xFFF, 2)]) == [(0xFF8, 1, 0), (0x1000, 1, 1)]
    assert cut([(0xFF8, 8), (0x1000, 8)]) == [(0xFF8, 1, 1), (0x1000, 1, 1)]


@pytest.mark.parametrize("max_beats", [1, 4, 32])
def test_splitter_covers_runs_within_4_kib(max_beats: int) -> None:
    rng = random.Random(max_beats)
    runs = [(rng.randrange(1 << 20), rng.randrange(1, 600)) for _ in range(20)]
    bursts = iter(cut(runs, max_beats=max_beats))
    for address, size in runs:
        at = address // 8 * 8
        last = 0
        while not last:
            start, beats, last = next(bursts)
            assert start == at
            assert 1 <= beats <= max_beats
            assert start // 4096 == (start + 8 * beats - 1) // 4096
            at += 8 * beats
        assert at == -(-(address + size) // 8) * 8
    assert not list(bursts)


def test_splitter_waits_for_space() -> None:
    dut = Splitter(CONFIG, size_width=20, space_width=6)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.space, 9)
        await send(ctx, dut.i, [{"address": 0, "more": 79, "last": 0}])
        for _ in range(20):
            _, _, valid, reserve = await ctx.tick().sample(dut.o.valid, dut.reserve)
            assert not valid
            assert not reserve
        ctx.set(dut.space, 10)
        reserves = [(await ctx.tick().sample(dut.reserve))[2] for _ in range(2)]
        assert reserves == [0, 1]
        _, _, valid, length = await ctx.tick().sample(dut.o.valid, dut.o.p.length)
        assert (valid, length) == (1, 9)

    simulate(dut, bench, max_cycles=100)


@pytest.mark.parametrize(
    ("max_beats", "message"),
    [(24, "power of two, but is 24"), (512, "512 beats can cross 4 KiB"), (0, "but is 0")],
)
def test_splitter_rejects_bursts_that_are_illegal(max_beats: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_max_beats(CONFIG, max_beats)


def test_readers_take_turns_and_fetches_go_first() -> None:
    """All three want to read all the time."""
    dut = ReadChannel(CONFIG)
    ids: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.ar.ready, 1)
        ctx.set(dut.stream_next, 1)
        ctx.set(dut.load_next, 1)
        await ctx.tick()
        ctx.set(dut.stream_burst.valid, 1)
        ctx.set(dut.load_burst.valid, 1)
        for cycle in range(40):
            ctx.set(dut.fetch.request.valid, int(cycle in range(20, 24)))
            _, _, valid, id_ = await ctx.tick().sample(dut.ar.valid, dut.ar.id)
            if valid:
                ids.append(id_)

    simulate(dut, bench, max_cycles=100)
    stream, load, fetch = (
        AxiSignature.STREAM_ID,
        AxiSignature.LOAD_ID,
        AxiSignature.FETCH_ID,
    )
    others = [id_ for id_ in ids if id_ != fetch]
    assert len(ids) == 20
    assert ids[10:12] == [fetch, fetch]
    assert others == [stream, load] * 9


class WatchedSplitter(Splitter):
    """A splitter that asserts what induction has to know."""

    def elaborate(self, platform: object) -> Module:
        """Add the assertions."""
        m = super().elaborate(platform)
        several = (self.state & (self.state - 1)).any()
        foretold = Signal()
        m.d.sync += foretold.eq(self.o_next & ~(self.o.valid & self.o.ready))
        _, counts, checks, offers = self.state
        inner = exact_log2(self.max_beats)
        begin = self.o.p.address >> exact_log2(self.config.axi_bytes)
        with m.If(counts & ~self.far):
            m.d.comb += Assert(self.last_beat >= self.beat[:inner], "ends before it begins")
        with m.If(checks | offers):
            m.d.comb += Assert(begin[:inner] + self.o.p.length < self.max_beats, "too long")
            m.d.comb += Assert(self.beat[:inner] == 0, "does not go on at the boundary")
        m.d.comb += [
            Assert(self.o.valid == foretold, "an offer came untold"),
            Assert(self.state.any() & ~several, "not in one state"),
        ]
        return m


class WatchedPingPong(PingPong):
    """Two registers that assert what induction has to know."""

    def elaborate(self, platform: object) -> Module:
        """Add the assertions."""
        m = super().elaborate(platform)
        ready = self.i.ready
        m.d.comb += [
            Assert(self.i_enable == ready, "copies differ"),
            Assert(self.takes == Cat(ready & ~self.turn, ready & self.turn), "takes out of turn"),
            Assert(self.o.valid | ready, "nothing is held, and nothing taken"),
            # One is held if one is taken, else both or none.
            Assert((self.turn ^ self.reads) == (self.o.valid & ready), "reads out of turn"),
        ]
        return m


class SplitterProperty(wiring.Component):
    """A splitter that has space, and that none of its bursts crosses 4 KiB."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self) -> None:
        self.unit = WatchedSplitter(CONFIG, size_width=14, space_width=6)
        super().__init__(
            {"i": In(self.unit.i.signature.flip()), "o": Out(self.unit.o.signature)},
        )

    def elaborate(self, platform: object) -> Module:
        """Add the length to the address."""
        m = Module()
        m.submodules.unit = self.unit
        wiring.connect(m, wiring.flipped(self.i), self.unit.i)
        wiring.connect(m, self.unit.o, wiring.flipped(self.o))
        burst = self.o.p
        last_byte = Signal(14)
        m.d.comb += [
            self.unit.space.eq(self.unit.max_beats),
            self.unit.plenty.eq(1),
            last_byte.eq(burst.address[:12] + (burst.length << 3) + 7),
        ]
        with m.If(self.o.valid):
            m.d.comb += Assert(last_byte < BOUNDARY, "a burst crosses 4 KiB")
            m.d.comb += Assert(burst.length < self.unit.max_beats, "a burst is too long")
        return m


@pytest.mark.synth
@pytest.mark.parametrize(
    "build",
    [
        lambda: Skid(9),
        lambda: WatchedPingPong(9),
        lambda: SkiddedRealigner(width=4, size_width=6, tag=2),
        lambda: WatchedSplitter(CONFIG, size_width=14, space_width=6),
    ],
    ids=["skid", "ping-pong", "realigner", "splitter"],
)
def test_handshake_is_kept_for_all_inputs(build: Callable[[], Any]) -> None:
    prove(HandshakeProperty(build()))


@pytest.mark.synth
def test_no_run_makes_a_burst_that_crosses_4_kib() -> None:
    prove(SplitterProperty())
