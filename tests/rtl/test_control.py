"""Control with engines and a memory that are coroutines: order, waits, faults, throughput."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from systolith import regs
from systolith.config import CoreConfig, preset
from systolith.isa import OPERANDS, Engine, Instruction, Opcode, encode, make
from systolith.regs import NO_ENGINE, FaultCause, State
from systolith_rtl.control.control import Control
from systolith_rtl.control.fetch import PREFETCH, Fetch
from systolith_rtl.control.queue import IN_FLIGHT, pool_size
from systolith_sim.testbench import SimulatorContext, StreamMonitor, simulate

CONFIG = replace(preset("tiny"), axi_address_bits=33)
BASE = 0x1_0000_0040
"""Where the code is: beyond 32 bits, and no multiple of more than 64."""


def instruction(engine: Engine, *, config: CoreConfig = CONFIG, **values: Any) -> Instruction:
    """A legal instruction of an engine, with its index in an operand."""
    index = values.pop("index", 0)
    operands: dict[Engine, dict[str, int]] = {
        Engine.STREAM: {"size": 64 * (index + 1)},
        Engine.LOAD: {"n0": index + 1, "n1": 1, "n2": 1, "dram_stride1": -index},
        Engine.STORE: {"n0": index + 1, "n1": 1, "n2": 1, "scalar_stride": -1},
        Engine.GEMM: {"m": 1, "n": index + 1, "k": 1},
        Engine.VECTOR: {"m": 1, "n": 1, "x_address": index},
        Engine.ROW: {"rows": 1, "n": 1, "eps_mantissa": index},
    }
    return make(Opcode[engine.name], config, **operands[engine], **values)


HALT = make(Opcode.HALT, CONFIG, code=0x1234_5678)


@dataclass
class World:
    """What control sees: a memory, engines, a host.

    Attributes:
        code: what the memory holds from `BASE` on.
        latency: cycles from a request to its first beat.
        stall: probability with which the memory and the engines do nothing.
        work: cycles from a command to its retirement; from 1 to this.
        seed: of everything random.
        config: of the control.
        taken: cycle and operands of each command, by engine.
        retired_at: cycle of each retirement, by engine.
        most_owed: most instructions that were asked for and not delivered.
    """

    code: bytes
    latency: int = 5
    stall: float = 0.0
    work: int = 1
    seed: int = 0
    config: CoreConfig = CONFIG
    taken: dict[Engine, list[tuple[int, dict[str, int]]]] = field(
        default_factory=lambda: {engine: [] for engine in Engine}
    )
    retired_at: dict[Engine, list[int]] = field(
        default_factory=lambda: {engine: [] for engine in Engine}
    )
    most_owed: int = 0

    def __post_init__(self) -> None:
        self.dut = Control(self.config)

    async def memory(self, ctx: SimulatorContext) -> None:
        """Answer fetches, in order."""
        port = self.dut.fetch
        generator = random.Random(self.seed)
        beat = self.config.axi_bytes
        owed = deque[tuple[int, bytes]]()
        cycle = 0
        while True:
            ready = int(generator.random() >= self.stall)
            ctx.set(port.request.ready, ready)
            ctx.set(port.data_valid, 0)
            if owed and owed[0][0] <= cycle and generator.random() >= self.stall:
                ctx.set(port.data_valid, 1)
                ctx.set(port.data, int.from_bytes(owed.popleft()[1], "little"))
            _, _, valid, address = await ctx.tick().sample(port.request.valid, port.request.payload)
            if valid and ready:
                assert address % 64 == 0
                first = address - BASE
                word = self.code[first : first + 64].ljust(64, b"\xff")
                owed.extend(
                    (cycle + self.latency, word[at : at + beat]) for at in range(0, 64, beat)
                )
            self.most_owed = max(self.most_owed, -(-len(owed) * beat // 64))
            cycle += 1

    def engine(self, engine: Engine) -> Callable:
        """An engine that takes commands and retires them in order, some cycles later."""
        port = getattr(self.dut, engine.name.lower())
        names = [item.name for item in OPERANDS[Opcode[engine.name]]]
        generator = random.Random(f"{self.seed} {engine}")

        async def run(ctx: SimulatorContext) -> None:
            pending = deque[int]()
            cycle = 0
            ctx.set(port.idle, 1)
            while True:
                ready = int(generator.random() >= self.stall)
                ctx.set(port.command.ready, ready)
                retires = int(bool(pending) and pending[0] <= cycle)
                ctx.set(port.retire, retires)
                ctx.set(port.busy, bool(pending))
                _, _, valid, payload = await ctx.tick().sample(
                    port.command.valid, port.command.payload
                )
                if retires:
                    pending.popleft()
                    self.retired_at[engine].append(cycle)
                if valid and ready:
                    self.taken[engine].append((cycle, {name: payload[name] for name in names}))
                    earliest = pending[-1] if pending else cycle
                    pending.append(max(earliest, cycle) + generator.randint(1, self.work))
                cycle += 1

        return run

    async def write(self, ctx: SimulatorContext, name: str, value: int) -> None:
        """Write a register."""
        bus = self.dut.s_axil
        ctx.set(bus.aw.addr, regs.offset(name))
        ctx.set(bus.w.data, value)
        ctx.set(bus.w.strb, 15)
        ctx.set(bus.aw.valid, 1)
        ctx.set(bus.w.valid, 1)
        ctx.set(bus.b.ready, 1)
        taken = 0
        while not taken:
            # After the reset, both wait for the settings to be cleared.
            _, _, taken = await ctx.tick().sample(bus.aw.ready & bus.w.ready)
        ctx.set(bus.aw.valid, 0)
        ctx.set(bus.w.valid, 0)
        answered = 0
        while not answered:
            _, _, answered = await ctx.tick().sample(bus.b.valid)

    async def read(self, ctx: SimulatorContext, name: str) -> int:
        """Read a register."""
        bus = self.dut.s_axil
        ctx.set(bus.ar.addr, regs.offset(name))
        ctx.set(bus.ar.valid, 1)
        ctx.set(bus.r.ready, 1)
        await ctx.tick()
        ctx.set(bus.ar.valid, 0)
        valid = 0
        while not valid:
            _, _, valid, value = await ctx.tick().sample(bus.r.valid, bus.r.data)
        return value

    async def start(self, ctx: SimulatorContext) -> None:
        """Set the registers, and start."""
        ctx.set(self.dut.quiet, 1)
        for name, value in {
            "base0_lo": BASE & 0xFFFF_FFFF,
            "base0_hi": BASE >> 32,
            "limit0": len(self.code),
            "program_size": len(self.code) // 64,
            "program_hash_lo": self.config.hash & 0xFFFF_FFFF,
            "program_hash_hi": self.config.hash >> 32,
            "interrupt_enable": 1,
            "control": 1 << regs.Control.START,
        }.items():
            await self.write(ctx, name, value)

    async def interrupt(self, ctx: SimulatorContext) -> State:
        """Wait for the interrupt; return the state."""
        irq = 0
        while not irq:
            _, _, irq = await ctx.tick().sample(self.dut.irq)
        return State(await self.read(ctx, "status"))

    def run(
        self, host: Callable, *, max_cycles: int = 5000, without: Sequence[Engine] = ()
    ) -> None:
        """Simulate until the host is done; engines in `without` are the host's affair."""
        engines = [self.engine(engine) for engine in Engine if engine not in without]

        async def bound(ctx: SimulatorContext) -> None:
            await host(ctx, self)

        background: Any = [Background(watch) for watch in (self.memory, *engines)]
        simulate(self.dut, bound, monitors=background, max_cycles=max_cycles)


