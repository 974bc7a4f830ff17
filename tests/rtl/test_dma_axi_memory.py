"""The AXI memory catches a master that breaks the protocol, and serves one that does not."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from systolith.config import preset
from systolith_rtl.interfaces import AxiSignature
from systolith_sim.axi import AxiFaults, AxiMemory
from systolith_sim.testbench import ProtocolError, SimulatorContext, simulate

CONFIG = preset("ecp5-85k")
BYTES = CONFIG.axi_bytes

Act = Callable[[SimulatorContext, Any], Coroutine[Any, Any, None]]


class Master(wiring.Component):
    """An AXI master that a test plays by hand."""

    axi: Any

    def __init__(self) -> None:
        super().__init__({"axi": Out(AxiSignature(CONFIG))})

    def elaborate(self, platform: object) -> Module:
        """Only a clock: the test drives the port."""
        m = Module()
        ticking = Signal()
        m.d.sync += ticking.eq(~ticking)
        return m


def play(act: Act, **options: Any) -> AxiMemory:
    """Let `act` drive a master in front of a memory whose byte `i` is `i % 251`."""
    dut = Master()
    memory = AxiMemory(bytearray(i % 251 for i in range(1 << 14)), dut.axi, **options)

    async def master(ctx: SimulatorContext) -> None:
        await act(ctx, dut.axi)
        await ctx.tick()

    simulate(dut, master, monitors=[memory], max_cycles=2000)
    return memory


async def offer(ctx: SimulatorContext, channel: Any, **fields: int) -> None:
    """Raise a channel and wait for it to be accepted."""
    for name, value in fields.items():
        ctx.set(getattr(channel, name), value)
    ctx.set(channel.valid, 1)
    ready = 0
    while not ready:
        _, _, ready = await ctx.tick().sample(channel.ready)
    ctx.set(channel.valid, 0)


async def address(
    ctx: SimulatorContext, channel: Any, addr: int, beats: int, **fields: int
) -> None:
    """Offer a burst that keeps the rules, but for `fields`."""
    legal = {"addr": addr, "len": beats - 1, "size": 3, "burst": 1}
    await offer(ctx, channel, **(legal | fields))


async def data_beats(ctx: SimulatorContext, axi: Any, beats: list[tuple[int, int, int]]) -> None:
    """Send data, strobe, last."""
    for data, strobe, last in beats:
        await offer(ctx, axi.w, data=data, strb=strobe, last=last)


async def answer(ctx: SimulatorContext, channel: Any, *members: str) -> list[int]:
    """Accept one answer, and return its members."""
    ctx.set(channel.ready, 1)
    valid = 0
    values: list[int] = []
    while not valid:
        _, _, valid, *values = await ctx.tick().sample(
            channel.valid, *(getattr(channel, name) for name in members)
        )
    ctx.set(channel.ready, 0)
    return values


def refused(act: Act, message: str, **options: Any) -> None:
    """Expect a protocol error."""
    with pytest.raises(ProtocolError, match=message):
        play(act, **options)


@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_reads_what_is_there(stall: float) -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        await address(ctx, axi.ar, 0x40, 3, id=2)
        for beat in range(3):
            data, id_, last, resp = await answer(ctx, axi.r, "data", "id", "last", "resp")
            expected = bytes(range(0x40 + 8 * beat, 0x48 + 8 * beat))
            assert data.to_bytes(8, "little") == expected
            assert (id_, last, resp) == (2, beat == 2, 0)

    memory = play(act, stall=stall)
    assert [beat[1] for beat in memory.read_beats] == [2, 2, 2]
    assert memory.idle


@pytest.mark.parametrize("waits", [False, True])
def test_writes_strobed_bytes_and_nothing_else(waits: bool) -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        # Both channels at once, since the memory may wait for either.
        raised = [axi.aw, axi.w]
        for name, value in (("addr", 0x80), ("len", 1), ("size", 3), ("burst", 1)):
            ctx.set(getattr(axi.aw, name), value)
        ctx.set(axi.w.data, 0x8877665544332211)
        ctx.set(axi.w.strb, 0b10000100)
        for channel in raised:
            ctx.set(channel.valid, 1)
        while raised:
            _, _, *ready = await ctx.tick().sample(*(channel.ready for channel in raised))
            for channel in [c for c, taken in zip(raised, ready, strict=True) if taken]:
                ctx.set(channel.valid, 0)
                raised.remove(channel)
        await data_beats(ctx, axi, [(0xFF, 0, 1)])
        assert await answer(ctx, axi.b, "resp") == [0]

    memory = play(act, address_waits_for_data=waits, stall=0.3)
    expected = bytearray(range(0x80, 0x90))
    expected[2], expected[7] = 0x33, 0x88
    assert memory.memory[0x80:0x90] == expected
    assert memory.strobed == 2
    assert memory.idle


def test_latency_is_exact() -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        ctx.set(axi.r.ready, 1)
        await address(ctx, axi.ar, 0, 4)
        await ctx.tick().repeat(40)

    memory = play(act, latency=12)
    accepted = memory.reads[0].cycle
    assert [cycle - accepted for cycle, _ in memory.read_beats] == [12, 13, 14, 15]


def test_ids_interleave_only_when_asked() -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        ctx.set(axi.r.ready, 1)
        for id_ in (0, 1, 2):
            await address(ctx, axi.ar, 64 * id_, 8, id=id_)
        await ctx.tick().repeat(60)

    in_order = [id_ for id_ in (0, 1, 2) for _ in range(8)]
    assert [id_ for _, id_ in play(act).read_beats] == in_order
    mixed = [id_ for _, id_ in play(act, interleave=True).read_beats]
    assert mixed != in_order
    assert sorted(mixed) == in_order


def test_answers_with_errors_where_it_should() -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        await address(ctx, axi.ar, 0, 3, id=1)
        responses = [await answer(ctx, axi.r, "resp") for _ in range(3)]
        assert responses == [[0], [2], [0]]
        for _ in range(2):
            await address(ctx, axi.aw, 0, 1)
            await data_beats(ctx, axi, [(0, 0xFF, 1)])
            responses.append(await answer(ctx, axi.b, "resp"))
        assert responses[3:] == [[0], [2]]

    play(act, faults=AxiFaults(reads={(1, 1)}, writes={1}))


@pytest.mark.parametrize(
    ("channel", "changes", "message"),
    [
        ("ar", {"burst": 0}, "Cycle 1: AR burst type 0 is not INCR"),
        ("aw", {"burst": 2}, "AW burst type 2 is not INCR"),
        ("ar", {"size": 2}, "AR size of 4 bytes is not the bus width, 8 bytes"),
        ("aw", {"lock": 1}, "AW is an exclusive access"),
        ("ar", {"addr": 0x44}, "AR address 0x44 is not aligned to the bus"),
        ("ar", {"addr": 0xFF8, "len": 1}, "AR burst from 0xff8 to 0x1007 crosses 4 KiB"),
        ("aw", {"addr": 0x1F80, "len": 255}, "AW burst from 0x1f80 to 0x277f crosses 4 KiB"),
        ("ar", {"addr": 0x4000}, "AR reads 0x4000 to 0x4007, which is not allowed"),
    ],
)
def test_catches_illegal_bursts(channel: str, changes: dict[str, int], message: str) -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        await ctx.tick()
        await address(ctx, getattr(axi, channel), **({"addr": 0, "beats": 1} | changes))

    refused(act, message)


def test_burst_up_to_the_boundary_is_legal() -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        await address(ctx, axi.ar, 0xF00, 32)
        await address(ctx, axi.ar, 0x1000, 32)

    assert len(play(act).reads) == 2


@pytest.mark.parametrize("channel", ["ar", "aw", "w"])
@pytest.mark.parametrize("drops", [True, False])
def test_catches_a_channel_that_is_not_stable(channel: str, drops: bool) -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        port = getattr(axi, channel)
        ctx.set(port.valid, 1)
        await ctx.tick()
        if drops:
            ctx.set(port.valid, 0)
        else:
            ctx.set(port.data if channel == "w" else port.addr, 8)
        await ctx.tick()

    name = channel.upper()
    message = f"{name} dropped VALID before READY" if drops else f"{name} changed before READY"
    refused(act, message, stall=1.0)


@pytest.mark.parametrize(("beats", "lasts"), [(2, [1]), (2, [0, 0]), (1, [0])])
def test_catches_a_wrong_last(beats: int, lasts: list[int]) -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        await address(ctx, axi.aw, 0, beats)
        await data_beats(ctx, axi, [(0, 0xFF, last) for last in lasts])
        await ctx.tick()

    refused(act, f"WLAST is {lasts[-1]} with beat {len(lasts)} of a burst of {beats}")


def test_catches_accesses_beside_what_is_allowed() -> None:
    allowed = [range(0x100, 0x10B)]

    async def strobes(ctx: SimulatorContext, axi: Any, strobe: int) -> None:
        await address(ctx, axi.aw, 0x108, 1)
        await data_beats(ctx, axi, [(0, strobe, 1)])
        await ctx.tick()

    assert play(lambda ctx, axi: strobes(ctx, axi, 0b111), writable=allowed).strobed == 3
    refused(lambda ctx, axi: strobes(ctx, axi, 0b1000), "WSTRB writes 0x10b", writable=allowed)

    async def reads(ctx: SimulatorContext, axi: Any, beats: int) -> None:
        await address(ctx, axi.ar, 0x100, beats)

    # The beat that holds the last byte may be read whole.
    play(lambda ctx, axi: reads(ctx, axi, 2), readable=allowed)
    refused(lambda ctx, axi: reads(ctx, axi, 3), "AR reads 0x100 to 0x117", readable=allowed)


def test_notices_a_master_that_does_not_accept() -> None:
    async def act(ctx: SimulatorContext, axi: Any) -> None:
        await address(ctx, axi.ar, 0, 1)
        await ctx.tick().repeat(20)

    memory = play(act, latency=5)
    assert memory.refused_reads > 10
    assert not memory.idle
