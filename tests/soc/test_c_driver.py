"""The C driver, compiled for this machine, on the Verilated core: what it sets, says and refuses.

A shared library holds the driver, its registers and hooks being calls back to here. How it does
on a processor with caches and interrupts is in `test_litex.py`.
"""

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from systolith import isa, regs
from systolith.c import driver_files, program_files, region
from systolith.config import preset
from systolith.isa import Engine, decode
from systolith.numerics import Format
from systolith.program import INPUT_BASE, OUTPUT_BASE, Binding, Program
from systolith.regs import FaultCause
from systolith_sim.simulated import SimulatedDevice
from systolith_sim.vectors import small_program, vectors_of
from systolith_sim.verilator import VerilatorDevice

TINY = preset("tiny")
COMPILER = [sys.executable, "-m", "ziglang", "cc"]
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffreestanding"]
OK, NO_CORE, OTHER_CORE, ARGUMENT, ALIGNMENT, BUSY, FAULT, IDLE = range(0, -8, -1)

GLUE = """
extern uint32_t (*read_register)(uintptr_t);
extern void (*write_register)(uintptr_t, uint32_t);
#define SYSTOLITH_READ(address) read_register(address)
#define SYSTOLITH_WRITE(address, value) write_register(address, value)
"""

MAIN = """
#include "selftest.h"
uint32_t (*read_register)(uintptr_t);
void (*write_register)(uintptr_t, uint32_t);
systolith core;
systolith_fault fault;
systolith_counters counters;
const systolith_program *program(void) { return &selftest; }
uint32_t size_of_core(void) { return sizeof core; }
"""

Hook = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
Address = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
Read = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_size_t)
Write = ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_uint32)


class Buffer(ctypes.Structure):
    """`systolith_buffer`."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("bytes", ctypes.c_uint32),
        ("access", ctypes.c_uint32),
    )


class Core(ctypes.Structure):
    """`systolith`."""

    _fields_ = (
        ("registers", ctypes.c_size_t),
        ("cache", Hook),
        ("address", Address),
        ("context", ctypes.c_void_p),
        ("buffers", Buffer * isa.BASES),
    )


class Fault(ctypes.Structure):
    """`systolith_fault`."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("cause", "engine", "instruction", "tag")),
        ("address", ctypes.c_uint64),
    )


class EngineCounters(ctypes.Structure):
    """`systolith_engine_counters`."""

    _fields_ = (
        ("retired", ctypes.c_uint32),
        ("busy", ctypes.c_uint64),
        ("stall", ctypes.c_uint64),
    )


