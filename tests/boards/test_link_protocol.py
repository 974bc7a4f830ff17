# amaranth: UnusedElaboratable=no
"""The link's gateware on its wires: what it answers, what it touches, and how it finds back."""

import random
from collections.abc import Callable, Coroutine

import pytest

from systolith import link, regs
from systolith_boards.link.bench import (
    BUS_ERROR,
    CHECK,
    CLOCK,
    CONFIG,
    MEMORY,
    NOTHING_THERE,
    OKAY,
    PATIENCE,
    POKE,
    READ,
    TIMEOUT,
    WRITE,
    Board,
    Line,
    answer,
    crc,
    header,
    write_frame,
)
from systolith_boards.link.host_link import HostLink
from systolith_rtl.control.csr import CLEARING_CYCLES
from systolith_sim.axi import AxiFaults, AxiMemory
from systolith_sim.testbench import SimulatorContext, simulate

CORE, LINK = 0xF000_0000, 0xF000_1000
REJECTED = b"\x5a"
SCRATCH = LINK + 0x20
FRAME_ERRORS, LINE_ERRORS, BUS_ERRORS = LINK + 0x18, LINK + 0x14, LINK + 0x1C

Bench = Callable[[SimulatorContext, Board, Line], Coroutine]


def run(
    bench: Bench,
    *,
    memory: bytearray | None = None,
    seed: int | None = None,
    cycles: int = 60_000,
    **options: object,
) -> AxiMemory:
    """Simulate a board with a memory, which holds the link to AXI."""
    dut = Board()
    line = Line(dut, seed=seed)
    memory = bytearray(MEMORY) if memory is None else memory
    slave = AxiMemory(memory, dut.link.memory, **{"latency": 5} | options)

    async def host(ctx: SimulatorContext) -> None:
        await line.wait(ctx, CLEARING_CYCLES)
        await bench(ctx, dut, line)

    simulate(dut, host, monitors=[slave, line], max_cycles=cycles)
    return slave


def test_uartbone_reads_and_writes() -> None:
    """The frames that LiteX's host sends, as bytes; addresses of words, big-endian."""
    memory = bytearray(MEMORY)

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        await line.send(ctx, bytes.fromhex("01 02 00000004 11223344 55667788"))
        await line.send(ctx, bytes.fromhex("02 03 00000003"))
        await line.expect(ctx, bytes.fromhex("00000000 11223344 55667788"))
        await line.send(ctx, bytes.fromhex("04 02 00000005"))
        await line.expect(ctx, bytes.fromhex("55667788 55667788"))
        await line.send(ctx, bytes.fromhex("03 02 00000006 00000001 00000002"))
        await line.send(ctx, bytes.fromhex("02 00 00000006"))
        await line.send(ctx, bytes.fromhex("02 02 00000006"))
        await line.expect(ctx, bytes.fromhex("00000002 00000000"))
        await line.send(ctx, bytes.fromhex("02 01 3c000000"))
        await line.expect(ctx, bytes.fromhex("5953544c"))

    run(bench, memory=memory)
    assert memory[16:28] == bytes.fromhex("44332211 88776655 02000000")


@pytest.mark.parametrize(("seed", "stall"), [(None, 0.0), (1, 0.4), (2, 0.7)])
def test_words_go_to_memory_and_back(seed: int | None, stall: float) -> None:
    memory = bytearray(random.Random(0).randbytes(MEMORY))
    before = bytes(memory)
    words = [random.Random(1).getrandbits(32) for _ in range(9)]

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        frame = write_frame(7, 0x1FF8, words)
        await line.send(ctx, frame)
        await line.expect(ctx, answer(7))
        await line.send(ctx, header(READ, 8, 0x1FF4, 11))
        old = [int.from_bytes(before[at : at + 4], "little") for at in (0x1FF4, 0x201C)]
        await line.expect(ctx, answer(8, OKAY, [old[0], *words, old[1]]))
        await line.send(ctx, header(CHECK, 9, 0x1FF8, 9))
        whole = answer(9, OKAY, words)
        await line.expect(ctx, whole[:2] + whole[-5:])

    run(bench, memory=memory, seed=seed, stall=stall)
    expected = bytearray(before)
    expected[0x1FF8:0x201C] = b"".join(word.to_bytes(4, "little") for word in words)
    assert memory == expected


