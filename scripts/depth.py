"""The longest chains of logic between registers, before anything is placed.

`python scripts/depth.py tiny`: how many inputs of registers are reached in how many nanoseconds,
and the worst path from each group of registers. nextpnr tells one path per clock, many minutes
after Yosys; this tells all of them in seconds.

Cells count as on ECP5 of speed grade 6. A wire counts by its fan-out, so the figures rank paths;
they do not foretell a clock.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from systolith.config import PRESETS, preset
from systolith_rtl.core import Core
from systolith_sim.placement.delays import BLOCK_TO_Q, CARRY, CLOCK_TO_Q, CLOCKS, LUT, MUX, RAM, SUM
from systolith_sim.synthesis import synthesize_in_harness

BLOCK_TO_DATA = 5.6
"""Nanoseconds from the clock to the output of a block that has no output register."""

Pin = tuple[str, str]
"""A cell and its port."""


class Arc(NamedTuple):
    """A way through a cell: from a net, in nanoseconds, by a pin behind a wire or beside it."""

    source: int
    delay: float
    pin: Pin | None


class Netlist:
    """The ways through the cells of the largest module.

    Attributes:
        arcs: by net, the ways to it; none if a register drives it.
        launch: by net that a register drives, nanoseconds from the clock.
        ends: inputs of registers: cell, port and net.
        fanout: by net.
        names: by net, its shortest name.
    """

    def __init__(self, netlist: dict[str, Any]) -> None:
        module = max(netlist["modules"].values(), key=lambda each: len(each["cells"]))
        self.arcs: dict[int, list[Arc]] = {}
        self.launch: dict[int, float] = {}
        self.ends: list[tuple[str, str, int]] = []
        self.fanout: Counter[int] = Counter()
        self.names: dict[int, str] = {}
        for name, net in module["netnames"].items():
            for bit in net["bits"]:
                if bit not in self.names or len(name) < len(self.names[bit]):
                    self.names[bit] = name
        self._cells = module["cells"]
        self._prepare()
        for name, cell in self._cells.items():
            self._add(name, cell)

    def _prepare(self) -> None:
        """For what must be known of all cells before the first one's ways."""

    def wire(self, net: int, pin: Pin, average: float) -> float:
        """Nanoseconds of the wire from where a net is driven to a pin."""
        return average * (0.75 + 0.25 * math.log2(max(1, self.fanout[net])))

    def _take(self, cell: dict[str, Any]) -> tuple[dict[str, list[int]], list[str], list[str]]:
        """Count a cell's inputs; return its nets by port, and the names of inputs and outputs."""
        # Constants are strings.
        pins = {
            port: [bit for bit in bits if isinstance(bit, int)]
            for port, bits in cell["connections"].items()
        }
        inputs = [port for port in pins if cell["port_directions"][port] == "input"]
        outputs = [port for port in pins if port not in inputs]
        for port in inputs:
            self.fanout.update(pins[port])
        return pins, inputs, outputs

    def _end(self, name: str, pins: dict[str, list[int]], ports: Sequence[str]) -> None:
        """Paths end at these inputs, clocks excepted."""
        self.ends += [
            (name, port, bit) for port in ports if port not in CLOCKS for bit in pins[port]
        ]

    def _add(self, name: str, cell: dict[str, Any]) -> None:
        pins, inputs, outputs = self._take(cell)

        def arcs(ports: Sequence[str], delay: float, *, wire: bool = True) -> list[Arc]:
            return [
                Arc(bit, delay, (name, port) if wire else None)
                for port in ports
                for bit in pins.get(port, [])
            ]

        def drive(port: str, ways: list[Arc]) -> None:
            for bit in pins.get(port, []):
                self.arcs[bit] = ways

        match cell["type"]:
            case "LUT4":
                drive("Z", arcs("ABCD", LUT))
            case "PFUMX":
                drive("Z", arcs(("ALUT", "BLUT"), MUX, wire=False) + arcs(("C0",), LUT))
            case "L6MUX21":
                drive("Z", arcs(("D0", "D1"), MUX, wire=False) + arcs(("SD",), LUT))
            case "CCU2C":
                low, high = (arcs([f"{port}{half}" for port in "ABCD"], SUM) for half in (0, 1))
                carry = arcs(("CIN",), SUM, wire=False)
                drive("S0", low + carry)
                drive("S1", low + high + carry)
                drive("COUT", low + high + arcs(("CIN",), CARRY, wire=False))
            case kind:
                if kind == "TRELLIS_DPR16X4":
                    drive("DO", arcs(("RAD",), RAM))
                    inputs.remove("RAD")
                for port in outputs:
                    if kind != "TRELLIS_DPR16X4":
                        self.launch.update(dict.fromkeys(pins[port], _launch(kind, cell)))
                self._end(name, pins, inputs)


