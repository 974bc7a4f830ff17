"""The whole DMA: bytes against a reference, bandwidth, reservation, faults, halt."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from systolith.config import CoreConfig, preset
from systolith.isa import Engine, Fill, Instruction, Opcode, Space, make
from systolith.regs import FaultCause
from systolith_rtl.interfaces import WRITE_LATENCY, AxiSignature
from systolith_sim.axi import AxiFaults
from systolith_sim.dma_bench import DmaBench

SMALL: dict[str, Any] = {"column_slots": 128, "row_slots": 32}

CONFIGS = {
    "4x4, 32 bit": preset("tiny"),
    "8x2, 64 bit": CoreConfig(
        rows=8, columns=2, scratchpad_bytes=4096, ring_bytes=256, axi_data_bits=64, **SMALL
    ),
    "16x8, 64 bit": CoreConfig(
        rows=16, columns=8, scratchpad_bytes=8192, ring_bytes=1024, axi_data_bits=64, **SMALL
    ),
    "32x4, 32 bit": CoreConfig(
        rows=32, columns=4, scratchpad_bytes=4096, ring_bytes=512, axi_data_bits=32, **SMALL
    ),
    "16x2, 128 bit": CoreConfig(
        rows=16, columns=2, scratchpad_bytes=4096, ring_bytes=512, axi_data_bits=128, **SMALL
    ),
    "32x32, 256 bit": CoreConfig(
        rows=32, columns=32, scratchpad_bytes=8192, ring_bytes=4096, axi_data_bits=256, **SMALL
    ),
}

WIDE = CONFIGS["16x8, 64 bit"]
TINY = CONFIGS["4x4, 32 bit"]

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)

STREAM, LOAD, STORE = Engine.STREAM, Engine.LOAD, Engine.STORE

# Memory of the random tests: what is read, what is written, and a gap that nobody may touch.
READ_BASE, READ_LIMIT = 0x1000, 0x2FF3
WRITE_BASE, WRITE_LIMIT = 0x5000, 0x1FFD
MEMORY = 0x8000
SCALARS = (3, 0, 7, 0xFFFFFFFF)


class Reference:
    """What LOAD, STORE and STREAM do, byte by byte, one instruction after the other."""

    def __init__(self, config: CoreConfig, memory: bytes, scratchpad: bytes) -> None:
        self.config = config
        self.memory = bytearray(memory)
        self.scratchpad = bytearray(scratchpad)
        self.ring = bytearray()
        self.side: list[tuple[int, int, int]] = []

    def carry_out(self, i: Instruction) -> None:
        """Carry out one instruction."""
        base = (READ_BASE, WRITE_BASE)[i.base]
        if i.opcode is Opcode.STREAM:
            self.ring += self.memory[base + i.dram_offset : base + i.dram_offset + i.size]
            return
        if i.opcode is Opcode.LOAD and i.space != Space.SCRATCHPAD:
            self._load_side(i, base)
            return
        moved = i.dram_offset + (SCALARS[i.scalar - 1] * i.scalar_stride if i.scalar else 0)
        for i2 in range(i.n2):
            for i1 in range(i.n1):
                step = i1
                if i.opcode is Opcode.LOAD and i.fill == Fill.GATHER:
                    at = self.config.columns * i.index + 4 * i1
                    step = int.from_bytes(self.scratchpad[at : at + 4], "little")
                offset = moved + i2 * i.dram_stride2 + step * i.dram_stride1
                dram = base + (offset & 0xFFFFFFFF)
                local = self.config.columns * (i.address + i2 * i.stride2 + i1 * i.stride1)
                for byte in range(i.n0):
                    if i.opcode is Opcode.STORE:
                        self.memory[dram + byte] = self.scratchpad[local + byte]
                    elif i.fill == Fill.ZERO:
                        self.scratchpad[local + byte] = 0
                    else:
                        self.scratchpad[local + byte] = self.memory[dram + byte]

    def _load_side(self, i: Instruction, base: int) -> None:
        tables = i.space == Space.TABLES
        first = i.address // 2 if tables else i.address * 2
        for word in range(i.n0 // 4):
            at = base + i.dram_offset + 4 * word
            value = int.from_bytes(self.memory[at : at + 4], "little")
            self.side.append((int(tables), first + word, value))


class Draw:
    """Random instructions that stay where they may.

    LOADs go to the lower half of the scratchpad, which ends with an index list; STOREs come from
    the upper half.
    """

    INDICES = 6

    def __init__(self, config: CoreConfig, seed: int) -> None:
        self.config = config
        self.random = random.Random(seed)
        self.half = config.granules // 2
        self.list_granule = self.half - (4 * self.INDICES) // config.columns - 2

    def instruction(self, opcode: Opcode) -> Instruction:
        """Draw operands."""
        if opcode is Opcode.STREAM:
            return self._stream()
        r = self.random
        if opcode is Opcode.LOAD and r.random() < 0.15:
            return self._side()
        fill = Fill.MEMORY
        if opcode is Opcode.LOAD:
            fill = r.choice([Fill.MEMORY, Fill.MEMORY, Fill.ZERO, Fill.GATHER])
        n0 = r.choice([1, r.randrange(1, 20), r.randrange(1, 100)])
        n1 = r.randrange(1, self.INDICES + 1)
        n2 = r.choice([1, r.randrange(1, 3)])
        granules = -(-n0 // self.config.columns)
        most = (self.list_granule - granules) // (n1 + n2)
        stride1, stride2 = (
            r.choice([0, min(granules, most), r.randrange(most + 1)]) for _ in range(2)
        )
        room = self.list_granule - granules - (n1 - 1) * stride1 - (n2 - 1) * stride2
        address = r.randrange(room + 1) + (self.half if opcode is Opcode.STORE else 0)

        # The offset is whatever keeps all runs within the limit.
        values = {
            "dram_stride1": r.choice([n0, -n0, 0, r.randrange(-400, 400)]),
            "dram_stride2": r.choice([0, r.randrange(-900, 900)]),
            "scalar": r.choice([0, 1, 2, 3, 4]),
            "scalar_stride": r.choice([r.randrange(-300, 300), r.randrange(-1 << 31, 1 << 31)]),
        }
        steps = range(self.INDICES) if fill == Fill.GATHER else range(n1)
        moved = SCALARS[values["scalar"] - 1] * values["scalar_stride"] if values["scalar"] else 0
        reach = [
            moved + i2 * values["dram_stride2"] + i1 * values["dram_stride1"]
            for i2 in range(n2)
            for i1 in steps
        ]
        limit = WRITE_LIMIT if opcode is Opcode.STORE else READ_LIMIT
        lowest, highest = -min(reach), limit - n0 - max(reach)
        offset = r.choice([lowest, highest, r.randrange(lowest, highest + 1)])
        values["dram_offset"] = offset & 0xFFFFFFFF
        if opcode is Opcode.LOAD:
            values |= {"fill": fill, "index": self.list_granule if fill == Fill.GATHER else 0}
        return make(
            opcode,
            self.config,
            base=int(opcode is Opcode.STORE),
            address=address,
            n0=n0,
            n1=n1,
            n2=n2,
            stride1=stride1,
            stride2=stride2,
            **values,
        )

    def _stream(self) -> Instruction:
        size = self.config.rows * self.random.choice(
            [1, 2, self.random.randrange(1, 640 // self.config.rows)]
        )
        width = self.config.axi_bytes
        offset = width * self.random.randrange((READ_LIMIT - size) // width + 1)
        return make(Opcode.STREAM, self.config, dram_offset=offset, size=size)

    def _side(self) -> Instruction:
        r = self.random
        size = 8 * r.randrange(1, 17)
        tables = r.random() < 0.5
        slots = 256 if tables else self.config.column_slots
        units = size // (2 if tables else 8)
        address = r.randrange(0, slots - units + 1, 4)
        return make(
            Opcode.LOAD,
            self.config,
            space=Space.TABLES if tables else Space.COLUMNS,
            dram_offset=64 * r.randrange(100),
            address=address,
            n0=size,
            n1=1,
            n2=1,
        )

    def scratchpad(self) -> bytearray:
        """Random bytes, and an index list."""
        content = bytearray(self.random.randbytes(self.config.scratchpad_bytes))
        at = self.list_granule * self.config.columns
        for index in range(self.INDICES):
            value = self.random.randrange(self.INDICES)
            content[at + 4 * index : at + 4 * index + 4] = value.to_bytes(4, "little")
        return content


def random_bench(config: CoreConfig, draw: Draw, **options: Any) -> DmaBench:
    """A bench with random memory, the limits above, and what the instructions of `draw` need."""
    memory = bytearray(draw.random.randbytes(MEMORY))
    bench = DmaBench(
        config,
        memory,
        bases=(READ_BASE, WRITE_BASE),
        limits=(READ_LIMIT, WRITE_LIMIT),
        scalars=SCALARS,
        **options,
    )
    bench.scratchpad[:] = draw.scratchpad()
    return bench


def assert_same(bench: DmaBench, reference: Reference) -> None:
    """Compare all bytes; on failure, name the first that differs."""
    for name, got, expected in (
        ("memory", bench.memory, reference.memory),
        ("scratchpad", bench.scratchpad, reference.scratchpad),
        ("ring", b"".join(bench.words), reference.ring),
    ):
        if got != expected:
            assert len(got) == len(expected), name
            first = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b)
            raise AssertionError(f"{name}: byte {first:#x} is {got[first]}, not {expected[first]}")
    assert bench.side == reference.side


@every_config
@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (1, {"latency": 4}),
        (2, {"latency": 25, "stall": 0.4, "interleave": True, "drain": 0.5}),
    ],
    ids=["smooth", "stalled"],
)
def test_moves_the_right_bytes(config: CoreConfig, seed: int, options: dict[str, Any]) -> None:
    """All three side by side, any shape, against the reference; nothing else is touched."""
    draw = Draw(config, seed)
    bench = random_bench(config, draw, seed=seed, **options)
    reference = Reference(config, bench.memory, bench.scratchpad)
    # No two may touch the same bytes but in one engine, so any interleaving is right.
    program = [
        draw.instruction(opcode)
        for opcode in (Opcode.LOAD, Opcode.STORE, Opcode.STREAM)
        for _ in range(5 if opcode is Opcode.STREAM else 9)
    ]
    bench.run(*program, fetches=[READ_BASE, READ_BASE + 192])
    for instruction in program:
        reference.carry_out(instruction)
    assert_same(bench, reference)
    expected = memoryview(reference.memory)
    fetched = b"".join(data.to_bytes(config.axi_bytes, "little") for data, _ in bench.fetched)
    assert fetched == bytes(expected[READ_BASE:][:64]) + bytes(expected[READ_BASE + 192 :][:64])
    assert [len(bench.retired[e]) for e in (LOAD, STORE, STREAM)] == [9, 9, 5]


def test_slave_that_waits_for_both_address_and_data() -> None:
    draw = Draw(WIDE, 7)
    bench = random_bench(WIDE, draw, stall=0.2, latency=9, address_waits_for_data=True)
    reference = Reference(WIDE, bench.memory, bench.scratchpad)
    program = [draw.instruction(Opcode.STORE) for _ in range(8)]
    bench.run(*program)
    for instruction in program:
        reference.carry_out(instruction)
    assert_same(bench, reference)


@pytest.mark.parametrize("config", [TINY, CONFIGS["8x2, 64 bit"]], ids=["4x4", "8x2"])
def test_gather_waits_for_the_load_of_its_list(config: CoreConfig) -> None:
    """In program order, without a wait; the last write of the list lands as late as it may."""
    memory = bytearray(random.Random(1).randbytes(4096))
    indices = [9, 0, 300, 2, 2]
    memory[1024 : 1024 + 20] = b"".join(index.to_bytes(4, "little") for index in indices)
    bench = DmaBench(config, memory, latency=6, stall=0.3)
    lists, rows = 33, 64
    bench.run(
        make(Opcode.LOAD, config, dram_offset=1024, address=lists, n0=20, n1=1, n2=1),
        make(
            Opcode.LOAD,
            config,
            fill=Fill.GATHER,
            index=lists,
            dram_offset=5,
            dram_stride1=3,
            address=rows,
            stride1=4,
            n0=7,
            n1=5,
            n2=1,
        ),
    )
    for row, index in enumerate(indices):
        at = config.columns * (rows + 4 * row)
        assert bench.scratchpad[at : at + 7] == memory[5 + 3 * index : 12 + 3 * index]


def test_index_lists_and_stores_share_the_read_port() -> None:
    """Both want it again and again, and each gets its own words."""
    config = WIDE
    memory = bytearray(random.Random(8).randbytes(8192))
    bench = DmaBench(config, memory, latency=4)
    stored = random.Random(9).randbytes(3000)
    bench.scratchpad[4096:7096] = stored
    indices = [random.Random(n).randrange(64) for n in range(40)]
    bench.scratchpad[2048:2208] = b"".join(index.to_bytes(4, "little") for index in indices)
    source = bytes(memory[:1024])
    bench.run(
        make(Opcode.STORE, config, dram_offset=4096, address=512, n0=3000, n1=1, n2=1),
        make(
            Opcode.LOAD,
            config,
            fill=Fill.GATHER,
            index=256,
            dram_stride1=8,
            stride1=1,
            n0=8,
            n1=40,
            n2=1,
        ),
    )
    assert memory[4096:7096] == stored
    assert bench.scratchpad[:320] == b"".join(source[8 * i : 8 * i + 8] for i in indices)


def test_offsets_wrap_around() -> None:
    """Products of 2**62 that leave 77 modulo 2**32: nothing saturates."""
    memory = bytearray(random.Random(2).randbytes(4096))
    bench = DmaBench(TINY, memory, latency=4, scalars=[0xFFFFFFFF])
    bench.scratchpad[400:404] = (1 << 31).to_bytes(4, "little")
    bench.run(
        make(
            Opcode.LOAD,
            TINY,
            fill=Fill.GATHER,
            index=100,
            scalar=1,
            # 2**30 - 2**62, then 2**62 - 2**31: the bits of one do not cancel those of the other.
            scalar_stride=-(1 << 30),
            dram_stride1=(1 << 31) - 1,
            dram_offset=(1 << 30) + 77,
            n0=9,
            n1=1,
            n2=1,
        )
    )
    assert bench.scratchpad[:9] == memory[77:86]


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
@pytest.mark.parametrize("n1", [1, 2])
def test_all_blocks_begin_behind_the_scalar(opcode: Opcode, n1: int) -> None:
    """Also if the first one, of a single run, ends as soon as it is known where it begins."""
    rng = random.Random(3)
    memory, source = bytearray(rng.randbytes(4096)), rng.randbytes(1024)
    before = bytes(memory)
    bench = DmaBench(TINY, memory, latency=4, scalars=[3])
    bench.scratchpad[:1024] = source
    walk = {"n0": 8, "n1": n1, "n2": 3, "stride1": 2, "stride2": 8, "scalar": 1}
    strides = {"scalar_stride": 500, "dram_stride1": 20, "dram_stride2": 100, "dram_offset": 40}
    bench.run(make(opcode, TINY, **walk, **strides))
    for i2, i1 in itertools.product(range(3), range(n1)):
        inside = 4 * (8 * i2 + 2 * i1)
        outside = 40 + 1500 + 100 * i2 + 20 * i1
        if opcode is Opcode.LOAD:
            assert bench.scratchpad[inside : inside + 8] == before[outside : outside + 8]
        else:
            assert memory[outside : outside + 8] == source[inside : inside + 8]


# Bandwidth and latency.


@pytest.mark.parametrize("latency", [30, 120])
@pytest.mark.parametrize(
    "config",
    [preset("ecp5-85k"), preset("large"), replace(TINY, ring_bytes=4096)],
    ids=["16x8, 64 bit", "32x32, 256 bit", "4x4, 32 bit"],
)
def test_stream_takes_a_beat_every_cycle(config: CoreConfig, latency: int) -> None:
    """Without a gap, also from instruction to instruction; the first beat as early as ever."""
    size = 160 * config.axi_bytes
    memory = bytearray(random.Random(3).randbytes(1 << 14))
    bench = DmaBench(config, memory, latency=latency)
    streams = [
        make(Opcode.STREAM, config, dram_offset=offset * config.axi_bytes, size=size)
        for offset in (0, 5, 64)
    ]
    bench.run(*streams)
    cycles = [cycle for cycle, _ in bench.axi.read_beats]
    assert cycles == list(range(cycles[0], cycles[0] + 3 * 160))
    # A command is offered in cycle 0.
    assert cycles[0] == latency + 7
    # The last word of each is pushed the second cycle after its last beat, and then it retires.
    assert bench.retired[STREAM] == [cycles[160 * n - 1] + 3 for n in (1, 2, 3)]


@pytest.mark.parametrize("latency", [30, 120])
def test_load_takes_a_beat_every_cycle(latency: int) -> None:
    """Runs of 64 beats and more, from and to any alignment, a cycle lost per run at most."""
    config = preset("ecp5-85k")
    memory = bytearray(random.Random(4).randbytes(1 << 13))
    bench = DmaBench(config, memory, latency=latency)
    load = make(
        Opcode.LOAD,
        config,
        dram_offset=3,
        address=7,
        n0=509,
        n1=6,
        n2=1,
        dram_stride1=517,
        stride1=128,
    )
    bench.run(load)
    cycles = [cycle for cycle, _ in bench.axi.read_beats]
    assert len(cycles) >= 6 * 64
    assert cycles[-1] - cycles[0] < len(cycles) + 8
    assert bench.retired[LOAD][0] - cycles[0] < len(cycles) + 25
    # A read that is granted in the cycle after sees the last write.
    assert bench.retired[LOAD] == [bench.grants[-1] + WRITE_LATENCY - 1]


def test_store_sends_a_beat_every_cycle() -> None:
    config = preset("ecp5-85k")
    memory = bytearray(1 << 13)
    bench = DmaBench(config, memory, latency=30)
    store = make(Opcode.STORE, config, dram_offset=5, address=3, n0=1600, n1=2, n2=1, stride1=256)
    bench.run(replace_fields(store, dram_stride1=2000))
    cycles = bench.axi.write_beats
    assert cycles[-1] - cycles[0] < len(cycles) + 6
    assert bench.retired[STORE][0] == cycles[-1] + 30 + 2


def replace_fields(instruction: Instruction, **changes: int) -> Instruction:
    """Change operands."""
    return Instruction(instruction.opcode, dict(instruction.fields) | changes)


def test_load_and_stream_share_the_bus() -> None:
    """No cycle of R is lost while both have work, and neither starves."""
    config = preset("ecp5-85k")
    memory = bytearray(random.Random(5).randbytes(1 << 14))
    bench = DmaBench(config, memory, latency=60)
    bench.run(
        make(Opcode.STREAM, config, size=4096),
        make(Opcode.LOAD, config, dram_offset=4096, n0=4096, n1=1, n2=1),
    )
    cycles = [cycle for cycle, _ in bench.axi.read_beats]
    assert cycles == list(range(cycles[0], cycles[0] + 1024))
    half = [id_ for _, id_ in bench.axi.read_beats[:512]]
    assert abs(half.count(AxiSignature.STREAM_ID) - 256) <= 64


def test_blocked_load_does_not_block_stream() -> None:
    """Nobody takes LOAD's side writes for long, and every beat on R is accepted all the same."""
    memory = bytearray(random.Random(6).randbytes(1 << 14))
    bench = DmaBench(WIDE, memory, latency=10, stall=0.0)
    streams = [make(Opcode.STREAM, WIDE, dram_offset=8192, size=2048)]
    bench.opens["side"] = 600
    loads = [make(Opcode.LOAD, WIDE, space=Space.COLUMNS, n0=1024, n1=1, n2=1)] * 3
    bench.run(*streams, *loads)
    assert bench.retired[STREAM][0] < 560
    assert bench.retired[LOAD][0] > 600
    assert len(bench.side) == 3 * 256


