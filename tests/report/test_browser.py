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
        self.rows: list[list[str]] = []
        self.tags: dict[str, int] = {}
        self.links: list[str] = []
        self._cell: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a row or a cell."""
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        """Add to a cell."""
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(self._cell)
            self._cell = None


@pytest.fixture(scope="module", params=["int8", "int4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_bert(folder / "model.onnx", BertShape(layers=2))
    arguments = ["report", str(folder / "model.onnx"), "--preset", "tiny", "--seq-len", "16"]
    assert main([*arguments, "--weights", request.param, "-o", str(folder)]) == 0
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
    rows, expected = {row[0]: row[1:] for row in opened[0].rows}, figures(folder)
    assert numbers(rows["cycles"][0]) == [expected["cycles"]]
    assert numbers(rows["MACs"][0]) == [expected["macs"]]
    assert numbers(rows["bytes of DRAM"][0]) == [
        expected["dram_bytes"],
        expected["least_dram_bytes"],
    ]
    assert numbers(rows["of peak"][0])[0] == pytest.approx(100 * expected["utilization"], abs=0.06)
    reached = numbers(rows["of the roofline"][0])[0]
    assert reached == pytest.approx(100 * expected["roofline_fraction"], abs=0.06)
    assert expected["bound"] in rows["of the roofline"][0]


def test_engines_and_layers_are_those_of_perf_json(
    folder: Path, opened: tuple[Tables, str]
) -> None:
    rows, expected = {row[0]: row[1:] for row in opened[0].rows}, figures(folder)
    for name, engine in expected["engines"].items():
        instructions, working, *_ = (numbers(cell)[0] for cell in rows[name])
        assert instructions == engine["instructions"]
        assert working == pytest.approx(100 * engine["working"] / expected["cycles"], abs=0.06)
    assert len(expected["layers"]) > 4
    for layer in expected["layers"]:
        begin, end, gemm, macs, *_ = (
            numbers(cell)[0] if cell else 0 for cell in rows[layer["layer"]]
        )
        assert [begin, end, macs] == [layer["begin"], layer["end"], layer["macs"]]
        assert gemm == layer["working"]["GEMM"]
