"""Cells that are moved in a placed netlist: always legal, never slower, nothing else changed."""

import copy
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from hypothesis import given, settings
from hypothesis import strategies as st

from systolith_sim.placement import Packed, PlacementError, refine
from systolith_sim.placement.timing import Timing
from systolith_sim.routing import find
from systolith_sim.synthesis import synthesize_in_harness
from systolith_sim.toolchain import run

LUT, CLOCK_TO_Q, BLOCK_TO_Q, SUM, CARRY = 0.24, 0.52, 0.6, 0.45, 0.07


def cell(
    kind: str, bel: str, inputs: dict[str, int], outputs: dict[str, int], **parameters: str
) -> dict[str, Any]:
    return {
        "type": kind,
        "attributes": {"NEXTPNR_BEL": bel},
        "parameters": parameters,
        "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output"),
        "connections": {port: [bit] for port, bit in (inputs | outputs).items()},
    }


def register(bel: str, d: int, q: int, *, di: bool = False, **pins: int) -> dict[str, Any]:
    return cell("TRELLIS_FF", bel, {"CLK": 1, "DI" if di else "M": d, **pins}, {"Q": q})


def lut(bel: str, f: int, **inputs: int) -> dict[str, Any]:
    return cell("TRELLIS_COMB", bel, inputs, {"F": f}, MODE="LOGIC")


def block(bel: str, inputs: dict[str, int], outputs: dict[str, int]) -> dict[str, Any]:
    return cell("DP16KD", bel, {"CLKA": 1, **inputs}, outputs)


def netlist(**cells: dict[str, Any]) -> dict[str, Any]:
    return {"modules": {"top": {"cells": {"clock": clock(), **cells}}}}


def clock() -> dict[str, Any]:
    return cell("DCCA", "X0/Y0/DCC", {}, {"CLKO": 1})


def place(attributes: dict[str, str]) -> tuple[int, int, str]:
    found = re.match(r"X(\d+)/Y(\d+)/(.*)", attributes["NEXTPNR_BEL"])
    assert found
    return int(found[1]), int(found[2]), found[3]


def longest(data: dict[str, Any]) -> float:
    """The longest path, one path after the other: slow, and by other code than what is tested."""
    cells = data["modules"]["top"]["cells"]
    drivers = {
        bits[0]: (name, port)
        for name, each in cells.items()
        for port, bits in each["connections"].items()
        if each["port_directions"][port] == "output"
    }

    def arrival(net: int) -> float:
        name, port = drivers[net]
        each = cells[name]
        if each["type"] == "TRELLIS_FF":
            return CLOCK_TO_Q
        if each["type"] == "DP16KD":
            return BLOCK_TO_Q
        inputs = [pin for pin in each["connections"] if each["port_directions"][pin] == "input"]
        if each["parameters"]["MODE"] == "CCU2":
            delays = {pin: CARRY if (pin, port) == ("FCI", "FCO") else SUM for pin in inputs}
        else:
            delays = dict.fromkeys(inputs, LUT)
        return max((late(name, pin) + delays[pin] for pin in inputs), default=-np.inf)

    def late(name: str, pin: str) -> float:
        net = cells[name]["connections"][pin][0]
        other, port = drivers[net]
        if (port, pin) in (("F", "DI"), ("FCO", "FCI")):
            return arrival(net)
        here, there = place(cells[name]["attributes"]), place(cells[other]["attributes"])
        steps = [abs(here[0] - there[0]), abs(here[1] - there[1])]
        return arrival(net) + 0.5 + sum(0.045 * step + 0.1 * min(step, 5) for step in steps)

    return max(
        late(name, pin)
        for name, each in cells.items()
        if each["type"] in ("TRELLIS_FF", "DP16KD")
        for pin in each["connections"]
        if each["port_directions"][pin] == "input" and not pin.startswith("CLK")
    )


def refined(data: dict[str, Any]) -> dict[str, Any]:
    """Refine, and check what holds for every netlist."""
    before = copy.deepcopy(data)
    packed = Packed(data)
    gain = refine(packed)
    changed = packed.save()
    assert gain.before == pytest.approx(longest(before))
    assert gain.after == pytest.approx(longest(data))
    assert gain.after <= gain.before + 1e-9
    places: list[list[str]] = []
    cells, old = data["modules"]["top"]["cells"], before["modules"]["top"]["cells"]
    assert changed == sum(cells[name] != old[name] for name in cells)
    bels = Counter(each["attributes"]["NEXTPNR_BEL"] for each in cells.values())
    assert max(bels.values()) == 1, "two cells have one place"
    check_rules(cells)
    for netlist_ in (cells, old):
        blocks = [each for each in netlist_.values() if each["type"] == "DP16KD"]
        places.append(sorted(each["attributes"]["NEXTPNR_BEL"] for each in blocks))
    assert places[0] == places[1], "block RAMs have the places that they had, whose ever"
    for name, each in cells.items():
        if each["type"] != "DP16KD" and not each["type"].startswith("TRELLIS"):
            assert each == old[name], "what is no logic and no block RAM stays"
        assert each | {"attributes": 0} == old[name] | {"attributes": 0}
    again = copy.deepcopy(before)
    other = Packed(again)
    refine(other)
    other.save()
    assert again == data, "the same netlist ends in the same places"
    return data


