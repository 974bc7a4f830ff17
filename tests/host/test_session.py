"""Sessions: what a driver does to any device, and what it says when a device misbehaves."""

import dataclasses

import numpy as np
import pytest

from systolith import isa, regs
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.device import DeviceError
from systolith.host.session import DeviceFaultError, Session
from systolith.isa import Engine, Opcode
from systolith.program import Program
from systolith.regs import FaultCause
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.iss import IssDevice

CONFIG = PRESETS["tiny"]
GRAPH = encoder(16)


@pytest.fixture(scope="module")
def program() -> Program:
    return schedule(GRAPH, CONFIG, name="small", seq_len=16)


def test_runs_again_with_other_inputs_and_lengths(program: Program) -> None:
    session = Session(IssDevice(CONFIG), program)
    for seed, length in ((1, 16), (2, 3), (1, 16)):
        inputs = inputs_for(GRAPH, seed)
        (output,) = session.run(inputs, length=length).values()
        expected = run_qgraph(GRAPH, inputs, length)[program.outputs[0].name]
        np.testing.assert_array_equal(output, expected)


class Closing(IssDevice):
    """Knows whether it has been closed."""

    closed = False

    def close(self) -> None:
        """Remember."""
        self.closed = True


def test_a_device_is_closed_behind_its_block(program: Program) -> None:
    with Closing(CONFIG) as device:
        Session(device, program).run(inputs_for(GRAPH, 1), length=16)
        assert not device.closed
    assert device.closed


def test_a_device_without_time_counts_instructions_only(program: Program) -> None:
    session = Session(IssDevice(CONFIG), program)
    session.run(inputs_for(GRAPH, 1), length=16)
    counters = session.counters()
    assert counters.has_stalls
    assert sum(counters.retired.values()) == len(program.code) // isa.INSTRUCTION_BYTES - 1
    assert counters.cycles == counters.dram_bytes == counters.clashes == 0
    assert not any(counters.busy.values())
    assert not any(counters.stall.values())
    assert {name: list(causes) for name, causes in counters.stalls.items()} == {
        "stream": ["awaited", "output", "dram"],
        "load": ["awaited", "bank", "dram"],
        "store": ["awaited", "bank", "dram"],
        "gemm": ["awaited", "input", "output", "bank"],
        "vector": ["awaited", "input", "bank"],
        "row": ["awaited"],
    }
    assert not any(sum(causes.values()) for causes in counters.stalls.values())


@pytest.mark.parametrize("upper", [0, 3])
def test_counters_have_64_bits(program: Program, upper: int) -> None:
    """Each register has its own value; upper words are read if the run is so long."""

    class Counting(IssDevice):
        def read_csr(self, offset: int) -> int:
            if offset in (regs.offset("cycles_hi"), regs.offset("vector_stall_input_hi")):
                return upper
            return offset if offset >= regs.offset("cycles_lo") else super().read_csr(offset)

    counters = Session(Counting(CONFIG), program).counters()
    assert counters.cycles == regs.offset("cycles_lo") + (upper << 32)
    low = regs.offset("vector_stall_input_lo")
    assert counters.stalls["vector"]["input"] == low + (upper << 32)
    expected = regs.offset("gemm_stall_bank_lo")
    expected += regs.offset("gemm_stall_bank_hi") << 32 if upper else 0
    assert counters.stalls["gemm"]["bank"] == expected
    assert counters.clashes == regs.offset("bank_clashes")


def test_a_core_without_counters_of_stalls_says_so() -> None:
    """By its register; what it reads instead of counts is not taken for any."""
    config = dataclasses.replace(CONFIG, stall_counters=False)
    session = Session(IssDevice(config), schedule(GRAPH, config, name="small", seq_len=16))
    session.run(inputs_for(GRAPH, 1), length=16)
    counters = session.counters()
    assert not counters.has_stalls
    assert counters.busy == counters.stall == counters.stalls == {}
    assert all(counters.retired[engine.name.lower()] for engine in (Engine.GEMM, Engine.VECTOR))