@dataclass
class Background:
    """A coroutine without end, for `simulate`."""

    watch: Callable


def program_of(seed: int, length: int) -> list[Instruction]:
    """A random program whose waits name counts that earlier instructions reach."""
    generator = random.Random(seed)
    counts = dict.fromkeys(Engine, 0)
    program = []
    for index in range(length):
        engine = generator.choice(list(Engine))
        waits = {
            other: generator.randint(0, count)
            for other, count in counts.items()
            if generator.random() < 0.5
        }
        program.append(instruction(engine, index=index, tag=1000 + index, waits=waits))
        counts[engine] += 1
    return program


def as_code(program: Sequence[Instruction], *, halt: Instruction = HALT) -> bytes:
    return b"".join(encode(item) for item in (*program, halt))


@pytest.mark.parametrize(
    ("seed", "stall", "work", "latency"),
    [(0, 0.0, 1, 2), (1, 0.0, 40, 20), (2, 0.5, 10, 3), (3, 0.3, 60, 1), (4, 0.0, 3, 60)],
)
def test_every_instruction_once_in_order_after_its_waits(
    seed: int, stall: float, work: int, latency: int
) -> None:
    """Commands have their operands, and come when the counts they wait for are reached."""
    program = program_of(seed, 60)
    world = World(as_code(program), stall=stall, work=work, latency=latency, seed=seed)

    async def host(ctx: SimulatorContext, world: World) -> None:
        await world.start(ctx)
        assert await world.interrupt(ctx) == State.DONE
        assert await world.read(ctx, "halt_code") == HALT.code
        for engine in Engine:
            count = sum(item.engine is engine for item in program)
            assert await world.read(ctx, f"{engine.name.lower()}_retired") == count

    world.run(host, max_cycles=20_000)
    for engine in Engine:
        mine = [item for item in program if item.engine is engine]
        operands = [payload for _, payload in world.taken[engine]]
        assert operands == [
            {name: item.fields[name] for name in payload}
            for item, payload in zip(mine, operands, strict=True)
        ]
        for item, (cycle, _) in zip(mine, world.taken[engine], strict=True):
            for other, count in item.waits.items():
                assert world.retired_at[other][count - 1] < cycle
    assert world.most_owed <= PREFETCH


