"""Every way in which a program can be stopped, and that the core then runs the next one right.

Cause, engine, index, tag and address are compared with the instruction simulator where that has
them; what a memory or a host does to a core is written down here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from systolith.host.device import DeviceTimeoutError
from systolith.isa import Engine, Fill, Instruction, Opcode, XFormat, encode
from systolith.regs import NO_ENGINE, Control, FaultCause, State
from systolith_sim.verilator import VerilatorDevice

Bench = Any
"""`conftest.Bench`."""


def assert_fault(
    bench: Bench, program: Sequence[Instruction | bytes], cause: FaultCause, **expected: int
) -> None:
    """Run into a fault; a start must be refused until a reset; then all must be well."""
    end = bench.run(program)
    assert end["status"] == State.FAULT
    assert FaultCause(end["fault_cause"]) == cause
    assert {name: end[f"fault_{name}"] for name in expected} == expected
    bench.control(Control.START)
    assert bench.state == State.FAULT
    bench.reset()
    assert bench.read("fault_cause") == 0
    assert bench.read("fault_engine") == NO_ENGINE


def put(instruction: Instruction, **fields: bytes) -> bytes:
    """Overwrite bytes of an instruction: `at28=...` from byte 28 on."""
    image = encode(instruction)
    for name, value in fields.items():
        offset = int(name.removeprefix("at"))
        image = image[:offset] + value + image[offset + len(value) :]
    return image


ILLEGAL: dict[str, Any] = {
    "no opcode": lambda load, vector: put(load, at0=b"\0"),
    "unknown opcode": lambda load, vector: put(load, at0=b"\xff"),
    "reserved byte": lambda load, vector: put(load, at63=b"\1"),
    "reserved byte of the header": lambda load, vector: put(load, at1=b"\1"),
    "below its range": lambda load, vector: put(load, at28=bytes(4)),
    "above its range": lambda load, vector: put(load, at16=b"\x08"),
    "no value of an enum": lambda load, vector: put(vector, at44=b"\4"),
    "too large a wait": lambda load, vector: put(load, at4=b"\xff\xff"),
    "forbidden": lambda load, vector: put(vector, at48=b"\2"),
    "does not fit": lambda load, vector: put(vector, at38=b"\xff\1", at36=b"\2\0"),
    "not aligned": lambda load, vector: put(vector, at44=b"\2", at16=b"\1"),
    "all ones": lambda load, vector: b"\xff" * 64,
}
"""One of each kind that the decoder refuses."""


@pytest.mark.parametrize("kind", ILLEGAL)
def test_illegal_instruction(bench: Bench, iss: Bench, kind: str) -> None:
    """It never reaches an engine, and is named by its index and its tag."""
    image = ILLEGAL[kind](bench.load(tag=9), bench.op(Opcode.VECTOR, tag=9, m=1, n=1))
    program = [bench.load(), bench.load(), image, bench.HALT]
    tag = int.from_bytes(image[2:4], "little")
    assert_fault(
        bench, program, FaultCause.ILLEGAL_INSTRUCTION, engine=NO_ENGINE, pc=2, tag=tag, address=0
    )
    assert iss.run(program)["fault_cause"] == FaultCause.ILLEGAL_INSTRUCTION


def test_program_without_halt(bench: Bench, iss: Bench) -> None:
    program = [bench.load()] * 3
    assert_fault(
        bench, program, FaultCause.ILLEGAL_INSTRUCTION, engine=NO_ENGINE, pc=3, tag=0, address=0
    )
    assert iss.run(program)["fault_pc"] == 3
    bench.assert_clean_run()


def test_empty_program(bench: Bench) -> None:
    assert_fault(bench, [], FaultCause.ILLEGAL_INSTRUCTION, engine=NO_ENGINE, pc=0, tag=0)


FAR = (
    "load to",
    "load from",
    "load before",
    "store from",
    "store to",
    "stream from",
    "base without limit",
    "vector from",
    "vector to",
    "gemm from",
    "strided load",
    "load of both sides",
    "strided store",
    "gather of far indices",
    "vector from rows",
    "vector from words",
    "vector to columns",
    "gemm from rows",
    "gemm with far weights",
)


def far(bench: Bench) -> dict[str, Instruction]:
    """Accesses that leave what they may access, as named in `FAR`."""
    op, granules = bench.op, bench.CONFIG.granules
    return {
        "load to": bench.load(tag=5, address=granules - 1),
        "load from": bench.load(tag=5, dram_offset=bench.LIMIT - 8),
        "load before": bench.load(tag=5, n1=2, dram_stride1=-16),
        "store from": op(Opcode.STORE, tag=5, base=3, address=granules, n0=4, n1=1, n2=1),
        "store to": op(Opcode.STORE, tag=5, base=3, dram_offset=bench.LIMIT, n0=4, n1=1, n2=1),
        "stream from": op(Opcode.STREAM, tag=5, base=1, dram_offset=bench.LIMIT, size=16),
        "base without limit": op(Opcode.STREAM, tag=5, base=7, size=16),
        "vector from": op(Opcode.VECTOR, tag=5, x_address=granules, m=1, n=4),
        "vector to": op(Opcode.VECTOR, tag=5, y_address=granules, m=1, n=4),
        "gemm from": op(Opcode.GEMM, tag=5, a_address=granules, b_source=2, m=1, n=1, k=1),
        # The first one that the core comes to, which is not the first one outside.
        "strided load": bench.load(tag=5, address=granules - 6, n0=4, n1=4, n2=2, stride1=5),
        "load of both sides": bench.load(
            tag=5, address=granules - 6, n1=4, stride1=5, dram_stride1=bench.LIMIT - 20
        ),
        "strided store": op(
            Opcode.STORE,
            tag=5,
            base=3,
            address=granules - 9,
            n0=4,
            n1=2,
            n2=3,
            stride1=2,
            stride2=7,
        ),
        "gather of far indices": bench.load(tag=5, fill=2, n0=4, n1=4, index=granules - 2),
        "vector from rows": op(Opcode.VECTOR, tag=5, x_address=granules - 7, m=4, x_row=3, n=12),
        "vector from words": op(
            Opcode.VECTOR, tag=5, x_format=XFormat.S16, x_address=granules - 8, m=4, x_row=2, n=12
        ),
        "vector to columns": op(
            Opcode.VECTOR, tag=5, transpose=1, y_address=granules - 7, m=9, y_row=2, n=6
        ),
        "gemm from rows": op(
            Opcode.GEMM, tag=5, a_address=granules - 7, a_row=3, b_source=2, m=3, n=1, k=8
        ),
        "gemm with far weights": op(
            Opcode.GEMM, tag=5, b_address=granules - 7, b_row=2, b_source=2, m=2, n=6, k=8
        ),
    }


@pytest.mark.parametrize("what", FAR)
def test_out_of_bounds(bench: Bench, iss: Bench, what: str) -> None:
    """Cause, engine, index, tag and address are those of the instruction simulator."""
    culprit = far(bench)[what]
    program = [bench.load(), culprit, bench.HALT]
    expected = iss.run(program)
    assert expected["status"] == State.FAULT
    fault = {name: expected[f"fault_{name}"] for name in ("engine", "pc", "tag", "address")}
    assert_fault(bench, program, FaultCause(expected["fault_cause"]), **fault)
    if what in ("load to", "store to", "gemm from"):
        bench.assert_clean_run()


def any_transfer(bench: Bench, random: np.random.Generator) -> Instruction:
    """A LOAD or STORE whose ends may lie anywhere around those of both memories."""

    def near(limit: int) -> int:
        return int(max(0, limit - random.choice([0, 7, 30, 500]) + random.integers(0, 12)))

    fields = {
        "dram_offset": near(bench.LIMIT),
        "address": near(bench.CONFIG.granules),
        "n0": random.integers(1, 20),
        "n1": random.integers(1, 5),
        "n2": random.integers(1, 4),
        "dram_stride1": random.integers(-20, 30),
        "dram_stride2": random.integers(-20, 30),
        "stride1": random.integers(0, 12),
        "stride2": random.integers(0, 12),
    }
    operands = {name: int(value) for name, value in fields.items()}
    if random.integers(3) == 0:
        return bench.op(Opcode.STORE, tag=5, base=3, **operands)
    fill = int(random.choice([Fill.MEMORY, Fill.ZERO]))
    return bench.op(Opcode.LOAD, tag=5, base=2, fill=fill, **operands)


def test_any_transfer_ends_as_in_the_instruction_simulator(iss: Bench) -> None:
    """Retired or refused, where, and what has been stored until then."""
    device = VerilatorDevice(iss.CONFIG, memory_bytes=iss.device.memory_bytes, probed=True)
    core = type(iss)(device)
    random = np.random.default_rng(0)
    data = random.bytes(iss.LIMIT)
    ends = dict.fromkeys(FaultCause, 0)
    for bench in (core, iss):
        bench.device.write_memory(iss.BASES[2], data)
    for _ in range(300):
        program = [any_transfer(iss, random), iss.HALT]
        expected = iss.run(program)
        assert core.run(program) == expected, program
        ends[FaultCause(expected["fault_cause"])] += 1
        for bench in (core, iss):
            bench.reset()
        # What a STORE has written before it was refused has landed.
        stored = [each.device.read_memory(iss.BASES[3], iss.LIMIT) for each in (core, iss)]
        assert stored[0] == stored[1]
    device.close()
    for cause in (FaultCause.NONE, FaultCause.DRAM_LIMIT, FaultCause.SCRATCHPAD_BOUND):
        assert ends[cause] > 30


@pytest.mark.parametrize("limit", [0, 64, 100, 128])
def test_code_beyond_its_limit(bench: Bench, iss: Bench, limit: int) -> None:
    program = [bench.load()] * 3
    for each in (bench, iss):
        each.write("limit0", limit)
    expected = iss.run(program)
    assert_fault(
        bench,
        program,
        FaultCause.DRAM_LIMIT,
        engine=NO_ENGINE,
        pc=limit // 64,
        tag=0,
        address=expected["fault_address"],
    )


def test_limit_exactly_at_the_end_of_the_code(bench: Bench) -> None:
    """A fetch ahead beyond the limit is no fault."""
    bench.write("limit0", 128)
    assert bench.run([bench.load(), bench.HALT])["status"] == State.DONE


@pytest.mark.parametrize(
    ("beat", "engine", "pc"),
    [(0, NO_ENGINE, 0), (17, NO_ENGINE, 1), (40, NO_ENGINE, 2)],
)
def test_read_error_of_code(bench: Bench, beat: int, engine: int, pc: int) -> None:
    """The instruction that came with an error is not carried out."""
    bench.device.inject(read_beat=beat)
    halt = bench.op(Opcode.HALT, waits={Engine.LOAD: 2})
    program = [bench.load(fill=1), bench.load(fill=1), halt]
    assert_fault(bench, program, FaultCause.AXI_ERROR, engine=engine, pc=pc, tag=0, address=64 * pc)


def test_read_error_behind_halt(bench: Bench) -> None:
    """An error of code that is never reached is no fault."""
    bench.device.inject(read_beat=20)
    end = bench.run([bench.HALT, bench.load(), bench.load()])
    assert end["status"] == State.DONE


@pytest.mark.parametrize(
    ("engine", "program_of"),
    [
        (Engine.LOAD, lambda bench: bench.load(tag=8)),
        (Engine.STREAM, lambda bench: bench.op(Opcode.STREAM, tag=8, base=1, size=16)),
        (Engine.STORE, lambda bench: bench.op(Opcode.STORE, tag=8, base=3, n0=16, n1=1, n2=1)),
    ],
    ids=["load", "stream", "store"],
)
def test_error_of_data(bench: Bench, engine: Engine, program_of: Any) -> None:
    """The response of a data access is an error: its engine is to blame."""
    program = [program_of(bench), bench.HALT]
    # The first beats are the code.
    bench.device.inject(read_beat=33, write_beat=1)
    assert_fault(bench, program, FaultCause.AXI_ERROR, engine=engine, pc=0, tag=8)
    bench.device.inject(read_beat=None, write_beat=None)
    bench.assert_clean_run()


def test_watchdog(bench: Bench) -> None:
    """It names the engine that does not go on, and what it waits with."""
    bench.write("watchdog", 200)
    stuck = bench.op(Opcode.VECTOR, tag=6, x_format=XFormat.ACCUMULATOR, m=1, n=4)
    program = [bench.load(), stuck, bench.HALT]
    assert_fault(bench, program, FaultCause.WATCHDOG, engine=Engine.VECTOR, pc=1, tag=6, address=0)
    bench.write("watchdog", 0)
    bench.assert_clean_run()


def test_watchdog_of_a_wait(bench: Bench) -> None:
    """A count that is never reached, of an instruction and of HALT."""
    bench.write("watchdog", 150)
    waiting = bench.op(Opcode.ROW, tag=6, rows=1, n=1, operation=2, waits={Engine.LOAD: 2})
    program = [bench.load(), waiting, bench.HALT]
    assert_fault(bench, program, FaultCause.WATCHDOG, engine=Engine.ROW, pc=1, tag=6)
    program = [bench.load(), bench.op(Opcode.HALT, waits={Engine.STORE: 1})]
    assert_fault(bench, program, FaultCause.WATCHDOG, engine=NO_ENGINE, pc=1)


def test_watchdog_counts_from_the_last_retired_instruction(bench: Bench) -> None:
    """A program much longer than the watchdog's patience is not stopped."""
    bench.write("watchdog", 160)
    end = bench.run([*[bench.load()] * 16, bench.HALT])
    assert end["status"] == State.DONE
    assert bench.read_pair("cycles") > 320


