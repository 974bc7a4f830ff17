"""LUT RAMs of which nextpnr finds a place for every one on a device that is nearly full.

When nextpnr's `static` has spread the cells, it gives them places, those of the largest first, and
what belongs together never leaves its place again. By its count, a LUT RAM is of size 1, or of size
2 if a register takes one of its outputs, whatever it needs: four LUTs of a tile and the room of two
more. A LUT with the register behind it is of size 2 as well, and there are ten thousand of those.
Once they are in all tiles, it looks for a LUT RAM's place without end. Of what is of one size, the
LUT RAMs come first.
"""

from typing import Any

LUT_RAM = "TRELLIS_DPR16X4"
REGISTER = "TRELLIS_FF"

_FORM = {
    "hide_name": 0,
    "type": REGISTER,
    # A text that could be a number ends in a blank in Yosys's JSON.
    "parameters": {"CEMUX": "1 ", "CLKMUX": "CLK", "GSR": "DISABLED", "LSRMUX": "LSR"}
    | {"REGSET": "RESET"},
    "attributes": {},
    "port_directions": {"CLK": "input", "DI": "input", "LSR": "input", "Q": "output"},
}


def register_outputs(module: dict[str, Any]) -> int:
    """Let a register take an output of each LUT RAM that has none, and nobody read it.

    Args:
        module: the top module of a netlist of Yosys; the registers are added to its cells.

    Returns:
        How many registers it got.
    """
    cells = module["cells"]
    taken = {
        bit
        for cell in cells.values()
        if cell["type"] == REGISTER
        for bit in cell["connections"]["DI"]
    }
    added = {}
    for name, cell in cells.items():
        pins = cell["connections"]
        if cell["type"] == LUT_RAM and taken.isdisjoint(pins["DO"]):
            wires = {"CLK": pins["WCK"], "DI": pins["DO"][:1], "LSR": ["0"], "Q": []}
            added[f"{name}.placed_early"] = _FORM | {"connections": wires}
    cells.update(added)
    return len(added)