def test_stream_never_asks_for_more_than_the_ring_has() -> None:
    """A ring that nobody reads is filled to the last word, and no further."""
    config = replace(WIDE, ring_bytes=1024)
    memory = bytearray(random.Random(7).randbytes(1 << 13))
    bench = DmaBench(config, memory, latency=10, drain=0.0)
    bench.run(make(Opcode.STREAM, config, size=2048), halt_at=600)
    assert b"".join(bench.words) == memory[:1024]
    assert sum(burst.beats for burst in bench.axi.reads) == 128
    assert bench.fault is None


def test_overhead_of_short_instructions() -> None:
    """Cycles per LOAD and per STORE of one beat, when they come one after the other."""
    memory = bytearray(4096)
    bench = DmaBench(WIDE, memory, latency=30)
    count = 12
    bench.run(
        *[make(Opcode.LOAD, WIDE, dram_offset=8 * n, n0=8, n1=1, n2=1) for n in range(count)],
        *[make(Opcode.STORE, WIDE, dram_offset=2048, n0=8, n1=1, n2=1) for n in range(count)],
    )
    for engine in (LOAD, STORE):
        cycles = bench.retired[engine]
        assert (cycles[-1] - cycles[0]) / (count - 1) <= 10
        assert cycles[0] <= 30 + 30