def test_another_core_is_refused(program: Program) -> None:
    other = dataclasses.replace(CONFIG, queue_depth=8)
    with pytest.raises(DeviceError, match=r"compiled for a core with hash .* Compile it for"):
        Session(IssDevice(other), program)


def test_too_little_memory_is_refused(program: Program) -> None:
    with pytest.raises(DeviceError, match=r"needs 0\.1 MiB of memory, and iss has 0\.0 MiB"):
        Session(IssDevice(CONFIG, memory_bytes=16 << 10), program)


def test_a_silent_device_is_refused(program: Program) -> None:
    class Silent(IssDevice):
        def read_csr(self, offset: int) -> int:
            return 0

    with pytest.raises(DeviceError, match="its id register reads 0x00000000 instead of 0x5953544c"):
        Session(Silent(CONFIG), program)


@pytest.mark.parametrize("length", [0, 17])
def test_lengths_out_of_range_are_refused(program: Program, length: int) -> None:
    session = Session(IssDevice(CONFIG), program)
    with pytest.raises(ValueError, match=f"length must be from 1 to 16, but is {length}"):
        session.run(inputs_for(GRAPH, 1), length=length)


def test_bad_inputs_are_refused(program: Program) -> None:
    session = Session(IssDevice(CONFIG), program)
    with pytest.raises(ValueError, match="the input input is missing"):
        session.run({}, length=16)
    with pytest.raises(ValueError, match=r"must have shape \(16, 64\), but has \(15, 64\)"):
        session.run({"input": np.zeros((15, 64), np.int16)}, length=16)
    with pytest.raises(ValueError, match="must be from -32768 to 32767, but goes from 0 to 40000"):
        session.run({"input": np.linspace(0, 40000, 1024, dtype=int).reshape(16, 64)}, length=16)
    with pytest.raises(ValueError, match="must be integer codes, but is float64"):
        session.run({"input": np.zeros((16, 64))}, length=16)


def with_address(program: Program, opcode: Opcode, field: str, value: int) -> tuple[Program, int]:
    """The program with one field of its first instruction of a kind changed, and its index."""
    images = [program.code[at : at + 64] for at in range(0, len(program.code), 64)]
    index = next(i for i, image in enumerate(images) if image[0] == opcode)
    old = isa.decode(images[index], program.config)
    new = isa.Instruction(opcode, {**old.fields, field: value})
    images[index] = isa.encode(new)
    return dataclasses.replace(program, code=b"".join(images)), index


def test_a_fault_names_layer_instruction_and_address(program: Program) -> None:
    broken, index = with_address(program, Opcode.GEMM, "a_address", 1 << 20)
    session = Session(IssDevice(CONFIG), broken)
    with pytest.raises(
        DeviceFaultError, match=rf"SCRATCHPAD_BOUND: instruction {index} \(GEMM, layer 0 v head 0"
    ) as caught:
        session.run(inputs_for(GRAPH, 1), length=16)
    assert caught.value.cause == FaultCause.SCRATCHPAD_BOUND
    assert caught.value.engine == Engine.GEMM
    assert caught.value.pc == index


def test_a_core_runs_again_after_a_fault_and_a_reset(program: Program) -> None:
    broken, _ = with_address(program, Opcode.STREAM, "dram_offset", 0x7FFF_FFC0)
    device = IssDevice(CONFIG)
    with pytest.raises(DeviceFaultError, match="DRAM_LIMIT"):
        Session(device, broken).run(inputs_for(GRAPH, 1), length=16)
    inputs = inputs_for(GRAPH, 1)
    (output,) = Session(device, program).run(inputs, length=16).values()
    expected = run_qgraph(GRAPH, inputs, 16)[program.outputs[0].name]
    np.testing.assert_array_equal(output, expected)
