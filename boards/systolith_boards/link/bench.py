"""A board's link and the other end of its wires, for simulations.

Frames are put together here, byte by byte as docs/boards.md has them, and not by the driver.
"""

import random
import zlib
from collections.abc import Iterable

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import preset
from systolith_boards.link import HostLink
from systolith_rtl.control.csr import Csr
from systolith_sim.testbench import CLOCK_PERIOD, SimulatorContext

CONFIG = preset("tiny")
DIVISOR = 4
MEMORY = 1 << 16
CLOCK = 1_000_000
SILENCE = 500
PATIENCE = 200

POKE, WRITE, READ, CHECK = 0xF8, 0xF9, 0xFA, 0xFB
OKAY, NOTHING_THERE, BUS_ERROR, TIMEOUT = range(4)


def crc(data: bytes) -> bytes:
    """The CRC of some bytes, as bytes."""
    return zlib.crc32(data).to_bytes(4, "little")


def header(command: int, tag: int, address: int, argument: int) -> bytes:
    """A header; `address` in bytes."""
    start = bytes([command, tag]) + (address // 4).to_bytes(4, "big") + argument.to_bytes(4, "big")
    return start + crc(start)


def write_frame(tag: int, address: int, words: Iterable[int]) -> bytes:
    """A write of words; `address` in bytes."""
    payload = b"".join(word.to_bytes(4, "big") for word in words)
    start = header(WRITE, tag, address, len(payload) // 4) + payload
    return start + crc(start)


def answer(tag: int, status: int = OKAY, words: Iterable[int] = ()) -> bytes:
    """An answer."""
    start = bytes([0xA5, tag]) + b"".join(word.to_bytes(4, "big") for word in words)
    start += bytes([status])
    return start + crc(start)


class Board(wiring.Component):
    """A link with the registers of a core; a slave of memory is the test's.

    `hang` keeps the registers from answering.
    """

    rx: Signal
    tx: Signal
    hang: Signal
    memory_ready: Signal
    irq: Signal

    def __init__(self, divisor: int = DIVISOR) -> None:
        self.link = HostLink(
            CONFIG, CLOCK, CLOCK // divisor, MEMORY, silence=SILENCE, patience=PATIENCE
        )
        super().__init__(
            {
                "rx": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "tx": Out(1),
                "hang": In(1),
                "memory_ready": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "irq": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire the link to registers, which may be cut off."""
        m = Module()
        m.submodules.link = link = self.link
        m.submodules.csr = csr = Csr(CONFIG)
        wiring.connect(m, link.csr, csr.s_axil)
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            link.memory_ready.eq(self.memory_ready),
            link.irq.eq(self.irq),
        ]
        with m.If(self.hang):
            m.d.comb += [
                csr.s_axil.ar.valid.eq(0),
                link.csr.ar.ready.eq(0),
                csr.s_axil.aw.valid.eq(0),
                link.csr.aw.ready.eq(0),
            ]
        return m


class Line:
    """The other end of the wires: sends bytes, and collects what comes."""

    def __init__(self, dut: Board, *, divisor: int = DIVISOR, seed: int | None = None) -> None:
        self.dut = dut
        self.divisor = divisor
        self.received = bytearray()
        self._random = random.Random(seed)
        self._gaps = seed is not None

    async def send(self, ctx: SimulatorContext, data: bytes, *, stop: int = 1) -> None:
        """Send bytes, with gaps if there is a seed; the last one's stop bit may be missing."""
        for index, byte in enumerate(data):
            final = stop if index == len(data) - 1 else 1
            for bit in (0, *(byte >> i & 1 for i in range(8)), final):
                ctx.set(self.dut.rx, bit)
                await self.wait(ctx, self.divisor)
            ctx.set(self.dut.rx, 1)
            if self._gaps and self._random.random() < 0.1:
                await self.wait(ctx, self._random.randrange(SILENCE // 2))

    async def wait(self, ctx: SimulatorContext, cycles: int) -> None:
        """Let some cycles go by."""
        if cycles:
            await ctx.delay(cycles * CLOCK_PERIOD)

    async def silence(self, ctx: SimulatorContext) -> None:
        """Send nothing for as long as it takes to be noticed."""
        await self.wait(ctx, SILENCE + 20)

    async def expect(self, ctx: SimulatorContext, expected: bytes) -> None:
        """Wait for an answer, and for a byte too many."""
        for _ in range(len(expected) + 1000 // self.divisor):
            if len(self.received) >= len(expected):
                break
            await self.wait(ctx, 10 * self.divisor)
        await self.wait(ctx, 12 * self.divisor)
        found, self.received = bytes(self.received), bytearray()
        assert found == expected, f"{found.hex(' ')} instead of {expected.hex(' ')}"

    async def watch(self, ctx: SimulatorContext) -> None:
        """Collect bytes until the simulation ends; give it to `simulate` as a monitor."""
        while True:
            await ctx.negedge(self.dut.tx)
            # A quarter into each bit, so that a bit that comes late is seen.
            await self.wait(ctx, self.divisor + self.divisor // 4)
            byte = 0
            for index in range(8):
                byte |= ctx.get(self.dut.tx) << index
                await self.wait(ctx, self.divisor)
            assert ctx.get(self.dut.tx) == 1, "no stop bit"
            self.received.append(byte)
