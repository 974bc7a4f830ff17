"""Why engines stand still, in a whole core: slow memory, waits, clashes, and what always holds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from systolith import regs
from systolith.config import preset
from systolith.host.device import Device
from systolith.isa import Engine, Instruction, Opcode, WeightSource, XFormat
from systolith.numerics import Format
from systolith.regs import STALLS, Stall, State
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.programs import random_program
from systolith_sim.pysim import PysimDevice

Bench = Any
"""`conftest.Bench`."""

TINY = preset("tiny")
BANK = TINY.granules // 4
"""Granules of a bank."""


def read_pair(device: Device, name: str) -> int:
    low, high = (device.read_csr(regs.offset(f"{name}_{half}")) for half in ("lo", "hi"))
    return low | high << 32


def stalls_of(device: Device) -> dict[Engine, dict[Stall, int]]:
    """Cycles by engine and cause, without those that are 0; they must add up."""
    found = {}
    for engine in Engine:
        name = engine.name.lower()
        causes = {
            cause: read_pair(device, regs.stall_counter(engine, cause)) for cause in STALLS[engine]
        }
        stall, busy = read_pair(device, f"{name}_stall"), read_pair(device, f"{name}_busy")
        assert sum(causes.values()) == stall <= busy <= read_pair(device, "cycles")
        found[engine] = {cause: cycles for cause, cycles in causes.items() if cycles}
    return found


def run(bench: Bench, program: Sequence[Instruction]) -> dict[Engine, dict[Stall, int]]:
    assert bench.run(program)["status"] == State.DONE
    return stalls_of(bench.device)


def test_a_wait_counts_until_it_is_over(bench: Bench) -> None:
    """STORE waits for LOAD to retire, however long that takes; its own time is no stall."""
    seen = []
    for rows in (1, 9):
        store = bench.op(Opcode.STORE, base=3, n0=16, n1=1, n2=1, waits={Engine.LOAD: 1})
        load = bench.load(fill=1, n0=4, n1=rows)
        found = run(bench, [load, store, bench.HALT])
        busy = read_pair(bench.device, "load_busy")
        assert set(found[Engine.STORE]) == {Stall.AWAITED, Stall.DRAM}
        assert found[Engine.LOAD] == {}
        assert all(not found[each] for each in (Engine.STREAM, Engine.GEMM, Engine.VECTOR))
        seen.append((busy, found[Engine.STORE][Stall.AWAITED]))
    # Both begin at a time that does not depend on the LOAD's size.
    assert seen[1][0] - seen[0][0] == 8
    assert seen[1][1] - seen[0][1] == 8


def test_each_engine_may_wait_for_an_instruction(bench: Bench) -> None:
    """ROW included, which waits for nothing else."""
    slow = bench.load(n0=16, n1=24)
    row = bench.op(Opcode.ROW, rows=1, n=4, destination=1, waits={Engine.LOAD: 1})
    found = run(bench, [slow, row, bench.HALT])
    assert set(found[Engine.ROW]) == {Stall.AWAITED}
    assert found[Engine.ROW][Stall.AWAITED] > 24 * 4
    assert set(found[Engine.LOAD]) == {Stall.DRAM}


@pytest.mark.parametrize("bank", [0, 1])
def test_clashes_of_a_bank(bench: Bench, bank: int) -> None:
    """GEMM reads its activations from bank 0 and goes first; VECTOR reads there too, or beside."""
    rows = TINY.accumulator_rows
    program = [
        bench.op(Opcode.STREAM, base=1, size=16),
        bench.op(
            Opcode.GEMM,
            m=rows,
            n=4,
            k=4,
            a_row=1,
            b_source=WeightSource.RING_S8,
            waits={Engine.LOAD: 1},
        ),
        bench.load(fill=1, n0=4),
        bench.op(
            Opcode.VECTOR,
            x_format=XFormat.S8,
            x_address=bank * BANK,
            x_row=1,
            y_address=2 * BANK,
            y_row=1,
            m=32,
            n=4,
            y_format=Format.S8,
            waits={Engine.LOAD: 1},
        ),
        bench.op(
            Opcode.VECTOR,
            x_format=XFormat.ACCUMULATOR,
            y_address=3 * BANK,
            y_row=1,
            m=rows,
            n=4,
            y_format=Format.S8,
        ),
        bench.HALT,
    ]
    found = run(bench, program)
    clashes = bench.read("bank_clashes")
    assert Stall.AWAITED in found[Engine.VECTOR]
    assert (clashes > 0) == (bank == 0) == (Stall.BANK in found[Engine.VECTOR])
    if bank == 0:
        # All of GEMM's rows but those that come before VECTOR's first request keep it waiting.
        assert rows - 16 < found[Engine.VECTOR][Stall.BANK] <= clashes <= rows
    assert Stall.BANK not in found[Engine.GEMM], "nobody goes before its activations"


@pytest.mark.parametrize("seed", [3])
def test_causes_add_up_in_random_programs(seed: int) -> None:
    """With a memory that stalls: `stalls_of` holds; a slower memory is all DRAM's fault."""
    program = random_program(TINY, seed, steps=3, largest=8)
    found = []
    for latency in (5, 90):
        timing = MemoryTiming(latency=latency, stall=0.2, seed=seed, interleave=True)
        device = PysimDevice(TINY, memory_bytes=program.memory_bytes, timing=timing)
        program.start(device)
        device.wait_interrupt(max_cycles=20_000)
        found.append(stalls_of(device))
    fast, slow = found
    for engine in (Engine.STREAM, Engine.LOAD, Engine.STORE):
        if fast[engine].get(Stall.DRAM):
            assert slow[engine][Stall.DRAM] > fast[engine][Stall.DRAM] + 60


