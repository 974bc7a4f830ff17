"""LUT RAMs that nextpnr is to place early, and LUT4s without multiplexers, for a full device."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.config import preset
from systolith_rtl.ecp5 import Ecp5Primitives
from systolith_sim.carry import top_module
from systolith_sim.lutram import LUT_RAM, REGISTER, register_outputs
from systolith_sim.routing import route
from systolith_sim.synthesis import CAPACITY, FULL, lay_out, synthesize_in_harness
from systolith_sim.yosys import synthesize_rtlil

pytestmark = pytest.mark.synth

WIDTH = 4


class Lookup(wiring.Component):
    """A word of one LUT RAM, chosen by a word of another one, which a register takes too."""

    address: Signal
    data: Signal
    o: Signal
    kept: Signal

    def __init__(self) -> None:
        super().__init__(
            {"address": In(WIDTH), "data": In(WIDTH), "o": Out(WIDTH), "kept": Out(WIDTH)}
        )

    def elaborate(self, platform: object) -> Module:
        """Written at every cycle, so that Yosys takes no block RAM."""
        m = Module()
        m.submodules.first = first = Memory(shape=WIDTH, depth=1 << WIDTH, init=[])
        m.submodules.second = second = Memory(shape=WIDTH, depth=1 << WIDTH, init=[])
        reads = []
        for memory in (first, second):
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [write.en.eq(1), write.addr.eq(self.address), write.data.eq(self.data)]
            reads.append(read)
        m.d.comb += reads[0].addr.eq(~self.address)
        m.d.comb += reads[1].addr.eq(reads[0].data)
        # A reset would be logic, in front of a few registers.
        kept = Signal(WIDTH, reset_less=True)
        m.d.sync += kept.eq(reads[0].data)
        m.d.comb += self.kept.eq(kept)
        m.d.comb += self.o.eq(reads[1].data ^ self.address)
        return m


def rams_with_registers(cells: dict[str, Any]) -> dict[str, list[str]]:
    """By name of a LUT RAM, the names of registers that take one of its outputs."""
    return {
        name: [
            other
            for other, register in cells.items()
            if register["type"] == REGISTER
            and set(register["connections"]["DI"]) & set(cell["connections"]["DO"])
        ]
        for name, cell in cells.items()
        if cell["type"] == LUT_RAM
    }


@pytest.fixture(scope="module")
def netlist() -> str:
    """Of `Lookup`, in JSON."""
    return synthesize_in_harness(Lookup())[1]


def test_each_lut_ram_has_a_register_then_and_nothing_else_changes(netlist: str) -> None:
    top = top_module(json.loads(netlist))
    before = top_module(json.loads(netlist))["cells"]
    assert sorted(map(len, rams_with_registers(before).values())) == [0, WIDTH]
    assert register_outputs(top) == 1
    assert sorted(map(len, rams_with_registers(top["cells"]).values())) == [1, WIDTH]
    added = {name: cell for name, cell in top["cells"].items() if name not in before}
    assert {name: top["cells"][name] for name in before} == before
    ((name, register),) = added.items()
    ram = before[name.removesuffix(".placed_early")]
    assert register["connections"]["CLK"] == ram["connections"]["WCK"]
    assert register["connections"]["Q"] == [], "nobody reads it"
    assert register_outputs(top) == 0


def test_nextpnr_packs_the_register_with_its_lut_ram(netlist: str, tmp_path: Path) -> None:
    """Only then does the LUT RAM count as two."""
    parsed = json.loads(netlist)
    register_outputs(top_module(parsed))
    written = tmp_path / "routed.json"
    routed = route(json.dumps(parsed), device="25k", speed=6, seed=1, refined=False, write=written)
    assert routed.used["TRELLIS_RAMW"][0] == 2
    (cells,) = (each["cells"] for each in json.loads(written.read_text())["modules"].values())
    ((name, register),) = (each for each in cells.items() if each[0].endswith(".placed_early"))
    ram = cells[name.removesuffix(".placed_early") + "$DPRAM_COMB0"]
    assert register["parameters"]["SD"].strip() == "1", "its input comes from the LUT beside it"
    places = [each["attributes"]["NEXTPNR_BEL"] for each in (register, ram)]
    tiles = {re.match(r"X\d+/Y\d+/SLICE[A-D]\.", place)[0] for place in places}  # type: ignore[index]
    assert len(tiles) == 1, places


@pytest.mark.parametrize(("share", "added"), [(FULL, 0), (FULL + 0.01, 1)])
def test_only_a_nearly_full_device_gets_registers(share: float, added: int) -> None:
    ram = {
        "type": LUT_RAM,
        "attributes": {},
        "connections": {"WCK": [2], "DO": [3, 4, 5, 6]},
    }
    luts = int(share * CAPACITY["25k"]["LUT"]) - 6
    cells = {f"lut{index}": {"type": "LUT4", "connections": {}} for index in range(luts)}
    modules = {"top": {"attributes": {"top": "1"}, "cells": cells | {"ram": ram}}}
    said: list[str] = []
    text = lay_out(json.dumps({"modules": modules}), preset("ecp5-25k"), "25k", said.append)
    found = json.loads(text)["modules"]["top"]["cells"]
    assert sum(cell["type"] == REGISTER for cell in found.values()) == added
    assert len(said) == added
    assert all(line.startswith("1 registers more") for line in said)


class Choice(wiring.Component):
    """One of eight bits."""

    i: Signal
    which: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"i": In(8), "which": In(3), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """A register, so that there is a path."""
        m = Module()
        m.d.sync += self.o.eq(self.i.bit_select(self.which, 1))
        return m


@pytest.mark.parametrize("wide", [True, False])
def test_luts_are_joined_by_multiplexers_where_that_is_wanted(wide: bool) -> None:
    text = rtlil.convert(Choice(), platform=Ecp5Primitives())
    cells, _ = synthesize_rtlil(text, wide=wide)
    assert ("PFUMX" in cells or "L6MUX21" in cells) == wide
    assert cells["LUT4"] >= 4