def _launch(kind: str, cell: dict[str, Any]) -> float:
    parameters = cell["parameters"]
    if kind == "TRELLIS_FF":
        return CLOCK_TO_Q
    registered = (
        parameters.get("REGMODE_A") == "OUTREG"
        or parameters.get("REG_OUTPUT_CLK", "NONE") != "NONE"
    )
    return BLOCK_TO_Q if registered else BLOCK_TO_DATA


class Chain(NamedTuple):
    """A path: nanoseconds, the nets from its first register on, and the pin that it ends at."""

    delay: float
    nets: list[int]
    end: str


def longest(netlist: Netlist, wire: float) -> Iterator[Chain]:
    """Return the longest path to each input of a register, longest first.

    Args:
        netlist: of the core.
        wire: nanoseconds of an average wire with a fan-out of two, or what else `netlist` takes.

    Raises:
        graphlib.CycleError: there is a combinational loop.
    """
    graph = {net: {arc.source for arc in ways} for net, ways in netlist.arcs.items()}
    arrival: dict[int, float] = {}
    before: dict[int, int | None] = {}

    def reached(net: int, pin: Pin | None) -> float:
        return arrival[net] + (netlist.wire(net, pin, wire) if pin else 0)

    for net in TopologicalSorter(graph).static_order():
        ways = netlist.arcs.get(net, [])
        arrival[net], before[net] = max(
            ((reached(arc.source, arc.pin) + arc.delay, arc.source) for arc in ways),
            default=(netlist.launch.get(net, 0.0), None),
        )
    for net in {net for _, _, net in netlist.ends} - arrival.keys():
        arrival[net], before[net] = netlist.launch.get(net, 0.0), None
    ends = [(reached(net, (cell, port)), cell, net, port) for cell, port, net in netlist.ends]
    for delay, cell, net, port in sorted(ends, key=lambda end: -end[0]):
        nets: list[int] = []
        at: int | None = net
        while at is not None:
            nets.append(at)
            at = before[at]
        yield Chain(delay, nets[::-1], f"{group(cell)}.{port}")


def group(name: str) -> str:
    """Return what a name of Yosys's has in common with those of the same signal's other bits."""
    name = re.sub(
        r"_(TRELLIS_FF|TRELLIS_DPR|LUT4|PFUMX|CCU2C|L6MUX21|DP16KD|MULT18X18D).*", "", name
    )
    name = re.sub(r"\$\d+|\[\d+\]", "", name)
    return re.sub(r"(?<=[a-z_])\d+(_\d+)?", "#", name)


def main() -> None:
    """Print the histogram, then a path for each group of first registers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--wire", type=float, default=1.2, help="ns of an average wire")
    parser.add_argument("--count", type=int, default=40, help="groups of registers to print")
    options = parser.parse_args()
    print("Yosys synthesizes the core: a minute for tiny, five for a large core", flush=True)
    netlist = Netlist(json.loads(synthesize_in_harness(Core(preset(options.preset)))[1]))
    show(netlist, options.wire, options.count, lambda net: f"{netlist.fanout[net]}")


def show(netlist: Netlist, wire: float, count: int, note: Callable[[int], str]) -> None:
    """Print a histogram of the paths, then the longest one of each group of first registers.

    Args:
        netlist: of the core.
        wire: see `longest`.
        count: groups to print.
        note: what to say of a net behind its name.
    """
    histogram: Counter[int] = Counter()
    worst: dict[str, Chain] = {}
    for path in longest(netlist, wire):
        histogram[int(path.delay)] += 1
        worst.setdefault(group(netlist.names[path.nets[0]]), path)
    print("    ns  inputs of registers")
    for whole in sorted(histogram, reverse=True):
        print(f"{whole:3}-{whole + 1:<3} {histogram[whole]:7,}")
    for first, path in list(worst.items())[:count]:
        print(f"\n{path.delay:.1f} ns: {first} -> {path.end}")
        hops = (f"{group(netlist.names[net])} ({note(net)})" for net in path.nets)
        print("  " + " > ".join(hops))


if __name__ == "__main__":
    main()
