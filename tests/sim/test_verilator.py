"""The memory and the host side of simulated devices, on a small machine with the core's ports.

Both simulators have the same memory model, once in C++ and once in Python.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from systolith import regs
from systolith.config import preset
from systolith.host.device import DeviceError, DeviceTimeoutError
from systolith.isa import Engine
from systolith.numerics import Format
from systolith.program import WatchPoint
from systolith_sim.copy_engine import (
    BURST,
    ERRORS,
    IDS,
    MISCHIEF,
    REFUSED,
    SILENT,
    TIMES,
    Mischief,
    copy_design,
)
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.pysim import PysimDevice
from systolith_sim.simulated import SimulatedDevice
from systolith_sim.verilator import VerilatorDevice

CONFIG = preset("tiny")
BEAT = CONFIG.axi_bytes
MEMORY = 1 << 16
SOURCE, DESTINATION = 0x1000, 0x8000

Open = Callable[..., SimulatedDevice]


@pytest.fixture(params=[VerilatorDevice, PysimDevice], ids=lambda device: device.name)
def open_copy(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a device with the copy engine; `MemoryTiming`'s options."""
    opened = list[SimulatedDevice]()

    def open_(*, probed: bool = True, **timing: Any) -> SimulatedDevice:
        device = request.param(
            CONFIG,
            memory_bytes=MEMORY,
            timing=MemoryTiming(**timing),
            design=copy_design(CONFIG, probed=probed),
        )
        opened.append(device)
        return device

    yield open_
    for device in opened:
        device.close()


@dataclass
class Result:
    """What the copy engine did: its times, its errors, and whether the copy is right."""

    times: dict[str, int]
    errors: int
    data: np.ndarray
    copy: np.ndarray


def start(device: SimulatedDevice, beats: int, burst: int, **options: int) -> np.ndarray:
    data = np.random.default_rng(1).integers(1, 256, beats * BEAT, np.uint8)
    device.write_memory(SOURCE, data.tobytes())
    registers = {
        regs.offset("base0_lo"): options.get("source", SOURCE),
        regs.offset("base1_lo"): options.get("destination", DESTINATION),
        regs.offset("program_size"): beats,
        regs.offset("interrupt_enable"): 1,
        BURST: burst,
        MISCHIEF: options.get("mischief", 0),
        IDS: options.get("ids", 0),
        regs.offset("control"): 1 << regs.Control.START,
    }
    for offset, value in registers.items():
        device.write_csr(offset, value)
    return data


def copy(device: SimulatedDevice, beats: int, *, burst: int = 16, **options: int) -> Result:
    data = start(device, beats, burst, **options)
    device.wait_interrupt(max_cycles=5000)
    result = np.frombuffer(device.read_memory(DESTINATION, data.size), np.uint8)
    times = {name: device.read_csr(offset) for name, offset in TIMES.items()}
    device.write_csr(regs.offset("control"), 1 << regs.Control.ACKNOWLEDGE)
    return Result(times, device.read_csr(ERRORS), data, result)


@pytest.mark.parametrize("latency", [1, 2, 30, 100])
def test_latency_is_exact(open_copy: Open, latency: int) -> None:
    """From an address to its first beat, and from a last beat to its response."""
    result = copy(open_copy(latency=latency), 16)
    assert result.times["latency"] == latency
    assert result.times["response"] == latency


@pytest.mark.parametrize(
    ("bandwidth", "spacing"), [(1000.0, 1.0), (4.0, 1.0), (2.0, 2.0), (3.0, 4 / 3), (1.6, 2.5)]
)
def test_bandwidth_is_exact(open_copy: Open, bandwidth: float, spacing: float) -> None:
    """Beats of 4 bytes, after the ones that the unused bandwidth before has paid for."""
    result = copy(open_copy(bandwidth=bandwidth), 64)
    for name in ("reads", "writes"):
        assert 63 * spacing - 2 * spacing <= result.times[name] <= 63 * spacing + 1
    assert np.array_equal(result.copy, result.data)


