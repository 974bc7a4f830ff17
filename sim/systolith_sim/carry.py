"""Carry chains of ECP5 that begin and end without cells of nextpnr's own.

Yosys's chains take their first carry from CIN and pass their last one to COUT, even if the one is
constant and nobody reads the other. Logic reaches neither pin: nextpnr puts a cell in front of
each chain and one behind it, four LUTs that do nothing. So `carry.v` maps adders to chains that
make the first carry in their own first half, and `trim` leaves the pins open.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

CARRY_MAP = Path(__file__).with_name("carry.v")
"""For Yosys's `techmap`, on `$alu`."""

OPEN = ["x"]
"""Where a pin is connected to in Yosys's JSON that nextpnr is to leave alone."""

_OWN_CARRY = 0xFFF0
"""Bits of INIT0 that are 0 if the first half makes the carry from A and B alone, its LUT4 0."""


def trim(netlist: str) -> str:
    """Open the pins that no chain needs in a netlist of Yosys in JSON.

    Returns:
        The netlist with nothing at CIN of cells whose first half does not read it, nor at COUT
        that nobody reads.
    """
    parsed = json.loads(netlist)
    trim_cells(top_module(parsed))
    return json.dumps(parsed)


def top_module(parsed: dict[str, Any]) -> dict[str, Any]:
    """The module that a netlist of Yosys is of; the others are models of cells."""
    (top,) = (each for each in parsed["modules"].values() if "top" in each["attributes"])
    return top


def trim_cells(module: dict[str, Any]) -> None:
    """Do what `trim` does with a module in place."""
    cells = module["cells"].values()
    read = Counter(bit for port in module["ports"].values() for bit in port["bits"])
    for cell in cells:
        for pin, bits in cell["connections"].items():
            if cell["port_directions"][pin] != "output":
                read.update(bits)
    for cell in cells:
        if cell["type"] != "CCU2C":
            continue
        pins = cell["connections"]
        if pins["CIN"] in (["0"], ["1"]) and _makes_its_carry(cell, read):
            pins["CIN"] = OPEN
        if pins["COUT"] and not read[pins["COUT"][0]]:
            pins["COUT"] = OPEN


def _makes_its_carry(cell: dict[str, Any], read: Counter[int | str]) -> bool:
    pins = cell["connections"]
    silent = not any(read[bit] for bit in pins.get("S0", ()))
    return silent and not int(cell["parameters"]["INIT0"], 2) & _OWN_CARRY
