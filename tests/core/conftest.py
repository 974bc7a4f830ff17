"""A core with its memory, programs that it runs, and how the instruction simulator ends them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from systolith import regs
from systolith.config import preset
from systolith.host.device import Device
from systolith.isa import (
    Engine,
    Instruction,
    Opcode,
    Space,
    Statistic,
    WeightSource,
    XFormat,
    encode,
    make,
)
from systolith.numerics import Column, Format, Source, affine
from systolith.regs import Control, State
from systolith_sim.devices import open_device
from systolith_sim.iss import IssDevice

CONFIG = preset("tiny")
MEMORY = 1 << 16
BASES = {0: 0x0000, 1: 0x2000, 2: 0x4000, 3: 0x6000}
"""Code, image, inputs, outputs."""

LIMIT = 0x2000
RECORDS = 0x400
"""Where the column records are in the image."""

M, N, K = 6, 4, 8
Y_ADDRESS = 512
HALT_CODE = 0xCAFE_F00D

RESULTS = ("status", "halt_code", "fault_cause", "fault_engine", "fault_pc", "fault_tag")
"""Registers in which all devices must agree when a program has ended."""


def op(opcode: Opcode, *, waits: dict[Engine, int] | None = None, **values: int) -> Instruction:
    """An instruction for the core of these tests."""
    return make(opcode, CONFIG, waits=waits, **values)


def load(**changes: int) -> Instruction:
    """A LOAD of 16 bytes from the inputs."""
    return op(Opcode.LOAD, **({"base": 2, "n0": 16, "n1": 1, "n2": 1} | changes))


HALT = op(Opcode.HALT, tag=7, code=HALT_CODE)


def as_code(program: Sequence[Instruction | bytes]) -> bytes:
    """A program in memory; bytes stand for what is no instruction."""
    return b"".join(item if isinstance(item, bytes) else encode(item) for item in program)


@dataclass(frozen=True)
class Matmul:
    """DRAM to DRAM: y = affine(A B^T), with what must be in memory."""

    program: tuple[Instruction, ...]
    image: bytes
    inputs: bytes
    expected: np.ndarray


def make_matmul() -> Matmul:
    """LOAD columns and A, STREAM B, GEMM, VECTOR, STORE, HALT; the result in Python integers."""
    rows, columns = CONFIG.rows, CONFIG.columns
    generator = np.random.default_rng(0)
    a = generator.integers(-128, 128, (M, K))
    b = generator.integers(-128, 128, (N, K))
    records = [Column(20000 + 500 * j, 15, 256 * j - 300) for j in range(N)]
    ring = b"".join(
        b[j, first : first + rows].astype(np.int8).tobytes()
        for first in range(0, K, rows)
        for j in range(N)
    )
    image = ring.ljust(RECORDS, b"\0") + b"".join(
        mant.to_bytes(2, "little", signed=True)
        + shift.to_bytes(1, "little", signed=True)
        + b"\0"
        + off.to_bytes(4, "little", signed=True)
        for mant, shift, off in records
    )
    row = K // columns
    program = (
        load(tag=1, base=1, dram_offset=RECORDS, n0=8 * N, space=Space.COLUMNS),
        load(tag=2, n0=K, n1=M, dram_stride1=K, stride1=row),
        op(Opcode.STREAM, tag=3, base=1, size=len(ring)),
        op(
            Opcode.GEMM,
            tag=4,
            waits={Engine.LOAD: 2},
            a_row=row,
            m=M,
            n=N,
            k=K,
            b_source=WeightSource.RING_S8,
        ),
        op(
            Opcode.VECTOR,
            tag=5,
            waits={Engine.LOAD: 2},
            x_format=XFormat.ACCUMULATOR,
            y_address=Y_ADDRESS,
            y_row=1,
            m=M,
            n=N,
            y_format=Format.S8,
            statistic=Statistic.MAX,
        ),
        op(
            Opcode.STORE,
            tag=6,
            waits={Engine.VECTOR: 1},
            base=3,
            address=Y_ADDRESS,
            n0=N,
            n1=M,
            n2=1,
            dram_stride1=N,
            stride1=1,
        ),
        op(Opcode.HALT, tag=7, waits={Engine.STORE: 1}, code=HALT_CODE),
    )
    expected = [
        [
            affine(
                int(sum(a[m] * b[j])),
                source=Source.ACCUMULATOR,
                column=records[j],
                out_format=Format.S8,
            )
            for j in range(N)
        ]
        for m in range(M)
    ]
    return Matmul(program, image, a.astype(np.int8).tobytes(), np.array(expected))


class Bench:
    """A device, set up to run programs one after the other.

    Attributes:
        device: the core.
        matmul: a program that uses every kind of unit but ROW.
    """

    CONFIG = CONFIG
    BASES = BASES
    LIMIT = LIMIT
    Y_ADDRESS = Y_ADDRESS
    HALT = HALT
    HALT_CODE = HALT_CODE
    op = staticmethod(op)
    load = staticmethod(load)

    def __init__(self, device: Any) -> None:
        self.device = device
        self.matmul = make_matmul()
        for base, address in BASES.items():
            self.write(f"base{base}_lo", address)
            self.write(f"limit{base}", LIMIT)
        self.write("program_hash_lo", CONFIG.hash & 0xFFFF_FFFF)
        self.write("program_hash_hi", CONFIG.hash >> 32)
        self.write("interrupt_enable", 1)
        device.write_memory(BASES[1], self.matmul.image)
        device.write_memory(BASES[2], self.matmul.inputs)

    def write(self, name: str, value: int) -> None:
        """Write a register."""
        self.device.write_csr(regs.offset(name), value)

    def read(self, name: str) -> int:
        """Read a register."""
        return self.device.read_csr(regs.offset(name))

    def read_pair(self, name: str) -> int:
        """Read two registers."""
        return self.read(f"{name}_lo") | self.read(f"{name}_hi") << 32

    def control(self, command: Control) -> None:
        """Write a command."""
        self.write("control", 1 << command)

    @property
    def state(self) -> State:
        """What the core is doing."""
        return State(self.read("status"))

    def start(self, program: Sequence[Instruction | bytes]) -> None:
        """Write a program, and start it."""
        code = as_code(program)
        self.device.write_memory(BASES[0], code)
        self.write("program_size", len(program))
        self.control(Control.START)

    def end(self, *, max_cycles: int = 3000) -> dict[str, int]:
        """Wait for the interrupt and acknowledge it; return the registers that tell the end."""
        self.device.wait_interrupt(max_cycles=max_cycles)
        assert self.read("interrupt_pending") == 1
        self.control(Control.ACKNOWLEDGE)
        assert self.read("interrupt_pending") == 0
        results = {name: self.read(name) for name in RESULTS}
        return results | {"fault_address": self.read_pair("fault_address")}

    def run(self, program: Sequence[Instruction | bytes]) -> dict[str, int]:
        """Run a program to its end."""
        self.start(program)
        return self.end()

    def assert_clean_run(self) -> None:
        """Run the matmul; its result must be right, to the last bit."""
        size = self.matmul.expected.size
        self.device.write_memory(BASES[3], bytes(size))
        end = self.run(self.matmul.program)
        assert end["status"] == State.DONE
        assert end["halt_code"] == HALT_CODE
        assert end["fault_cause"] == 0
        result = np.frombuffer(self.device.read_memory(BASES[3], size), np.int8)
        assert np.array_equal(result.reshape(self.matmul.expected.shape), self.matmul.expected)

    def reset(self) -> None:
        """Reset the core, and wait until it is idle."""
        self.control(Control.RESET)
        for _ in range(100):
            if self.state == State.IDLE:
                return
        raise AssertionError(f"the core is still in state {self.state.name}")


@pytest.fixture(scope="module", params=["pysim", pytest.param("netlist", marks=pytest.mark.synth)])
def shared(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One core for all tests of a file, as RTL and as synthesized: each test leaves it idle."""
    device: Any = open_device(request.param, CONFIG, memory_bytes=MEMORY, latency=8)
    yield Bench(device)
    device.close()


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """The core, idle, with its limits and its watchdog as at first."""
    yield shared
    shared.reset()
    for base in BASES:
        shared.write(f"limit{base}", LIMIT)
    shared.write("watchdog", 0)


@pytest.fixture
def iss() -> Bench:
    """The instruction simulator, likewise."""
    device: Device = IssDevice(CONFIG, memory_bytes=MEMORY)
    return Bench(device)