def test_addresses_are_taken_ahead_up_to_the_limit(open_copy: Open) -> None:
    """With one burst at a time, each of 4 bursts costs its latency; with 4, only the first."""
    times = {n: copy(open_copy(latency=50, outstanding=n), 16, burst=4).times for n in (1, 4)}
    assert times[4]["reads"] == 15
    # The next address is taken one cycle after the last beat has been put on the bus.
    assert times[1]["reads"] >= 3 + 3 * 50


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("stall", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("seed", [1, 2])
def test_copies_under_back_pressure(
    open_copy: Open, stall: float, seed: int, interleave: bool
) -> None:
    """Nothing is lost, nothing comes twice; RLAST is where it belongs (else there are errors)."""
    device = open_copy(stall=stall, seed=seed, interleave=interleave)
    result = copy(device, 48, burst=8, ids=1)
    assert np.array_equal(result.copy, result.data)
    assert result.errors == 0
    assert device.activity.read_beats == device.activity.write_beats == 48
    assert device.activity.pending == 0


def test_back_pressure_has_a_seed(open_copy: Open) -> None:
    cycles = [copy(open_copy(stall=0.5, seed=seed), 48).times["all"] for seed in (1, 1, 2, 3)]
    assert cycles[0] == cycles[1]
    assert len(set(cycles)) > 1


@pytest.mark.parametrize("beat", [0, 17, 47])
def test_errors_come_where_they_are_injected(open_copy: Open, beat: int) -> None:
    device = open_copy()
    device.inject(read_beat=beat)
    assert copy(device, 48).errors == 1
    device.inject(write_beat=beat)
    assert copy(device, 48).errors == 1
    device.inject(read_beat=beat, write_beat=beat)
    assert copy(device, 48).errors == 2
    assert copy(device, 48).errors == 0


def test_an_error_beyond_the_traffic_does_not_come(open_copy: Open) -> None:
    device = open_copy()
    device.inject(read_beat=48, write_beat=48)
    assert copy(device, 48).errors == 0


@pytest.mark.parametrize(
    ("mischief", "message"),
    [
        (Mischief.WITHDRAW_AR, "AR: VALID was withdrawn before READY"),
        (Mischief.CHANGE_AR, "AR: changed while it waited for READY"),
        (Mischief.WITHDRAW_AW, "AW: VALID was withdrawn before READY"),
        (Mischief.CHANGE_AW, "AW: changed while it waited for READY"),
        (Mischief.WITHDRAW_W, "W: VALID was withdrawn before READY"),
        (Mischief.CHANGE_W, "W: changed while it waited for READY"),
        (Mischief.NO_LAST, "W: WLAST is 0 with 1 beats to go, at 0x803c"),
        (Mischief.NARROW, "AR: burst type 1, size 1, lock 0: not whole incrementing beats"),
    ],
)
def test_protocol_checker(open_copy: Open, mischief: Mischief, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        copy(open_copy(stall=0.9), 16, mischief=mischief)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": 0x1FC4}, "AR: 64 bytes from 0x1fc4 cross a 4 KiB boundary"),
        ({"destination": 0x2FFC}, "AW: 64 bytes from 0x2ffc cross a 4 KiB boundary"),
        ({"source": MEMORY}, "AR: 64 bytes from 0x10000 are outside of the memory"),
        ({"destination": 0xFFFF_FFC0}, "AW: 64 bytes from 0xffffffc0 are outside of the memory"),
        ({"source": 0x1002}, "AR: address 0x1002 is no multiple of 4"),
    ],
)
def test_address_checker(open_copy: Open, options: dict[str, int], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        copy(open_copy(), 16, **options)


def test_a_burst_may_end_at_a_boundary(open_copy: Open) -> None:
    assert copy(open_copy(), 16, source=0x1FC0).errors == 0


def test_registers_that_misbehave(open_copy: Open) -> None:
    device = open_copy()
    with pytest.raises(DeviceError, match=f"no answer from register 0x{SILENT:x} in 10000 cycles"):
        device.read_csr(SILENT)
    device = open_copy()
    with pytest.raises(DeviceError, match=f"read of register 0x{REFUSED:x}: response 2"):
        device.read_csr(REFUSED)
    with pytest.raises(DeviceError, match=f"write of register 0x{REFUSED:x}: response 2"):
        device.write_csr(REFUSED, 1)
    assert device.read_csr(regs.offset("id")) == regs.MAGIC


def test_no_interrupt_is_a_timeout_with_a_reason(open_copy: Open) -> None:
    device = open_copy()
    with pytest.raises(DeviceTimeoutError, match=r"no interrupt in 200 cycles; .* in state IDLE"):
        device.wait_interrupt(max_cycles=200)
    assert 200 <= device.activity.cycles <= 240


def test_memory_ends(open_copy: Open) -> None:
    device = open_copy()
    for address, size in ((MEMORY - 1, 2), (-1, 1), (MEMORY, 1)):
        with pytest.raises(DeviceError, match="outside of the memory of 0x10000 bytes"):
            device.read_memory(address, size)
        with pytest.raises(DeviceError, match="outside of the memory of 0x10000 bytes"):
            device.write_memory(address, bytes(size))


def test_progress_counts_cycles_since_the_start(open_copy: Open) -> None:
    device = open_copy(latency=500)
    device.chunk = 100
    device.step(1000)
    start(device, 16, 16)
    reported = list[int]()
    device.wait_interrupt(max_cycles=5000, progress=reported.append)
    assert len(reported) == device.read_csr(TIMES["all"]) // 100
    assert all(0 < cycles - 100 * (n + 1) < 20 for n, cycles in enumerate(reported))


def point(name: str, engine: Engine, **changes: Any) -> WatchPoint:
    facts = {
        "layer": "",
        "instruction": 0,
        "count": 1,
        "address": 0,
        "row": 1,
        "rows": 4,
        "columns": 4,
        "format": Format.U8,
    }
    return WatchPoint(name=name, engine=engine, **(facts | changes))


def test_captures_what_is_complete_at_that_count(open_copy: Open) -> None:
    """The beats as they are read; later, the lowest byte of each is cleared."""
    device = open_copy()
    device.watch(
        [
            point("loaded", Engine.LOAD),
            point("strided", Engine.LOAD, address=2, row=8, rows=2, columns=2, format=Format.S16),
            point("stored", Engine.STORE, rows=2, format=Format.S8),
            point("never", Engine.ROW),
            point("not yet", Engine.LOAD, count=2),
        ]
    )
    for _ in range(2):  # the second run captures afresh
        words = copy(device, 16).data.reshape(16, 4)
        captured = device.captured
        assert list(captured) == ["loaded", "strided", "stored"]
        assert np.array_equal(captured["loaded"], words[:4])
        assert captured["strided"].dtype == np.int16
        assert np.array_equal(captured["strided"], words[[2, 10]].copy().view(np.int16))
        assert captured["stored"].dtype == np.int8
        cleared = words[:2].copy()
        cleared[:, 0] = 0
        assert np.array_equal(captured["stored"].view(np.uint8), cleared)
    start(device, 16, 16)
    assert device.captured == {}
    device.watch(())
    copy(device, 16)
    assert device.captured == {}


def test_watching_needs_a_probe(open_copy: Open) -> None:
    device = open_copy(probed=False)
    device.watch(())
    with pytest.raises(NotImplementedError, match="open it with probed=True"):
        device.watch([point("x", Engine.LOAD)])
    assert copy(device, 16).errors == 0


def test_retirements_are_recorded() -> None:
    """Of the last run alone, in its cycles. The copy's last one comes with the interrupt."""
    device = VerilatorDevice(CONFIG, memory_bytes=MEMORY, design=copy_design(CONFIG, probed=True))
    found = []
    for _ in range(2):
        start(device, 64, 16)
        begin = device.activity.cycles
        device.wait_interrupt(max_cycles=5000)
        cycles = device.activity.cycles - begin
        (retirement,) = device.retirements(cycles)
        assert (retirement.engine, retirement.count) == (Engine.LOAD, 1)
        assert 64 < retirement.cycle < cycles - 64
        found.append(retirement.cycle)
        device.write_csr(regs.offset("control"), 1 << regs.Control.ACKNOWLEDGE)
    assert found[0] == found[1]
    device.close()


def test_retirements_need_a_probe() -> None:
    device = VerilatorDevice(CONFIG, memory_bytes=MEMORY, design=copy_design(CONFIG, probed=False))
    with pytest.raises(NotImplementedError, match="open it with probed=True"):
        device.retirements(0)
    device.close()


def test_a_watch_point_must_lie_in_the_scratchpad(open_copy: Open) -> None:
    last = CONFIG.granules - 4
    open_copy().watch([point("x", Engine.LOAD, address=last)])
    with pytest.raises(ValueError, match="the watch point x ends beyond the scratchpad"):
        open_copy().watch([point("x", Engine.LOAD, address=last + 1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": 0}, "latency must be at least 1, but is 0"),
        ({"bandwidth": 0.0}, "bandwidth must be above 0 and at most 1024, but is 0.0"),
        ({"outstanding": 0}, "outstanding must be at least 1, but is 0"),
        ({"stall": 1.0}, "stall must be from 0 to 0.95, but is 1.0"),
    ],
)
def test_timing_is_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryTiming(**options)


def test_memory_size_is_checked(open_copy: Open) -> None:
    with pytest.raises(ValueError, match="memory_bytes must be a multiple of 4096, but is 100"):
        PysimDevice(CONFIG, memory_bytes=100, design=copy_design(CONFIG, probed=True))