# Faults.

LONG_STREAM = make(Opcode.STREAM, WIDE, size=1024)
LONG_LOAD = make(Opcode.LOAD, WIDE, dram_offset=3, n0=200, n1=4, n2=1, stride1=40, dram_stride1=301)
LONG_STORE = make(
    Opcode.STORE,
    WIDE,
    dram_offset=4099,
    address=512,
    n0=200,
    n1=4,
    n2=1,
    stride1=40,
    dram_stride1=301,
)


def fault_bench(faults: AxiFaults | None = None, seed: int = 0, **options: Any) -> DmaBench:
    """A bench with stalls, whose memory has an error."""
    memory = bytearray(random.Random(seed).randbytes(1 << 13))
    return DmaBench(
        WIDE, memory, faults=faults, seed=seed, latency=20, stall=0.3, interleave=True, **options
    )


def beats_of(instruction: Instruction) -> int:
    """Beats that an instruction of these reads; for a STORE, the bursts that it writes."""
    if instruction.opcode is Opcode.STREAM:
        return instruction.size // WIDE.axi_bytes
    burst = 32 * WIDE.axi_bytes
    unit = burst if instruction.opcode is Opcode.STORE else WIDE.axi_bytes
    starts = [instruction.dram_offset + i * instruction.dram_stride1 for i in range(instruction.n1)]
    return sum((at + instruction.n0 - 1) // unit - at // unit + 1 for at in starts)


@pytest.mark.parametrize("where", ["first", "last", "next instruction", "later"])
@pytest.mark.parametrize("victim", [STREAM, LOAD, STORE], ids=lambda engine: engine.name)
def test_error_response_stops_everything(victim: Engine, where: str) -> None:
    """The fault names the beat; what came before is done and retired; AXI ends in good order."""
    instruction = {STREAM: LONG_STREAM, LOAD: LONG_LOAD, STORE: LONG_STORE}[victim]
    each = beats_of(instruction)
    number = {"first": 0, "last": each - 1, "next instruction": each, "later": each + 3}[where]
    burst_id = {STREAM: AxiSignature.STREAM_ID, LOAD: AxiSignature.LOAD_ID}.get(victim)
    if burst_id is None:
        faults = AxiFaults(writes={number})
    else:
        faults = AxiFaults(reads={(burst_id, number)})
    bench = fault_bench(faults, seed=number)
    before = bytes(bench.memory)
    bench.run(LONG_STREAM, LONG_LOAD, LONG_STORE, LONG_STREAM, LONG_LOAD, LONG_STORE)

    if victim is STORE:
        address = bench.axi.writes[number].address
    else:
        beats = [
            burst.address + WIDE.axi_bytes * beat
            for burst in bench.axi.reads
            if burst.id == burst_id
            for beat in range(burst.beats)
        ]
        address = beats[number]
    assert bench.fault == (victim, FaultCause.AXI_ERROR, address)
    assert bench.retired_at_fault[victim] == number // each
    assert len(bench.retired[victim]) == number // each
    if victim is STREAM:
        words = number * WIDE.axi_bytes // WIDE.rows
        assert b"".join(bench.words) == (before[:1024] * 2)[: words * WIDE.rows]


@pytest.mark.parametrize("seed", range(5))
def test_halt_at_any_time(seed: int) -> None:
    """All engines at work, then halt: no new burst, and all that is owed is done."""
    bench = fault_bench(seed=seed)
    program = [i for i in (LONG_STREAM, LONG_LOAD, LONG_STORE) for _ in range(4)]
    bench.run(*program, halt_at=random.Random(seed).randrange(20, 300))
    owed = sum(burst.beats for burst in bench.axi.writes)
    assert len(bench.axi.write_beats) == owed
    assert len(bench.axi.read_beats) == sum(burst.beats for burst in bench.axi.reads)


def test_error_right_behind_another_load() -> None:
    """Its beat comes in the next cycle: the LOAD before it is written and retired all the same."""
    memory = bytearray(random.Random(4).randbytes(4096))
    faults = AxiFaults(reads={(AxiSignature.LOAD_ID, 1)})
    bench = DmaBench(WIDE, memory, latency=4, faults=faults)
    loads = [make(Opcode.LOAD, WIDE, dram_offset=8 * n, n0=8, n1=1, n2=1) for n in (5, 6)]
    # While the beats of one STREAM burst arrive, both LOADs are asked for.
    bench.run(make(Opcode.STREAM, WIDE, size=256), *loads)
    first, second = (cycle for cycle, id_ in bench.axi.read_beats if id_ == AxiSignature.LOAD_ID)
    assert second == first + 1
    assert bench.fault == (LOAD, FaultCause.AXI_ERROR, 48)
    assert bench.retired_at_fault[LOAD] == 1
    assert bench.scratchpad[:8] == memory[40:48]


def test_halted_load_writes_no_zeros_more() -> None:
    """It has the bytes already, but stops all the same."""
    bench = DmaBench(WIDE, bytearray(4096))
    bench.run(make(Opcode.LOAD, WIDE, fill=Fill.ZERO, n0=4096, n1=1, n2=1), halt_at=100)
    assert 30 < len(bench.grants) < 50
    assert bench.grants[-1] < 105


def test_halted_store_writes_no_byte_more() -> None:
    """The scratchpad does not answer, so a burst has been started without its data."""
    bench = fault_bench()
    bench.opens["read"] = 10_000
    before = bytes(bench.memory)
    bench.run(LONG_STORE, halt_at=100)
    assert bench.axi.writes
    assert bench.axi.strobed == 0
    assert bench.memory == before


LimitCase = tuple[Instruction, FaultCause, int]

OUTSIDE: dict[str, Callable[[], LimitCase]] = {
    "stream beyond": lambda: (
        make(Opcode.STREAM, WIDE, base=1, dram_offset=0x7F8, size=16),
        FaultCause.DRAM_LIMIT,
        0x2000 + 0x7FF,
    ),
    "stream far beyond": lambda: (
        make(Opcode.STREAM, WIDE, base=1, dram_offset=0xFFFFFFF8, size=16),
        FaultCause.DRAM_LIMIT,
        0x1FF8,
    ),
    "load beyond in its third run": lambda: (
        make(Opcode.LOAD, WIDE, base=1, dram_offset=0x7E0, n0=8, n1=5, n2=1, dram_stride1=0xC),
        FaultCause.DRAM_LIMIT,
        0x2000 + 0x7FF,
    ),
    "load before": lambda: (
        make(Opcode.LOAD, WIDE, base=1, dram_offset=4, n0=8, n1=2, n2=1, dram_stride1=-5),
        FaultCause.DRAM_LIMIT,
        0x1FFF,
    ),
    "load by a scalar": lambda: (
        make(Opcode.LOAD, WIDE, base=1, n0=1, n1=1, n2=1, scalar=1, scalar_stride=1 << 28),
        FaultCause.DRAM_LIMIT,
        0x2000 + (8 << 28),
    ),
    "gather": lambda: (
        make(
            Opcode.LOAD,
            WIDE,
            base=1,
            fill=Fill.GATHER,
            index=512,
            n0=1,
            n1=1,
            n2=1,
            dram_stride1=1 << 24,
        ),
        FaultCause.DRAM_LIMIT,
        0x2000 + (5 << 24),
    ),
    "store beyond": lambda: (
        make(Opcode.STORE, WIDE, base=1, dram_offset=0x700, n0=256, n1=1, n2=1),
        FaultCause.DRAM_LIMIT,
        0x2000 + 0x7FF,
    ),
    "no base": lambda: (
        make(Opcode.STORE, WIDE, base=5, n0=1, n1=1, n2=1),
        FaultCause.DRAM_LIMIT,
        0,
    ),
    "load over the end of the scratchpad": lambda: (
        make(Opcode.LOAD, WIDE, address=1020, n0=8, n1=3, n2=1, stride1=3),
        FaultCause.SCRATCHPAD_BOUND,
        1026,
    ),
    "load a run over the end": lambda: (
        make(Opcode.LOAD, WIDE, address=1020, n0=33, n1=1, n2=1),
        FaultCause.SCRATCHPAD_BOUND,
        1024,
    ),
    "zero beyond": lambda: (
        make(Opcode.LOAD, WIDE, base=7, fill=Fill.ZERO, address=1 << 20, n0=1, n1=1, n2=1),
        FaultCause.SCRATCHPAD_BOUND,
        1 << 20,
    ),
    "store from beyond": lambda: (
        make(Opcode.STORE, WIDE, address=1023, n0=9, n1=1, n2=1),
        FaultCause.SCRATCHPAD_BOUND,
        1024,
    ),
    "index list beyond": lambda: (
        make(Opcode.LOAD, WIDE, fill=Fill.GATHER, index=1023, n0=1, n1=3, n2=1),
        FaultCause.SCRATCHPAD_BOUND,
        1024,
    ),
    "columns beyond": lambda: (
        make(Opcode.LOAD, WIDE, space=Space.COLUMNS, address=126, n0=24, n1=1, n2=1),
        FaultCause.SCRATCHPAD_BOUND,
        128,
    ),
    "tables beyond": lambda: (
        make(Opcode.LOAD, WIDE, space=Space.TABLES, address=764, n0=16, n1=1, n2=1),
        FaultCause.SCRATCHPAD_BOUND,
        768,
    ),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_refuses_what_lies_outside(case: str) -> None:
    """The first byte or granule outside is named, and what came before is done first."""
    instruction, cause, address = OUTSIDE[case]()
    memory = bytearray(random.Random(1).randbytes(1 << 14))
    bench = DmaBench(
        WIDE,
        memory,
        bases=(0, 0x2000),
        limits=(0x2000, 0x7FF),
        scalars=(8,),
        latency=20,
        stall=0.2,
    )
    bench.scratchpad[4096:4100] = (5).to_bytes(4, "little")
    before = {
        STREAM: LONG_STREAM,
        LOAD: make(Opcode.LOAD, WIDE, n0=500, n1=1, n2=1),
        STORE: make(Opcode.STORE, WIDE, dram_offset=4096, address=600, n0=500, n1=1, n2=1),
    }[instruction.engine]
    bench.run(before, instruction)
    assert bench.fault == (instruction.engine, cause, address)
    assert bench.retired_at_fault[instruction.engine] == 1


def test_last_bytes_within_the_limits_are_legal() -> None:
    memory = bytearray(random.Random(1).randbytes(1 << 13))
    bench = DmaBench(WIDE, memory, bases=(0, 0x1000), limits=(0x1000, 0x7FF), latency=5)
    bench.scratchpad[-9:] = b"exactly 9"
    bench.run(
        make(Opcode.LOAD, WIDE, base=1, dram_offset=0x7F0, n0=15, n1=1, n2=1),
        make(Opcode.STORE, WIDE, base=1, dram_offset=0x700, address=1022, n0=16, n1=1, n2=1),
        make(Opcode.STREAM, WIDE, dram_offset=0xFF0, size=16),
    )
    assert bench.fault is None
    assert bench.scratchpad[:15] == memory[0x17F0:0x17FF]
    assert memory[0x1707:0x1710] == b"exactly 9"
    assert b"".join(bench.words) == memory[0xFF0:0x1000]
