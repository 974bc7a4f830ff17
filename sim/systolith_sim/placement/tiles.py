"""What may be together in a logic tile of ECP5, and what is in each.

A tile has four slices, A to D, of two LUTs (`K0`, `K1`) and two registers (`FF0`, `FF1`) each.
The rules are nextpnr's (`Arch::slices_compatible`), which only its placers ask.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from systolith_sim.placement.packed import Packed, PlacementError

LUTS = 8
"""LUTs of a tile, and registers."""

_BEL = re.compile(r"SLICE([ABCD])\.(K|FF)([01])$")
_WRITE_PORT = "SLICEC.RAMW"

Place = tuple[int, int]
"""Column and row."""


class Unit(NamedTuple):
    """A LUT and the register behind it, or one of them alone; the other one is -1."""

    lut: int
    register: int

    def cells(self) -> list[int]:
        """Its cells."""
        return [cell for cell in self if cell >= 0]


class Tile:
    """A tile's cells; -1 where there is none.

    Attributes:
        luts: by their place, from `SLICEA.K0` to `SLICED.K1`.
        registers: by their place.
        write_port: of LUT RAMs.
    """

    def __init__(self) -> None:
        self.luts = [-1] * LUTS
        self.registers = [-1] * LUTS
        self.write_port = -1

    def __iter__(self) -> Iterator[int]:
        """All cells."""
        everything = (*self.luts, *self.registers, self.write_port)
        return (cell for cell in everything if cell >= 0)


class Tiles:
    """All logic tiles of a netlist.

    Args:
        packed: whose places are changed by `move` and `exchange`.

    Attributes:
        units: by cell, what can be moved alone.

    Raises:
        PlacementError: two cells have one place, or nextpnr's rules do not hold.
    """

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self._tiles: defaultdict[Place, Tile] = defaultdict(Tile)
        logic = [i for i, bel in enumerate(packed.bels) if bel.startswith("SLICE")]
        for cell in logic:
            self._enter(cell)
        columns = {int(packed.x[cell]) for cell in logic}
        rows = {int(packed.y[cell]) for cell in logic}
        # A row of blocks has no logic, and in the others all columns have.
        self._places = {(x, y) for x in columns for y in rows}
        self._carries = {cell for cell in logic if packed.modes[cell] == "CCU2"}
        self._rams = {cell for cell in logic if packed.modes[cell] == "DPRAM"}
        self._takes_m = {
            cell
            for cell in logic
            if packed.kinds[cell] == "TRELLIS_COMB" and {"M", "OFX"} & packed.pins[cell].keys()
        }
        registers = [cell for cell in logic if packed.kinds[cell] == "TRELLIS_FF"]
        self._of_tile = {
            cell: (
                packed.constant(cell, "CLK"),
                packed.constant(cell, "LSR"),
                packed.parameter(cell, "CLKMUX"),
                packed.parameter(cell, "LSRMUX"),
                packed.parameter(cell, "SRMODE"),
            )
            for cell in registers
        }
        self._of_slice = {
            cell: (
                packed.constant(cell, "CE"),
                packed.parameter(cell, "CEMUX"),
                packed.parameter(cell, "GSR"),
            )
            for cell in registers
        }
        for place in list(self._tiles):
            if not self.is_legal(place):
                raise PlacementError(f"what is at X{place[0]}/Y{place[1]} cannot be in one tile")
        self.units = self._find_units(logic)

    def _enter(self, cell: int) -> None:
        packed = self._packed
        tile = self._tiles[int(packed.x[cell]), int(packed.y[cell])]
        bel = packed.bels[cell]
        if bel == _WRITE_PORT:
            taken, tile.write_port = tile.write_port, cell
        elif found := _BEL.match(bel):
            row = tile.luts if found[2] == "K" else tile.registers
            z = "ABCD".index(found[1]) * 2 + int(found[3])
            taken, row[z] = row[z], cell
        else:
            raise PlacementError(f"{packed.names[cell]} is at {bel}, which no tile has")
        if taken >= 0:
            raise PlacementError(f"{packed.names[cell]} and {packed.names[taken]} have one place")

    def _find_units(self, logic: list[int]) -> dict[int, Unit]:
        packed = self._packed
        units: dict[int, Unit] = {}
        plain = {
            cell
            for cell in logic
            if packed.kinds[cell] == "TRELLIS_COMB"
            and not packed.modes[cell].replace("LOGIC", "")
            and packed.pins[cell].keys() <= set("ABCDF")
        }
        for cell in self._of_tile:
            lut = packed.drivers[packed.pins[cell]["DI"]].cell if "DI" in packed.pins[cell] else -1
            if lut < 0:
                units[cell] = Unit(-1, cell)
            elif lut in plain and packed.beside[lut] == {cell}:
                units[cell] = units[lut] = Unit(lut, cell)
        units |= {cell: Unit(cell, -1) for cell in plain if not packed.beside[cell]}
        return units

    def is_logic(self, place: Place) -> bool:
        """Whether there is a logic tile."""
        return place in self._places

    def cells(self, place: Place) -> list[int]:
        """Cells of a tile."""
        return list(self._tiles[place]) if place in self._tiles else []

    def is_legal(self, place: Place) -> bool:
        """Whether what is in a tile can be together."""
        tile = self._tiles[place]
        in_tile = {self._of_tile[cell] for cell in tile.registers if cell >= 0}
        return len(in_tile) <= 1 and all(self._is_slice_legal(tile, z) for z in range(0, LUTS, 2))

    def _is_slice_legal(self, tile: Tile, first: int) -> bool:
        luts, registers = tile.luts[first : first + 2], tile.registers[first : first + 2]
        modes = {lut in self._carries for lut in luts if lut >= 0}
        if len(modes) > 1:
            return False
        # Behind the write port there are no LUTs.
        blocked = tile.write_port >= 0 and first == 4
        if blocked and any(self._packed.modes[lut] != "RAMW_BLOCK" for lut in luts if lut >= 0):
            return False
        in_slice = {self._of_slice[cell] for cell in registers if cell >= 0}
        if len(in_slice) > 1 or (first >= 4 and any(lut in self._rams for lut in luts)):
            return False
        for lut, register in zip(luts, registers, strict=True):
            if register < 0:
                continue
            pins = self._packed.pins[register]
            if "M" in pins and lut in self._takes_m:
                return False
            if "DI" in pins and self._packed.drivers[pins["DI"]].cell != lut:
                return False
        return True

    def room(self, unit: Unit, place: Place) -> int:
        """Where in a tile a unit fits, or -1."""
        tile = self._tiles[place]
        # A RAM's write enable is the tile's reset.
        if unit.register >= 0 and any(lut in self._rams for lut in tile.luts):
            return -1
        for z in range(LUTS):
            taken = (unit.lut >= 0 and tile.luts[z] >= 0) or (
                unit.register >= 0 and tile.registers[z] >= 0
            )
            if not taken and self._would_be_legal(unit, place, z):
                return z
        return -1

    def _would_be_legal(self, unit: Unit, place: Place, z: int) -> bool:
        tile = self._tiles[place]
        before = tile.luts[z], tile.registers[z]
        tile.luts[z], tile.registers[z] = max(unit.lut, before[0]), max(unit.register, before[1])
        legal = self.is_legal(place)
        tile.luts[z], tile.registers[z] = before
        return legal

    def where(self, unit: Unit) -> tuple[Place, int]:
        """A unit's tile, and where it is in there."""
        cell = unit.cells()[0]
        place = int(self._packed.x[cell]), int(self._packed.y[cell])
        bel = self._packed.bels[cell]
        return place, "ABCD".index(bel[5]) * 2 + int(bel[-1])

    def move(self, unit: Unit, place: Place, z: int) -> None:
        """Move a unit to where `room` has found some."""
        old, old_z = self.where(unit)
        if unit.lut >= 0:
            self._tiles[old].luts[old_z] = -1
        if unit.register >= 0:
            self._tiles[old].registers[old_z] = -1
        self._set(unit, place, z)

    def units_in(self, place: Place) -> list[Unit]:
        """What could be moved alone out of a tile."""
        return sorted({self.units[cell] for cell in self.cells(place) if cell in self.units})

    def swap(self, unit: Unit, other: Unit) -> bool:
        """Exchange two units of one kind; return whether that may be, and else do nothing."""
        places = self.where(unit), self.where(other)
        self._set(unit, *places[1])
        self._set(other, *places[0])
        if all(self.is_legal(place) for place, _ in places):
            return True
        self._set(unit, *places[0])
        self._set(other, *places[1])
        return False

    def _set(self, unit: Unit, place: Place, z: int) -> None:
        tile = self._tiles[place]
        for cell, row, name in ((unit.lut, tile.luts, "K"), (unit.register, tile.registers, "FF")):
            if cell >= 0:
                row[z] = cell
                self._packed.x[cell], self._packed.y[cell] = place
                self._packed.bels[cell] = f"SLICE{'ABCD'[z // 2]}.{name}{z % 2}"

    def exchange(self, place: Place, other: Place) -> None:
        """Exchange all that is in two tiles."""
        for cells, new in ((self.cells(place), other), (self.cells(other), place)):
            self._packed.x[cells], self._packed.y[cells] = new
        tiles = self._tiles
        tiles[place], tiles[other] = tiles[other], tiles[place]
