"""The instruction simulator: against plain Python, and as the core that a host sees."""

from dataclasses import replace

import numpy as np
import pytest

from systolith import regs
from systolith.assembler import assemble
from systolith.config import PRESETS, CoreConfig, preset
from systolith.host.device import DeviceError, DeviceTimeoutError
from systolith.isa import BASES, Engine
from systolith.numerics import Format
from systolith.program import WatchPoint
from systolith.regs import NO_ENGINE, Control, FaultCause, State
from systolith_sim.iss import IssDevice
from systolith_sim.programs import random_program
from systolith_sim.reference import Reference

TINY = preset("tiny")
"""4 x 4: a granule and a word have 4 bytes."""

PAGE = 0x1000
"""Bytes between bases, and their limit."""

HALT = "\nHALT code=7"


def write(device: IssDevice, name: str, value: int) -> None:
    device.write_csr(regs.offset(name), value)


def read(device: IssDevice, name: str) -> int:
    return device.read_csr(regs.offset(name))


def ready(
    code: bytes | str, *, config: CoreConfig = TINY, seed: int | None = None, **data: bytes
) -> IssDevice:
    """A device with a program and data at base `b<n>`, that only needs to be started."""
    if isinstance(code, str):
        code = assemble(code, config)
    device = IssDevice(config, memory_bytes=BASES * PAGE, seed=seed)
    device.write_memory(0, code)
    for name, content in data.items():
        device.write_memory(PAGE * int(name[1:]), content)
    for base in range(BASES):
        write(device, f"base{base}_lo", base * PAGE)
        write(device, f"limit{base}", PAGE)
    write(device, "program_hash_lo", config.hash & 0xFFFF_FFFF)
    write(device, "program_hash_hi", config.hash >> 32)
    write(device, "program_size", len(code) // 64)
    write(device, "interrupt_enable", 1)
    return device


def run(device: IssDevice) -> IssDevice:
    write(device, "control", 1 << Control.START)
    device.wait_interrupt(max_cycles=1)
    return device


def state(device: IssDevice) -> State:
    return State(read(device, "status"))


CONFIGS = PRESETS | {
    f"{name} with int4 {not config.int4}": replace(config, int4=not config.int4)
    for name, config in PRESETS.items()
}
"""The presets, and what they would be with or without INT4."""


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(5))
def test_matches_plain_python(name: str, seed: int) -> None:
    """Programs of all instructions leave the same DRAM as byte by byte and element by element."""
    program = random_program(CONFIGS[name], 1000 + seed, steps=10, largest=14)
    dram = bytearray(program.dram)
    reference = Reference(program.config, dram, program.bases, program.scalars)
    assert reference.run() == program.halt_code
    device = IssDevice(program.config, memory_bytes=program.memory_bytes)
    assert program.run(device) == bytes(dram)


def test_identity_registers() -> None:
    device = ready(HALT)
    assert read(device, "id") == regs.MAGIC
    assert read(device, "config_hash_lo") | read(device, "config_hash_hi") << 32 == TINY.hash
    assert device.read_csr(0x3FC) == 0
    write(device, "id", 5)
    assert read(device, "id") == regs.MAGIC
    write(device, "base1_lo", 0xFFFF_FFFF)
    assert read(device, "base1_lo") == 0xFFFF_FFC0
    assert read(device, "control") == 0


def test_a_program_runs_to_its_halt_and_again() -> None:
    device = ready("LOAD base=2 n0=8 n1=1 n2=1 \nSTORE base=3 n0=8 n1=1 n2=1 wait_load=1" + HALT)
    for content in (b"12345678", b"abcdefgh"):
        device.write_memory(2 * PAGE, content)
        assert run(device).read_memory(3 * PAGE, 8) == content
        assert state(device) == State.DONE
        assert read(device, "halt_code") == 7
        assert [read(device, f"{each.name.lower()}_retired") for each in Engine] == [
            0,
            1,
            1,
            0,
            0,
            0,
        ]
        assert read(device, "interrupt_pending") == 1
        write(device, "control", 1 << Control.ACKNOWLEDGE)
        assert read(device, "interrupt_pending") == 0


