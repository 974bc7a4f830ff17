"""What holds and counts between the parts of the DMA, and says ahead what it takes."""

import random

import pytest
from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from systolith.config import preset
from systolith_rtl.dma.fifo import BeatFifo, Queue, count
from systolith_rtl.dma.write import WriteChannel
from systolith_rtl.skid import PingPong, Skid
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


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_beat_fifo_holds_what_was_reserved(stall: float) -> None:
    """As many beats as it has room for, in order; at full rate without a gap."""
    depth, count = 32, 200
    dut = BeatFifo(width=16, depth=depth)
    free = depth
    values: list[int] = []

    async def writer(ctx: SimulatorContext) -> None:
        nonlocal free
        stall_i = stalls(stall, seed=1)
        sent = 0
        while sent < count:
            push = free > 0 and not next(stall_i)
            ctx.set(dut.push, push)
            ctx.set(dut.data, 1000 + sent)
            free -= push
            sent += push
            await ctx.tick()
        ctx.set(dut.push, 0)

    async def reader(ctx: SimulatorContext) -> None:
        nonlocal free
        stall_o = stalls(stall, seed=2)
        for _ in range(60):
            await ctx.tick()
        while len(values) < count:
            values.extend(await receive(ctx, dut.o, 1, stall=stall_o))
            free += 1

    monitor = StreamMonitor(dut.o)
    simulate(dut, writer, reader, monitors=[monitor], max_cycles=2000)
    assert values == list(range(1000, 1000 + count))
    if not stall:
        assert monitor.cycles == list(range(60, 60 + count))


def test_beat_fifo_ends_at_an_error() -> None:
    """Beats before it leave, and only then it has failed; nothing behind it ever leaves."""
    dut = BeatFifo(width=16, depth=32)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.push, 1)
        for number in range(8):
            ctx.set(dut.data, number)
            ctx.set(dut.error, number == 3)
            await ctx.tick()
        ctx.set(dut.push, 0)
        for _ in range(20):
            _, _, failed = await ctx.tick().sample(dut.failed)
            assert not failed
        assert await receive(ctx, dut.o, 3) == [0, 1, 2]
        ctx.set(dut.o.ready, 1)
        for cycle in range(20):
            _, _, valid, failed = await ctx.tick().sample(dut.o.valid, dut.failed)
            assert not valid
            assert failed or not cycle

    simulate(dut, bench, max_cycles=100)


@pytest.mark.parametrize(("stall_i", "stall_o"), [(0.0, 0.0), (0.5, 0.5), (0.0, 0.7), (0.7, 0.0)])
def test_queue_keeps_order_and_rate(stall_i: float, stall_o: float) -> None:
    dut = Queue(8, depth=4)
    values: list[int] = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, range(100), stall=stalls(stall_i, seed=3))

    async def receiver(ctx: SimulatorContext) -> None:
        values.extend(await receive(ctx, dut.o, 100, stall=stalls(stall_o, seed=4)))

    monitor = StreamMonitor(dut.o)
    simulate(dut, sender, receiver, monitors=[monitor], max_cycles=1000)
    assert values == list(range(100))
    if not stall_i and not stall_o:
        assert monitor.cycles == list(range(1, 101))


@pytest.mark.parametrize("trusted", [False, True])
def test_queue_holds_its_depth(trusted: bool) -> None:
    """What stands in front of a full queue is not written over what it holds."""
    dut = Queue(8, depth=4, trusted=trusted)

    async def bench(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, range(4))
        ctx.set(dut.i.payload, 99)
        ctx.set(dut.i.valid, not trusted)
        for _ in range(5):
            _, _, ready = await ctx.tick().sample(dut.i.ready)
            assert not ready
        ctx.set(dut.i.valid, 0)
        assert await receive(ctx, dut.o, 4) == [0, 1, 2, 3]
        assert not ctx.get(dut.o.valid)

    simulate(dut, bench, max_cycles=100)