def test_latency_of_a_wait() -> None:
    """An instruction that only waits for a count is taken three cycles after it is reached."""
    program = [
        instruction(Engine.LOAD),
        instruction(Engine.VECTOR, waits={Engine.LOAD: 1}),
    ]
    world = World(as_code(program), work=200)

    async def host(ctx: SimulatorContext, world: World) -> None:
        await world.start(ctx)
        assert await world.interrupt(ctx) == State.DONE

    world.seed = 3
    world.run(host)
    (retired,) = world.retired_at[Engine.LOAD]
    ((taken, _),) = world.taken[Engine.VECTOR]
    assert taken - retired == 3


@pytest.mark.parametrize(("name", "cycles"), [("tiny", 17), ("ecp5-85k", 9), ("large", 6)])
def test_throughput(name: str, cycles: int) -> None:
    """An instruction takes a cycle more than it has beats, and dispatch 6 at least."""
    config = replace(preset(name), axi_address_bits=33)
    order = [Engine.LOAD, Engine.STORE, Engine.ROW, Engine.VECTOR, Engine.GEMM, Engine.STREAM]
    program = [instruction(order[index % 6], config=config) for index in range(48)]
    world = World(as_code(program), config=config, latency=4)

    async def host(ctx: SimulatorContext, world: World) -> None:
        await world.start(ctx)
        assert await world.interrupt(ctx) == State.DONE

    world.run(host)
    taken = sorted(cycle for commands in world.taken.values() for cycle, _ in commands)
    rate = (taken[-1] - taken[12]) / 35
    assert rate <= cycles * 1.02, rate


def test_engine_holds_no_more_than_its_share() -> None:
    """With commands always taken and never retired, `IN_FLIGHT` are handed over."""
    program = [instruction(Engine.ROW, index=index) for index in range(20)]
    world = World(as_code(program), work=1)
    taken = []

    async def host(ctx: SimulatorContext, world: World) -> None:
        port = world.dut.row
        ctx.set(port.command.ready, 1)
        await world.start(ctx)
        for _ in range(600):
            _, _, valid, payload = await ctx.tick().sample(port.command.valid, port.command.payload)
            if valid:
                taken.append(payload["eps_mantissa"])

    world.run(host, without=[Engine.ROW])
    assert taken == list(range(IN_FLIGHT))


def fault(ctx: SimulatorContext, world: World, engine: Engine, cause: int, address: int) -> None:
    """Let an engine raise a fault."""
    port = getattr(world.dut, engine.name.lower())
    ctx.set(port.fault, 1)
    ctx.set(port.fault_cause, cause)
    ctx.set(port.fault_address, address)


async def fault_registers(ctx: SimulatorContext, world: World) -> dict[str, int]:
    """What the host reads of a fault."""
    names = ("cause", "engine", "pc", "tag", "address_lo", "address_hi")
    return {name: await world.read(ctx, f"fault_{name}") for name in names}


