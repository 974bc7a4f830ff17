"""A netlist as nextpnr writes it with `--write`: cells of a chip, and where they are."""

import re
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from systolith_sim.placement.delays import is_beside

_BEL = re.compile(r"X(\d+)/Y(\d+)/(\S+)$")


class PlacementError(Exception):
    """A netlist is not placed, or not as ECP5 can have it; the message says what is wrong."""


class Pin(NamedTuple):
    """A cell's index and its port."""

    cell: int
    port: str


class Packed:
    """A packed and placed netlist.

    Attributes:
        names: of cells; elsewhere a cell is its index here.
        kinds: type of each cell.
        modes: parameter `MODE` of each cell, or "".
        pins: by cell, the nets of its connected ports.
        inputs: by cell, its connected inputs.
        drivers: by net, the output that drives it.
        sinks: by net, the inputs that it drives.
        x: columns, `(cells,)`.
        y: rows, `(cells,)`.
        bels: what each cell takes in its tile, such as `SLICEA.FF0`; "" of those without a place.
        beside: by cell, the neighbours that it is connected with but by wires.

    Raises:
        PlacementError: nothing in `data` has a place.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        modules = [module["cells"] for module in data.get("modules", {}).values()]
        self._cells: dict[str, dict[str, Any]] = max(modules, key=len, default={})
        self.names = list(self._cells)
        cells = list(self._cells.values())
        self.kinds = [cell["type"] for cell in cells]
        self.modes = [cell["parameters"].get("MODE", "").strip() for cell in cells]
        self.x, self.y = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64)
        self.bels = [""] * len(cells)
        for index, cell in enumerate(cells):
            if found := _BEL.match(cell["attributes"].get("NEXTPNR_BEL", "")):
                self.x[index], self.y[index] = int(found[1]), int(found[2])
                self.bels[index] = found[3]
        if not any(self.bels):
            raise PlacementError("no cell has a place: is this what nextpnr --write has written?")
        self.pins: list[dict[str, int]] = []
        self.inputs: list[list[str]] = []
        self.drivers: dict[int, Pin] = {}
        self.sinks: defaultdict[int, list[Pin]] = defaultdict(list)
        for index, cell in enumerate(cells):
            self._connect(index, cell)
        self.beside: defaultdict[int, set[int]] = defaultdict(set)
        for net, driver in self.drivers.items():
            for sink in self.sinks.get(net, ()):
                if is_beside(driver.port, sink.port):
                    self.beside[driver.cell].add(sink.cell)
                    self.beside[sink.cell].add(driver.cell)

    def _connect(self, index: int, cell: dict[str, Any]) -> None:
        # Constants are strings, and what is not connected has no bits.
        pins = {
            port: bits[0]
            for port, bits in cell["connections"].items()
            if bits and isinstance(bits[0], int)
        }
        self.pins.append(pins)
        self.inputs.append([port for port in pins if cell["port_directions"][port] == "input"])
        for port, net in pins.items():
            if cell["port_directions"][port] == "output":
                self.drivers[net] = Pin(index, port)
            else:
                self.sinks[net].append(Pin(index, port))

    def parameter(self, cell: int, name: str) -> str:
        """A parameter of a cell, or "" if it has none of the name."""
        return str(self._cells[self.names[cell]]["parameters"].get(name, ""))

    def constant(self, cell: int, port: str) -> str:
        """What a port is connected with, a constant or nothing included."""
        return str(self._cells[self.names[cell]]["connections"].get(port, []))

    def exchange(self, cell: int, other: int) -> None:
        """Exchange the places of two cells of one kind."""
        for at in (self.x, self.y):
            at[cell], at[other] = int(at[other]), int(at[cell])
        self.bels[cell], self.bels[other] = self.bels[other], self.bels[cell]

    def save(self) -> int:
        """Write places into the netlist that this was made of; return how many have changed."""
        # nextpnr takes no notice of ports without anything, when it reads. Of blocks it would then
        # leave inputs open that it gives constants to, of a multiplier's upper bits for one.
        for cell in self._cells.values():
            for bits in cell["connections"].values():
                if not bits:
                    bits.append("x")
        changed = 0
        for index, name in enumerate(self.names):
            if self.bels[index]:
                attributes = self._cells[name]["attributes"]
                bel = f"X{self.x[index]}/Y{self.y[index]}/{self.bels[index]}"
                changed += attributes["NEXTPNR_BEL"] != bel
                attributes["NEXTPNR_BEL"] = bel
        return changed