def test_offsets_wrap_around() -> None:
    """2 * (2**31 - 1) + 6 is 2**32 + 4; a block that begins 2**31 away is beyond the limit."""
    text = """
        LOAD base=2 n0=4 n1=1 n2=1 scalar=1 scalar_stride=0x7fffffff dram_offset=6
        LOAD base=2 n0=4 n1=1 n2=3 dram_stride2=-0x80000000 dram_offset=4 stride2=1 address=1
        STORE base=3 n0=16 n1=1 n2=1 wait_load=2
    """
    device = ready(text + HALT, b2=b"abcdefgh")
    write(device, "scalar0", 2)
    run(device)
    assert state(device) == State.FAULT
    assert read(device, "fault_pc") == 1
    text = text.replace("n2=3 dram_stride2=-0x80000000", "n2=1")
    device = ready(text + HALT, b2=b"abcdefgh")
    write(device, "scalar0", 2)
    assert run(device).read_memory(3 * PAGE, 8) == b"efghefgh"
    assert state(device) == State.DONE


def test_no_interrupt_without_a_start_or_with_interrupts_off() -> None:
    device = ready(HALT)
    with pytest.raises(DeviceTimeoutError, match="no program has been started"):
        device.wait_interrupt(max_cycles=1)
    write(device, "interrupt_enable", 0)
    write(device, "control", 1 << Control.START)
    with pytest.raises(DeviceTimeoutError, match="interrupts are not enabled"):
        device.wait_interrupt(max_cycles=1)


def test_abort_and_reset() -> None:
    device = ready(HALT)
    write(device, "control", 1 << Control.START)
    write(device, "control", 1 << Control.ABORT)
    device.wait_interrupt(max_cycles=1)
    assert (state(device), read(device, "fault_cause")) == (State.FAULT, FaultCause.ABORT)
    write(device, "control", 1 << Control.START)
    assert state(device) == State.FAULT
    write(device, "control", 1 << Control.RESET)
    assert (state(device), read(device, "fault_cause")) == (State.IDLE, FaultCause.NONE)
    assert state(run(device)) == State.DONE


def test_another_cores_program_is_refused() -> None:
    device = ready(HALT)
    write(device, "program_hash_lo", 0)
    run(device)
    assert (state(device), read(device, "fault_cause")) == (
        State.FAULT,
        FaultCause.CONFIG_MISMATCH,
    )
    assert read(device, "fault_engine") == NO_ENGINE


END = TINY.granules - 4
"""The fourth granule from the end."""

SHORT = "LOAD base=2 n0=4 n1=1 n2=1\n"


@pytest.mark.parametrize(
    ("text", "cause", "engine", "address"),
    [
        (f"LOAD base=2 n0=17 n1=1 n2=1 address={END}", "SCRATCHPAD_BOUND", "LOAD", END + 4),
        (
            f"LOAD base=2 n0=4 n1=2 n2=1 stride1=4 address={END}",
            "SCRATCHPAD_BOUND",
            "LOAD",
            END + 4,
        ),
        (
            f"LOAD base=2 n0=4 n1=1 n2=1 fill=ZERO address={END + 9}",
            "SCRATCHPAD_BOUND",
            "LOAD",
            END + 9,
        ),
        (
            f"LOAD base=2 n0=4 n1=8 n2=1 fill=GATHER index={END}",
            "SCRATCHPAD_BOUND",
            "LOAD",
            END + 4,
        ),
        (f"STORE base=3 n0=17 n1=1 n2=1 address={END}", "SCRATCHPAD_BOUND", "STORE", END + 4),
        ("LOAD space=COLUMNS base=1 n0=16 n1=1 n2=1 address=511", "SCRATCHPAD_BOUND", "LOAD", 512),
        ("LOAD space=TABLES base=1 n0=16 n1=1 n2=1 address=764", "SCRATCHPAD_BOUND", "LOAD", 768),
        (
            f"VECTOR x_address={END} m=3 x_row=2 n=1",
            "SCRATCHPAD_BOUND",
            "VECTOR",
            END + 4,
        ),
        (f"VECTOR m=1 n=17 y_address={END}", "SCRATCHPAD_BOUND", "VECTOR", END + 4),
        (
            f"VECTOR m=5 n=3 transpose=ON y_address={END} y_row=2",
            "SCRATCHPAD_BOUND",
            "VECTOR",
            END + 4,
        ),
        ("LOAD base=2 n0=4 n1=1 n2=1 dram_offset=0xffd", "DRAM_LIMIT", "LOAD", 0x3000),
        ("STORE base=3 n0=4 n1=2 n2=1 dram_stride1=-1", "DRAM_LIMIT", "STORE", 0x2FFF),
        ("STREAM base=1 size=0x1004", "DRAM_LIMIT", "STREAM", 0x2000),
        (
            "LOAD base=2 n0=4 n1=1 n2=1 scalar=2 scalar_stride=-1",
            "DRAM_LIMIT",
            "LOAD",
            0x2000 - 9,
        ),
    ],
)
def test_faults_name_the_culprit(text: str, cause: str, engine: str, address: int) -> None:
    device = ready(SHORT + text + " tag=99" + HALT)
    write(device, "scalar1", 9)
    run(device)
    assert state(device) == State.FAULT
    assert FaultCause(read(device, "fault_cause")).name == cause
    assert Engine(read(device, "fault_engine")).name == engine
    assert read(device, "fault_pc") == 1
    assert read(device, "fault_tag") == 99
    assert read(device, "fault_address_lo") == address
    assert read(device, "interrupt_pending") == 1