def test_frames_follow_each_other_without_a_gap() -> None:
    """The next frame comes while the answer leaves."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        frames = [write_frame(tag, 64 * tag, [tag, tag + 1]) for tag in range(1, 6)]
        await line.send(ctx, b"".join(frames) + header(READ, 9, 64, 2) + header(READ, 10, 128, 1))
        answers = [answer(tag) for tag in range(1, 6)]
        await line.expect(ctx, b"".join([*answers, answer(9, OKAY, [1, 2]), answer(10, OKAY, [2])]))

    run(bench)


def test_the_registers_of_core_and_link() -> None:
    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        async def read(address: int, words: list[int]) -> None:
            await line.send(ctx, header(READ, 1, address, len(words)))
            await line.expect(ctx, answer(1, OKAY, words))

        await read(CORE, [regs.MAGIC])
        await read(CORE + 8, [CONFIG.hash & 0xFFFF_FFFF, CONFIG.hash >> 32])
        await read(LINK, [int.from_bytes(b"LINK", "little"), 1, MEMORY, CLOCK, 1, 0, 0, 0, 0, 0])
        ctx.set(dut.irq, 1)
        ctx.set(dut.memory_ready, 0)
        await read(LINK + 0x10, [4])
        for tag, (address, value) in enumerate(
            [(SCRATCH, 0xDEADBEEF), (CORE + regs.offset("limit3"), 12345), (LINK + 4, 9)], 40
        ):
            await line.send(ctx, header(POKE, tag, address, value))
            await line.expect(ctx, answer(tag))
        await read(SCRATCH, [0xDEADBEEF])
        await read(CORE + regs.offset("limit3"), [12345])
        await read(LINK + 4, [1])

    run(bench)


def test_link_registers_are_those_of_the_table() -> None:
    assert {register.name: register.offset for register in link.REGISTERS} == {
        "magic": 0,
        "version": 4,
        "memory_bytes": 8,
        "clock_hz": 12,
        "status": 16,
        "line_errors": 20,
        "frame_errors": 24,
        "bus_errors": 28,
        "scratch": 32,
    }


def test_a_repeated_poke_is_carried_out_once() -> None:
    """The host repeats what was not answered, and must not start a program twice."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        for tag, value, seen in ((5, 1, 1), (5, 2, 1), (6, 3, 3), (5, 4, 4)):
            await line.send(ctx, header(POKE, tag, 0x40, value))
            await line.expect(ctx, answer(tag))
            await line.send(ctx, header(READ, 0, 0x40, 1))
            await line.expect(ctx, answer(0, OKAY, [seen]))

    run(bench)


def broken_frames() -> list[bytes]:
    good = write_frame(1, 0x100, [1, 2])
    bad_crc = bytearray(header(POKE, 3, 0x100, 5))
    bad_crc[-1] ^= 0x10
    wrong_address = bytearray(good)
    wrong_address[4] ^= 1
    long = header(WRITE, 1, 0x100, 0x10001)
    return [
        bytes(bad_crc),
        bytes(wrong_address),
        good[:9] + good[10:],  # a byte lost in the header
        good[:3] + good[2:],  # one twice
        header(POKE, 3, 0x100, 5)[:8],
        long,
        header(READ, 1, 0x100, 0),
        header(POKE, 3, 0x100, 5)[:-1],
        header(READ, 1, 0x100, 1)[:1],
    ]