def check_rules(cells: dict[str, dict[str, Any]]) -> None:
    """Neighbours stay neighbours; registers of a tile have one reset, those of a slice one CE."""
    at = {name: place(each["attributes"]) for name, each in cells.items()}
    resets: dict[Any, set[str]] = {}
    enables: dict[Any, set[str]] = {}
    drivers = {
        each["connections"][port][0]: name
        for name, each in cells.items()
        for port in each["connections"]
        if each["port_directions"][port] == "output"
    }
    for name, each in cells.items():
        x, y, bel = at[name]
        pins = each["connections"]
        if each["type"] == "TRELLIS_FF":
            resets.setdefault((x, y), set()).add(str(pins.get("LSR")))
            enables.setdefault((x, y, bel[:6]), set()).add(str(pins.get("CE")))
            if "DI" in pins:
                assert at[drivers[pins["DI"][0]]] == (x, y, bel.replace("FF", "K"))
        if "FCI" in pins:
            before = at[drivers[pins["FCI"][0]]]
            slices = [4 * x_ + "ABCD".index(b[5]) for x_, _, b in (before, (x, y, bel))]
            assert before[1] == y
            assert 2 * slices[0] + int(before[2][-1]) + 1 == 2 * slices[1] + int(bel[-1])
    assert all(len(found) == 1 for found in (*resets.values(), *enables.values()))


def grid(columns: range, rows: range) -> dict[str, dict[str, Any]]:
    """A LUT in each column, and one in each row: so these are known to have logic."""
    corner = [(x, rows[0]) for x in columns] + [(columns[0], y) for y in rows[1:]]
    return {
        f"grid{index}": cell("TRELLIS_COMB", f"X{x}/Y{y}/SLICED.K1", {}, {}, MODE="LOGIC")
        for index, (x, y) in enumerate(corner)
    }


def short(count: int) -> dict[str, dict[str, Any]]:
    """Registers with short paths, so that long ones are rare."""
    return {
        f"short{x}": register(f"X{x + 2}/Y49/SLICEA.FF0", 1000 + x, 1000 + x) for x in range(count)
    }


def test_a_register_goes_between_what_it_connects() -> None:
    data = netlist(
        left=block("X4/Y9/EBR0", {}, {"DO": 2}),
        r=register("X4/Y40/SLICEA.FF0", 2, 3),
        right=block("X34/Y9/EBR0", {"AD": 3}, {}),
        **short(40),
        **grid(range(2, 50), range(8, 50)),
    )
    cells = refined(data)["modules"]["top"]["cells"]
    x, y, _ = place(cells["r"]["attributes"])
    assert 12 <= x <= 26
    assert y <= 12


def test_a_lut_takes_its_register_along() -> None:
    data = netlist(
        a=block("X4/Y9/EBR0", {"AD": 5}, {"DO": 2, "DP": 3}),
        x=lut("X30/Y40/SLICEB.K1", 4, A=2, B=3),
        r=register("X30/Y40/SLICEB.FF1", 4, 5, di=True),
        **grid(range(2, 50), range(8, 50)),
    )
    before = longest(data)
    cells = refined(data)["modules"]["top"]["cells"]
    assert place(cells["x"]["attributes"])[:2] == place(cells["r"]["attributes"])[:2]
    assert longest(data) < before / 2


def test_a_chain_of_carries_moves_as_a_whole() -> None:
    chain: dict[str, dict[str, Any]] = {}
    count = 12
    for bit in range(count):
        bel = f"X{30 + bit // 8}/Y40/SLICE{'ABCD'[bit % 8 // 2]}"
        carry = {"FCI": 100 + bit} if bit else {}
        chain[f"sum{bit}"] = cell(
            "TRELLIS_COMB",
            f"{bel}.K{bit % 2}",
            {"A": 2, "B": 10 + bit, **carry},
            {"F": 30 + bit, "FCO": 101 + bit},
            MODE="CCU2",
        )
        chain[f"r{bit}"] = register(f"{bel}.FF{bit % 2}", 30 + bit, 10 + bit, di=True)
    data = netlist(
        a=block("X4/Y9/EBR0", {"AD": 10 + count - 1}, {"DO": 2}),
        **chain,
        **grid(range(2, 50), range(8, 50)),
    )
    before = longest(data)
    refined(data)
    assert longest(data) < before / 2