def test_a_gemm_reads_whole_words_and_faults_beyond_the_last() -> None:
    text = f"STREAM base=1 size=32\nGEMM a_address={END} m=1 n=1 k=5 a_row=1\n"
    text += "VECTOR x_format=ACCUMULATOR m=1 n=1" + HALT
    assert state(run(ready(text))) == State.DONE
    device = run(ready(text.replace(f"={END}", f"={END + 3}")))
    assert read(device, "fault_cause") == FaultCause.SCRATCHPAD_BOUND
    assert read(device, "fault_address_lo") == TINY.granules


@pytest.mark.parametrize("start", [b"\0\0", b"\xff\0", b"\1\1"])
def test_illegal_instructions(start: bytes) -> None:
    device = run(ready(assemble(SHORT, TINY) + start + b"\x34\x12" + bytes(60)))
    assert read(device, "fault_cause") == FaultCause.ILLEGAL_INSTRUCTION
    assert (read(device, "fault_engine"), read(device, "fault_pc")) == (NO_ENGINE, 1)
    assert read(device, "fault_tag") == 0x1234
    assert read(device, "load_retired") == 1


def test_a_program_that_ends_without_halt() -> None:
    device = run(ready(SHORT))
    assert read(device, "fault_cause") == FaultCause.ILLEGAL_INSTRUCTION
    assert read(device, "fault_pc") == 1


def test_code_beyond_its_limit_and_memory_beyond_its_end() -> None:
    device = ready(SHORT + HALT)
    write(device, "limit0", 64)
    run(device)
    assert (read(device, "fault_cause"), read(device, "fault_pc")) == (FaultCause.DRAM_LIMIT, 1)
    device = ready(SHORT + HALT)
    write(device, "base2_lo", BASES * PAGE)
    run(device)
    assert read(device, "fault_cause") == FaultCause.AXI_ERROR


def test_a_deadlock_says_who_waits_for_what() -> None:
    text = "LOAD base=2 n0=4 n1=1 n2=1 wait_store=1\nSTORE base=3 n0=4 n1=1 n2=1 wait_load=1"
    device = ready(text + HALT)
    expected = (
        "LOAD .instruction 0. for 1 of STORE, which has retired 0; "
        "STORE .instruction 1. for 1 of LOAD, which has retired 0"
    )
    with pytest.raises(DeviceTimeoutError, match=expected):
        run(device)
    with pytest.raises(DeviceTimeoutError, match=r"HALT .instruction 0. for 2 of ROW"):
        run(ready("HALT wait_row=2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GEMM m=1 n=1 k=1\nSTREAM base=1 size=4", "GEMM .instruction 0. for weights in the ring"),
        (
            "VECTOR m=1 n=1 x_format=ACCUMULATOR",
            "VECTOR .instruction 0. for a full accumulator half",
        ),
    ],
)
def test_engines_that_wait_for_each_other(text: str, message: str) -> None:
    with pytest.raises(DeviceTimeoutError, match=message):
        run(ready(text + HALT))


