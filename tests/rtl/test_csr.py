"""The register port: every register as the table says, and AXI4-Lite in every order."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from amaranth.hdl import Fragment, ResetInserter, Signal

from systolith import regs
from systolith.config import ISA_VERSION, preset
from systolith.isa import Engine
from systolith_rtl.control.counters import ALWAYS, COUNTERS, SAME, Counters
from systolith_rtl.control.csr import CLEARING_CYCLES, PROGRAM, Csr
from systolith_rtl.settings import PLACES
from systolith_sim.testbench import SimulatorContext, simulate

CONFIG = preset("tiny")

WRITABLE = [
    register for register in regs.REGISTERS if register.writable and register.name != "control"
]
CONSTANTS = {
    "id": regs.MAGIC,
    "version": ISA_VERSION,
    "config_hash_lo": CONFIG.hash & 0xFFFF_FFFF,
    "config_hash_hi": CONFIG.hash >> 32,
    "capabilities": 1,
    "control": 0,
}
COUNTED = {
    f"{name}{suffix}": COUNTERS.index(SAME.get(name, name))
    for name in (*COUNTERS, *SAME)
    for suffix in ("", "_lo", "_hi")
    if f"{name}{suffix}" in regs.BY_NAME
}
"""Registers that are read from the counters, by name, with the counter's index."""

INPUTS = [
    register
    for register in regs.REGISTERS
    if not register.writable and register.name not in CONSTANTS | COUNTED
]

PORTS = [
    register for register in WRITABLE if register.name not in PLACES or register.name in PROGRAM
]
"""Registers with an output of their own."""

HOLES = sorted(set(range(0, regs.SPAN, 4)) - {register.offset for register in regs.REGISTERS})


class Host:
    """The other side of the port; `order` says what of a write comes first."""

    def __init__(self, ctx: SimulatorContext, dut: Csr, *, seed: int | None = None) -> None:
        self.ctx = ctx
        self.bus = dut.s_axil
        self.random = random.Random(seed) if seed is not None else None

    async def idle(self) -> None:
        """Let some cycles go by, if this host is a slow one."""
        if self.random is not None:
            for _ in range(self.random.choice([0, 0, 1, 3])):
                await self.ctx.tick()

    async def transfer(self, channel: object, **payload: int) -> None:
        """Offer on one channel until it is taken."""
        ctx = self.ctx
        for name, value in payload.items():
            ctx.set(getattr(channel, name), value)
        ctx.set(channel.valid, 1)
        ready = 0
        while not ready:
            _, _, ready = await ctx.tick().sample(channel.ready)
        ctx.set(channel.valid, 0)

    async def response(self, channel: object) -> int:
        """Take a response; return its data, or 0 for a write."""
        ctx = self.ctx
        await self.idle()
        ctx.set(channel.ready, 1)
        data = channel.data if hasattr(channel, "data") else channel.resp
        valid = 0
        while not valid:
            _, _, valid, value, resp = await ctx.tick().sample(channel.valid, data, channel.resp)
        ctx.set(channel.ready, 0)
        assert resp == 0
        return value

    async def write(self, offset: int, value: int, *, strobe: int = 15, order: str = "aw") -> None:
        """Write, address first (`aw`) or data first (`wa`)."""
        for channel in order:
            if channel == "a":
                await self.transfer(self.bus.aw, addr=offset)
            else:
                await self.transfer(self.bus.w, data=value, strb=strobe)
            await self.idle()
        await self.response(self.bus.b)

    async def read(self, offset: int) -> int:
        """Read."""
        await self.transfer(self.bus.ar, addr=offset)
        return await self.response(self.bus.r)


def run(*benches: Callable[[SimulatorContext, Csr], object], max_cycles: int = 5000) -> None:
    """Simulate the registers with some test benches."""
    dut = Csr(CONFIG)

    def bind(bench: Callable) -> Callable:
        async def bound(ctx: SimulatorContext) -> None:
            await bench(ctx, dut)

        return bound

    simulate(dut, *map(bind, benches), max_cycles=max_cycles)


