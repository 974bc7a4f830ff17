"""Sweeps: what is measured, what is remembered, and which cores are worth it."""

import csv
import json
import socket
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from systolith.cli import Exit, main
from systolith.cli.exits import UsageError
from systolith.cli.sweep_command import _shape, parse_list
from systolith.compiler.options import QuantizeOptions
from systolith.config import PRESETS
from systolith.sweep import Point, Work, area_of, expand, front, picture, sweep, together
from systolith.sweep.executors import ExecutorError, open_executor
from systolith_sim.models import BertShape, make_tokens, write_bert

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "model.onnx"
    write_bert(path, BertShape())
    return path


def points_of(**varied: Any) -> list[Point]:
    given = {"shapes": [], "scratchpads": [], "seq_lens": [16], "bandwidths": [8.0], "latency": 30}
    return expand(TINY, **(given | varied))[0]


class Refusing(Executor):
    """Nothing may be measured."""

    def submit(self, *_arguments: Any, **_named: Any) -> Future[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Refuse."""
        raise AssertionError("it was measured before")


def work_of(model: Path, name: str = "model", samples: Any = None) -> Work:
    return Work(name=name, model=model, samples=samples, identity=name)


def run(model: Path, memory: Path, points: list[Point], executor: Executor) -> list[dict[str, Any]]:
    done: list[int] = []
    given = {"executor": executor, "memory": memory, "progress": done.append}
    rows = sweep([work_of(model)], points, **given)
    assert sum(done) == len(points)
    return rows


def test_combinations_and_what_cannot_be_built() -> None:
    points, refused = expand(
        TINY,
        shapes=[(4, 4), (8, 4), (4, 8)],
        scratchpads=[16 << 10, 32 << 10],
        seq_lens=[16, 32],
        bandwidths=[4.0, 8.0],
        latency=30,
    )
    assert len(points) == len({point.key for point in points}) == 2 * 2 * 2 * 2
    assert len(refused) == 2
    assert all("rows must be at least columns" in reason for reason in refused)
    assert points[0].config == TINY, "an unvaried core is the preset"


def test_results_are_remembered(model: Path, tmp_path: Path) -> None:
    memory = tmp_path / "sweep.jsonl"
    few, many = points_of(), points_of(bandwidths=[8.0, 1.0])
    with ThreadPoolExecutor(1) as executor:
        first = run(model, memory, few, executor)
        assert run(model, memory, few, Refusing()) == first
        memory.write_text(memory.read_text() + '{"key": "half a li')
        both = run(model, memory, many, executor)
    assert both[0] == first[0]
    assert both[1]["cycles"] > both[0]["cycles"]
    with pytest.raises(AssertionError, match="measured before"):
        sweep(
            [work_of(model, "another")],
            few,
            executor=Refusing(),
            memory=memory,
            progress=lambda _: None,
        )


def test_limits_are_those_of_mixed_points_alone(model: Path, tmp_path: Path) -> None:
    """More formats forget nothing; other limits measure mixed weights again, and only those."""
    memory, base = tmp_path / "sweep.jsonl", replace(TINY, int4=True)
    int8 = Point(config=base, seq_len=16, bandwidth=8.0, latency=30)
    mixed = replace(int8, weights="mixed")

    def rows(points: list[Point], executor: Executor, most: float) -> list[dict[str, Any]]:
        options = QuantizeOptions(weights="mixed", max_bytes=most)
        given = {"executor": executor, "memory": memory, "quantization": options}
        return sweep([work_of(model)], points, **given, progress=lambda _: None)

    with ThreadPoolExecutor(1) as executor:
        alone = rows([int8], executor, 1.0)
        both = rows([mixed], executor, 0.9)
    assert rows([int8, mixed], Refusing(), 0.9) == alone + both
    with pytest.raises(AssertionError, match="measured before"):
        rows([mixed], Refusing(), 0.8)


def test_a_model_that_does_not_fit_is_a_result(model: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        rows = run(model, tmp_path / "sweep.jsonl", points_of(scratchpads=[1 << 10]), executor)
    assert "does not fit" in rows[0]["refused"]
    assert "cycles" not in rows[0]


def test_blocks_are_those_of_synthesis() -> None:
    """28 and 39 by `systolith synth`: Yosys removes a block RAM of which nothing is read."""
    area = area_of(TINY)
    assert area.multipliers == 16 + 3 * 4
    assert 39 <= area.block_rams <= 40


def test_front() -> None:
    rows = [
        {"cycles": cycles, "multipliers": multipliers}
        for cycles, multipliers in [(100, 8), (50, 16), (60, 16), (50, 32), (40, 64), (100, 8)]
    ]
    assert front(rows) == [rows[4], rows[1], rows[0], rows[5]]


def test_memory_is_a_cost() -> None:
    row = {"cycles": 50, "multipliers": 16, "block_rams": 40, "loss": 0.1}
    slower = row | {"cycles": 60, "block_rams": 39}
    assert front([row, slower, slower | {"block_rams": 40}]) == [row, slower]


def test_picture_has_every_point(model: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        points = points_of(shapes=[(4, 4), (8, 4)])
        rows = run(model, tmp_path / "sweep.jsonl", points, executor)
    for shown in (rows, rows[:1]):
        root = ElementTree.fromstring(picture(shown, "a <model>"))
        circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
        assert len(circles) == len(shown)
        for circle in circles:
            assert 0 < float(circle.attrib["cx"]) < float(root.attrib["width"])
            assert 0 < float(circle.attrib["cy"]) < float(root.attrib["height"])


def test_models_side_by_side(tmp_path: Path) -> None:
    """Each has its rows; a core that one model does not fit into has none of all together."""
    paths = [tmp_path / "small.onnx", tmp_path / "large.onnx"]
    write_bert(paths[0], BertShape())
    write_bert(paths[1], BertShape(hidden=128, ffn=256))
    memory = tmp_path / "sweep.jsonl"
    points = points_of(scratchpads=[2 << 10, 16 << 10])
    works = [work_of(path, path.stem) for path in paths]
    given = {"memory": memory, "progress": lambda _: None}
    with ThreadPoolExecutor(1) as executor:
        first = sweep(works[:1], points, executor=executor, **given)
        rows = sweep(works, points, executor=executor, **given)
    assert sweep(works[::-1], points, executor=Refusing(), **given) == rows[2:] + rows[:2]
    assert rows[:2] == first
    assert [row["model"] for row in rows] == ["small", "small", "large", "large"]
    assert [row["lanes"] for row in rows] == [4] * 4
    small, large = rows[1], rows[3]
    assert large["cycles"] > small["cycles"]
    both = together(rows)
    fitting = [
        a["key"] for a, b in zip(first, rows[2:], strict=True) if "cycles" in a and "cycles" in b
    ]
    assert [row["key"] for row in both] == fitting
    mean = both[-1]
    assert mean["cycles"] == round((small["cycles"] * large["cycles"]) ** 0.5)
    assert mean["block_rams"] == small["block_rams"]
    assert "dram_bytes" not in mean, "they are of one model"
    with pytest.raises(ValueError, match="names of their own"):
        sweep([works[0]] * 2, points, executor=Refusing(), **given)


@pytest.mark.parametrize("text", ["int8,", "int2", "int8 int4", ""])
def test_formats_that_are_none(model: Path, tmp_path: Path, text: str) -> None:
    given = ["sweep", str(model), "-o", str(tmp_path), "--weights", text]
    assert main(given) == Exit.INPUT


@pytest.mark.parametrize("text", ["", "16", "16x", "x8", "16x8,", "0x4", "16x8x2"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--shapes takes a list such as 16x8"):
        parse_list("--shapes", text, _shape, "16x8,32x16")


def test_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In processes, as users run it."""
    given = ["sweep", str(model), "-o", str(tmp_path), "--preset", "tiny", "--jobs", "2"]
    varied = ["--shapes", "4x4,4x8", "--scratchpads", "16", "--seq-len", "16"]
    assert main([*given, *varied, "--bandwidths", "2,8"]) == Exit.FINE
    assert "not a core: 4x8" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text("utf-8").splitlines()))
    assert [row["bandwidth"] for row in rows] == ["2.0", "8.0"]
    lines = (tmp_path / "sweep.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["cycles"] for line in lines) == sorted(
        int(row["cycles"]) for row in rows
    )
    assert (tmp_path / "pareto-model-16-2.svg").is_file()
    assert main([*given, "--shapes", "3x3"]) == Exit.INPUT
    assert "nothing to measure" in capsys.readouterr().err