def test_a_broken_header_touches_nothing() -> None:
    """No access at all, a rejection, and after a silence all is well."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        for index, frame in enumerate(broken_frames()):
            await line.send(ctx, frame)
            if index < 4:
                # What looks like a write of uartbone follows, as payload does.
                await line.send(ctx, bytes.fromhex("01 01 00000040 99999999"))
            await line.expect(ctx, REJECTED)
            await line.silence(ctx)
            await line.send(ctx, header(READ, 2, FRAME_ERRORS, 1))
            await line.expect(ctx, answer(2, OKAY, [index + 1]))

    slave = run(bench)
    assert not slave.reads
    assert not slave.writes


def test_a_broken_payload_is_rejected() -> None:
    """Lost, doubled and changed bytes; beyond the words that were meant, nothing is written."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        good = write_frame(1, 0x100, [0x01020304, 5, 6])
        for at in (14, 19, 24):
            changed = bytearray(good)
            changed[at] ^= 0x40
            for frame in (good[:at] + good[at + 1 :], good[: at + 1] + good[at:], bytes(changed)):
                await line.send(ctx, frame)
                await line.expect(ctx, REJECTED)
                await line.silence(ctx)
        await line.send(ctx, good)
        await line.expect(ctx, answer(1))

    slave = run(bench)
    assert {burst.address for burst in slave.writes} == {0x100, 0x104, 0x108}
    assert slave.memory[0x100:0x10C] == bytes.fromhex("04030201 05000000 06000000")


def test_uartbone_is_not_listened_to_beside_commands() -> None:
    """Until there is a silence; then it is again."""
    write = bytes.fromhex("01 01 00000040 99999999")

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        await line.send(ctx, write_frame(1, 0, [1]))
        await line.expect(ctx, answer(1))
        await line.send(ctx, write)
        await line.expect(ctx, REJECTED)
        await line.silence(ctx)
        await line.send(ctx, bytes.fromhex("02 01 00000040"))
        await line.expect(ctx, bytes(4))
        await line.send(ctx, write + bytes.fromhex("02 01 00000040"))
        await line.expect(ctx, b"\x99" * 4)

    run(bench)


def test_garbage_is_skipped() -> None:
    """Noise, a break, a byte without a stop bit: nothing is said, nothing is done."""
    noise = bytes(byte for byte in random.Random(3).randbytes(60) if 0x05 <= byte < 0xF0)

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        await line.send(ctx, noise)
        await line.silence(ctx)
        await line.send(ctx, b"\x02", stop=0)
        await line.silence(ctx)
        ctx.set(dut.rx, 0)
        await line.wait(ctx, 3000)
        ctx.set(dut.rx, 1)
        await line.silence(ctx)
        assert not line.received
        await line.send(ctx, header(READ, 2, LINE_ERRORS, 2))
        await line.expect(ctx, answer(2, OKAY, [2, 3]))

    slave = run(bench)
    assert not slave.reads
    assert not slave.writes


def test_a_truncated_frame_of_uartbone_is_dropped_by_silence() -> None:
    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        for size in (1, 2, 5, 8):
            await line.send(ctx, bytes.fromhex("01 01 00000010 12345678")[:size])
            await line.silence(ctx)
        await line.send(ctx, bytes.fromhex("02 01 00000010"))
        await line.expect(ctx, bytes(4))

    assert not run(bench).writes


def test_errors_of_the_memory_are_told() -> None:
    """The rest of the command is not tried, and the answer has its length."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        await line.send(ctx, write_frame(1, 0x200, [1, 2, 3]))
        await line.expect(ctx, answer(1, BUS_ERROR))
        await line.send(ctx, header(READ, 2, 0x200, 3))
        await line.wait(ctx, 40 * 40)
        found = bytes(line.received)
        assert len(found) == 19
        assert found[14] == BUS_ERROR
        assert found[-4:] == crc(found[:-4])
        line.received.clear()
        await line.send(ctx, header(READ, 3, BUS_ERRORS, 1))
        await line.expect(ctx, answer(3, OKAY, [2]))

    slave = run(bench, faults=AxiFaults(reads={(3, 1)}, writes={1}))
    assert len(slave.writes) == 2
    assert len(slave.reads) == 2


def test_where_nothing_is_nothing_happens() -> None:
    beyond = CORE + regs.SPAN, LINK + link.SPAN
    places = (MEMORY, 0x8000_0000, *beyond, 0xE000_0000, 0xF001_0000, 0x3000_0000)

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        for address in places:
            # What was not done may be tried again.
            for _ in range(2):
                await line.send(ctx, header(POKE, 1, address, 1))
                await line.expect(ctx, answer(1, NOTHING_THERE))

    slave = run(bench)
    assert not slave.writes


def test_bulk_writes_reach_memory_only() -> None:
    """Words are written before their CRC has come: not good enough for registers."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        for address in (CORE + regs.offset("limit3"), SCRATCH):
            await line.send(ctx, write_frame(1, address, [77]))
            await line.expect(ctx, answer(1, NOTHING_THERE))
            await line.send(ctx, header(READ, 1, address, 1))
            await line.expect(ctx, answer(1, OKAY, [0]))
        ctx.set(dut.memory_ready, 0)
        await line.send(ctx, write_frame(1, 0, [77]))
        await line.expect(ctx, answer(1, NOTHING_THERE))

    assert not run(bench).writes