def test_every_writable_register() -> None:
    """It starts at its reset value, keeps what its mask lets through, and is its own."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        generator = random.Random(0)
        written = {}
        for register in WRITABLE:
            assert await host.read(register.offset) == register.reset
            value = generator.getrandbits(32) | 1
            await host.write(register.offset, value)
            written[register] = value & register.mask
        for register, value in written.items():
            assert await host.read(register.offset) == value, register.name
            if register in PORTS:
                assert ctx.get(getattr(dut, register.name)) == value
        for register in WRITABLE:
            await host.write(register.offset, 0xFFFF_FFFF)
            assert await host.read(register.offset) == register.mask

    run(bench)


def test_every_read_only_register() -> None:
    """It shows what the core says, and a write changes nothing."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        generator = random.Random(1)
        values = {register: generator.getrandbits(32) for register in INPUTS}
        for register, value in values.items():
            ctx.set(getattr(dut, register.name), value)
        for register, value in values.items():
            assert await host.read(register.offset) == value, register.name
            await host.write(register.offset, ~value & 0xFFFF_FFFF)
            assert await host.read(register.offset) == value
        for name, value in CONSTANTS.items():
            assert await host.read(regs.offset(name)) == value, name
            if name != "control":
                await host.write(regs.offset(name), 0)
                assert await host.read(regs.offset(name)) == value

    run(bench)


def test_counters() -> None:
    """A counter is asked for by its index, and its answer taken when it must be there."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        for name, index in COUNTED.items():
            await host.transfer(dut.s_axil.ar, addr=regs.offset(name))
            for _ in range(2):
                await ctx.tick()
            assert ctx.get(dut.counter) == index
            # Whatever is there before the time is up does not count.
            ctx.set(dut.count, 0xDEAD_DEAD_DEAD)
            for _ in range(Counters.DELAY - 2):
                await ctx.tick()
                assert ctx.get(dut.counter) == index
            ctx.set(dut.count, 0x1234_89AB_CDEF + index)
            expected = 0x1234 if name.endswith("_hi") else 0x89AB_CDEF + index
            assert await host.response(dut.s_axil.r) == expected, name

    run(bench)


def test_without_counters_of_stalls() -> None:
    """They read 0, whatever the counters say, without waiting; those that are left are found."""
    config = replace(CONFIG, stall_counters=False)
    dut = Csr(config)
    left = [name for name in COUNTED if regs.BY_NAME[name].needs is None]
    assert len(left) == 2 * len(ALWAYS) - 1

    async def bench(ctx: SimulatorContext) -> None:
        host = Host(ctx, dut)
        ctx.set(dut.count, 0x1234_89AB_CDEF)
        assert await host.read(regs.offset("capabilities")) == 0
        for name in COUNTED:
            value = await host.read(regs.offset(name))
            if name not in left:
                assert value == 0, name
            else:
                assert value == (0x1234 if name.endswith("_hi") else 0x89AB_CDEF), name
                assert ALWAYS[ctx.get(dut.counter)] in name
        for register in INPUTS:
            ctx.set(getattr(dut, register.name), register.offset)
            assert await host.read(register.offset) == register.offset

    simulate(dut, bench, max_cycles=2000)


def test_the_rest_reads_zero() -> None:
    """And a write to it is answered and lost."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        for register in INPUTS:
            ctx.set(getattr(dut, register.name), 0xFFFF_FFFF)
        for offset in HOLES:
            await host.write(offset, 0xFFFF_FFFF)
        for offset in HOLES:
            assert await host.read(offset) == 0, hex(offset)
        for register in WRITABLE:
            assert await host.read(register.offset) == register.reset
        for register in PORTS:
            assert ctx.get(getattr(dut, register.name)) == register.reset

    run(bench)


