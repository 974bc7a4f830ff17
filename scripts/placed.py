"""The longest paths of a core that is placed, by distances, or routed.

`systolith synth --write placed.json`, then `python scripts/placed.py placed.json`. nextpnr's report
has one path for a clock; this has the worst one of each group of registers, with the columns and
rows that it goes through, so one sees what to cut, and what only lies in the wrong place.

A wire counts as wires of its columns and rows have been routed before, see
`systolith_sim.placement`. What it really takes is in the file of `nextpnr-ecp5 --sdf delays.sdf`,
called by hand, and then `placed.py routed.json --sdf delays.sdf`.
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from depth import Arc, Netlist, Pin, show
from systolith_sim.placement.delays import (
    BESIDE_INPUTS,
    BLOCK_TO_Q,
    CARRY,
    CLOCK_TO_Q,
    LUT,
    MUX,
    RAM,
    STEP,
    SUM,
    is_beside,
    wire,
)

Place = tuple[int, int]
"""Column and row."""


class Placed(Netlist):
    """The ways through cells as nextpnr packs them.

    Attributes:
        places: by cell.
        drivers: by net.
    """

    def _prepare(self) -> None:
        self.places: dict[str, Place] = {}
        self.drivers: dict[int, Pin] = {}
        for name, cell in self._cells.items():
            found = re.match(r"X(\d+)/Y(\d+)/", cell["attributes"].get("NEXTPNR_BEL", ""))
            if found is None:
                raise SystemExit(f"{name} has no place: is this what --write has written?")
            self.places[name] = int(found[1]), int(found[2])
            for port, bits in cell["connections"].items():
                # A constant is there from the beginning, however far away.
                if cell["port_directions"][port] == "output" and not name.startswith("$PACKER_"):
                    self.drivers.update((bit, (name, port)) for bit in bits if isinstance(bit, int))

    def wire(self, net: int, pin: Pin, average: float) -> float:
        """Nanoseconds by the distance between driver and pin; `average` is that of a step."""
        if net not in self.drivers:
            return 0
        driver, output = self.drivers[net]
        if is_beside(output, pin[1]):
            return 0
        here, there = self.places[driver], self.places[pin[0]]
        return average / STEP * float(wire(here[0] - there[0], here[1] - there[1]))

    def _add(self, name: str, cell: dict[str, Any]) -> None:
        pins, inputs, outputs = self._take(cell)

        def drive(port: str, ways: dict[str, float]) -> None:
            for bit in pins.get(port, []):
                self.arcs.setdefault(bit, []).extend(
                    Arc(source, delay, (name, way))
                    for way, delay in ways.items()
                    for source in pins.get(way, [])
                )

        match cell["type"], cell["parameters"].get("MODE"):
            case "TRELLIS_COMB", "CCU2":
                drive("F", dict.fromkeys("ABCD", SUM) | {"FCI": SUM})
                drive("FCO", dict.fromkeys("ABCD", SUM) | {"FCI": CARRY})
            case "TRELLIS_COMB", "DPRAM":
                drive("F", dict.fromkeys("ABCD", RAM))
                self._end(name, pins, [port for port in inputs if port not in "ABCD"])
            case "TRELLIS_COMB", _:
                drive("F", dict.fromkeys("ABCD", LUT))
                beside = dict.fromkeys(BESIDE_INPUTS, MUX)
                drive("OFX", dict.fromkeys("ABCD", LUT + MUX) | {"M": LUT} | beside)
            case "TRELLIS_RAMW", _:
                for port in outputs:
                    drive(port, dict.fromkeys(inputs, 0.0))
            case kind, _:
                start = CLOCK_TO_Q if kind == "TRELLIS_FF" else BLOCK_TO_Q
                for port in outputs:
                    self.launch.update(dict.fromkeys(pins[port], start))
                self._end(name, pins, inputs)


class Routed(Placed):
    """The same with wires as they were routed.

    Args:
        netlist: what nextpnr has written.
        delays: the lines of its SDF.
    """

    def __init__(self, netlist: dict[str, Any], delays: Iterable[str]) -> None:
        self._delays: dict[Pin, float] = {}
        for line in delays:
            if found := _WIRE.match(line):
                cell, _, port = found[1].replace("\\", "").rpartition("/")
                self._delays[cell, port] = max(int(found[2]), int(found[3])) / 1000
        if not self._delays:
            raise SystemExit("no wires in it: is this what --sdf has written?")
        super().__init__(netlist)

    def wire(self, net: int, pin: Pin, average: float) -> float:
        """Nanoseconds by the file; where nothing was routed, by the distance."""
        routed = net in self.drivers and pin in self._delays  # constants take no time
        return self._delays[pin] if routed else super().wire(net, pin, average)


_WIRE = re.compile(r"\s*\(INTERCONNECT \S+ (\S+) \([\d:]*?(\d+)\) \([\d:]*?(\d+)\)\)")
"""The pin at its end, and its longest picoseconds for a rising and a falling edge."""


def main() -> None:
    """Print the histogram, then a path for each group of first registers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("netlist", type=Path, help="JSON of nextpnr --write")
    parser.add_argument("--step", type=float, default=STEP, help="ns of a column or row")
    parser.add_argument("--count", type=int, default=40, help="groups of registers to print")
    parser.add_argument("--sdf", type=Path, help="nextpnr --sdf: routed wires, not distances")
    options = parser.parse_args()
    netlist = json.loads(options.netlist.read_text())
    if options.sdf:
        with options.sdf.open() as lines:
            placed: Placed = Routed(netlist, lines)
    else:
        placed = Placed(netlist)

    def place(net: int) -> str:
        driver = placed.drivers.get(net)
        at = placed.places[driver[0]] if driver else ("?", "?")
        return f"{placed.fanout[net]} at {at[0]},{at[1]}"

    show(placed, options.step, options.count, place)


if __name__ == "__main__":
    main()