def test_fine_steps_have_rings_and_halves_of_their_real_size() -> None:
    """A drain that waits for its GEMM works by whole instructions, but not on a core."""
    text = "STREAM base=1 size=48\nGEMM m=1 n=12 k=1\n"
    text += "VECTOR m=1 n=12 x_format=ACCUMULATOR wait_gemm=1" + HALT
    assert state(run(ready(text))) == State.DONE
    with pytest.raises(
        DeviceTimeoutError, match=r"GEMM .instruction 1. for a free accumulator half"
    ):
        run(ready(text, seed=1))
    size = TINY.ring_bytes + 16
    text = f"STREAM base=1 size={size}\nGEMM m=1 n={size // 16 * 4} k=1 wait_stream=1\n"
    text += f"VECTOR m=1 n={size // 16 * 4} broadcast=ON x_format=ACCUMULATOR" + HALT
    with pytest.raises(DeviceTimeoutError, match=r"STREAM .instruction 0. for room in the ring"):
        run(ready(text, seed=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("VECTOR function=EXP m=1 n=1 x_format=S16 y_format=U8", "5 above its row's maximum"),
        ("ROW operation=LAYER_NORM rows=1 n=2", "value must fit in 56 unsigned bits, but is -4"),
        (
            "STREAM base=1 size=16\nGEMM m=2 n=1 k=1\nVECTOR m=1 n=1 x_format=ACCUMULATOR",
            "VECTOR drains 1 rows, but GEMM filled 2 rows",
        ),
    ],
)
def test_what_no_core_promises_is_an_error(text: str, message: str) -> None:
    device = ready("LOAD base=2 n0=2 n1=1 n2=1 address=0\n" + text + HALT, b2=b"\5\0")
    device.machine.statistics["total"][0] = 2
    with pytest.raises(DeviceError, match=message):
        run(device)


def test_captures_tensors_as_they_are_completed() -> None:
    """Each point sees its own instruction's result, though the next one overwrites it."""
    text = """
        LOAD base=2 n0=3 n1=2 n2=1 dram_stride1=3 stride1=1
        LOAD base=2 n0=3 n1=2 n2=1 dram_stride1=3 stride1=1 dram_offset=6
    """
    device = ready(text + HALT, b2=bytes(range(250, 256)) + bytes(range(6)))

    def point(name: str, count: int, element: Format) -> WatchPoint:
        return WatchPoint(
            name=name,
            layer="",
            instruction=count - 1,
            engine=Engine.LOAD,
            count=count,
            address=0,
            row=1,
            rows=2,
            columns=3,
            format=element,
        )

    device.watch([point("first", 1, Format.S8), point("second", 2, Format.U8)])
    run(device)
    assert device.captured["first"].tolist() == [[-6, -5, -4], [-3, -2, -1]]
    assert device.captured["first"].dtype == np.int8
    assert device.captured["second"].tolist() == [[0, 1, 2], [3, 4, 5]]
    device.watch(())
    assert run(device).captured == {}


def test_memory_outside_is_refused_and_progress_is_reported() -> None:
    device = ready(HALT)
    with pytest.raises(DeviceError, match="8 bytes at 0x7ffc do not lie in a memory of 0x8000"):
        device.read_memory(BASES * PAGE - 4, 8)
    with pytest.raises(DeviceError, match="do not lie"):
        device.write_memory(-1, b"x")
    seen = list[int]()
    device = ready(SHORT * 63 + HALT)
    write(device, "control", 1 << Control.START)
    device.wait_interrupt(max_cycles=1, progress=seen.append)
    assert seen == []
    device = ready(SHORT * 63 + "STORE base=3 n0=4 n1=1 n2=1")
    write(device, "control", 1 << Control.START)
    device.wait_interrupt(max_cycles=1, progress=seen.append)
    assert seen == [64]


def test_noise_in_all_memories_comes_from_its_seed() -> None:
    one, same, other = (IssDevice(TINY, poison=seed).machine for seed in (1, 1, 2))
    assert np.array_equal(one.scratchpad, same.scratchpad)
    assert not np.array_equal(one.scratchpad, other.scratchpad)
    assert np.count_nonzero(one.scratchpad) > 0.9 * TINY.scratchpad_bytes
    assert one.records.mant.any()
    assert one.tables.any()