def test_settings_are_told() -> None:
    """Each one's place and bytes, masked, for one cycle; nothing else is; and zeros at first."""
    told = []
    dut = Csr(CONFIG)

    async def bench(ctx: SimulatorContext) -> None:
        host = Host(ctx, dut)
        for register in WRITABLE:
            await host.write(register.offset, 0xFFFF_FFFF, strobe=5)

    async def watch(ctx: SimulatorContext) -> None:
        change = dut.change
        for _ in range(800):
            _, _, place, data, write = await ctx.tick().sample(
                change.place, change.data, change.write
            )
            if write:
                told.append((place, data, write))

    simulate(dut, bench, watch, max_cycles=1000)
    assert told[:CLEARING_CYCLES] == [(place, 0, 15) for place in range(CLEARING_CYCLES)]
    names = [register.name for register in WRITABLE if register.name in PLACES]
    assert told[CLEARING_CYCLES:] == [(PLACES[name], regs.BY_NAME[name].mask, 5) for name in names]
    assert sorted(names) == sorted(PLACES)


def test_reset_clears_settings() -> None:
    """They are in memories, which keep what they have."""
    dut = Csr(CONFIG)
    reset = Signal()

    async def bench(ctx: SimulatorContext) -> None:
        host = Host(ctx, dut)
        for name in PLACES:
            await host.write(regs.offset(name), 0xFFFF_FFFF)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await host.write(regs.offset("scalar3"), 9)
        for name in PLACES:
            assert await host.read(regs.offset(name)) == (9 if name == "scalar3" else 0)

    simulate(ResetInserter(reset)(dut), bench, max_cycles=2000)


@pytest.mark.parametrize("strobe", range(16))
def test_strobes(strobe: int) -> None:
    """Only the bytes that are meant change."""
    mask = sum(0xFF << 8 * index for index in range(4) if strobe >> index & 1)

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        offset = regs.offset("scalar2")
        await host.write(offset, 0x1234_5678)
        await host.write(offset, 0xA9CB_EDFF, strobe=strobe)
        assert await host.read(offset) == (0x1234_5678 & ~mask) | (0xA9CB_EDFF & mask)

    run(bench)


def test_commands_last_one_cycle() -> None:
    """Each bit of `control`, once per write, and not at all without its byte's strobe."""
    seen = []

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        for value in (1, 2, 4, 8, 15, 0xFFFF_FFF0):
            await host.write(regs.offset("control"), value)
        await host.write(regs.offset("control"), 15, strobe=0b1110)
        await host.write(regs.offset("scalar0"), 15)

    dut = Csr(CONFIG)

    async def bound(ctx: SimulatorContext) -> None:
        await bench(ctx, dut)

    async def watch(ctx: SimulatorContext) -> None:
        for _ in range(60 + CLEARING_CYCLES):
            _, _, control = await ctx.tick().sample(dut.control)
            if control:
                seen.append(control)

    simulate(dut, bound, watch, max_cycles=200)
    assert seen == [1, 2, 4, 8, 15]


