"""Building simulators: the cache, what it depends on, concurrency, and the tools."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from systolith.compiler.schedule import schedule
from systolith.config import PRESETS, preset
from systolith.host.device import DeviceError
from systolith.host.session import Session
from systolith_sim import toolchain
from systolith_sim.copy_engine import copy_design
from systolith_sim.devices import DEVICES, open_device
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.simulated import SimulatedDevice
from systolith_sim.toolchain import ToolError
from systolith_sim.verilator import VerilatorDevice, core_design
from systolith_sim.verilator.build import library

CONFIG = preset("tiny")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "systolith"


def writer(text: str, calls: list[str]) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        calls.append(text)
        path.write_text(text)

    return build


def test_a_result_is_built_once(cache: Path) -> None:
    calls = list[str]()
    first = toolchain.cached("a", writer("one", calls))
    second = toolchain.cached("a", writer("two", calls))
    other = toolchain.cached("b", writer("three", calls))
    assert first == second == cache / "a"
    assert (first.read_text(), other.read_text()) == ("one", "three")
    assert calls == ["one", "three"]


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ToolError("no")

    with pytest.raises(ToolError, match="no"):
        toolchain.cached("a", fail)
    calls = list[str]()
    assert toolchain.cached("a", writer("whole", calls)).read_text() == "whole"
    assert not list(cache.glob("building-*"))


def test_what_nobody_uses_is_removed_in_time(cache: Path) -> None:
    for name in ("old", "used"):
        path = toolchain.cached(name, writer(name, []))
        os.utime(path, (0, time.time() - (toolchain.KEEP_DAYS + 1) * 86400))
    toolchain.cached("used", writer("built again", []))
    assert (cache / "used").read_text() == "used"
    toolchain.cached("new", writer("new", []))
    assert not (cache / "old").exists()
    assert (cache / "used").exists()


def _slow_build(path: Path) -> None:
    with Path(path.parent.parent, "log").open("a") as log:
        log.write("built\n")
    path.write_text("x" * 1000)
    time.sleep(0.3)
    path.write_text("y" * 1000)


def _request(_: int) -> str:
    return toolchain.cached("shared", _slow_build).read_text()


def test_processes_build_once_and_see_only_whole_files(cache: Path) -> None:
    with get_context("fork").Pool(4) as pool:
        results = pool.map(_request, range(8), chunksize=1)
    assert results == ["y" * 1000] * 8
    assert (cache / "log").read_text() == "built\n"


def test_a_cached_simulator_costs_no_elaboration() -> None:
    """Nor any tool: the file's name is known before."""
    silence = list[str]()
    design = copy_design(CONFIG, probed=True)
    built = library(design, traced=False, announce=silence.append)

    def never() -> Any:
        raise AssertionError("elaborated")

    again = replace(design, make=never)
    start = time.perf_counter()
    assert library(again, traced=False, announce=silence.append) == built
    assert time.perf_counter() - start < 0.5


def test_the_name_depends_on_everything() -> None:
    """Configuration, probe, and each source of the generator."""
    keys = {core_design(config, probed=False).key for config in PRESETS.values()}
    keys |= {core_design(config, probed=True).key for config in PRESETS.values()}
    assert len(keys) == 2 * len(PRESETS)
    names = {path.name for path in toolchain.generator_sources()}
    assert {"core.py", "pe.py", "interfaces.py", "config.py", "isa.py", "regs.py"} <= names
    assert "numerics.py" in names


def test_a_digest_depends_on_facts_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("1")
    digests = [
        toolchain.digest(),
        toolchain.digest(1),
        toolchain.digest("1"),
        toolchain.digest(1, 1),
        toolchain.digest(files=[one]),
        toolchain.digest(files=[two]),
    ]
    one.write_text("2")
    digests.append(toolchain.digest(files=[one]))
    assert len(set(digests)) == len(digests)


def test_a_failing_tool_shows_its_output(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="ERROR: No such command: nonsense"):
        toolchain.yosys("nonsense", cwd=tmp_path, announce=print)
    with pytest.raises(ToolError, match="cannot be started"):
        toolchain.run([str(tmp_path / "missing")], cwd=tmp_path)


def test_without_a_compiler_ziglang_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not toolchain.compiler().is_zig or not toolchain.shutil.which("c++")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert toolchain.compiler().is_zig
    chosen = tmp_path / "mine"
    chosen.write_text("#!/bin/sh\n")
    chosen.chmod(0o755)
    monkeypatch.setenv("CXX", "mine")
    assert toolchain.compiler().command == (str(chosen),)


@pytest.mark.slow
def test_a_rehearsed_simulator_says_the_same() -> None:
    """Whatever the compiler makes of what it saw: equal results in as many cycles."""
    graph = encoder(16)
    program = schedule(graph, CONFIG, name="test", seq_len=16)
    plain = core_design(CONFIG, probed=False)
    assert plain.rehearsal is None, "a small core is compiled once"
    assert core_design(preset("ecp5-85k"), probed=False).rehearsal == preset("ecp5-85k")
    ran = []
    for design in (plain, replace(plain, rehearsal=CONFIG)):
        with closing(VerilatorDevice(CONFIG, design=design)) as device:
            session = Session(device, program)
            outputs = session.run(inputs_for(graph, 1), length=13)
            ran.append((session.counters(), {name: y.tobytes() for name, y in outputs.items()}))
    assert ran[0] == ran[1]
    golden = run_qgraph(graph, inputs_for(graph, 1), 13)
    assert ran[0][1] == {name: golden[name].tobytes() for name in ran[0][1]}


def test_waveforms(tmp_path: Path) -> None:
    path = tmp_path / "wave.vcd"
    device = VerilatorDevice(
        CONFIG, memory_bytes=4096, trace=path, design=copy_design(CONFIG, probed=False)
    )
    device.step(50)
    device.close()
    text = path.read_text()
    assert "m_axi_arvalid" in text
    assert text.count("\n#") == 2 * 50  # both edges


def test_a_closed_device_says_so() -> None:
    device = VerilatorDevice(CONFIG, memory_bytes=4096, design=copy_design(CONFIG, probed=False))
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="verilator has been closed"):
        device.step(1)


def test_devices_are_opened_by_name() -> None:
    assert set(DEVICES) == {"iss", "pysim", "verilator", "netlist"}
    with pytest.raises(ValueError, match=r"no device 'fpga'; .* iss, pysim, verilator, netlist$"):
        open_device("fpga", CONFIG)
    with pytest.raises(TypeError, match="give either timing or latency, not both"):
        open_device("pysim", CONFIG, latency=3, timing=MemoryTiming())
    with pytest.raises(ValueError, match="latency must be at least 1"):
        open_device("verilator", CONFIG, latency=0)
    device = open_device(
        "pysim",
        CONFIG,
        memory_bytes=8192,
        latency=3,
        bandwidth=2.0,
        design=copy_design(CONFIG, probed=True),
    )
    assert isinstance(device, SimulatedDevice)
    assert device.timing == MemoryTiming(latency=3, bandwidth=2.0)
    assert (device.name, device.memory_bytes, device.bandwidth) == ("pysim", 8192, 2.0)
