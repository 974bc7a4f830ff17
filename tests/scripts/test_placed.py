"""Paths of placed netlists, small enough to add up by hand."""

from typing import Any

import pytest

from depth import CLOCK_TO_Q, LUT, SUM, longest
from placed import STEP, Placed, Routed


def cell(
    kind: str, place: str, inputs: dict[str, int], outputs: dict[str, int], **parameters: str
) -> Any:
    return {
        "type": kind,
        "attributes": {"NEXTPNR_BEL": f"{place}/SLICEA.LUT0"},
        "parameters": parameters,
        "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output"),
        "connections": {port: [bit] for port, bit in (inputs | outputs).items()},
    }


def written(**cells: Any) -> dict[str, Any]:
    """What nextpnr would write."""
    bits = {bit for each in cells.values() for pin in each["connections"].values() for bit in pin}
    names = {f"net{bit}": {"bits": [bit]} for bit in bits}
    named = {name.replace("constant", "$PACKER_GND"): each for name, each in cells.items()}
    return {"modules": {"top": {"cells": named, "netnames": names}}}


def netlist(**cells: Any) -> Placed:
    return Placed(written(**cells))


def test_wires_count_by_distance() -> None:
    """Seven columns and two rows to the LUT, whose register is beside it."""
    found = longest(
        netlist(
            a=cell("TRELLIS_FF", "X10/Y20", {"CLK": 1, "M": 9}, {"Q": 2}),
            x=cell("TRELLIS_COMB", "X3/Y22", {"A": 2}, {"F": 3}, MODE="LOGIC"),
            b=cell("TRELLIS_FF", "X3/Y22", {"CLK": 1, "DI": 3}, {"Q": 4}),
        ),
        STEP,
    )
    path = next(found)
    assert path.delay == pytest.approx(CLOCK_TO_Q + 0.5 + 9 * 0.045 + 7 * 0.1 + LUT)
    assert path.nets == [2, 3]
    assert path.end == "b.DI"


def test_carries_and_constants_have_no_wires() -> None:
    found = longest(
        netlist(
            constant=cell("TRELLIS_COMB", "X90/Y90", {}, {"F": 8}, MODE="LOGIC"),
            low=cell("TRELLIS_COMB", "X1/Y1", {"A": 8, "B": 2}, {"FCO": 3}, MODE="CCU2"),
            high=cell("TRELLIS_COMB", "X1/Y1", {"FCI": 3}, {"F": 4}, MODE="CCU2"),
            a=cell("TRELLIS_FF", "X1/Y1", {"CLK": 1, "M": 9}, {"Q": 2}),
            b=cell("TRELLIS_FF", "X1/Y1", {"CLK": 1, "DI": 4}, {"Q": 5}),
        ),
        2 * STEP,
    )
    assert next(found).delay == pytest.approx(CLOCK_TO_Q + 2 * 0.5 + SUM + SUM)


def test_a_lut_ram_begins_and_ends_paths() -> None:
    """Its read address goes through; what is written ends there."""
    found = longest(
        netlist(
            a=cell("TRELLIS_FF", "X1/Y1", {"CLK": 1, "M": 9}, {"Q": 2}),
            write=cell("TRELLIS_RAMW", "X1/Y1", {"A0": 2}, {"WDO0": 3}),
            ram=cell("TRELLIS_COMB", "X1/Y1", {"A": 2, "WD": 3}, {"F": 4}, MODE="DPRAM"),
        ),
        2 * STEP,
    )
    path = next(found)
    assert (path.end, path.nets) == ("ram.WD", [2, 3])
    assert path.delay == pytest.approx(CLOCK_TO_Q + 2 * 0.5)


def test_a_netlist_without_places_is_refused() -> None:
    bare = cell("TRELLIS_FF", "", {"DI": 1}, {"Q": 2})
    with pytest.raises(SystemExit, match="a has no place"):
        netlist(a=bare)


LUT_BETWEEN = written(
    **{"one$a": cell("TRELLIS_FF", "X10/Y20", {"CLK": 1, "M": 9}, {"Q": 2})},
    constant=cell("TRELLIS_COMB", "X90/Y90", {}, {"F": 8}, MODE="LOGIC"),
    x=cell("TRELLIS_COMB", "X3/Y22", {"A": 2, "B": 8}, {"F": 3}, MODE="LOGIC"),
    b=cell("TRELLIS_FF", "X3/Y22", {"CLK": 1, "DI": 3}, {"Q": 4}),
    c=cell("TRELLIS_FF", "X3/Y22", {"CLK": 1, "M": 4}, {"Q": 5}),
)


def test_routed_wires_count_as_the_file_says() -> None:
    """The longest one where edges differ, unless it is a constant's."""
    sdf = r"""
        (INTERCONNECT one\$a/Q x/A (100:110:120) (100:110:1250))
        (INTERCONNECT \$PACKER_GND/F x/B (9000:9000:9000) (9000:9000:9000))
        (INTERCONNECT x/F b/DI (0:0:0) (0:0:0))
    """
    paths = {path.end: path for path in longest(Routed(LUT_BETWEEN, sdf.splitlines()), STEP)}
    assert paths["b.DI"].delay == pytest.approx(CLOCK_TO_Q + 1.25 + LUT)
    # No line says anything of this one.
    assert paths["c.M"].delay == pytest.approx(CLOCK_TO_Q + 0.5)


def test_a_file_without_wires_is_an_error() -> None:
    with pytest.raises(SystemExit, match="--sdf"):
        Routed(LUT_BETWEEN, ["(DELAYFILE", ")"])
