"""A whole core runs programs from DRAM to DRAM, and a host talks to it as the manual says."""

from typing import Any

import numpy as np
import pytest

from systolith import regs
from systolith.config import ISA_VERSION, preset
from systolith.host.device import DeviceTimeoutError
from systolith.isa import Engine, Opcode
from systolith.regs import STALLS, Control, Stall, State
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.programs import random_program
from systolith_sim.pysim import PysimDevice

Bench = Any
"""`conftest.Bench`."""


def test_matmul_from_dram_to_dram(bench: Bench) -> None:
    """Load, stream, multiply, drain, store: equal to Python integers; then all counters."""
    bench.assert_clean_run()
    program = bench.matmul.program
    for engine in Engine:
        count = sum(item.engine is engine for item in program)
        name = engine.name.lower()
        assert bench.read(f"{name}_retired") == count
        busy, stall = bench.read_pair(f"{name}_busy"), bench.read_pair(f"{name}_stall")
        assert (busy > 0) == (count > 0)
        assert 0 <= stall <= busy
        causes = {
            cause: bench.read_pair(regs.stall_counter(engine, cause)) for cause in STALLS[engine]
        }
        assert sum(causes.values()) == stall
        # Nothing clashes here, but LOAD's data is awaited, and all others await someone's.
        assert causes.get(Stall.BANK, 0) == 0
        assert stall > 0 or name == "row"
    # Instructions, column records, A and B come as whole beats, the result likewise.
    beat = bench.CONFIG.axi_bytes
    result = bench.matmul.expected.size
    loaded = len(program) * 64 + 32 + len(bench.matmul.inputs) + 32
    assert bench.read_pair("read_beats") == loaded // beat
    assert bench.read_pair("write_beats") == result // beat
    assert bench.read_pair("cycles") < 450
    assert bench.read("fault_engine") == regs.NO_ENGINE


def test_runs_repeat(bench: Bench) -> None:
    """From DONE, a start clears what the last run left; equal runs take equal cycles."""
    cycles = []
    for _ in range(2):
        bench.assert_clean_run()
        assert bench.state == State.DONE
        cycles.append(bench.read_pair("cycles"))
    assert cycles[0] == cycles[1]


def test_constants(bench: Bench) -> None:
    assert bench.read("id") == regs.MAGIC
    assert bench.read("version") == ISA_VERSION
    assert bench.read_pair("config_hash") == bench.CONFIG.hash
    assert bench.state == State.IDLE


def test_interrupt_waits_for_its_enable(bench: Bench) -> None:
    """Disabled, it is pending but not raised; acknowledged, it is gone."""
    bench.write("interrupt_enable", 0)
    bench.start([bench.HALT])
    with pytest.raises(DeviceTimeoutError):
        bench.device.wait_interrupt(max_cycles=400)
    assert bench.state == State.DONE
    bench.write("interrupt_enable", 1)
    assert bench.end()["halt_code"] == bench.HALT_CODE
    with pytest.raises(DeviceTimeoutError):
        bench.device.wait_interrupt(max_cycles=10)


def test_start_while_running_is_refused(bench: Bench) -> None:
    """It changes nothing: neither counts nor result."""
    bench.start(bench.matmul.program)
    cycles = []
    for _ in range(4):
        bench.control(Control.START)
        cycles.append(bench.read("cycles_lo"))
    assert bench.state == State.RUN
    assert 0 < cycles[0] < cycles[1] < cycles[2] < cycles[3]
    assert bench.end()["status"] == State.DONE
    assert bench.read("store_retired") == 1


def test_reset_and_start_without_a_pause(bench: Bench) -> None:
    """As fast as the register port is, a start behind a reset counts."""
    bench.start([bench.HALT])
    bench.end()
    bench.control(Control.RESET)
    bench.control(Control.START)
    assert bench.end()["status"] == State.DONE


def test_halt_waits_for_all_engines(bench: Bench) -> None:
    """Without a wait count of its own, HALT still comes last."""
    bench.device.write_memory(bench.BASES[3], bytes(64))
    store = bench.op(Opcode.STORE, base=3, n0=16, n1=1, n2=1, waits={Engine.LOAD: 1})
    assert bench.run([bench.load(), store, bench.HALT])["status"] == State.DONE
    assert bench.device.read_memory(bench.BASES[3], 16) == bench.matmul.inputs[:16]


def test_code_behind_halt_is_not_carried_out(bench: Bench) -> None:
    """What was fetched ahead is dropped, even if nothing of it is legal."""
    junk = b"\xff" * 64
    for extra in range(1, 6):
        end = bench.run([bench.load(), bench.HALT, *[junk] * extra])
        assert end["status"] == State.DONE
        assert end["fault_cause"] == 0


def test_throughput_of_dispatch(bench: Bench) -> None:
    """An instruction takes a cycle more than it has beats, 17 here, while engines keep up."""
    cycles = []
    zero = bench.load(fill=1, n0=1)
    for count in (4, 20):
        assert bench.run([*[zero] * count, bench.HALT])["status"] == State.DONE
        cycles.append(bench.read_pair("cycles"))
    assert (cycles[1] - cycles[0]) / 16 <= 17.5


@pytest.mark.parametrize("seed", [1])
def test_random_programs(seed: int) -> None:
    """Any legal program, with a memory that stalls and interleaves, ends as its builder says."""
    config = preset("tiny")
    program = random_program(config, seed, steps=3, largest=8)
    timing = MemoryTiming(latency=11, stall=0.2, seed=seed, interleave=True)
    device = PysimDevice(config, memory_bytes=program.memory_bytes, timing=timing)
    program.start(device)
    device.wait_interrupt(max_cycles=5000)
    assert device.read_csr(regs.offset("halt_code")) == program.halt_code
    result = np.frombuffer(device.read_memory(0, len(program.expected)), np.uint8)
    expected = np.frombuffer(program.expected, np.uint8)
    assert np.array_equal(result, expected)
