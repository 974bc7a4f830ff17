"""Carry chains: proved to be adders whatever arrives at CIN, and free of nextpnr's own cells."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith_sim import toolchain
from systolith_sim.carry import CARRY_MAP, OPEN, top_module, trim, trim_cells
from systolith_sim.routing import route
from systolith_sim.synthesis import needs, synthesize_in_harness

pytestmark = pytest.mark.synth

CARRY_INS = {"add": (0, 0), "sub": (1, 1), "more": (1, 0), "less": (0, 1), "either": None}
"""CI and BI of `$alu`, if they are constants."""

PROOF = (
    "read_verilog -icells alu.v; copy top mapped; "
    # A constant that nobody defined, and what nobody drives, may be anything in any cycle.
    "techmap -map {map} -max_iter 1 mapped/t:$alu; select -assert-none mapped/t:$alu; "
    "select -assert-min 2 mapped/t:CCU2C; "
    "read_verilog {models}; hierarchy; flatten mapped; setundef -anyseq mapped; "
    "techmap mapped/t:$pos; opt_clean; "
    "miter -equiv -flatten -make_outputs top mapped miter; sat -verify -prove trigger 0 miter"
)


def alu(width: int, carry_in: str, *, a_width: int = 0, signed: int = 0) -> str:
    """A module around one `$alu`."""
    parameters = f".A_WIDTH({a_width or width}), .B_WIDTH({width}), .Y_WIDTH({width})"
    constants = CARRY_INS[carry_in]
    ci, bi = (f"1'd{value}" for value in constants) if constants else ("ci", "bi")
    return f"""
module top (input [{(a_width or width) - 1}:0] a, input [{width - 1}:0] b, input ci, bi,
            output [{width - 1}:0] x, y, co);
  \\$alu #(.A_SIGNED({signed}), .B_SIGNED({signed}), {parameters}) alu
    (.A(a), .B(b), .CI({ci}), .BI({bi}), .X(x), .Y(y), .CO(co));
endmodule
"""


def prove(folder: Path, text: str, map_text: str) -> None:
    (folder / "alu.v").write_text(text)
    (folder / "carry.v").write_text(map_text)
    script = PROOF.format(map="carry.v", models="+/lattice/common_sim.vh +/lattice/ccu2c_sim.vh")
    toolchain.yosys(script, cwd=folder, announce=print)


@pytest.mark.parametrize("carry_in", CARRY_INS)
@pytest.mark.parametrize("width", [5, 6, 7, 8])
def test_chains_are_adders_whatever_arrives_at_cin(
    width: int, carry_in: str, tmp_path: Path
) -> None:
    """Sum, propagate and every carry, for all operands."""
    prove(tmp_path, alu(width, carry_in), CARRY_MAP.read_text())


@pytest.mark.parametrize("signed", [0, 1])
def test_narrow_operands_are_extended(signed: int, tmp_path: Path) -> None:
    prove(tmp_path, alu(8, "sub", a_width=5, signed=signed), CARRY_MAP.read_text())


@pytest.mark.parametrize(
    ("old", "new"),
    [("4'b1011", "4'b1010"), ("{12'h000, FIRST}", "{12'h800, FIRST}"), ("X[0] ^ CI", "X[0]")],
    ids=["wrong carry", "reads CIN", "wrong sum"],
)
def test_the_proof_finds_mistakes(old: str, new: str, tmp_path: Path) -> None:
    text = CARRY_MAP.read_text()
    assert old in text
    with pytest.raises(toolchain.ToolError, match="proof did fail"):
        prove(tmp_path, alu(6, "sub"), text.replace(old, new))


class Sums(wiring.Component):
    """A counter, a difference, a sum with a carry, and two comparisons."""

    a: Signal
    b: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(8), "b": In(8), "o": Out(28)})

    def elaborate(self, platform: object) -> Module:
        """Behind registers."""
        m = Module()
        count = Signal(8)
        m.d.sync += [
            count.eq(count + 1),
            self.o.eq(
                Cat(
                    (self.a - self.b)[:8],
                    self.a < count,
                    self.b[:7] < count,
                    (self.a + self.b)[:9],
                    (self.b + count + self.a[0])[:9],
                )
            ),
        ]
        return m


def cells_of(netlist: str) -> dict[str, Any]:
    return top_module(json.loads(netlist))["cells"]


def test_chains_begin_and_end_without_other_cells() -> None:
    _, netlist = synthesize_in_harness(Sums())
    cells = cells_of(netlist).values()
    chains = [cell for cell in cells if cell["type"] == "CCU2C"]
    assert len(chains) >= 20
    ends = {cell["connections"]["COUT"][0] for cell in chains if has(cell, "COUT")}
    fed = {cell["connections"]["CIN"][0] for cell in chains if has(cell, "CIN")}
    # Nothing but a chain's cells drives CIN; a COUT that no cell takes is read by logic.
    assert fed <= ends
    begins = sum(not has(cell, "CIN") for cell in chains)
    assert begins >= 5
    read_out = sum(
        cell["connections"]["COUT"][0] not in fed for cell in chains if has(cell, "COUT")
    )
    luts = needs(Counter(cell["type"] for cell in cells))["LUT"] + 2 * read_out
    routed = route(netlist, device="25k", speed=6, seed=2, frequency=100)
    assert luts <= routed.used["TRELLIS_COMB"][0] <= luts + len(("GND", "VCC"))


def has(cell: dict[str, Any], pin: str) -> bool:
    return bool(cell["connections"][pin]) and cell["connections"][pin] != OPEN


def carry_cell(init: int, **pins: int | str) -> dict[str, Any]:
    outputs = ("S0", "S1", "COUT")
    return {
        "type": "CCU2C",
        "parameters": {"INIT0": f"{init:016b}"},
        "port_directions": {pin: "output" if pin in outputs else "input" for pin in pins},
        "connections": {pin: [net] for pin, net in pins.items()},
    }


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        (carry_cell(0x000A, CIN="0", S0=3, COUT=4), {"S0", "COUT"}),
        (carry_cell(0x000A, CIN="1", S0=3, COUT=5), {"S0"}),
        # It adds, so it needs its carry.
        (carry_cell(0x96AA, CIN="0", S0=3, COUT=4), {"CIN", "S0", "COUT"}),
        # Its first sum is read, which is CIN.
        (carry_cell(0x000A, CIN="0", S0=4, COUT=5), {"CIN", "S0"}),
        (carry_cell(0x000A, CIN=7, S0=3, COUT=4), {"CIN", "S0", "COUT"}),
    ],
    ids=["constant", "nobody reads", "adds", "first sum", "no constant"],
)
def test_pins_that_are_needed_stay(cell: dict[str, Any], left: set[str]) -> None:
    """Net 4 is an output of the module."""
    module = {"ports": {"o": {"direction": "output", "bits": [4]}}, "cells": {"c": cell}}
    trim_cells(module)
    assert {pin for pin in cell["connections"] if has(cell, pin)} == left


def test_trimming_twice_is_trimming_once() -> None:
    _, netlist = synthesize_in_harness(Sums())
    assert trim(netlist) == netlist