@pytest.mark.parametrize("order", ["aw", "wa"])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_orders_and_pauses(order: str, seed: int | None) -> None:
    """Address first, data first, hosts that take their time."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut, seed=seed)
        for value in range(1, 20):
            offset = 0x80 + 4 * (value % 4)
            await host.write(offset, value, order=order)
            assert await host.read(offset) == value

    run(bench)


def test_what_is_not_valid_does_not_count() -> None:
    """Anything may be on the wires before an address or data comes, and behind it."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut, seed=3)
        bus = dut.s_axil
        generator = random.Random(4)

        async def noise() -> None:
            for _ in range(generator.randint(1, 4)):
                for channel in (bus.aw, bus.ar):
                    ctx.set(channel.addr, 4 * generator.randrange(regs.SPAN // 4))
                ctx.set(bus.w.data, generator.getrandbits(32))
                ctx.set(bus.w.strb, generator.getrandbits(4))
                await ctx.tick()

        expected = {register: register.reset for register in WRITABLE}
        for order in ("aw", "wa") * 20:
            register = generator.choice(WRITABLE)
            value = generator.getrandbits(32)
            for channel in order:
                await noise()
                if channel == "a":
                    await host.transfer(bus.aw, addr=register.offset)
                else:
                    await host.transfer(bus.w, data=value, strb=15)
            await noise()
            await host.response(bus.b)
            expected[register] = value & register.mask
            await noise()
            await host.transfer(bus.ar, addr=register.offset)
            await noise()
            assert await host.response(bus.r) == expected[register]
        for register, value in expected.items():
            assert await host.read(register.offset) == value, register.name

    run(bench)


def test_address_and_data_together() -> None:
    """Both in the same cycle, as most hosts do: what is written is there 2 cycles later."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        bus = dut.s_axil
        await host.write(regs.offset("watchdog"), 0)
        ctx.set(bus.b.ready, 1)
        for value in (7, 8, 9):
            ctx.set(bus.aw.addr, regs.offset("watchdog"))
            ctx.set(bus.w.data, value)
            ctx.set(bus.w.strb, 15)
            ctx.set(bus.aw.valid, 1)
            ctx.set(bus.w.valid, 1)
            _, _, address, data = await ctx.tick().sample(bus.aw.ready, bus.w.ready)
            assert address
            assert data
            ctx.set(bus.aw.valid, 0)
            ctx.set(bus.w.valid, 0)
            await ctx.tick()
            await ctx.tick()
            assert ctx.get(dut.watchdog) == value
            assert ctx.get(bus.b.valid)
            await ctx.tick()
        ctx.set(bus.b.ready, 0)
        assert await host.read(regs.offset("watchdog")) == 9

    run(bench)


def test_one_of_each_at_a_time() -> None:
    """Nothing is accepted while a response waits, and reads do not wait for writes."""

    async def bench(ctx: SimulatorContext, dut: Csr) -> None:
        host = Host(ctx, dut)
        bus = dut.s_axil
        await host.transfer(bus.aw, addr=regs.offset("watchdog"))
        ctx.set(bus.aw.valid, 1)
        for _ in range(5):
            _, _, ready = await ctx.tick().sample(bus.aw.ready)
            assert not ready
        ctx.set(bus.aw.valid, 0)
        # Half a write is under way, and a read is answered.
        assert await host.read(regs.offset("id")) == regs.MAGIC
        await host.transfer(bus.ar, addr=regs.offset("version"))
        # The read's answer is not taken, and the write ends.
        await host.transfer(bus.w, data=5, strb=15)
        while not ctx.get(bus.b.valid):
            await ctx.tick()
        assert not ctx.get(bus.aw.ready)
        assert not ctx.get(bus.w.ready)
        await host.response(bus.b)
        assert ctx.get(dut.watchdog) == 5
        ctx.set(bus.ar.valid, 1)
        for _ in range(5):
            _, _, ready, valid = await ctx.tick().sample(bus.ar.ready, bus.r.valid)
            assert not ready
        assert valid
        ctx.set(bus.ar.valid, 0)
        assert await host.response(bus.r) == ISA_VERSION

    run(bench)


def test_table_is_complete() -> None:
    """Every register of the table has a port or is a constant."""
    dut = Csr(CONFIG)
    Fragment.get(dut, None)
    for register in (*PORTS, *INPUTS):
        assert len(getattr(dut, register.name)) == 32
    assert len(WRITABLE) - len(PORTS) + len(PROGRAM) == len(PLACES)
    assert len(WRITABLE) + len(INPUTS) + len(CONSTANTS) + len(COUNTED) == len(regs.REGISTERS)
    assert len(COUNTED) == 2 * len(COUNTERS) - 1 + 2
    assert {COUNTED[f"row_stall_awaited_{half}"] for half in ("lo", "hi")} == {
        COUNTERS.index("row_stall")
    }
    assert sum(register.name.endswith("_retired") for register in INPUTS) == len(Engine)
