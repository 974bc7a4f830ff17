"""The decoder against `isa.decode`: the same verdict on legal, mutated and random instructions."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from systolith.config import PRESETS, CoreConfig
from systolith.isa import (
    HEADER,
    INSTRUCTION_BYTES,
    OPERANDS,
    RULES,
    Aligned,
    Field,
    Fits,
    IllegalInstructionError,
    Opcode,
    decode,
    encode,
    fields_of,
    make,
    unit_of,
)
from systolith.regs import FaultCause
from systolith_rtl.control.decoder import Decoder, packed_layout, packed_operands
from systolith_sim.testbench import SimulatorContext, StreamMonitor, receive, send, simulate, stalls

CONFIGS = {**PRESETS, "int8": replace(PRESETS["tiny"], int4=False)}

simulated = settings(max_examples=4, deadline=None, phases=set(Phase) - {Phase.shrink})
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)

GOOD = {
    Opcode.STREAM: {"size": 64},
    Opcode.LOAD: {"n0": 8, "n1": 1, "n2": 1},
    Opcode.STORE: {"n0": 8, "n1": 1, "n2": 1},
    Opcode.GEMM: {"m": 1, "n": 1, "k": 1},
    Opcode.VECTOR: {"m": 1, "n": 1},
    Opcode.ROW: {"rows": 1, "n": 1},
}
"""Operands without which an instruction is illegal; legal on every preset."""


def is_legal(image: bytes, config: CoreConfig) -> bool:
    """What the definition says."""
    try:
        decode(image, config)
    except IllegalInstructionError:
        return False
    return True


def judge(images: list[bytes], config: CoreConfig) -> list[bool]:
    """What the decoder says."""
    dut = Decoder(config)
    payloads = [
        {"word": int.from_bytes(image, "little"), "cause": FaultCause.NONE} for image in images
    ]
    results = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, payloads)

    async def receiver(ctx: SimulatorContext) -> None:
        results.extend(await receive(ctx, dut.o, len(payloads)))

    simulate(dut, sender, receiver, max_cycles=100 + 10 * len(payloads))
    assert [result.word for result in results] == [payload["word"] for payload in payloads]
    for image, result in zip(images, results, strict=True):
        assert result.tag == int.from_bytes(image[2:4], "little")
    return [result.cause == FaultCause.NONE for result in results]


def assert_agrees(images: list[bytes], config: CoreConfig) -> int:
    """Compare the verdicts; return how many instructions are legal."""
    for image, verdict in zip(images, judge(images, config), strict=True):
        assert verdict == is_legal(image, config), image.hex()
    return sum(is_legal(image, config) for image in images)


def edges(field: Field, config: CoreConfig) -> list[int]:
    """Values of a field at and beyond its limits."""
    lowest, highest = field.limits(config)
    unit = field.multiple(config)
    least = -(1 << field.width - 1) if field.signed else 0
    values = {lowest, lowest - 1, lowest + 1, highest, highest + 1, highest - 1, unit, unit // 2}
    values |= {least, least + (1 << field.width) - 1}
    return sorted(each for each in values if least <= each < least + (1 << field.width))


def put(image: bytes, field: Field, value: int) -> bytes:
    """Replace a field."""
    size = field.width // 8
    raw = value.to_bytes(size, "little", signed=field.signed)
    return image[: field.offset] + raw + image[field.offset + size :]


def good(opcode: Opcode, config: CoreConfig) -> bytes:
    """A plain legal instruction."""
    values = GOOD.get(opcode, {})
    if opcode == Opcode.STREAM:
        values = {"size": config.rows}
    return encode(make(opcode, config, **values))


@every_config
def test_every_field_at_its_limits(config: CoreConfig) -> None:
    """One field at a time."""
    images = [
        put(good(opcode, config), field, value)
        for opcode in Opcode
        for field in fields_of(opcode)
        for value in edges(field, config)
    ]
    legal = assert_agrees(images, config)
    assert 100 < legal < len(images) - 100


@pytest.mark.parametrize("config", [CONFIGS["tiny"], CONFIGS["ecp5-25k"]], ids=["tiny", "25k"])
def test_every_byte(config: CoreConfig) -> None:
    """Each byte of each operator set to 1 and to 128: reserved ones must be refused."""
    images = []
    for opcode in Opcode:
        for byte in range(INSTRUCTION_BYTES):
            for value in (1, 128):
                image = bytearray(good(opcode, config))
                image[byte] = value
                images.append(bytes(image))
    assert_agrees(images, config)


def test_every_opcode() -> None:
    config = CONFIGS["tiny"]
    images = [
        bytes([opcode]) + good(base, config)[1:]
        for opcode in range(256)
        for base in (Opcode.HALT, Opcode.STREAM)
    ]
    assert assert_agrees(images, config) >= 2


@every_config
def test_every_rule_is_broken_and_kept(config: CoreConfig) -> None:
    """For each rule, values on both sides of it where it applies, and where it does not."""
    images = []
    generator = random.Random(0)
    for opcode in Opcode:
        fields = {field.name: field for field in fields_of(opcode)}
        for rule in RULES[opcode]:
            for _ in range(6):
                image = good(opcode, config)
                for name, values in rule.when.items():
                    image = put(image, fields[name], generator.choice(values))
                images.append(image)
                match rule:
                    case Fits(first=first, count=count, limit=limit):
                        total = 1 if limit == "one" else getattr(config, limit)
                        many = 0
                        if count:
                            _, highest = fields[count].limits(config)
                            many = generator.randint(1, min(total, highest, 500))
                            image = put(image, fields[count], many)
                        images += [
                            put(image, fields[first], value)
                            for value in (total - many - 1, total - many, total - many + 1)
                            if 0 <= value < 1 << fields[first].width
                        ]
                    case Aligned(name=name):
                        unit = unit_of(rule, config)
                        images += [
                            put(image, fields[name], value)
                            for value in (unit, unit + 1, 3 * unit, unit // 2)
                        ]
    legal = assert_agrees(images, config)
    assert 20 < legal < len(images) - 20


def biased(opcode: Opcode, config: CoreConfig) -> st.SearchStrategy[bytes]:
    """Instructions, nearly all of whose fields are in range, and half of them aligned."""

    def value(field: Field) -> st.SearchStrategy[int]:
        lowest, highest = field.limits(config)
        unit = field.multiple(config)
        legal = st.integers(lowest, highest).map(lambda x: x // unit * unit or lowest)
        small = st.integers(lowest, min(highest, lowest + 3)).map(lambda x: x // unit * unit or x)
        return st.one_of(small, small, small, legal, legal.map(lambda x: x // 128 * 128 or lowest))

    parts = [st.tuples(st.just(field), value(field)) for field in (*HEADER[1:], *OPERANDS[opcode])]

    def build(values: list[tuple[Field, int]]) -> bytes:
        image = bytes([opcode]) + bytes(INSTRUCTION_BYTES - 1)
        for field, number in values:
            image = put(image, field, number)
        return image

    return st.tuples(*parts).map(build)


@every_config
@given(data=st.data())
@simulated
def test_matches_the_definition(config: CoreConfig, data: st.DataObject) -> None:
    """Random instructions, some with a byte changed."""
    images = []
    for opcode in Opcode:
        for _ in range(3):
            image = data.draw(biased(opcode, config))
            images.append(image)
            changed = bytearray(image)
            changed[data.draw(st.integers(0, INSTRUCTION_BYTES - 1))] = data.draw(
                st.integers(0, 255)
            )
            images.append(bytes(changed))
    assert_agrees(images, config)


@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
def test_operands_survive_packing(opcode: Opcode) -> None:
    """Packed operands are those of the instruction, at their limits and in between."""
    generator = random.Random(1)
    config = CONFIGS["ecp5-85k"]
    m = Module()
    word = Signal(8 * INSTRUCTION_BYTES)
    packed = Signal(packed_layout(opcode, config))
    m.d.comb += packed.as_value().eq(packed_operands(word, opcode, config))

    async def drive(ctx: SimulatorContext) -> None:
        for _ in range(20):
            image = good(opcode, config)
            numbers = {}
            for field in OPERANDS[opcode]:
                lowest, highest = field.limits(config)
                number = generator.choice([lowest, highest, generator.randint(lowest, highest)])
                numbers[field.name] = number
                image = put(image, field, number)
            ctx.set(word, int.from_bytes(image, "little"))
            await ctx.delay(1e-9)
            for name, number in numbers.items():
                assert ctx.get(packed[name]) == number, name

    sim = Simulator(m)
    sim.add_testbench(drive)
    sim.run()


def test_faults_pass() -> None:
    """A fault in the place of an instruction keeps its cause and has no tag."""
    dut = Decoder(CONFIGS["tiny"])
    causes = [FaultCause.AXI_ERROR, FaultCause.DRAM_LIMIT, FaultCause.ILLEGAL_INSTRUCTION]
    results = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, [{"word": (1 << 512) - 1, "cause": cause} for cause in causes])

    async def receiver(ctx: SimulatorContext) -> None:
        results.extend(await receive(ctx, dut.o, len(causes)))

    simulate(dut, sender, receiver, max_cycles=100)
    assert [(result.cause, result.tag) for result in results] == [(cause, 0) for cause in causes]


def test_latency() -> None:
    """A verdict `LATENCY` cycles after the instruction, and the next instruction a cycle later."""
    config = CONFIGS["tiny"]
    dut = Decoder(config)
    word = int.from_bytes(good(Opcode.HALT, config), "little")
    taken, given_ = StreamMonitor(dut.i), StreamMonitor(dut.o)

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, [{"word": word, "cause": FaultCause.NONE}] * 5)

    async def receiver(ctx: SimulatorContext) -> None:
        await receive(ctx, dut.o, 5)

    simulate(dut, sender, receiver, monitors=[taken, given_], max_cycles=100)
    assert given_.cycles == [cycle + Decoder.LATENCY for cycle in taken.cycles]
    assert taken.cycles == [index * (Decoder.LATENCY + 1) for index in range(5)]


def test_refused_verdicts_wait() -> None:
    """Under back-pressure none is lost, repeated or changed."""
    config = CONFIGS["tiny"]
    dut = Decoder(config)
    images = [put(good(Opcode.HALT, config), HEADER[1], tag) for tag in range(20)]
    payloads = [
        {"word": int.from_bytes(image, "little"), "cause": FaultCause.NONE} for image in images
    ]
    tags = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, payloads, stall=stalls(0.5, seed=1))

    async def receiver(ctx: SimulatorContext) -> None:
        results = await receive(ctx, dut.o, len(payloads), stall=stalls(0.8, seed=2))
        tags.extend(result.tag for result in results)

    simulate(dut, sender, receiver, monitors=[StreamMonitor(dut.o)], max_cycles=1000)
    assert tags == list(range(20))
