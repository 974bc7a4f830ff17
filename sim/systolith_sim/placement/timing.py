"""How late signals are in a placed netlist, and how late they may be."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from systolith_sim.placement.delays import (
    BESIDE_INPUTS,
    BLOCK_TO_Q,
    CARRY,
    CLOCK_TO_Q,
    CLOCKS,
    LUT,
    MUX,
    RAM,
    SUM,
    is_beside,
    wire,
)
from systolith_sim.placement.packed import Packed, PlacementError

GLOBAL = ("DCCA", "EHXPLLL")
"""Cells whose outputs are clocks."""

CLOCKED = ("TRELLIS_FF", "DP16KD", "MULT18X18D", "IOLOGIC")
"""Cells whose inputs paths end at, and whose outputs they begin at."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class _Arc(NamedTuple):
    source: int
    target: int
    delay: float
    cell: int
    wired: bool


class Timing:
    """The paths of a netlist, for one clock.

    Connections are what a wire leads along, `(connections,)`: from `driver` to `sink`, both cells.
    A pin has one for each output that it leads to.

    Args:
        packed: whose places are read anew by each `update`.

    Attributes:
        driver: of each connection.
        sink: of each connection.
        delays: at the ends of paths, ns, `(ends,)`.
        wires: of each connection, ns.
        slack: of each connection, ns: what is left on the slowest path along it.

    Raises:
        PlacementError: there is a combinational loop.
    """

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        drivers = {
            net: driver
            for net, driver in packed.drivers.items()
            # A constant is there from the beginning, and so is a clock.
            if not packed.names[driver.cell].startswith("$PACKER_")
            and packed.kinds[driver.cell] not in GLOBAL
        }
        self._number = {net: index for index, net in enumerate(drivers)}
        self._ports = [driver.port for driver in drivers.values()]
        self._from = np.array([driver.cell for driver in drivers.values()], np.int64)
        self._launch = np.full(len(drivers), -np.inf)
        self._arcs: list[_Arc] = []
        ends: list[tuple[int, int, bool]] = []
        for cell in range(len(packed.names)):
            self._add(cell, ends)
        self._ends = np.array([end[0] for end in ends], np.int64)
        wired = np.array([arc.wired for arc in self._arcs], bool)
        self._wired_arcs = np.nonzero(wired)[0]
        self._wired_ends = np.nonzero(np.array([end[2] for end in ends], bool))[0]
        self._source = np.array([arc.source for arc in self._arcs], np.int64)
        self._target = np.array([arc.target for arc in self._arcs], np.int64)
        self._delay = np.array([arc.delay for arc in self._arcs], np.float64)
        cells = np.array([arc.cell for arc in self._arcs], np.int64)
        end_cells = np.array([end[1] for end in ends], np.int64)
        self.driver = self._from[
            np.concatenate([self._source[self._wired_arcs], self._ends[self._wired_ends]])
        ]
        self.sink = np.concatenate([cells[self._wired_arcs], end_cells[self._wired_ends]])
        self._forwards, self._backwards = self._levels()
        self.update(0)

    def _add(self, cell: int, ends: list[tuple[int, int, bool]]) -> None:
        packed = self._packed
        pins, kind, mode = packed.pins[cell], packed.kinds[cell], packed.modes[cell]
        inputs = [
            port
            for port in packed.inputs[cell]
            if port not in CLOCKS and pins[port] in self._number
        ]
        outputs = [port for port in pins if port not in packed.inputs[cell]]

        def wired(port: str) -> bool:
            return not is_beside(self._ports[self._number[pins[port]]], port)

        def drive(output: str, ways: dict[str, float]) -> None:
            if pins.get(output) in self._number:
                target = self._number[pins[output]]
                self._arcs.extend(
                    _Arc(self._number[pins[port]], target, ways[port], cell, wired(port))
                    for port in inputs
                    if port in ways
                )

        def end(ports: list[str]) -> None:
            ends.extend((self._number[pins[port]], cell, wired(port)) for port in ports)

        match kind, mode:
            case "TRELLIS_COMB", "CCU2":
                drive("F", dict.fromkeys("ABCD", SUM) | {"FCI": SUM})
                drive("FCO", dict.fromkeys("ABCD", SUM) | {"FCI": CARRY})
            case "TRELLIS_COMB", "DPRAM":
                drive("F", dict.fromkeys("ABCD", RAM))
                end([port for port in inputs if port not in "ABCD"])
            case "TRELLIS_COMB", _:
                drive("F", dict.fromkeys("ABCD", LUT))
                beside = dict.fromkeys(BESIDE_INPUTS, MUX)
                drive("OFX", dict.fromkeys("ABCD", LUT + MUX) | {"M": LUT} | beside)
            case "TRELLIS_RAMW", _:
                for output in outputs:
                    drive(output, dict.fromkeys(inputs, 0.0))
            case _ if kind in CLOCKED:
                start = CLOCK_TO_Q if kind == "TRELLIS_FF" else BLOCK_TO_Q
                for output in outputs:
                    if pins[output] in self._number:
                        self._launch[self._number[pins[output]]] = start
                end(inputs)
            case _:
                pass

    def _levels(self) -> tuple[list[Integers], list[Integers]]:
        """Arcs in an order in which all of a net's inputs come first, and in one of its outputs."""
        leaving: defaultdict[int, list[int]] = defaultdict(list)
        waits = np.zeros(len(self._from), np.int64)
        for arc in self._arcs:
            leaving[arc.source].append(arc.target)
            waits[arc.target] += 1
        level = np.zeros(len(self._from), np.int64)
        ready: list[int] = np.nonzero(waits == 0)[0].tolist()
        done = 0
        while ready:
            source = ready.pop()
            done += 1
            for target in leaving[source]:
                level[target] = max(level[target], level[source] + 1)
                waits[target] -= 1
                if not waits[target]:
                    ready.append(target)
        if done != len(level):
            raise PlacementError("there is a combinational loop in the netlist")

        def grouped(levels: Integers) -> list[Integers]:
            order = np.argsort(levels, kind="stable")
            borders = np.nonzero(np.diff(levels[order]))[0] + 1
            return np.split(order, borders)

        return grouped(level[self._target]), grouped(level[self._source])[::-1]

    def update(self, period: float) -> None:
        """Compute `delays`, `wires` and `slack` for the places that cells have now.

        Args:
            period: of the clock that slack is told for, ns.
        """
        x, y = self._packed.x, self._packed.y
        self.wires = wire(x[self.driver] - x[self.sink], y[self.driver] - y[self.sink])
        split = len(self._wired_arcs)
        ways = self._delay.copy()
        ways[self._wired_arcs] += self.wires[:split]
        last = np.zeros(len(self._ends))
        last[self._wired_ends] = self.wires[split:]
        arrival = self._launch.copy()
        for arcs in self._forwards:
            late = arrival[self._source[arcs]] + ways[arcs]
            np.maximum.at(arrival, self._target[arcs], late)
        required = np.full(len(arrival), np.inf)
        np.minimum.at(required, self._ends, period - last)
        for arcs in self._backwards:
            early = required[self._target[arcs]] - ways[arcs]
            np.minimum.at(required, self._source[arcs], early)
        self.delays = arrival[self._ends] + last
        arcs = self._wired_arcs
        self.slack: Floats = np.concatenate(
            [
                required[self._target[arcs]] - ways[arcs] - arrival[self._source[arcs]],
                period - self.delays[self._wired_ends],
            ]
        )
