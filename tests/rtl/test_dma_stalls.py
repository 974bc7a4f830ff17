"""Why the engines of the DMA stand still, to the cycle."""

import random
from dataclasses import replace
from typing import Any

import pytest

from systolith.config import preset
from systolith.isa import Engine, Fill, Instruction, Opcode, make
from systolith_sim.dma_bench import DmaBench

STREAM, LOAD, STORE = Engine.STREAM, Engine.LOAD, Engine.STORE

CONFIG = preset("ecp5-85k")
TINY = replace(preset("tiny"), ring_bytes=4096)

both = pytest.mark.parametrize("config", [CONFIG, TINY], ids=["16x8", "4x4"])


def bench_of(config: Any = CONFIG, **options: Any) -> DmaBench:
    """A bench with something in its memory."""
    return DmaBench(config, bytearray(random.Random(1).randbytes(1 << 14)), **options)


def move(opcode: Opcode, config: Any, size: int, **fields: int) -> Instruction:
    """A LOAD or a STORE of one run."""
    return make(opcode, config, n0=size, n1=1, n2=1, **fields)


def refused(
    config: Any, instruction: Instruction, port: str, cycles: range, **options: Any
) -> tuple[int, dict[str, int]]:
    """Return when an instruction retires whose port is refused in some cycles, and its stalls."""
    bench = bench_of(config, latency=4, **options)
    bench.closed[port] = cycles
    bench.run(instruction)
    engine = instruction.engine
    assert engine is not None
    return bench.retired[engine][0], bench.stalls[engine]


def assert_refusals_count(config: Any, instruction: Instruction, port: str, *, blur: int) -> None:
    """As many cycles of `bank` as the end is late, or `blur` less, whenever they come."""
    end, causes = refused(config, instruction, port, range(0))
    late = set()
    for cycle in range(4, end, 5):
        length = 1 if cycle % 2 else 11
        window = range(cycle, cycle + length)
        retired, stalls = refused(config, instruction, port, window)
        assert 0 <= retired - end - stalls["bank"] <= blur, window
        assert stalls["dram"] == causes["dram"], window
        late.add(stalls["bank"])
    assert min(late) == 0
    assert max(late) > 5


@both
@pytest.mark.parametrize("latency", [10, 30, 120])
def test_stream_waits_for_its_first_beat(config: Any, latency: int) -> None:
    """A command that is offered in cycle 0 asks in cycle 6; the first beat is here at latency + 8.

    All others come without a gap.
    """
    bench = bench_of(config, latency=latency)
    bench.run(make(Opcode.STREAM, config, size=160 * config.axi_bytes))
    assert bench.stalls[STREAM] == {"dram": latency + 2}


def test_stream_waits_for_each_beat_of_a_slow_memory() -> None:
    bench = bench_of(memory_stall=0.6, latency=10)
    bench.run(make(Opcode.STREAM, CONFIG, size=160 * 8))
    cycles = [cycle for cycle, _ in bench.axi.read_beats]
    assert bench.stalls[STREAM] == {"dram": cycles[-1] - 159 - 6 + 1}
    assert bench.stalls[STREAM]["dram"] > 160


def test_stream_waits_for_the_ring() -> None:
    """It holds half of what comes; the rest waits for its reader."""
    config = replace(CONFIG, ring_bytes=1024)
    seen = []
    for opens in (300, 417):
        bench = bench_of(config, latency=10)
        bench.opens["ring"] = opens
        bench.run(make(Opcode.STREAM, config, size=2048))
        seen.append((bench.stalls[STREAM], bench.retired[STREAM][0]))
    (before, first), (after, second) = seen
    assert second - first == after["output"] - before["output"] == 117
    assert before["dram"] == after["dram"] < 80
    # The last beat of what the ring holds comes in cycle 6 + 12 + 128; once it is read, it holds
    # back bursts for as long as it has no room for one.
    assert 300 - 150 <= before["output"] <= 300 - 140 + 64


def test_stream_does_not_wait_for_an_empty_ring() -> None:
    """All of the ring is reserved for beats that do not come: that is the memory's doing."""
    bench = bench_of(replace(CONFIG, ring_bytes=1024), latency=240)
    bench.run(make(Opcode.STREAM, CONFIG, size=4096))
    assert bench.stalls[STREAM]["dram"] > 400
    assert bench.stalls[STREAM]["output"] < 12


