"""Chains of logic, found in netlists small enough to add up by hand."""

from graphlib import CycleError
from typing import Any

import pytest

from depth import BLOCK_TO_DATA, CARRY, CLOCK_TO_Q, LUT, MUX, SUM, Netlist, group, longest


def cell(kind: str, inputs: dict[str, int], outputs: dict[str, int], **parameters: str) -> Any:
    return {
        "type": kind,
        "parameters": parameters,
        "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output"),
        "connections": {port: [bit] for port, bit in (inputs | outputs).items()},
    }


def netlist(**cells: Any) -> Netlist:
    bits = {bit for each in cells.values() for pin in each["connections"].values() for bit in pin}
    names = {f"net{bit}": {"bits": [bit]} for bit in bits}
    return Netlist({"modules": {"top": {"cells": cells, "netnames": names}}})


def register(data: int, q: int) -> Any:
    return cell("TRELLIS_FF", {"CLK": 1, "DI": data}, {"Q": q})


def test_luts_and_wires_add_up() -> None:
    """Two LUTs between registers; the first one's output goes to two inputs, which costs more."""
    found = list(
        longest(
            netlist(
                a=register(9, 2),
                x=cell("LUT4", {"A": 2}, {"Z": 3}),
                y=cell("LUT4", {"A": 3, "B": 2}, {"Z": 4}),
                b=register(4, 5),
                c=register(3, 6),
            ),
            wire=1.0,
        )
    )
    # Net 2 goes to two inputs, net 3 too, net 4 to one.
    assert found[0].delay == pytest.approx(CLOCK_TO_Q + 1.0 + LUT + 1.0 + LUT + 0.75)
    assert found[0].nets == [2, 3, 4]
    assert [path.end for path in found] == ["b.DI", "c.DI", "a.DI"]


def test_multiplexers_and_carries_are_beside_their_luts() -> None:
    found = list(
        longest(
            netlist(
                a=register(9, 2),
                x=cell("LUT4", {"A": 2}, {"Z": 3}),
                y=cell("PFUMX", {"ALUT": 3}, {"Z": 4}),
                low=cell("CCU2C", {"A0": 4}, {"COUT": 5}),
                high=cell("CCU2C", {"CIN": 5}, {"S0": 6, "COUT": 7}),
                b=register(6, 8),
            ),
            wire=1.0,
        )
    )
    expected = CLOCK_TO_Q + 0.75 + LUT + MUX + 0.75 + SUM + SUM + 0.75
    assert found[0].delay == pytest.approx(expected)
    assert CARRY < SUM


def test_a_block_ram_without_its_register_is_late() -> None:
    late = netlist(ram=cell("DP16KD", {"CLKA": 1}, {"DOA0": 2}), a=register(2, 3))
    soon = netlist(
        ram=cell("DP16KD", {"CLKA": 1}, {"DOA0": 2}, REGMODE_A="OUTREG"), a=register(2, 3)
    )
    assert next(longest(late, 1.0)).delay == pytest.approx(BLOCK_TO_DATA + 0.75)
    assert next(longest(soon, 1.0)).delay < 2


def test_a_loop_is_an_error() -> None:
    x, y = cell("LUT4", {"A": 3}, {"Z": 2}), cell("LUT4", {"A": 2}, {"Z": 3})
    with pytest.raises(CycleError):
        next(longest(netlist(x=x, y=y, a=register(3, 4)), 1.0))


def test_bits_of_a_signal_are_a_group() -> None:
    assert (
        group("unit.dma.left_TRELLIS_FF_Q_3")
        == group("unit.dma.left_TRELLIS_FF_Q")
        == "unit.dma.left"
    )
    assert group("unit.vector.lanes.lane3_value[4]") == "unit.vector.lanes.lane#_value"
