"""A host and a memory for the exported core, in cocotb. Copy it as the start of your own bench.

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
    INPUT_BASE,
    LENGTH_SCALAR,
    OUTPUT_BASE,
    Program,
)

CLOCK_NS = 10
ACCESS_NS = 200 * CLOCK_NS
"""How long one register access may take."""
RUN_NS = 50_000 * CLOCK_NS
"""How long the program may take."""

REGION = 0x1_0000
"""Bytes between the places in memory of two bases."""
MEMORY = 0x10_0000
UNTOUCHED = 0xA5
"""What the output's region holds before the run."""


class Host:
    """The core's surroundings: registers by name, and a memory."""

    def __init__(self, dut: SimHandleBase) -> None:
        self.dut = dut
        Clock(dut.clk, CLOCK_NS, "ns").start()
        self.csr = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=MEMORY)

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

    async def load(self, program: Program) -> None:
        """Put a program into memory, and tell the core where what is."""
        assert await self.read("id") == regs.MAGIC
        assert await self.read64("config_hash") == program.config.hash, "compiled for another core"
        self.ram.write(REGION * CODE_BASE, program.code)
        self.ram.write(REGION * IMAGE_BASE, program.image)
        for base in (CODE_BASE, IMAGE_BASE, INPUT_BASE, OUTPUT_BASE):
            await self.write(f"base{base}_lo", REGION * base)
            await self.write(f"base{base}_hi", 0)
            await self.write(f"limit{base}", REGION)
        await self.write("program_hash_lo", program.config.hash & 0xFFFF_FFFF)
        await self.write("program_hash_hi", program.config.hash >> 32)
        await self.write("program_size", len(program.code) // isa.INSTRUCTION_BYTES)
        await self.write(f"scalar{LENGTH_SCALAR}", program.seq_len)
        await self.write("interrupt_enable", 1)

    async def run(self) -> None:
        """Start, wait for the interrupt, see that all went well, and acknowledge."""
        await self.write("control", 1 << regs.Control.START)
        if not self.dut.irq.value:
            await with_timeout(RisingEdge(self.dut.irq), RUN_NS, "ns")
        state = regs.State(await self.read("status"))
        if state != regs.State.DONE:
            cause = regs.FaultCause(await self.read("fault_cause"))
            at = await self.read("fault_pc")
            raise AssertionError(f"{state.name}: {cause.name} at instruction {at}")
        await self.write("control", 1 << regs.Control.ACKNOWLEDGE)
        assert not self.dut.irq.value


async def run_and_compare(host: Host) -> None:
    """Run the program on its inputs; every byte of the output's region is as expected."""
    program = Program.load(os.environ["PROGRAM"])
    with np.load(os.environ["VECTORS"]) as file:
        vectors = dict(file)
    await host.reset()
    await host.load(program)
    for each in program.inputs:
        codes = vectors[each.name].astype(each.dtype)
        host.ram.write(REGION * each.base + each.offset, codes.tobytes())
    host.ram.write(REGION * OUTPUT_BASE, bytes([UNTOUCHED]) * REGION)

    await host.run()

    expected = bytearray([UNTOUCHED]) * REGION
    for each in program.outputs:
        codes = vectors[each.name].astype(each.dtype)
        expected[each.offset : each.offset + each.size] = codes.tobytes()
    np.testing.assert_array_equal(
        np.frombuffer(host.ram.read(REGION * OUTPUT_BASE, REGION), np.uint8),
        np.frombuffer(expected, np.uint8),
    )
    host.dut._log.info("%d cycles", await host.read64("cycles"))


def pauses(source: random.Random, share: float) -> Iterator[bool]:
    """Cycles in which one side of a channel holds still."""
    while True:
        yield source.random() < share


@cocotb.test(timeout_time=2 * RUN_NS, timeout_unit="ns")
async def program_gives_the_expected_result(dut: SimHandleBase) -> None:
    host = Host(dut)
    await run_and_compare(host)
    await run_and_compare(host)


@cocotb.test(timeout_time=2 * RUN_NS, timeout_unit="ns")
async def back_pressure_changes_no_result(dut: SimHandleBase) -> None:
    """Every channel of both buses holds still at random."""
    host = Host(dut)
    source = random.Random(1)
    for bus in (host.csr, host.ram):
        writing, reading = bus.write_if, bus.read_if
        for channel in (
            *(writing.aw_channel, writing.w_channel, writing.b_channel),
            *(reading.ar_channel, reading.r_channel),
        ):
            channel.set_pause_generator(pauses(source, 0.4))
    await run_and_compare(host)