def test_program_of_another_configuration(bench: Bench) -> None:
    """Nothing is touched: not a beat is read."""
    bench.write("program_hash_hi", (bench.CONFIG.hash >> 32) ^ 1)
    before = bench.device.activity.read_beats
    assert_fault(bench, [bench.load()], FaultCause.CONFIG_MISMATCH, engine=NO_ENGINE, pc=0)
    assert bench.device.activity.read_beats == before
    bench.write("program_hash_hi", bench.CONFIG.hash >> 32)
    bench.assert_clean_run()


@pytest.mark.parametrize("delay", [0, 90, 150, 200, 250])
@pytest.mark.parametrize("command", [Control.ABORT, Control.RESET])
def test_stopped_at_any_time(bench: Bench, command: Control, delay: int) -> None:
    """Nothing is left on the memory port, and the next run is right."""
    bench.start(bench.matmul.program)
    bench.device.step(delay)
    bench.control(command)
    if command == Control.ABORT:
        end = bench.end()
        assert end["status"] == State.FAULT
        assert end["fault_cause"] == FaultCause.ABORT
        assert end["fault_engine"] == NO_ENGINE
        assert (end["fault_pc"], end["fault_tag"], end["fault_address"]) == (0, 0, 0)
        assert bench.device.activity.pending == 0
    else:
        for _ in range(100):
            if bench.state == State.IDLE:
                break
        assert bench.state == State.IDLE
        assert bench.device.activity.pending == 0
        assert bench.read("interrupt_pending") == 0
        with pytest.raises(DeviceTimeoutError):
            bench.device.wait_interrupt(max_cycles=5)
    bench.reset()
    bench.assert_clean_run()


def test_reset_while_faulting(bench: Bench) -> None:
    """A reset that comes before the fault is reported ends in IDLE."""
    bench.start(bench.matmul.program)
    bench.device.step(100)
    bench.control(Control.ABORT)
    bench.control(Control.RESET)
    for _ in range(50):
        if bench.state == State.IDLE:
            break
    assert bench.state == State.IDLE
    assert bench.read("interrupt_pending") == 0
    bench.assert_clean_run()


def test_commands_that_do_nothing(bench: Bench) -> None:
    """Abort and acknowledge of an idle core."""
    bench.control(Control.ABORT)
    bench.control(Control.ACKNOWLEDGE)
    assert bench.state == State.IDLE
    assert bench.run([bench.HALT])["status"] == State.DONE
    bench.control(Control.ABORT)
    assert bench.state == State.DONE
