"""The commands on images: a trained model, as users would run it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from systolith.cli import bench_command, main
from systolith_sim.vision_models import VitShape

DATA = Path(__file__).parents[1] / "data"
MODEL = str(DATA / "digits_vit.onnx")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three test images, as `--inputs` takes them."""
    path = tmp_path_factory.mktemp("digits") / "images.npz"
    with np.load(DATA / "digits.npz") as file:
        np.savez(path, pixel_values=file["images"][:3, None] / np.float32(16))
    return path


def test_run_classifies_images(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes are shown beside those of the float model; the length is the model's own."""
    arguments = ["run", MODEL, "--inputs", str(images), "--calibration", str(images)]
    assert main([*arguments, "--device", "iss", "--check", "--errors"]) == 0
    shown = capsys.readouterr().out
    with np.load(DATA / "digits.npz") as file:
        labels = file["labels"][:3]
    pairs = " ".join(f"{label}/{label}" for label in labels)
    assert f"largest output of NPU/float, by input: {pairs}\n" in shown
    assert "golden model = instruction simulator" in shown
    assert "17 tokens" in shown
    assert "on the host" not in shown
    assert re.search(r"^embeddings\.patches +\d\d\.\d", shown, re.MULTILINE)


def test_one_image_without_a_batch(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(images) as file:
        np.savez(tmp_path / "one.npz", pixel_values=file["pixel_values"][0])
    arguments = ["run", MODEL, "--inputs", str(tmp_path / "one.npz"), "--device", "iss", "--json"]
    assert main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["inputs"] == 1
    assert figures["cosine"] > 0.99


def test_a_compiled_model_takes_images(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = str(tmp_path / "digits.systolith")
    assert main(["compile", MODEL, "-o", program, "--estimate", "--preset", "tiny"]) == 0
    assert "random images" in capsys.readouterr().out
    output = str(tmp_path / "out.npz")
    arguments = ["run", program, "--inputs", str(images), "--device", "iss", "--preset", "tiny"]
    assert main([*arguments, "--output", output]) == 0
    with np.load(output) as file:
        assert file["logits"].shape == (3, 1, 10)


def test_bench_measures_shapes_of_vision_transformers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = VitShape(image=(3, 16, 16), hidden=32, heads=2, layers=1, ffn=48)
    monkeypatch.setitem(bench_command.VISION, "deit-tiny", small)
    arguments = ["bench", "--models", "deit-tiny", "--preset", "tiny", "--json", "--jobs", "1"]
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["model"], row["seq_len"], row["bit_exact"]) == ("deit-tiny", small.length, True)
    assert 0.3 < row["roofline_fraction"] < 1
    assert row["cosine"] > 0.95


def test_images_of_another_size_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "wide.npz", pixel_values=np.zeros((1, 8, 9)))
    assert main(["run", MODEL, "--inputs", str(tmp_path / "wide.npz"), "--device", "iss"]) != 0
    assert "must have shape [1, 8, 8], but has [1, 8, 9]" in capsys.readouterr().err
