"""The command line, as users and scripts meet it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from systolith.cli import Exit, main
from systolith_sim.models import BertShape, make_tokens, write_bert

SHAPE = BertShape()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its inputs and calibration inputs."""
    path = tmp_path_factory.mktemp("cli")
    write_bert(path / "model.onnx", SHAPE)
    for name, seed, count in (("inputs", 1, 2), ("calibration", 2, 8)):
        samples = make_tokens(SHAPE, [12] * count, seed=seed)
        np.savez(
            path / f"{name}.npz",
            **{key: np.stack([each[key] for each in samples]) for key in samples[0]},
        )
    return path


def arguments(folder: Path, *extra: str) -> list[str]:
    return [
        "run",
        str(folder / "model.onnx"),
        "--inputs",
        str(folder / "inputs.npz"),
        "--calibration",
        str(folder / "calibration.npz"),
        "--seq-len",
        "16",
        *extra,
    ]


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are cached beside the model; simulators where they always are."""
    monkeypatch.setattr("systolith.cli.prepare.cache_folder", lambda: folder / "cache")


def test_run_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(arguments(folder, "--device", "iss", "--check", "--json"))
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert code == Exit.FINE
    assert captured.out.count("\n") == 1
    assert result["bit_exact"] is True
    assert result["cosine"] > 0.99
    assert result["seq_len"] == 16
    assert (result["model"], result["preset"], result["device"]) == ("model", "ecp5-85k", "iss")
    assert result["weights"] == "int8"
    # An instruction simulator has no time: what was not measured is null.
    assert result["engines"] is None
    assert result["cycles"] is None
    assert result["utilization"] is None
    assert result["dram_bytes"] is None
    assert result["macs"] == 16 * (4 * 64 * 64 + 2 * 64 * 128) + 2 * 16 * 16 * 64
    assert result["wall_s"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "iss", "--trace", "waves.vcd"], "--trace needs --device verilator"),
        (["--trace", "waves.fst"], "name the file .vcd, not 'waves.fst'"),
    ],
)
def test_waveforms_that_cannot_be_had(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(arguments(folder, *options)) == Exit.INPUT
    assert message in capsys.readouterr().err


def test_run_on_the_verilated_core(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "report"
    code = main(arguments(folder, "--preset", "tiny", "--check", "--json", "--report", str(report)))
    result = json.loads(capsys.readouterr().out)
    assert code == Exit.FINE
    assert result["bit_exact"] is True
    assert 0 < result["utilization"] < 1
    assert result["utilization"] <= result["roofline_fraction"] < 1
    assert result["cycles"] > result["macs"] / 16
    written = json.loads((report / "report.json").read_text())
    assert written["cycles"] == result["cycles"]
    assert written["roofline"]["bound"] == "compute"
    assert "| cycles |" in (report / "report.md").read_text()
    # Of each engine, every cycle has one place, and the files say the same.
    for engine in result["engines"].values():
        total = engine["working"] + sum(engine["stalled"].values()) + engine["idle"]
        assert total == pytest.approx(result["cycles"])
    (first, *_) = written["runs"]
    figures = json.loads((report / "perf.json").read_text())
    assert figures["source"] == "verilator"
    assert figures["cycles"] == first["counters"]["cycles"]
    stalled = figures["measured"]["engines"]["VECTOR"]["stalled"]
    assert stalled == first["counters"]["stalls"]["vector"]
    assert stalled["input"] > 0
    assert "stalled: dram" in (report / "report.html").read_text("utf-8")
    assert "verilator,VECTOR,input," in (report / "engines.csv").read_text()


def test_run_shows_cosines_levels_and_host_parts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, "--device", "iss", "--check")) == Exit.FINE
    text = capsys.readouterr().out
    assert "bit-exact: golden model = instruction simulator" in text
    assert "cosine of NPU and float, by input: 0.99" in text
    assert "on the host: prologue" in text


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_compared_with_the_float_models_tokens(
    folder: Path, capsys: pytest.CaptureFixture[str], pooling: str
) -> None:
    options = ("--pooling", pooling, "--normalize", "--output", str(folder / "sentence.npz"))
    assert main(arguments(folder, "--device", "iss", "--check", *options)) == Exit.FINE
    shown = capsys.readouterr().out
    assert "on the core: " in shown
    assert "epilogue" not in shown
    cosines = re.findall(r"cosine of NPU and float, by input: (.*)", shown)
    assert [float(each) > 0.99 for each in cosines[0].split()] == [True, True]
    with np.load(folder / "sentence.npz") as file:
        (sentences,) = (file[name] for name in file.files)
    assert sentences.shape == (2, 1, SHAPE.hidden)
    np.testing.assert_allclose(np.linalg.norm(sentences, axis=-1), 1, rtol=1e-3)


def test_normalizing_without_pooling_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, "--normalize")) == Exit.INPUT
    assert "--normalize is for pooling mean or cls" in capsys.readouterr().err


def test_run_lists_errors_by_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder, "--device", "iss", "--errors")) == Exit.FINE
    text = capsys.readouterr().out
    assert "SNR dB" in text
    assert text.count("\n") > 10


def test_outputs_are_written(folder: Path) -> None:
    path = folder / "out.npz"
    assert main(arguments(folder, "--device", "iss", "--output", str(path))) == Exit.FINE
    with np.load(path) as file:
        assert file["last_hidden_state"].shape == (2, 1, 12, 64)


def test_compile_then_run_the_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = folder / "model.systolith"
    compiling = ["compile", str(folder / "model.onnx"), "-o", str(program), "--seq-len", "16"]
    assert main([*compiling, "--preset", "tiny", "--json"]) == Exit.FINE
    facts = json.loads(capsys.readouterr().out)
    assert any("random tokens" in note for note in facts["notes"])
    running = ["run", str(program), "--inputs", str(folder / "inputs.npz"), "--device", "iss"]
    assert main([*running, "--preset", "tiny", "--json", "--check"]) == Exit.FINE
    result = json.loads(capsys.readouterr().out)
    assert result["bit_exact"] is True
    assert result["cosine"] is None
    assert main([*running, "--preset", "ecp5-85k"]) == Exit.INPUT
    assert "compiled for another core" in capsys.readouterr().err


def test_estimate_is_what_the_rtl_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = ["--preset", "tiny", "--json", "--bandwidth", "4", "--latency", "50"]
    compiling = ["compile", str(folder / "model.onnx"), "--seq-len", "16", "--estimate"]
    calibrated = ["--calibration", str(folder / "calibration.npz")]
    assert main([*compiling, *calibrated, *memory]) == Exit.FINE
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert main(arguments(folder, *memory)) == Exit.FINE
    measured = json.loads(capsys.readouterr().out)
    assert estimate["cycles"] == pytest.approx(measured["cycles"], rel=0.01)
    assert estimate["roofline_fraction"] == pytest.approx(measured["roofline_fraction"], rel=0.01)


def test_report_writes_page_figures_table_and_trace(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = folder / "profile"
    given = ["report", str(folder / "model.onnx"), "-o", str(target), "--preset", "tiny"]
    assert main([*given, "--seq-len", "16", "--json"]) == Exit.FINE
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((target / "perf.json").read_text())
    assert f"{figures['cycles']:,}" in (target / "report.html").read_text("utf-8")
    assert (target / "layers.csv").read_text().count("\n") == 1 + len(figures["layers"])
    assert json.loads((target / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["run", "none.onnx", "--inputs", "x.npz"], "there is no file x.npz"),
        (["run", "none.onnx"], "nothing to run: give --inputs FILE or --text SENTENCE"),
        (["run", "m.onnx", "--text", "hello"], "--text needs the model's tokenizer.json"),
        (["verilog", "--preset", "huge", "-o", "x.v"], "there is no preset 'huge'; there are tiny"),
        (["verilog", "-o", "/none/x.v"], "there is no folder /none"),
        (["report", "x.onnx", "-o", "y", "--seq-len", "16,32"], "one sequence length"),
        (["report", "x.onnx", "-o", "y", "--bandwidth", "0"], "--bandwidth must be more than 0"),
        (["compile", "x.onnx"], "nothing to do: give -o FILE, or --estimate"),
        (["compile", "x.onnx", "-o", "y", "--seq-len", "a"], "--seq-len takes a length"),
        (["compile", "x.onnx", "-o", "y", "--seq-len", "0"], "--seq-len takes a length"),
        (["compile", "x.onnx", "-o", "y"], "there is no model x.onnx"),
    ],
    ids=str,
)
def test_wrong_use_is_named(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == Exit.INPUT
    assert message in capsys.readouterr().err


def test_a_corrupt_model_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = folder / "broken"
    broken.mkdir()
    (broken / "broken.onnx").write_bytes(b"\x00nonsense")
    running = ["run", str(broken / "broken.onnx"), "--inputs", str(folder / "inputs.npz")]
    assert main([*running, "--device", "iss"]) == Exit.INPUT
    assert "broken" in capsys.readouterr().err


def test_inputs_longer_than_the_bucket_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = ["run", str(folder / "model.onnx"), "--inputs", str(folder / "inputs.npz")]
    assert main([*running, "--seq-len", "4,8", "--device", "iss"]) == Exit.INPUT
    assert "an input has 12 tokens, and --seq-len allows up to 8" in capsys.readouterr().err


def test_lookup_on_the_core(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--device", "iss", "--check", "--embedding", "npu")
    assert main(arguments(folder, *options)) == Exit.FINE
    shown = capsys.readouterr().out
    assert "note: token lookup on the core: 100 rows of 64" in shown
    assert re.search(r"on the host: prologue: (?!.*Gather)", shown)
    cosines = re.findall(r"cosine of NPU and float, by input: (.*)", shown)
    assert all(float(each) > 0.99 for each in cosines[0].split())


def test_pooling_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--json"]) == Exit.FINE
    listed = json.loads(capsys.readouterr().out)
    assert "the mean of the valid ones" in listed["systolith::Pooling"][0]
    assert "token lookup" in listed["systolith::Embedding"][0]


def test_ops_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops"]) == Exit.FINE
    text = capsys.readouterr().out
    assert "LayerNormalization" in text
    assert main(["ops", "--json"]) == Exit.FINE
    assert "LayerNormalization" in json.loads(capsys.readouterr().out)


def test_the_module_is_a_command_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "systolith", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "start with `systolith demo`" in done.stdout


@pytest.mark.parametrize("weights", ["int4", "mixed"])
def test_int4_runs_on_the_verilated_core(
    folder: Path, capsys: pytest.CaptureFixture[str], weights: str
) -> None:
    options = ["--preset", "tiny", "--weights", weights, "--check", "--json"]
    assert main(arguments(folder, *options)) == Exit.FINE
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == weights
    assert result["bit_exact"] is True


def test_what_was_chosen_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "tiny", "--seq-len", "16", "--weights", "mixed", "--max-bytes", "80%"]
    target = folder / "mixed.systolith"
    assert main(["compile", str(folder / "model.onnx"), *options, "-o", str(target)]) == Exit.FINE
    said = capsys.readouterr().out
    rows = re.findall(r"^  layer\.0 +\S+ +([48]) +[\d,]+ +\d\.\d\de-\d+$", said, re.MULTILINE)
    assert set(rows) == {"4", "8"}
    share = re.search(r"([\d.]+)% of those in int8", said)
    assert share is not None
    assert float(share[1]) <= 80.0


@pytest.mark.parametrize(
    "given",
    [
        ["--weights", "int8", "--max-bytes", "70%"],
        ["--weights", "mixed", "--max-bytes", "0%"],
        ["--weights", "mixed", "--max-bytes", "much"],
        ["--weights", "mixed", "--max-loss", "-1"],
        ["--weights", "mixed", "--max-bytes", "20%"],
    ],
)
def test_limits_that_make_no_sense_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    options = ["--preset", "tiny", "--seq-len", "16", "-o", str(folder / "none.systolith")]
    assert main(["compile", str(folder / "model.onnx"), *options, *given]) == Exit.INPUT
    assert "max" in capsys.readouterr().err
