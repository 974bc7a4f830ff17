"""The report in a real browser: no error, nothing fetched, and the figures of perf.json on it."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from systolith.cli import main
from systolith_sim.models import BertShape, write_bert

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium, which PyPI does not have")


class Tables(HTMLParser):
    """Collects the rows of all tables, the pictures, and what must not be there."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: dict[str, int] = {}
        self.links: list[str] = []
        self._cell: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a row or a cell."""
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        """Add to a cell."""
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(self._cell)
            self._cell = None

    def by_name(self, heading: str = "cycles") -> dict[str, dict[str, str]]:
        """Rows of the table that has a heading, by their first cell, as cells by heading."""
        (found,) = (table for table in self.tables if heading in table[0])
        head, *rows = found
        return {row[0]: dict(zip(head, row, strict=True)) for row in rows}

    @property
    def summary(self) -> dict[str, str]:
        """The figures on top of the page."""
        return dict(self.tables[0])


@pytest.fixture(scope="module", params=["int8", "int4", "int8 --device verilator"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_bert(folder / "model.onnx", BertShape(layers=2))
    arguments = ["report", str(folder / "model.onnx"), "--preset", "tiny", "--seq-len", "16"]
    assert main([*arguments, "--weights", *request.param.split(), "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> tuple[Tables, str]:
    """The page as the browser made it, and what the browser complained of."""
    assert BROWSER is not None
    page = (folder / "report.html").as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    result = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={folder}/profile", "--dump-dom", page],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | home,
        check=True,
    )
    tables = Tables()
    tables.feed(result.stdout)
    return tables, result.stderr


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "perf.json").read_text("utf-8"))


def numbers(text: str) -> list[float]:
    return [float(word.replace(",", "")) for word in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_the_browser_has_no_complaint(opened: tuple[Tables, str]) -> None:
    tables, complaints = opened
    assert "CONSOLE" not in complaints
    assert tables.tags.get("script", 0) == 0
    assert tables.links == [], "the page must not need anything else"
    assert tables.tags["svg"] >= 3


def test_the_figures_are_those_of_perf_json(folder: Path, opened: tuple[Tables, str]) -> None:
    shown, expected = opened[0].summary, figures(folder)
    assert numbers(shown["cycles"]) == [expected["cycles"]]
    assert numbers(shown["MACs"]) == [expected["macs"]]
    assert numbers(shown["bytes of DRAM"]) == [expected["dram_bytes"], expected["least_dram_bytes"]]
    assert numbers(shown["of peak"])[0] == pytest.approx(100 * expected["utilization"], abs=0.06)
    reached = numbers(shown["of the roofline"])[0]
    assert reached == pytest.approx(100 * expected["roofline_fraction"], abs=0.06)
    assert expected["bound"] in shown["of the roofline"]


def test_what_was_measured_is_that_of_perf_json(folder: Path, opened: tuple[Tables, str]) -> None:
    tables, expected = opened[0], figures(folder)
    measured = expected["measured"]
    if measured is None:
        assert expected["source"] == "estimate"
        assert expected["cycles"] == expected["estimated_cycles"]
        assert "cycles, estimated" not in tables.summary
        assert not any("stalled: dram" in table[0] for table in tables.tables)
        return
    assert expected["source"] == measured["device"] == "verilator"
    assert expected["cycles"] == measured["cycles"]
    assert expected["estimated_cycles"] == pytest.approx(measured["cycles"], rel=0.01)
    assert numbers(tables.summary["cycles, estimated"])[0] == expected["estimated_cycles"]
    assert numbers(tables.summary["bank clashes"]) == [measured["bank_clashes"]]
    rows = tables.by_name("stalled: dram")
    assert rows.keys() == measured["engines"].keys()
    for name, engine in measured["engines"].items():
        assert numbers(rows[name]["instructions"]) == [engine["instructions"]]
        cycles = {"working": engine["working"], "idle": engine["idle"]}
        cycles |= {f"stalled: {cause}": value for cause, value in engine["stalled"].items()}
        assert sum(cycles.values()) == measured["cycles"]
        for state, cell in rows[name].items():
            if state in cycles:
                share = 100 * cycles[state] / measured["cycles"]
                assert numbers(cell)[0] == pytest.approx(share, abs=0.06)
            else:
                assert state in ("engine", "instructions") or cell == ""


def test_engines_and_layers_are_those_of_perf_json(
    folder: Path, opened: tuple[Tables, str]
) -> None:
    expected = figures(folder)
    rows = opened[0].by_name("waits for VECTOR")
    for name, engine in expected["engines"].items():
        assert numbers(rows[name]["instructions"]) == [engine["instructions"]]
        share = 100 * engine["working"] / expected["estimated_cycles"]
        assert numbers(rows[name]["working"])[0] == pytest.approx(share, abs=0.06)
    assert len(expected["layers"]) > 4
    rows = opened[0].by_name("of the array")
    for layer in expected["layers"]:
        _, begin, end, gemm, macs, *_ = (
            numbers(cell)[0] if numbers(cell) else 0 for cell in rows[layer["layer"]].values()
        )
        assert [begin, end, macs] == [layer["begin"], layer["end"], layer["macs"]]
        assert gemm == layer["working"]["GEMM"]
