"""Nanoseconds of cells and wires of ECP5, speed grade 6, as far as a placement decides on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

LUT, MUX, SUM, CARRY, RAM = 0.24, 0.2, 0.45, 0.07, 0.24
"""From an input to an output of a LUT4, from a LUT to behind a multiplexer next to it, from an
operand or a carry to a sum, from carry to carry, from an address to data of a LUT RAM."""

CLOCK_TO_Q, BLOCK_TO_Q = 0.52, 0.6
"""From the clock to the output of a register, and of a multiplier or block RAM with its own."""

WITHIN, STEP, NEAR = 0.5, 0.045, 0.1
"""Of a wire that leads nowhere, of each column or row, and of each of the first few of them more.
Fitted to the routed wires of `ecp5-25k` on LFE5U-25F, 0.36 ns around it; see docs/decisions.md."""

FEW = 5
"""Columns, and rows, that count more."""

BESIDE = (("FCO", "FCI"), ("F", "DI"), ("OFX", "DI"))
"""Outputs and inputs of neighbours, which no wire connects; so are W..., a LUT RAM's write port."""

BESIDE_INPUTS = ("FXA", "FXB", "F1")
"""Inputs that only a neighbour drives."""

CLOCKS = ("CLK", "WCK", "CLKA", "CLKB", "CLK0", "CLK1", "CLK2", "CLK3", "ECLK", "SCLK")


@dataclass(frozen=True)
class Refined:
    """What was gained, in nanoseconds of the estimate, with which no clock can be foretold.

    Attributes:
        before: the longest path.
        after: the longest path afterwards.
        moved: cells that are elsewhere now.
    """

    before: float
    after: float
    moved: int


def is_beside(output: str, pin: str) -> bool:
    """Whether a connection is one between neighbours, which takes no wire."""
    return (output, pin) in BESIDE or pin in BESIDE_INPUTS or output.startswith("W")


def wire(columns: Any, rows: Any) -> Any:
    """Nanoseconds of wires that lead so far; numbers or arrays.

    nextpnr's own estimate is longer by a half where wires are long.
    """
    columns, rows = np.abs(columns), np.abs(rows)
    near = np.minimum(columns, FEW) + np.minimum(rows, FEW)
    return WITHIN + STEP * (columns + rows) + NEAR * near
