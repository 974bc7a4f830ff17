"""The simulator of netlists; `tests/core` runs its programs on a whole one."""

from typing import Any

import numpy as np
import pytest

from systolith import regs
from systolith.config import preset
from systolith_sim.devices import open_device
from systolith_sim.netlist import NetlistDevice
from systolith_sim.netlist.tables import Tables
from systolith_sim.programs import random_program
from systolith_sim.simulated import SimulatedDevice
from systolith_sim.toolchain import ToolError

pytestmark = pytest.mark.synth

TINY = preset("tiny")

TIMINGS: list[dict[str, Any]] = [
    {},
    {"stall": 0.4, "seed": 3, "interleave": True, "latency": 9},
]


@pytest.mark.parametrize("timing", TIMINGS, ids=["plain", "stalled"])
@pytest.mark.parametrize("seed", range(4))
def test_random_programs_take_the_cycles_of_the_rtl(seed: int, timing: dict[str, Any]) -> None:
    """And give its bits: those that the builder of the program says."""
    program = random_program(TINY, seed)
    size = program.memory_bytes
    activities = []
    for name in ("verilator", "netlist"):
        device = open_device(name, TINY, memory_bytes=size, **timing)
        assert program.run(device) == program.expected
        assert isinstance(device, SimulatedDevice)
        activities.append((device.activity, device.read_csr(regs.offset("cycles_lo"))))
        device.close()
    assert activities[0] == activities[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_core_of_small_boards_as_they_map_it(seed: int) -> None:
    """INT4 and all, without wide multiplexers."""
    program = random_program(preset("ecp5-25k-sdram"), seed)
    device = NetlistDevice(program.config, memory_bytes=program.memory_bytes, wide=False)
    assert program.run(device) == program.expected
    device.close()


def module(cells: dict[str, Any]) -> dict[str, Any]:
    """A netlist with a clock on net 2 and an output on net 9."""
    ports = {
        "clk": {"direction": "input", "bits": [2]},
        "o": {"direction": "output", "bits": [9]},
    }
    return {"ports": ports, "cells": cells}


def lut(a: int | str, out: int) -> dict[str, Any]:
    """An inverter."""
    return {"type": "LUT4", "parameters": {"INIT": "01"}, "connections": {"A": [a], "Z": [out]}}


def carry(**connections: int | str) -> dict[str, Any]:
    """Two bits of an adder of A and B."""
    parameters = {"INIT0": f"{0x96AA:016b}", "INIT1": f"{0x96AA:016b}"}
    parameters |= {"INJECT1_0": "NO", "INJECT1_1": "NO"}
    pins = {"C0": "0", "C1": "0", "D0": "1", "D1": "1"} | connections
    return {
        "type": "CCU2C",
        "parameters": parameters,
        "connections": {name: [bit] for name, bit in pins.items()},
    }


def evaluate(tables: Tables, values: dict[int, int]) -> list[int]:
    """Values of all nets, from those of some."""
    nets = [0, 1] + [0] * (len(tables.nets) - 4)
    for bit, value in values.items():
        nets[tables.net(bit)] = value
    for each in tables.in_order():
        index = sum(nets[net] << place for place, net in enumerate(each.inputs))
        nets[each.out] = each.init >> index & 1
    return nets


def test_carries_add() -> None:
    """All operands of two bits, and the carry; the lower half of a LUT is the carry's own."""
    names = {"CIN": 20, "A0": 21, "A1": 22, "B0": 23, "B1": 24, "S0": 25, "S1": 26, "COUT": 27}
    tables = Tables.read(module({"sum": carry(**names)}))
    for operands in np.ndindex(2, 4, 4):
        c, a, b = map(int, operands)
        values = {20: c, 21: a & 1, 22: a >> 1, 23: b & 1, 24: b >> 1}
        nets = evaluate(tables, values)
        result = sum(nets[tables.net(25 + place)] << place for place in range(3))
        assert result == a + b + c


def test_luts_are_put_in_order() -> None:
    cells = {"last": lut(8, 9), "first": lut("1", 7), "middle": lut(7, 8)}
    tables = Tables.read(module(cells))
    order = [each.out for each in tables.in_order()]
    assert order == [tables.net(bit) for bit in (7, 8, 9)]


def flip_flop(**changes: str) -> dict[str, Any]:
    """A register of net 3."""
    parameters = {"CLKMUX": "CLK", "LSRMUX": "LSR", "CEMUX": "1 ", "REGSET": "SET"}
    return {
        "type": "TRELLIS_FF",
        "parameters": parameters | {"SRMODE": "LSR_OVER_CE"} | changes,
        "connections": {"CLK": [2], "DI": [3], "Q": [9]},
    }


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"x": {"type": "ALU54B"}}, "x is a ALU54B, which the netlist's simulator does not know"),
        ({"x": flip_flop(SRMODE="ASYNC")}, "x has SRMODE ASYNC, which is not simulated"),
        ({"x": flip_flop(CLKMUX="INV")}, "x has CLKMUX INV"),
        (
            {"x": flip_flop() | {"connections": {"CLK": [3], "DI": [3], "Q": [9]}}},
            "x does not belong to the clock",
        ),
        ({"x": lut(8, 9), "y": lut(9, 8)}, "2 LUTs of the netlist form loops"),
    ],
)
def test_what_is_not_simulated_is_refused(cells: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolError, match=message):
        Tables.read(module(cells)).write()


def test_wide_ports_are_refused() -> None:
    wide = module({})
    wide["ports"]["o"]["bits"] = list(range(10, 75))
    with pytest.raises(ToolError, match="o has 65 bits, and 64 can be simulated"):
        Tables.read(wide).write()
