"""A host and a memory for the exported core, in cocotb: copy it as the start of a bench of yours.

The host does what a driver does: memory, registers, start, interrupt, result. It is given two
files by the environment: `PROGRAM`, a compiled program, and `VECTORS`, a NumPy archive with the
codes of every input and of every output that is expected.
"""

import os
import random
from collections.abc import Iterator

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.handle import SimHandleBase
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from systolith import isa, regs
from systolith.program import (
    CODE_BASE,
    IMAGE_BASE,
    LENGTH_SCALAR,
    OUTPUT_BASE,
    Program,
)

CLOCK_NS = 10
ACCESS_NS = 200 * CLOCK_NS
"""How long one register access may take."""
PAGE = 4096
"""What each base's place in memory is a multiple of; a multiple of 64 is enough."""
GUARD = 64
"""Bytes behind the output that must stay as they were."""
UNTOUCHED = 0xA5
"""What the output's region holds before the run."""


class Host:
    """The core's surroundings: registers by name, and a memory with a place for each base."""

    def __init__(self, dut: SimHandleBase, program: Program) -> None:
        self.dut, self.program = dut, program
        self.places = dict[int, int]()
        end = 0
        for base, size in program.base_bytes.items():
            self.places[base] = end
            end += -(-(size + GUARD) // PAGE) * PAGE
        self.run_ns = (50_000 + 50 * program.macs) * CLOCK_NS
        Clock(dut.clk, CLOCK_NS, "ns").start()
        self.csr = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=end)

    async def reset(self) -> None:
        """Reset is synchronous and active high."""
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await RisingEdge(self.dut.clk)

    async def write(self, name: str, value: int) -> None:
        """Write a register."""
        access = self.csr.write_dword(regs.offset(name), value)
        await with_timeout(access, ACCESS_NS, "ns")

    async def read(self, name: str) -> int:
        """Read a register."""
        return await with_timeout(self.csr.read_dword(regs.offset(name)), ACCESS_NS, "ns")

    async def read64(self, name: str) -> int:
        """Read a pair of registers."""
        return await self.read(f"{name}_lo") | await self.read(f"{name}_hi") << 32

    async def load(self) -> None:
        """Put the program into memory, and tell the core where what is."""
        program = self.program
        assert await self.read("id") == regs.MAGIC
        assert await self.read64("config_hash") == program.config.hash, "compiled for another core"
        self.ram.write(self.places[CODE_BASE], program.code)
        self.ram.write(self.places[IMAGE_BASE], program.image)
        for base, place in self.places.items():
            await self.write(f"base{base}_lo", place)
            await self.write(f"base{base}_hi", 0)
            await self.write(f"limit{base}", program.base_bytes[base])
        await self.write("program_hash_lo", program.config.hash & 0xFFFF_FFFF)
        await self.write("program_hash_hi", program.config.hash >> 32)
        await self.write("program_size", len(program.code) // isa.INSTRUCTION_BYTES)
        await self.write(f"scalar{LENGTH_SCALAR}", program.seq_len)
        await self.write("interrupt_enable", 1)

    async def run(self) -> None:
        """Start, wait for the interrupt, see that all went well, and acknowledge."""
        await self.write("control", 1 << regs.Control.START)
        if not self.dut.irq.value:
            await with_timeout(RisingEdge(self.dut.irq), self.run_ns, "ns")
        state = regs.State(await self.read("status"))
        if state != regs.State.DONE:
            cause = regs.FaultCause(await self.read("fault_cause"))
            at = await self.read("fault_pc")
            raise AssertionError(f"{state.name}: {cause.name} at instruction {at}")
        await self.write("control", 1 << regs.Control.ACKNOWLEDGE)
        assert not self.dut.irq.value


async def run_and_compare(host: Host) -> None:
    """Run the program on its inputs; every byte of the output's memory is as expected."""
    program = host.program
    with np.load(os.environ["VECTORS"]) as file:
        vectors = dict(file)
    await host.reset()
    await host.load()
    for each in program.inputs:
        codes = vectors[each.name].astype(each.dtype)
        host.ram.write(host.places[each.base] + each.offset, codes.tobytes())
    place, size = host.places[OUTPUT_BASE], program.base_bytes[OUTPUT_BASE] + GUARD
    host.ram.write(place, bytes([UNTOUCHED]) * size)

    await host.run()

    expected = bytearray([UNTOUCHED]) * size
    for each in program.outputs:
        codes = vectors[each.name].astype(each.dtype)
        expected[each.offset : each.offset + each.size] = codes.tobytes()
    np.testing.assert_array_equal(
        np.frombuffer(bytes(host.ram.read(place, size)), np.uint8),
        np.frombuffer(bytes(expected), np.uint8),
    )
    host.dut._log.info("%d cycles", await host.read64("cycles"))


def pauses(source: random.Random, share: float) -> Iterator[bool]:
    """Cycles in which one side of a channel holds still."""
    while True:
        yield source.random() < share


@cocotb.test()
async def program_gives_the_expected_result(dut: SimHandleBase) -> None:
    """Twice, since the second run finds what the first one left behind."""
    host = Host(dut, Program.load(os.environ["PROGRAM"]))
    await run_and_compare(host)
    await run_and_compare(host)


@cocotb.test()
async def back_pressure_changes_no_result(dut: SimHandleBase) -> None:
    """Every channel of both buses holds still at random."""
    host = Host(dut, Program.load(os.environ["PROGRAM"]))
    source = random.Random(1)
    for bus in (host.csr, host.ram):
        writing, reading = bus.write_if, bus.read_if
        for channel in (
            *(writing.aw_channel, writing.w_channel, writing.b_channel),
            *(reading.ar_channel, reading.r_channel),
        ):
            channel.set_pause_generator(pauses(source, 0.4))
    await run_and_compare(host)


@cocotb.test()
async def a_fault_says_where_and_reset_ends_it(dut: SimHandleBase) -> None:
    """An operator that does not exist stops the program; after a reset, it runs as before."""
    host = Host(dut, Program.load(os.environ["PROGRAM"]))
    await host.reset()
    await host.load()
    broken = 3
    host.ram.write(host.places[CODE_BASE] + broken * isa.INSTRUCTION_BYTES, b"\xee")
    await host.write("control", 1 << regs.Control.START)
    await with_timeout(RisingEdge(dut.irq), host.run_ns, "ns")
    assert await host.read("status") == regs.State.FAULT
    assert await host.read("fault_cause") == regs.FaultCause.ILLEGAL_INSTRUCTION
    assert await host.read("fault_pc") == broken
    await host.write("control", 1 << regs.Control.RESET)
    assert await host.read("status") == regs.State.IDLE
    await run_and_compare(host)