def test_a_bus_that_hangs_does_not_hang_the_link() -> None:
    """Registers that never answer, then answer late: each frame has its own answer."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        ctx.set(dut.hang, 1)
        for tag in (1, 2):
            await line.send(ctx, header(READ, tag, CORE, 2))
            await line.wait(ctx, 2 * PATIENCE + 19 * 40)
            found = bytes(line.received)
            assert (len(found), found[10]) == (15, TIMEOUT)
            assert found[-4:] == crc(found[:-4])
            line.received.clear()
        await line.send(ctx, write_frame(3, 0, [7]) + header(READ, 4, 0, 1))
        await line.expect(ctx, answer(3) + answer(4, OKAY, [7]))
        ctx.set(dut.hang, 0)
        await line.wait(ctx, 50)
        await line.send(ctx, header(READ, 5, CORE + 4, 1))
        await line.expect(ctx, answer(5, OKAY, [1]))
        await line.send(ctx, header(READ, 6, BUS_ERRORS, 1))
        await line.expect(ctx, answer(6, OKAY, [2]))

    run(bench)


def test_a_late_answer_is_not_taken_for_another() -> None:
    """Registers that were given up answer while memory is waited for."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        ctx.set(dut.hang, 1)
        await line.send(ctx, header(READ, 1, CORE, 1))
        await line.wait(ctx, PATIENCE + 12 * 40)
        assert line.received[6] == TIMEOUT
        line.received.clear()
        await line.send(ctx, header(READ, 2, 0x40, 1))
        await line.wait(ctx, 130)
        assert bytes(line.received) == answer(2)[: len(line.received)]
        ctx.set(dut.hang, 0)
        await line.expect(ctx, answer(2, OKAY, [0x44332211]))

    memory = bytearray(MEMORY)
    memory[0x40:0x44] = bytes.fromhex("11223344")
    run(bench, memory=memory, latency=170)


def test_what_comes_too_fast_is_not_taken_for_something_else() -> None:
    """While a bus hangs, frames come in until there is no room: they are rejected, all of them."""

    async def bench(ctx: SimulatorContext, dut: Board, line: Line) -> None:
        await line.send(ctx, header(READ, 1, 0, 60))
        await line.send(ctx, b"".join(header(POKE, tag, 0x80, tag) for tag in range(2, 12)))
        await line.wait(ctx, 60 * 4 * 60)
        assert line.received[-1:] == REJECTED
        assert len(line.received) == 7 + 240 + 1
        line.received.clear()
        await line.silence(ctx)
        await line.send(ctx, header(READ, 1, 0x80, 1))
        await line.expect(ctx, answer(1, OKAY, [0]))

    run(bench)


@pytest.mark.parametrize(
    ("clock", "baud", "memory", "message"),
    [
        (25_000_000, 3_000_000, 4096, "25000000 Hz makes 3125000 baud of 3000000, 4.2 % off"),
        (9_000_000, 3_000_000, 4096, "a bit must take at least 4 clocks, not 3"),
        (12_000_000, 3_000_000, 1000, "memory_bytes must be a multiple of 4096, but is 1000"),
    ],
)
def test_nonsense_is_refused(clock: int, baud: int, memory: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HostLink(CONFIG, clock, baud, memory)