def test_a_core_without_counters_of_stalls_still_counts_the_rest() -> None:
    """Cycles, beats and clashes are the same; where they went reads 0, and a bit says so."""
    always = ("cycles_lo", "read_beats_lo", "write_beats_lo", "bank_clashes")
    found = []
    for config in (TINY, replace(TINY, stall_counters=False)):
        program = replace(random_program(TINY, 3, steps=3, largest=8), config=config)
        timing = MemoryTiming(latency=20, stall=0.2, seed=3, interleave=True)
        device = PysimDevice(config, memory_bytes=program.memory_bytes, timing=timing)
        program.start(device)
        device.wait_interrupt(max_cycles=20_000)
        assert device.read_csr(regs.offset("status")) == State.DONE
        assert device.read_csr(regs.offset("capabilities")) == config.stall_counters
        found.append([device.read_csr(regs.offset(name)) for name in always])
        needing = [each for each in regs.REGISTERS if each.needs is not None]
        assert len(needing) == 2 * (2 * len(Engine) + sum(map(len, STALLS.values())))
        assert any(device.read_csr(each.offset) for each in needing) == config.stall_counters
    assert found[0] == found[1]
    assert all(found[0][:-1])


def test_latency_is_the_drams_fault(bench: Bench) -> None:
    """A STORE, and then a LOAD: with 32 cycles more of latency, each waits so much longer."""
    found = []
    program = [
        bench.op(Opcode.STORE, base=3, n0=16, n1=1, n2=1),
        bench.load(waits={Engine.STORE: 1}),
        bench.HALT,
    ]
    for latency in (8, 40):
        timing = MemoryTiming(latency=latency)
        device = PysimDevice(TINY, memory_bytes=1 << 16, timing=timing)
        found.append(run(type(bench)(device), program))
    fast, slow = found
    assert slow[Engine.STORE] == {Stall.DRAM: fast[Engine.STORE][Stall.DRAM] + 32}
    assert slow[Engine.LOAD][Stall.DRAM] == fast[Engine.LOAD][Stall.DRAM] + 32
    assert slow[Engine.LOAD][Stall.AWAITED] == fast[Engine.LOAD][Stall.AWAITED] + 32