@both
@pytest.mark.parametrize("latency", [10, 30, 120])
def test_load_waits_for_its_first_beat(config: Any, latency: int) -> None:
    bench = bench_of(config, latency=latency)
    bench.run(move(Opcode.LOAD, config, 160 * config.axi_bytes))
    # A cycle on AR and one behind R; five through the FIFO, as long as there are beats to come.
    assert bench.stalls[LOAD] == {"dram": latency + 5}


def test_load_waits_for_each_beat_of_a_slow_memory() -> None:
    ends = []
    for stall in (0.0, 0.6):
        bench = bench_of(memory_stall=stall, latency=10)
        bench.run(move(Opcode.LOAD, CONFIG, 160 * 8))
        assert set(bench.stalls[LOAD]) == {"dram"}
        ends.append((bench.retired[LOAD][0], bench.stalls[LOAD]["dram"]))
    (first, before), (second, after) = ends
    assert second - first > 160
    # Where the FIFO's own latency begins is not where the last beat's stall does.
    assert after - before == pytest.approx(second - first, abs=8)


@both
def test_load_waits_for_its_bank(config: Any) -> None:
    # A refusal may fall on the cycle of the last beat, which is not held by it.
    load = move(Opcode.LOAD, config, 24 * config.rows)
    assert_refusals_count(config, load, "write", blur=1)


def test_load_waits_for_the_bank_of_the_last_word() -> None:
    """When no beat is left to be held."""
    load = move(Opcode.LOAD, CONFIG, 8)
    end, _ = refused(CONFIG, load, "write", range(0))
    late, stalls = refused(CONFIG, load, "write", range(100))
    assert 0 < late - end == stalls["bank"] < 100


def test_load_waits_for_the_bank_of_its_index() -> None:
    load = move(Opcode.LOAD, CONFIG, 8, fill=Fill.GATHER, index=64, dram_stride1=1)
    end, _ = refused(CONFIG, load, "read", range(0))
    late, stalls = refused(CONFIG, load, "read", range(50))
    assert 0 < late - end == stalls["bank"] < 50


def test_zeros_wait_for_nothing() -> None:
    bench = bench_of()
    bench.run(move(Opcode.LOAD, CONFIG, 1280, fill=Fill.ZERO))
    assert not bench.stalls[LOAD]


@both
def test_store_waits_for_its_bank(config: Any) -> None:
    store = move(Opcode.STORE, config, 24 * config.rows)
    assert_refusals_count(config, store, "read", blur=0)


@pytest.mark.parametrize("latency", [10, 30, 120])
def test_store_waits_for_its_response(latency: int) -> None:
    """From the cycle in which the last beat is on W."""
    bench = bench_of(latency=latency)
    bench.run(move(Opcode.STORE, CONFIG, 320))
    assert bench.stalls[STORE] == {"dram": latency + 2}
    assert bench.retired[STORE] == [bench.axi.write_beats[-1] + latency + 2]


@pytest.mark.parametrize("latency", [10, 60])
@pytest.mark.parametrize(
    "shape",
    [{"n0": 16, "n1": 1, "dram_offset": 248}, {"n0": 8, "n1": 12, "dram_stride1": 512}],
    ids=["two bursts", "twelve runs"],
)
def test_store_at_work_does_not_wait_for_responses(shape: dict[str, int], latency: int) -> None:
    """While runs are still walked or cut, responses that are owed do not matter."""
    bench = bench_of(latency=latency)
    bench.run(make(Opcode.STORE, CONFIG, n2=1, **shape))
    assert bench.stalls[STORE] == {"dram": latency + 2}


def test_store_waits_for_each_beat_to_be_taken() -> None:
    ends = []
    for stall in (0.0, 0.6):
        bench = bench_of(memory_stall=stall, latency=10)
        bench.run(move(Opcode.STORE, CONFIG, 160 * 8))
        assert set(bench.stalls[STORE]) == {"dram"}
        ends.append((bench.retired[STORE][0], bench.stalls[STORE]["dram"]))
    (first, before), (second, after) = ends
    assert second - first > 160
    assert after - before == second - first


def test_index_lists_and_stores_do_not_wait_for_each_others_banks() -> None:
    """They share a port; what is refused is whose turn it is."""
    bench = bench_of(latency=4)
    bench.closed["read"] = range(10, 30)
    bench.run(move(Opcode.STORE, CONFIG, 640), move(Opcode.LOAD, CONFIG, 640, fill=Fill.ZERO))
    assert not bench.stalls[LOAD]
    assert bench.stalls[STORE]["bank"] > 10
