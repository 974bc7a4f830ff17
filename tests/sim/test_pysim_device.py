"""The same programs on three devices: the ISS, Amaranth's simulator, and Verilator.

Both simulators of the RTL take the same cycles, stalls included, so their memories, their RTL and
their handshakes are the same ones.
"""

from typing import Any

import numpy as np
import pytest

from systolith import regs
from systolith.config import CoreConfig, preset
from systolith.host.device import Device, DeviceError, DeviceTimeoutError
from systolith.isa import Engine, Opcode, encode, make
from systolith.numerics import Format
from systolith.program import WatchPoint
from systolith_sim.copy_engine import copy_design
from systolith_sim.devices import open_device
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.programs import random_program
from systolith_sim.pysim import PysimDevice
from systolith_sim.simulated import SimulatedDevice
from systolith_sim.verilator import VerilatorDevice

TINY = preset("tiny")

TIMINGS = [
    {},
    {"latency": 1, "bandwidth": 100.0},
    {"latency": 100, "bandwidth": 1.3},
    {"stall": 0.5, "seed": 1, "interleave": True},
    {"stall": 0.9, "seed": 2, "latency": 7, "outstanding": 1},
]


@pytest.mark.parametrize("seed", range(40))
def test_verilator_matches_the_iss(seed: int) -> None:
    """Random programs, in random order on the ISS, under random stalls in Verilator."""
    program = random_program(TINY, seed)
    size = program.memory_bytes
    iss = open_device("iss", TINY, memory_bytes=size, seed=seed, poison=seed)
    assert program.run(iss) == program.expected
    timing = TIMINGS[seed % len(TIMINGS)]
    device = open_device("verilator", TINY, memory_bytes=size, **timing)
    assert program.run(device) == program.expected
    # The machine has no state that a second run can see.
    assert program.run(device) == program.expected


@pytest.mark.parametrize("timing", [TIMINGS[0], TIMINGS[3]], ids=["plain", "stalled"])
def test_pysim_takes_the_cycles_of_verilator(timing: dict[str, Any]) -> None:
    program = random_program(TINY, 7, steps=1, largest=5)
    cycles, memories = [], []
    for name in ("pysim", "verilator"):
        device = open_device(name, TINY, memory_bytes=program.memory_bytes, probed=True, **timing)
        memories.append(program.run(device, max_cycles=20_000))
        assert isinstance(device, SimulatedDevice)
        cycles.append((device.activity, device.read_csr(regs.offset("cycles_lo"))))
    assert memories == [program.expected] * 2
    assert cycles[0] == cycles[1]


def start(device: Device, config: CoreConfig, code: list[Any]) -> None:
    """Start a program whose bases 1 and 3 are 4 KiB each, at 4 and 8 KiB."""
    device.write_memory(0, b"".join(map(encode, code)))
    values = {"base0_lo": 0, "limit0": 4096, "base1_lo": 4096, "limit1": 4096}
    values |= {"base3_lo": 8192, "limit3": 4096, "program_size": len(code), "interrupt_enable": 1}
    values |= {"program_hash_lo": config.hash & 0xFFFF_FFFF, "program_hash_hi": config.hash >> 32}
    for name, value in values.items():
        device.write_csr(regs.offset(name), value)
    device.write_csr(regs.offset("control"), 1 << regs.Control.START)


def test_watch_points_are_captured_alike_everywhere() -> None:
    """A tensor that is loaded, and again when a second LOAD has replaced it."""
    rng = np.random.default_rng(3)
    data = rng.integers(0, 256, 128, np.uint8)
    where = {"base": 1, "address": 8, "n0": 64, "n1": 1, "n2": 1}
    loads = [
        make(Opcode.LOAD, TINY, waits={Engine.LOAD: n}, dram_offset=64 * n, **where)
        for n in range(2)
    ]
    code = [*loads, make(Opcode.HALT, TINY, waits={Engine.LOAD: 2})]
    points = [
        WatchPoint(
            name=f"after {count}",
            layer="",
            instruction=count - 1,
            engine=Engine.LOAD,
            count=count,
            address=8,
            row=4,
            rows=4,
            columns=7,
            format=Format.S16,
        )
        for count in (1, 2)
    ]
    expected = data.view("<i2").reshape(2, 4, 8)[:, :, :7]
    for name, options in (("iss", {}), ("pysim", {}), ("verilator", {"probed": True})):
        device = open_device(name, TINY, memory_bytes=1 << 16, **options)
        device.write_memory(4096, data.tobytes())
        device.watch(points)
        start(device, TINY, code)
        device.wait_interrupt(max_cycles=5000)
        assert np.array_equal(device.captured["after 1"], expected[0]), name
        assert np.array_equal(device.captured["after 2"], expected[1]), name


def test_a_hang_names_who_waits_for_whom() -> None:
    """A STORE that waits for a second LOAD, which never comes."""
    code = [
        make(Opcode.LOAD, TINY, base=1, address=0, n0=64, n1=1, n2=1),
        make(Opcode.STORE, TINY, waits={Engine.LOAD: 2}, base=3, n0=64, n1=1, n2=1, tag=9),
        make(Opcode.HALT, TINY, waits={Engine.STORE: 1}),
    ]
    device = open_device("verilator", TINY, memory_bytes=1 << 16)
    start(device, TINY, code)
    message = (
        r"verilator: no interrupt in 3000 cycles; "
        r"STORE at its 1\., instruction 1 \(tag 9\), waits for LOAD to retire 2 \(has 1\); "
        r"HALT, instruction 2 \(tag 0\), waits for STORE to retire 1 \(has 0\)"
    )
    with pytest.raises(DeviceTimeoutError, match=message):
        device.wait_interrupt(max_cycles=3000)


@pytest.mark.parametrize("beat", [0, 5, 20])
def test_an_error_from_memory_stops_the_program(beat: int) -> None:
    """With a fault and an interrupt, and with nothing left on the bus."""
    code = [
        make(Opcode.LOAD, TINY, base=1, address=0, n0=1024, n1=1, n2=1),
        make(Opcode.STORE, TINY, waits={Engine.LOAD: 1}, base=3, n0=1024, n1=1, n2=1),
        make(Opcode.HALT, TINY, waits={Engine.STORE: 1}),
    ]
    for options in ({"write_beat": beat}, {"read_beat": 3 * 16 + beat}):
        device = open_device("verilator", TINY, memory_bytes=1 << 16, stall=0.3, seed=beat)
        assert isinstance(device, SimulatedDevice)
        device.inject(**options)
        start(device, TINY, code)
        device.wait_interrupt(max_cycles=20_000)
        assert device.read_csr(regs.offset("status")) == regs.State.FAULT
        assert device.read_csr(regs.offset("fault_cause")) == regs.FaultCause.AXI_ERROR
        assert device.activity.pending == 0


def test_an_exception_in_the_memory_model_is_a_device_error() -> None:
    """Both devices raise what `Device` promises, so that callers need to know one class."""
    for kind in (PysimDevice, VerilatorDevice):
        device = kind(
            TINY,
            memory_bytes=4096,
            timing=MemoryTiming(),
            design=copy_design(TINY, probed=True),
        )
        device.write_csr(regs.offset("base0_lo"), 4096)
        device.write_csr(regs.offset("program_size"), 1)
        device.write_csr(regs.offset("scalar0"), 1)
        # The access may go out while the register is still being written.
        with pytest.raises(DeviceError, match="outside of the memory"):  # noqa: PT012
            device.write_csr(regs.offset("control"), 1)
            device.wait_interrupt(max_cycles=100)