@pytest.mark.parametrize("order", ["together", "late", "early"])
def test_first_fault_is_reported(order: str) -> None:
    """Of two in the same cycle the lower engine's, else the first; once all engines are idle."""
    program = [
        instruction(Engine.LOAD, tag=50),
        instruction(Engine.VECTOR, tag=51),
        instruction(Engine.VECTOR, tag=52),
        instruction(Engine.STORE, tag=53),
    ]
    never = make(Opcode.HALT, CONFIG, waits={Engine.STREAM: 9})
    world = World(as_code(program, halt=never))

    async def host(ctx: SimulatorContext, world: World) -> None:
        dut = world.dut
        for name in ("vector", "store"):
            ctx.set(getattr(dut, name).command.ready, 1)
        await world.start(ctx)
        for _ in range(150):
            await ctx.tick()
        # The first VECTOR is retired in the cycle in which the second one's fault appears.
        ctx.set(dut.vector.retire, 1)
        if order == "late":
            fault(ctx, world, Engine.STORE, FaultCause.DRAM_LIMIT, 0x9_8765_4321)
            await ctx.tick()
            ctx.set(dut.vector.retire, 0)
        fault(ctx, world, Engine.VECTOR, FaultCause.SCRATCHPAD_BOUND, 0x777)
        if order == "together":
            fault(ctx, world, Engine.STORE, FaultCause.DRAM_LIMIT, 0x9_8765_4321)
        await ctx.tick()
        ctx.set(dut.vector.retire, 0)
        if order == "early":
            fault(ctx, world, Engine.STORE, FaultCause.DRAM_LIMIT, 0x9_8765_4321)
        # Not before the last engine is idle, and the memory port is quiet.
        for cycle in range(30):
            await ctx.tick()
            assert not ctx.get(dut.irq)
            assert ctx.get(dut.vector.halt) or cycle < 2
        ctx.set(dut.vector.idle, 1)
        ctx.set(dut.store.idle, 1)
        ctx.set(dut.quiet, 0)
        for _ in range(30):
            await ctx.tick()
            assert not ctx.get(dut.irq)
        ctx.set(dut.quiet, 1)
        assert await world.interrupt(ctx) == State.FAULT
        expected = (
            (FaultCause.SCRATCHPAD_BOUND, Engine.VECTOR, 2, 52, 0x777, 0)
            if order == "early"
            else (FaultCause.DRAM_LIMIT, Engine.STORE, 3, 53, 0x8765_4321, 9)
        )
        assert tuple((await fault_registers(ctx, world)).values()) == expected
        # The engines are reset, and forget their faults.
        ctx.set(dut.vector.fault, 0)
        ctx.set(dut.store.fault, 0)
        await world.write(ctx, "control", 1 << regs.Control.RESET)
        resets = 0
        for _ in range(10):
            _, _, reset = await ctx.tick().sample(dut.reset_engines)
            resets += reset
        assert resets <= 2
        assert not ctx.get(dut.vector.halt)
        assert await world.read(ctx, "status") == State.IDLE
        assert await world.read(ctx, "fault_engine") == NO_ENGINE

    world.run(host, without=[Engine.VECTOR, Engine.STORE])


def test_reset_pulse_comes_with_start_and_with_reset() -> None:
    """Two cycles each, so that every run begins in the same state."""
    world = World(as_code([]))
    pulses = []

    async def host(ctx: SimulatorContext, world: World) -> None:
        for command in (regs.Control.RESET, regs.Control.START, regs.Control.RESET):
            if command == regs.Control.START:
                await world.start(ctx)
            else:
                await world.write(ctx, "control", 1 << command)
            count = 0
            for _ in range(100):
                _, _, reset = await ctx.tick().sample(world.dut.reset_engines)
                count += reset
            pulses.append(count)

    world.run(host)
    # Some of it falls into the write that the pulse answers.
    assert all(1 <= count <= 2 for count in pulses)


def test_reset_comes_before_start() -> None:
    """Of both together, only the reset is done."""
    world = World(as_code([]))

    async def host(ctx: SimulatorContext, world: World) -> None:
        both = 1 << regs.Control.START | 1 << regs.Control.RESET
        for name in ("program_hash_lo", "program_hash_hi"):
            shift = 32 * name.endswith("hi")
            await world.write(ctx, name, world.config.hash >> shift & 0xFFFF_FFFF)
        await world.write(ctx, "control", both)
        resets = 0
        for _ in range(100):
            _, _, reset, asks = await ctx.tick().sample(
                world.dut.reset_engines, world.dut.fetch.request.valid
            )
            resets += reset
            assert not asks
        assert resets <= 2
        assert await world.read(ctx, "status") == State.IDLE

    world.run(host)


@pytest.mark.parametrize("first", ["dispatch", "engine"])
def test_fault_of_dispatch_beside_an_engines(first: str) -> None:
    """An engine's instruction is the older one; but what has been reported stays."""
    world = World(as_code([instruction(Engine.LOAD, tag=50)])[:64] + b"\xff" * 64)

    async def host(ctx: SimulatorContext, world: World) -> None:
        dut = world.dut
        ctx.set(dut.load.command.ready, 1)
        ctx.set(dut.load.idle, 1)
        await world.start(ctx)
        if first == "engine":
            while not ctx.get(dut.load.command.valid):
                await ctx.tick()
            fault(ctx, world, Engine.LOAD, FaultCause.AXI_ERROR, 0x123)
        else:
            while not ctx.get(dut.load.halt):
                await ctx.tick()
            fault(ctx, world, Engine.LOAD, FaultCause.AXI_ERROR, 0x123)
        assert await world.interrupt(ctx) == State.FAULT
        expected = (
            (FaultCause.AXI_ERROR, Engine.LOAD, 0, 50, 0x123, 0)
            if first == "engine"
            else (FaultCause.ILLEGAL_INSTRUCTION, NO_ENGINE, 1, 0xFFFF, 0, 0)
        )
        assert tuple((await fault_registers(ctx, world)).values()) == expected

    world.run(host, without=[Engine.LOAD])


