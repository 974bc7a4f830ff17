"""Compiled programs on the RTL: the bits of the golden model, in the cycles that are estimated."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from systolith.compiler.estimate import Estimate, Memory, estimate
from systolith.compiler.qgraph import QGraph
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.device import Device
from systolith.host.session import Session
from systolith.isa import Engine, Instruction
from systolith.program import Program
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, gemm, inputs_for
from systolith_sim.iss import IssDevice
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.verilator import VerilatorDevice

SLACK = 16
"""Cycles by which an instruction may differ from the estimate, or 2 % of what it takes."""

LONGEST_BURST = 32
"""Beats."""

SEED = 7

Finished = dict[tuple[Engine, int], int]
"""The cycle in which an engine has retired so many instructions."""

Tensors = Mapping[str, np.ndarray]


def run(device: Device, program: Program, graph: QGraph, length: int) -> tuple[Tensors, Session]:
    """Run a program; returns all its tensors, outputs among them, and the session."""
    session = Session(device, program)
    device.watch(program.watch)
    outputs = session.run(inputs_for(graph, SEED), length=length)
    for name, values in outputs.items():
        np.testing.assert_array_equal(values, device.captured[name], name)
    return device.captured, session


@dataclass(frozen=True)
class Measured:
    """What the RTL did."""

    program: Program
    cycles: int
    finished: Finished
    tensors: Tensors


def measure(graph: QGraph, preset: str, tokens: int, length: int, **timing: Any) -> Measured:
    """Compile a graph, and run it on the RTL."""
    program = schedule(graph, PRESETS[preset], name="test", seq_len=tokens)
    device = VerilatorDevice(program.config, probed=True, timing=MemoryTiming(**timing))
    tensors, session = run(device, program, graph, length)
    counters = session.counters()
    cycles = counters.cycles
    for name, causes in counters.stalls.items():
        assert sum(causes.values()) == counters.stall[name] <= counters.busy[name] < cycles
    finished = {(each.engine, each.count): each.cycle for each in device.retirements(cycles)}
    device.close()
    return Measured(program, cycles, finished, tensors)


TOKENS, LENGTH = 16, 13


@cache
def measured_encoder(preset: str) -> Measured:
    """The small encoder, once for all tests."""
    return measure(encoder(TOKENS), preset, TOKENS, LENGTH)


every_preset = pytest.mark.parametrize(
    "preset",
    [pytest.param(name, marks=pytest.mark.slow if name == "large" else ()) for name in PRESETS],
)


@every_preset
def test_every_preset_gives_the_bits_of_the_golden_model(preset: str) -> None:
    """All tensors: golden model = instruction simulator = RTL."""
    graph = encoder(TOKENS)
    measured = measured_encoder(preset)
    simulated, _ = run(IssDevice(PRESETS[preset]), measured.program, graph, LENGTH)
    expected = run_qgraph(graph, inputs_for(graph, SEED), LENGTH)
    assert set(graph.tensors) == set(measured.tensors) == set(simulated)
    for name in graph.tensors:
        np.testing.assert_array_equal(simulated[name], expected[name], name)
        np.testing.assert_array_equal(measured.tensors[name], expected[name], name)


def durations(instructions: list[Instruction], finished: Finished) -> list[tuple[Instruction, int]]:
    """Cycles of each instruction from when nobody had to be waited for any more.

    That is when the instruction before it and those that it names were retired.
    """
    counts = dict.fromkeys(Engine, 0)
    result = []
    for instruction in instructions:
        engine = Engine(instruction.engine)
        before = [*instruction.waits.items(), (engine, counts[engine])]
        counts[engine] += 1
        ready = (
            max(finished[each] for each in before if each[1])
            if any(count for _, count in before)
            else 0
        )
        result.append((instruction, finished[engine, counts[engine]] - ready))
    return result


def retirements(result: Estimate) -> Finished:
    """The estimate in the form of a measurement."""
    counts = dict.fromkeys(Engine, 0)
    finished: Finished = {}
    for timing in result.instructions[:-1]:
        engine = Engine(timing.instruction.engine)
        counts[engine] += 1
        finished[engine, counts[engine]] = timing.finished
    return finished


def assert_estimated(measured: Measured, **timing: Any) -> None:
    """Each instruction takes the cycles that are estimated, and so does the program.

    Which of two readers gets the memory first is a matter of single cycles, so a transfer may
    differ by the other one's burst.
    """
    memory = Memory(**timing)
    config = measured.program.config
    result = estimate(measured.program.code, config, memory)
    burst = LONGEST_BURST * max(1, config.axi_bytes / memory.bandwidth)
    instructions = [each.instruction for each in result.instructions[:-1]]
    wrong = []
    for (instruction, real), (_, estimated) in zip(
        durations(instructions, measured.finished),
        durations(instructions, retirements(result)),
        strict=True,
    ):
        slack = max(SLACK, 0.02 * real)
        if instruction.engine in (Engine.STREAM, Engine.LOAD):
            slack = max(slack, burst + 8)
        if abs(estimated - real) > slack:
            wrong.append(f"{instruction.opcode.name}: {real} cycles, estimated {estimated}")
    assert not wrong
    assert result.cycles == pytest.approx(measured.cycles, rel=0.01)


@every_preset
def test_an_encoder_takes_the_estimated_cycles(preset: str) -> None:
    assert_estimated(measured_encoder(preset))


@pytest.mark.parametrize(
    ("preset", "shape"),
    [
        ("tiny", (1, 5, 8)),
        ("tiny", (17, 38, 34)),
        ("ecp5-25k", (32, 141, 52)),
        ("ecp5-85k", (6, 116, 146)),
        ("ecp5-85k", (39, 76, 139)),
    ],
)
@pytest.mark.parametrize(("bandwidth", "latency"), [(1.6, 60), (8.0, 30), (16.0, 120)])
def test_a_matmul_takes_the_estimated_cycles(
    preset: str, shape: tuple[int, int, int], bandwidth: float, latency: int
) -> None:
    """Tails in all directions; a memory that limits, one that does not, one far away."""
    timing = {"bandwidth": bandwidth, "latency": latency}
    tokens = shape[0]
    assert_estimated(measure(gemm(*shape), preset, tokens, tokens, **timing), **timing)


@pytest.mark.parametrize(
    ("preset", "tokens", "timing"),
    [
        ("tiny", 5, {}),
        ("tiny", 16, {"bandwidth": 1.6}),
        ("ecp5-25k", 18, {"latency": 120}),
        ("ecp5-85k", 8, {}),
        ("ecp5-85k", 33, {"bandwidth": 1.6, "latency": 60}),
    ],
)
def test_other_encoders_take_the_estimated_cycles(
    preset: str, tokens: int, timing: dict[str, float]
) -> None:
    """Short ones, where waits count most, and ones that wait for the memory."""
    measured = measure(encoder(tokens), preset, tokens, tokens, **timing)
    assert_estimated(measured, **timing)


def test_a_full_scratchpad_takes_the_estimated_cycles() -> None:
    """A layer of MiniLM at 128 tokens: tensors in several banks, and clashes in all of them."""
    graph = encoder(128, width=384, heads=12, chunks=(704, 768, 64))
    assert_estimated(measure(graph, "ecp5-85k", 128, 128))