def test_a_unit_swaps_places_where_there_is_no_room() -> None:
    """Every place near the block is taken, by registers that may be anywhere."""
    others = {
        f"r{x}_{y}_{z}": register(
            f"X{x}/Y{y}/SLICE{'ABCD'[z // 2]}.FF{z % 2}",
            1000 + 100 * x + 10 * y + z,
            1000 + 100 * x + 10 * y + z,
        )
        for x in range(2, 9)
        for y in (8, 9)
        for z in range(8)
    }
    data = netlist(
        a=block("X4/Y9/EBR0", {"AD": 3}, {"DO": 2}),
        r=register("X40/Y8/SLICEA.FF0", 2, 3),
        **others,
        **grid(range(2, 50), range(8, 10)),
    )
    cells = refined(data)["modules"]["top"]["cells"]
    assert place(cells["r"]["attributes"])[0] < 9


def test_block_rams_exchange_places() -> None:
    data = netlist(
        a=block("X4/Y9/EBR0", {"AD": 3}, {"DO": 2}),
        b=block("X42/Y9/EBR2", {"AD": 5}, {"DO": 4}),
        left=register("X5/Y8/SLICEA.FF0", 4, 5),
        right=register("X44/Y8/SLICEA.FF0", 2, 3),
        **grid(range(2, 50), range(8, 50)),
    )
    cells = refined(data)["modules"]["top"]["cells"]
    assert cells["a"]["attributes"]["NEXTPNR_BEL"] == "X42/Y9/EBR2"
    assert cells["b"]["attributes"]["NEXTPNR_BEL"] == "X4/Y9/EBR0"
    # There and back again: nothing is left to do.
    assert longest(data) < 2


@st.composite
def netlists(draw: st.DrawFn) -> dict[str, Any]:
    """Registers and LUTs anywhere, in slices of their own, with resets by column."""
    luts, registers = draw(st.integers(0, 12)), draw(st.integers(2, 12))
    places = draw(
        st.lists(
            st.tuples(st.integers(2, 20), st.integers(2, 14), st.integers(0, 3)),
            min_size=luts + registers,
            max_size=luts + registers,
            unique=True,
        )
    )
    nets = [10 + index for index in range(registers)] + [2, 3, 8]
    cells: dict[str, dict[str, Any]] = {}
    for index in range(luts):
        x, y, z = places.pop()
        pins = draw(st.lists(st.sampled_from(nets), min_size=1, max_size=4))
        inputs = dict(zip("ABCD", pins, strict=False))
        nets.append(40 + index)
        cells[f"x{index}"] = lut(f"X{x}/Y{y}/SLICE{'ABCD'[z]}.K0", 40 + index, **inputs)
        if index < registers and draw(st.booleans()):
            bel = f"X{x}/Y{y}/SLICE{'ABCD'[z]}.FF0"
            reset = {"LSR": 3} if x % 2 else {}
            cells[f"r{index}"] = register(bel, 40 + index, 10 + index, di=True, **reset)
    for index in range(registers):
        if f"r{index}" not in cells:
            x, y, z = places.pop()
            pins = ({"LSR": 3} if x % 2 else {}) | draw(st.sampled_from([{}, {"CE": 2}]))
            source = draw(st.sampled_from(nets))
            bel = f"X{x}/Y{y}/SLICE{'ABCD'[z]}.FF0"
            cells[f"r{index}"] = register(bel, source, 10 + index, **pins)
    a = block("X4/Y30/EBR0", {"AD": draw(st.sampled_from(nets))}, {"DO": 2, "DP": 3})
    b = block("X22/Y30/EBR2", {"AD": draw(st.sampled_from(nets))}, {"DO": 8})
    return netlist(a=a, b=b, **cells)


@settings(max_examples=40)
@given(netlists())
def test_any_netlist_stays_legal_and_becomes_no_slower(data: dict[str, Any]) -> None:
    refined(data)


@given(netlists())
def test_delays_are_those_of_the_paths(data: dict[str, Any]) -> None:
    timing = Timing(Packed(data))
    timing.update(4.0)
    assert timing.delays.max() == pytest.approx(longest(data))
    assert timing.slack.min(initial=np.inf) >= 4.0 - timing.delays.max() - 1e-9
    last = np.isfinite(timing.slack)
    if last.any() and np.isfinite(timing.delays.max()):
        assert (timing.wires >= 0.5 - 1e-9).all()