def test_command_with_models(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, folder = tmp_path / "model.onnx", tmp_path / "results"
    write_bert(other, BertShape(layers=1))
    given = ["sweep", str(model), str(other), "-o", str(folder), "--preset", "tiny"]
    varied = ["--shapes", "8x4", "--lanes", "2,4", "--scratchpads", "16", "--seq-len", "16"]
    assert main([*given, *varied]) == Exit.FINE
    assert "all models, 16 tokens" in capsys.readouterr().out
    rows = list(csv.DictReader((folder / "sweep.csv").read_text("utf-8").splitlines()))
    assert [row["model"] for row in rows] == [str(model)] * 2 + [str(other)] * 2
    assert [(row["array"], row["lanes"]) for row in rows] == [("8x2", "2"), ("8x4", "4")] * 2
    assert (folder / "pareto-all-models-16-8.svg").is_file()
    assert main([*given, "--tokenizer", "-", "--tokenizer", "-", "--tokenizer", "-"]) == Exit.INPUT
    assert "--tokenizer is given 3 times for 2 models" in capsys.readouterr().err
    assert main([*given[:2], *given[1:]]) == Exit.INPUT
    assert "given twice" in capsys.readouterr().err


def test_formats_are_points_of_their_own(tmp_path: Path) -> None:
    """INT4 takes fewer cycles and loses more; what it loses is measured on the samples."""
    shape = BertShape(hidden=64, heads=2, ffn=256)
    path = tmp_path / "model.onnx"
    write_bert(path, shape)
    points = expand(
        replace(TINY, int4=True, scratchpad_bytes=64 << 10),
        shapes=[],
        scratchpads=[],
        seq_lens=[16],
        bandwidths=[8.0],
        latency=30,
        weights=("int8", "mixed", "int4"),
    )[0]
    with ThreadPoolExecutor(1) as executor:
        int8, mixed, int4 = sweep(
            [work_of(path, samples=make_tokens(shape, [16] * 24, seed=3))],
            points,
            executor=executor,
            memory=tmp_path / "sweep.jsonl",
            progress=lambda _: None,
        )
    assert int8["cycles"] > mixed["cycles"] > int4["cycles"]
    assert 0 < int8["loss"] < mixed["loss"] < int4["loss"] < 0.1
    assert int8["multipliers"] == int4["multipliers"]
    assert front([int8, mixed, int4]) == [int4, mixed, int8]


def test_a_dask_cluster_measures_the_same(model: Path, tmp_path: Path) -> None:
    """Workers in threads of this process: what is tested is the way there and back."""
    distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
    points = points_of(bandwidths=[4.0, 8.0])
    with ThreadPoolExecutor(1) as threads:
        expected = run(model, tmp_path / "here.jsonl", points, threads)
    settings = {"dashboard_address": None, "processes": False, "host": "127.0.0.1"}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, protocol="tcp", **settings
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        with open_executor(address, 1) as executor:
            assert run(model, tmp_path / "there.jsonl", points, executor) == expected


@pytest.mark.parametrize("address", ["dask://", "dask://host", "threads", "tcp://host:1"])
def test_an_executor_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ExecutorError, match="dask://host:port"), open_executor(address, 1):
        pass


def test_a_silent_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    monkeypatch.setattr("systolith.sweep.executors.CONNECTION_TIMEOUT_S", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with (
            pytest.raises(ExecutorError, match=f"no Dask scheduler answers at 127.0.0.1:{port}"),
            open_executor(f"dask://127.0.0.1:{port}", 1),
        ):
            pass