class CountProperty(wiring.Component):
    """A count, and the assertion that its registers are the comparisons that they stand for."""

    up: Signal
    down: Signal

    def __init__(self, *, limit: int, init: int) -> None:
        self.limit = limit
        self.first = init
        super().__init__({"up": In(1), "down": In(1)})

    def elaborate(self, platform: object) -> Module:
        """Count only what there is, and has room."""
        m = Module()
        up, down = Signal(), Signal()
        held = count(m, "held", up=up, down=down, limit=self.limit, init=self.first)
        m.d.comb += [
            up.eq(self.up & held.room),
            down.eq(self.down & held.some),
            Assert(held.level <= self.limit),
            Assert(held.some == (held.level != 0)),
            Assert(held.room == (held.level != self.limit)),
        ]
        return m


@pytest.mark.synth
@pytest.mark.parametrize(("limit", "init"), [(3, 0), (8, 8), (12, 0)])
def test_count_knows_whether_there_is_any_and_room(limit: int, init: int) -> None:
    prove(CountProperty(limit=limit, init=init))


def test_write_channel_foretells_when_it_takes_a_beat() -> None:
    dut = WriteChannel(CONFIG)
    rng = random.Random(6)
    ready: list[int] = []
    foretold: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        for cycle in range(2000):
            ctx.set(dut.burst.valid, rng.random() < 0.3)
            ctx.set(dut.burst.p.length, rng.randrange(4))
            ctx.set(dut.beat.valid, rng.random() < 0.8)
            ctx.set(dut.stopped, cycle > 1900)
            ctx.set(dut.aw.ready, rng.random() < 0.5)
            ctx.set(dut.w.ready, rng.random() < (0.9 if cycle < 1000 else 0.4))
            ctx.set(dut.b.valid, rng.random() < 0.2)
            _, _, takes, will_take = await ctx.tick().sample(dut.beat.ready, dut.beat_next)
            ready.append(takes)
            foretold.append(will_take)

    simulate(dut, bench, max_cycles=3000)
    assert ready[1:] == foretold[:-1]
    assert set(ready) == {0, 1}


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_skid_keeps_order_and_rate(stall: float) -> None:
    dut = Skid(8)
    values: list[int] = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, range(100), stall=stalls(stall, seed=3))

    async def receiver(ctx: SimulatorContext) -> None:
        values.extend(await receive(ctx, dut.o, 100, stall=stalls(stall, seed=4)))

    ready: list[int] = []
    foretold: list[int] = []

    async def watcher(ctx: SimulatorContext) -> None:
        while len(values) < 90:
            _, _, now, enable, then = await ctx.tick().sample(dut.i.ready, dut.i_enable, dut.i_next)
            assert enable == now
            ready.append(now)
            foretold.append(then)

    monitor = StreamMonitor(dut.o)
    simulate(dut, sender, receiver, watcher, monitors=[monitor], max_cycles=1000)
    assert values == list(range(100))
    assert ready[1:] == foretold[:-1]
    if not stall:
        assert monitor.cycles == list(range(1, 101))


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_ping_pong_keeps_order_and_rate(stall: float) -> None:
    dut = PingPong(8)
    values: list[int] = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, range(100), stall=stalls(stall, seed=5))

    async def receiver(ctx: SimulatorContext) -> None:
        values.extend(await receive(ctx, dut.o, 100, stall=stalls(stall, seed=6)))

    async def watcher(ctx: SimulatorContext) -> None:
        while len(values) < 90:
            _, _, now, enable, valid, empty = await ctx.tick().sample(
                dut.i.ready, dut.i_enable, dut.o.valid, dut.empty
            )
            assert enable == now
            assert empty == (not valid)

    monitor = StreamMonitor(dut.o)
    simulate(dut, sender, receiver, watcher, monitors=[monitor], max_cycles=1000)
    assert values == list(range(100))
    if not stall:
        assert monitor.cycles == list(range(1, 101))