FIRST = "X5/Y5/SLICEA"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"a": register(f"{FIRST}.FF0", 9, 10), "b": register(f"{FIRST}.FF0", 9, 11)}, "one place"),
        ({"a": register("X5/Y5/SLICEE.FF0", 9, 10)}, "a is at SLICEE.FF0, which no tile has"),
        (
            {
                "a": register(f"{FIRST}.FF0", 9, 10, LSR=7),
                "b": register("X5/Y5/SLICED.FF0", 9, 11),
            },
            "X5/Y5 cannot be in one tile",
        ),
        (
            {"a": register(f"{FIRST}.FF0", 9, 10, CE=7), "b": register(f"{FIRST}.FF1", 9, 11)},
            "X5/Y5 cannot be in one tile",
        ),
        (
            {"x": lut(f"{FIRST}.K0", 12, A=9), "a": register(f"{FIRST}.FF1", 12, 10, di=True)},
            "X5/Y5 cannot be in one tile",
        ),
        (
            {
                "x": lut(f"{FIRST}.K0", 12, A=9),
                "c": cell("TRELLIS_COMB", f"{FIRST}.K1", {"A": 9}, {"FCO": 13}, MODE="CCU2"),
            },
            "X5/Y5 cannot be in one tile",
        ),
        (
            {"c": cell("TRELLIS_COMB", "X5/Y5/SLICEC.K0", {"A": 9}, {"F": 13}, MODE="DPRAM")},
            "X5/Y5 cannot be in one tile",
        ),
        (
            {
                "w": cell("TRELLIS_RAMW", "X5/Y5/SLICEC.RAMW", {"A0": 9}, {"WDO0": 13}),
                "x": lut("X5/Y5/SLICEC.K1", 12, A=9),
            },
            "X5/Y5 cannot be in one tile",
        ),
        (
            {
                "x": cell(
                    "TRELLIS_COMB", f"{FIRST}.K0", {"A": 9, "M": 9}, {"OFX": 12}, MODE="LOGIC"
                ),
                "a": register(f"{FIRST}.FF0", 9, 10),
            },
            "X5/Y5 cannot be in one tile",
        ),
        (
            {"x": lut(f"{FIRST}.K0", 12, A=13), "y": lut(f"{FIRST}.K1", 13, A=12)},
            "combinational loop",
        ),
    ],
    ids=["place", "bel", "reset", "enable", "apart", "carry", "ram", "port", "m", "loop"],
)
def test_what_no_chip_has_is_refused(cells: dict[str, Any], expected: str) -> None:
    data = netlist(source=block("X4/Y30/EBR0", {}, {"DO": 9}), **cells)
    with pytest.raises(PlacementError, match=expected):
        refine(Packed(data))


class Blocks(wiring.Component):
    """A product of fewer bits than a multiplier has, and a block RAM."""

    a: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(9), "o": Out(18)})

    def elaborate(self, platform: object) -> Module:
        """Write products, and read them."""
        m = Module()
        m.submodules.memory = memory = Memory(shape=18, depth=512, init=range(512))
        write, read = memory.write_port(), memory.read_port(transparent_for=())
        held = Signal(9)
        m.d.sync += [held.eq(self.a), write.data.eq(held * self.a), write.addr.eq(held)]
        m.d.comb += [write.en.eq(1), read.addr.eq(self.a), self.o.eq(read.data)]
        return m


def configured(folder: Path, netlist: str, *options: str) -> dict[str, Counter[str]]:
    """What nextpnr sets in each tile, without routing."""
    (folder / "netlist.json").write_text(netlist)
    common = "--25k --lpf-allow-unconstrained --no-route --textcfg config --json netlist.json"
    run([find(None), *common.split(), *options], cwd=folder)
    tiles: dict[str, Counter[str]] = {}
    for part in (folder / "config").read_text().strip().split("\n\n"):
        head, *lines = part.strip().splitlines()
        tiles.setdefault(head, Counter()).update(lines)
    return tiles


@pytest.mark.synth
def test_nextpnr_sets_the_same_in_a_netlist_that_was_saved(tmp_path: Path) -> None:
    """Constants of blocks included, which are nowhere in what it has written itself."""
    cells, text = synthesize_in_harness(Blocks())
    assert cells["MULT18X18D"] == cells["DP16KD"] == 1
    placed = configured(tmp_path, text, "--write", "placed.json")
    assert sum(line.startswith("enum: CIB.J") for tile in placed.values() for line in tile) > 20
    data = json.loads((tmp_path / "placed.json").read_text())
    assert Packed(data).save() == 0
    reading = ("--no-pack", "--no-place")
    assert configured(tmp_path, json.dumps(data), *reading) == placed


def test_a_netlist_without_places_is_refused() -> None:
    data = netlist(a=register("", 2, 3))
    del data["modules"]["top"]["cells"]["clock"]
    with pytest.raises(PlacementError, match="no cell has a place"):
        Packed(json.loads(json.dumps(data)))