def test_faults_come_in_program_order() -> None:
    """What is wrong behind HALT was fetched ahead, and is not looked at."""
    world = World(as_code([]) + b"\xff" * 256)

    async def host(ctx: SimulatorContext, world: World) -> None:
        await world.start(ctx)
        assert await world.interrupt(ctx) == State.DONE

    world.run(host)


def test_fetch_stops_when_told() -> None:
    """Without `run`, it asks for nothing more, and is idle when all has come."""
    dut = Fetch(CONFIG)
    beats = 64 // CONFIG.axi_bytes

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.base, BASE)
        ctx.set(dut.limit, 4096)
        ctx.set(dut.size, 60)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.idle)
        ctx.set(dut.run, 1)
        ctx.set(dut.fetch.request.ready, 1)
        addresses = []
        for _ in range(30):
            _, _, valid, address = await ctx.tick().sample(
                dut.fetch.request.valid, dut.fetch.request.payload
            )
            if valid:
                addresses.append(address)
        # There is room for so many.
        assert addresses == [BASE + 64 * index for index in range(PREFETCH)]
        ctx.set(dut.run, 0)
        for _ in range(PREFETCH * beats):
            assert not ctx.get(dut.idle)
            ctx.set(dut.fetch.data_valid, 1)
            await ctx.tick()
        ctx.set(dut.fetch.data_valid, 0)
        ctx.set(dut.o.ready, 1)
        for _ in range(100):
            await ctx.tick()
            assert ctx.get(dut.idle)
            assert not ctx.get(dut.fetch.request.valid)

    simulate(dut, bench, max_cycles=400)


def test_a_raised_request_stays() -> None:
    """Even if fetch is stopped in the meantime."""
    dut = Fetch(CONFIG)
    requests = StreamMonitor(dut.fetch.request)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.limit, 4096)
        ctx.set(dut.size, 60)
        await ctx.tick().repeat(2)
        ctx.set(dut.run, 1)
        while not ctx.get(dut.fetch.request.valid):
            await ctx.tick()
        ctx.set(dut.run, 0)
        for _ in range(10):
            await ctx.tick()
            assert ctx.get(dut.fetch.request.valid)
            assert not ctx.get(dut.idle)
        ctx.set(dut.fetch.request.ready, 1)
        await ctx.tick()
        await ctx.tick()

    simulate(dut, bench, monitors=[requests], max_cycles=100)
    assert len(requests.cycles) == 1


@pytest.mark.parametrize(
    ("engines", "waiting"),
    [([Engine.ROW], CONFIG.queue_depth + 1), (list(Engine), pool_size(CONFIG) + len(Engine))],
    ids=["one", "all"],
)
def test_what_waits(engines: list[Engine], waiting: int) -> None:
    """An engine's share and its head, and all heads and the pool; then none is lost."""
    program = [
        instruction(engine, index=index)
        for index in range(60 // len(engines))
        for engine in engines
    ]
    world = World(as_code(program), stall=0.0)

    async def host(ctx: SimulatorContext, world: World) -> None:
        stuck = [getattr(world.dut, engine.name.lower()).command.ready for engine in engines]
        await world.start(ctx)
        for _ in range(700):
            await ctx.tick()
        counts = [ctx.get(world.dut.waiting[engine]) for engine in engines]
        assert sum(counts) == waiting
        assert max(counts) <= CONFIG.queue_depth + 1
        taken: dict[Engine, list[int]] = {engine: [] for engine in engines}
        ports = [getattr(world.dut, engine.name.lower()) for engine in engines]
        names = ["size", "n0", "n0", "n", "x_address", "eps_mantissa"]
        for ready in stuck:
            ctx.set(ready, 1)
        for _ in range(1200):
            valids = []
            for engine, port in zip(engines, ports, strict=True):
                valid = ctx.get(port.command.valid)
                valids.append(valid)
                if valid:
                    taken[engine].append(ctx.get(port.command.payload)[names[engine]])
            await ctx.tick()
            for port, valid in zip(ports, valids, strict=True):
                ctx.set(port.retire, valid)
        for engine in engines:
            mine = [item.fields[names[engine]] for item in program if item.engine is engine]
            assert taken[engine] == mine

    world.run(host, without=engines)