class Counters(ctypes.Structure):
    """`systolith_counters`."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("cycles", "read_beats", "write_beats")),
        *((name, ctypes.c_uint32) for name in ("bank_clashes", "halt_code")),
        ("has_stalls", ctypes.c_uint32),
        ("engines", EngineCounters * len(Engine)),
    )


class Driver:
    """The driver in a shared library, on a device whose memory begins with the program.

    The addresses that the driver is given are those of the device: nothing of it looks there.
    """

    CODE, IMAGE, INPUT, OUTPUT = 0x1000, 0x2000, 0x3000, 0x4000

    def __init__(self, path: Path, device: SimulatedDevice, program: Program) -> None:
        self.device, self.program = device, program
        self.library = ctypes.CDLL(str(path))
        self.core = Core.in_dll(self.library, "core")
        assert self.library.size_of_core() == ctypes.sizeof(Core)
        self.calls: list[tuple[int, int, int]] = []
        self._hooks = (
            Read(device.read_csr),
            Write(device.write_csr),
            Address(self._address),
            Hook(lambda _, kind, start, size: self.calls.append((kind, start, size))),
        )
        ctypes.c_void_p.in_dll(self.library, "read_register").value = self._pointer(0)
        ctypes.c_void_p.in_dll(self.library, "write_register").value = self._pointer(1)
        self.core.registers = 0
        self.core.address, self.core.cache = self._hooks[2:]
        self.library.program.restype = ctypes.c_void_p
        # The second and the third 64-bit word behind the name: see systolith_program.
        words = ctypes.cast(self.library.program(), ctypes.POINTER(ctypes.c_uint64))
        self.code, self.image = words[2], words[4]
        self._places = {self.code: self.CODE, self.image: self.IMAGE}
        device.write_memory(self.CODE, program.code)
        device.write_memory(self.IMAGE, program.image)

    def _pointer(self, index: int) -> int | None:
        return ctypes.cast(self._hooks[index], ctypes.c_void_p).value

    def _address(self, _: int, start: int) -> int:
        return self._places.get(start, start)

    def function(self, name: str) -> Any:
        """A function of the driver."""
        return getattr(self.library, f"systolith_{name}")

    def call(self, name: str, *arguments: object) -> int:
        """Call a function for the core."""
        converted = [
            ctypes.c_void_p(each) if isinstance(each, int) and each >= self.CODE else each
            for each in arguments
        ]
        return self.function(name)(ctypes.byref(self.core), *converted)

    def load(self) -> int:
        """Load the program."""
        pointer = ctypes.c_void_p(self.library.program())
        return self.call("load", pointer, self.INPUT, self.OUTPUT, None)

    def fault(self) -> Fault:
        """The fault report."""
        fault = Fault()
        self.call("read_fault", ctypes.byref(fault))
        return fault


@pytest.fixture(scope="module")
def program() -> Program:
    return small_program(TINY)


@pytest.fixture(scope="module")
def library(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    files = {**driver_files(), **program_files(program, "selftest")}
    for name, text in {**files, "glue.h": GLUE, "main.c": MAIN}.items():
        (folder / name).write_text(text)
    flags = [*STRICT, "-O1", "-shared", "-fPIC", "-include", "stdint.h", "-include", "glue.h"]
    sources = ["systolith_driver.c", "selftest.c", "main.c"]
    subprocess.run([*COMPILER, *flags, *sources, "-o", "driver.so"], cwd=folder, check=True)
    return folder / "driver.so"


@pytest.fixture
def driver(library: Path, program: Program) -> Iterator[Driver]:
    with closing(VerilatorDevice(TINY, memory_bytes=1 << 16)) as device:
        yield Driver(library, device, program)


def run_and_check(driver: Driver, seed: int) -> None:
    vectors = vectors_of(driver.program, seed=seed)
    expected = region(driver.program.outputs, vectors.outputs)
    driver.device.write_memory(driver.INPUT, region(driver.program.inputs, vectors.inputs))
    driver.device.write_memory(driver.OUTPUT, bytes(len(expected)))
    assert driver.call("start") == OK
    # What the previous run left in `status` must not be taken for the end of this one.
    assert driver.call("finish") == BUSY
    assert driver.call("start") == BUSY
    assert driver.call("wait", 1) == BUSY
    driver.device.step(100_000, until_interrupt=True)
    assert driver.call("wait", 1) == OK
    assert driver.device.read_memory(driver.OUTPUT, len(expected)) == expected


def test_programs_run_one_after_the_other(driver: Driver) -> None:
    assert driver.call("probe") == OK
    assert driver.call("finish") == IDLE
    assert driver.load() == OK
    instructions = len(driver.program.code) // isa.INSTRUCTION_BYTES
    assert driver.device.read_csr(regs.offset("program_size")) == instructions
    assert driver.device.read_csr(regs.offset("scalar0")) == driver.program.seq_len
    driver.call("enable_interrupt", 1)
    for seed in (1, 2):
        run_and_check(driver, seed)
        assert driver.device.read_csr(regs.offset("interrupt_pending")) == 0
    sizes = driver.program.base_bytes
    before = [
        (0, driver.code, sizes[0]),
        (0, driver.image, sizes[1]),
        (0, driver.INPUT, sizes[INPUT_BASE]),
        (1, driver.OUTPUT, sizes[OUTPUT_BASE]),
    ]
    assert driver.calls == [*before, (2, driver.OUTPUT, sizes[OUTPUT_BASE])] * 2


def test_counters_are_those_of_the_registers(driver: Driver) -> None:
    driver.load()
    driver.call("enable_interrupt", 1)
    run_and_check(driver, 1)
    counters = Counters()
    driver.call("read_counters", ctypes.byref(counters))

    def read(name: str) -> int:
        return driver.device.read_csr(regs.offset(name))

    assert counters.cycles == read("cycles_lo") > 100
    assert counters.read_beats == read("read_beats_lo") > 100
    assert counters.write_beats == read("write_beats_lo") > 0
    assert counters.bank_clashes == read("bank_clashes")
    assert counters.has_stalls == 1
    for engine in Engine:
        name = engine.name.lower()
        assert counters.engines[engine].retired == read(f"{name}_retired") > 0
        assert counters.engines[engine].busy == read(f"{name}_busy_lo") > 0
        assert counters.engines[engine].stall == read(f"{name}_stall_lo")


def test_a_fault_has_cause_and_place_and_reset_ends_it(driver: Driver) -> None:
    driver.load()
    driver.call("enable_interrupt", 1)
    driver.device.write_memory(driver.CODE + 3 * isa.INSTRUCTION_BYTES, b"\xee")
    assert driver.call("start") == OK
    driver.device.step(100_000, until_interrupt=True)
    assert driver.call("finish") == FAULT
    fault = driver.fault()
    assert fault.cause == FaultCause.ILLEGAL_INSTRUCTION
    assert fault.instruction == 3
    assert fault.tag == decode(driver.program.code[192:256], TINY).fields["tag"] != 3
    assert fault.engine == regs.NO_ENGINE
    assert driver.call("start") == FAULT
    assert driver.call("reset", 10) == OK
    assert driver.fault().cause == FaultCause.NONE
    driver.device.write_memory(driver.CODE, driver.program.code)
    run_and_check(driver, 3)


def test_a_limit_is_the_size_that_was_given(driver: Driver) -> None:
    driver.load()
    size = driver.program.base_bytes[OUTPUT_BASE]
    assert driver.call("set_base", OUTPUT_BASE, driver.OUTPUT, size - 1, 2) == OK
    driver.call("start")
    driver.device.step(100_000)
    assert driver.call("finish") == FAULT
    fault = driver.fault()
    assert (fault.cause, fault.engine) == (FaultCause.DRAM_LIMIT, Engine.STORE)
    assert driver.OUTPUT <= fault.address < driver.OUTPUT + size


def test_abort_and_reset_end_a_running_program(driver: Driver) -> None:
    driver.load()
    driver.call("start")
    driver.call("abort")
    driver.device.step(10_000)
    assert driver.call("finish") == FAULT
    assert driver.fault().cause == FaultCause.ABORT
    assert driver.call("reset", 10) == OK
    driver.call("start")
    assert driver.call("reset", 0) == BUSY
    driver.device.step(10_000)
    assert driver.call("reset", 10) == OK
    assert driver.call("finish") == IDLE
    run_and_check(driver, 4)


def test_the_watchdog_bites(driver: Driver) -> None:
    driver.load()
    driver.call("set_watchdog", 5)
    driver.call("start")
    driver.device.step(10_000)
    assert driver.call("finish") == FAULT
    assert driver.fault().cause == FaultCause.WATCHDOG


def test_the_interrupt_is_raised_and_acknowledged(driver: Driver) -> None:
    driver.load()
    assert driver.call("acknowledge") == 0
    driver.call("enable_interrupt", 1)
    driver.call("start")
    assert driver.device.step(100_000, until_interrupt=True)
    assert driver.call("acknowledge") == 1
    assert driver.call("acknowledge") == 0
    assert driver.call("finish") == OK
    driver.call("enable_interrupt", 0)
    driver.call("start")
    assert not driver.device.step(100_000, until_interrupt=True)
    assert driver.call("acknowledge") == 1


def test_what_makes_no_sense_is_refused(driver: Driver) -> None:
    assert driver.call("set_base", isa.BASES, driver.INPUT, 64, 1) == ARGUMENT
    assert driver.call("set_base", 2, None, 64, 1) == ARGUMENT
    assert driver.call("set_base", 2, driver.INPUT + 32, 64, 1) == ALIGNMENT
    assert driver.call("set_base", 2, None, 0, 1) == OK
    assert driver.call("set_scalar", isa.SCALARS, 1) == ARGUMENT
    assert driver.call("set_scalar", 3, 77) == OK
    assert driver.device.read_csr(regs.offset("scalar3")) == 77
    driver.core.registers = 4
    assert driver.call("probe") == NO_CORE
    assert driver.load() == OTHER_CORE


def test_names_are_those_of_the_manual(driver: Driver) -> None:
    for name, enum in (("cause_name", FaultCause), ("engine_name", Engine)):
        function = driver.function(name)
        function.restype = ctypes.c_char_p
        for member in enum:
            text = function(int(member)).decode().upper().replace(" ", "_")
            assert text == member.name.replace("CONFIG_", "CONFIGURATION_")
        assert function(99) == b"?"


def test_an_included_binary_is_the_same_program(program: Program, tmp_path: Path) -> None:
    files = {**driver_files(), **program_files(program, "blob", incbin=True)}
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "blob.h"\nint main(void) {\n'
        "    fwrite(blob.code, 1, blob.code_bytes, stdout);\n"
        "    fwrite(blob.image, 1, blob.image_bytes, stdout);\n"
        "    return (int)((uintptr_t)blob.code % 64 + (uintptr_t)blob.image % 64);\n}\n"
    )
    sources = ["main.c", "blob.c", "blob.S"]
    subprocess.run([*COMPILER, *sources, "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert done.stdout == program.code + program.image


def test_sources_are_compiled_for_a_processor_without_a_system(
    program: Program, tmp_path: Path
) -> None:
    vectors = vectors_of(program).all
    for name, text in {
        **driver_files(),
        **program_files(program, "selftest", vectors=vectors),
    }.items():
        (tmp_path / name).write_text(text)
    target = ["-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m"]
    for source in ("systolith_driver.c", "selftest.c"):
        subprocess.run([*COMPILER, *target, *STRICT, "-c", source], cwd=tmp_path, check=True)
    symbols = (tmp_path / "systolith_driver.o").read_bytes()
    assert b"systolith_start" in symbols
    # No compiler's helper is missing: nothing copies structs or divides 64 bits.
    for helper in (b"memcpy", b"memset", b"__udivdi3", b"__sync"):
        assert helper not in symbols


def test_regions_and_names_are_checked(program: Program) -> None:
    tensor = Binding(name="x", base=2, offset=4, rows=1, columns=2, format=Format.S16, step=1.0)
    assert region([tensor], {"x": np.array([[1, -2]])}) == bytes(4) + b"\x01\x00\xfe\xff"
    with pytest.raises(ValueError, match="x has 2 bytes instead of 4"):
        region([tensor], {"x": np.array([[1]])})
    with pytest.raises(ValueError, match="'a b' cannot be the name of a variable"):
        program_files(program, "a b")
