"""Accuracy of the small vision transformer in tests/data: float against integers, image by image.

    python scripts/digits.py [--weights int8,int4] [--preset ecp5-85k]

Integers are those of the bit-exact golden model, from the host's rounding of the image to the
class with the largest logit. `scripts/train_digits.py` made the model and the images.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, get_args

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # The matrices are small.

import numpy as np
import onnxruntime as ort
from tqdm import tqdm

from systolith.compiler import compile_model
from systolith.compiler.graph_file import from_bytes
from systolith.compiler.options import QuantizeOptions, WeightFormat
from systolith.config import PRESETS
from systolith.host.inference import HostParts
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.vision_models import VitShape

DATA = Path(__file__).parents[1] / "tests" / "data"

SHAPE = VitShape(
    image=(1, 8, 8), patch=(2, 2), hidden=48, heads=3, layers=3, ffn=96, classes=10, seed=1
)
"""The model."""

WHITE = 16
"""The brightest pixel of the file; the model takes images from 0 to 1."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", default="int8,int4", help=", ".join(get_args(WeightFormat)))
    parser.add_argument("--preset", choices=PRESETS, default="ecp5-85k")
    parser.add_argument("--images", type=int, default=0, help="test images; 0 for all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = run(options.weights.split(","), options.preset, options.images)
    if options.json:
        print(json.dumps({"runs": rows}))
        return
    print(f"{'weights':>8}{'images':>8}{'right':>10}{'from float':>12}{'other class':>13}")
    for row in rows:
        print(
            f"{row['weights']:>8}{row['images']:>8}{row['accuracy']:>8.2f} %"
            f"{row['accuracy'] - rows[0]['accuracy']:>+12.2f}{row['changed']:>13}"
        )


def load_images(name: str) -> list[dict[str, np.ndarray]]:
    """Images of the file as inputs of the model."""
    with np.load(DATA / "digits.npz") as file:
        images = file[name]
    return [{"pixel_values": image[None] / np.float32(WHITE)} for image in images]


def load_labels() -> np.ndarray:
    """Which digits the test images show."""
    with np.load(DATA / "digits.npz") as file:
        return file["labels"]


def run(formats: list[str], preset: str, count: int = 0) -> list[dict[str, Any]]:
    """Classify the test images in floating point and with each format of weights.

    Returns:
        For floating point and for each format `weights`, `images`, `accuracy` in percent, and
        `changed`: images that are given another class than in floating point.
    """
    samples = load_images("images")
    samples = samples[: count or len(samples)]
    labels = load_labels()[: len(samples)]
    model = DATA / "digits_vit.onnx"
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    stacked = np.stack([sample["pixel_values"] for sample in samples])
    exact = np.argmax(np.asarray(session.run(None, {"pixel_values": stacked})[0]), 1)
    rows = [_row("float", exact, exact, labels)]
    for weights in formats:
        program = compile_model(
            model,
            config=PRESETS[preset],
            calibration=load_images("calibration"),
            options=QuantizeOptions(weights=weights),  # pyright: ignore[reportArgumentType]
        )
        host, graph = HostParts(program), from_bytes(program.graph)
        found = []
        for sample in tqdm(samples, desc=weights, leave=False):
            padded, length = host.pad(sample)
            values = run_qgraph(graph, host.prologue(padded), length)
            logits = host.epilogue(values, padded, length)["logits"]
            found.append(int(np.argmax(logits)))
        rows.append(_row(weights, np.array(found), exact, labels))
    return rows


def _row(weights: str, found: np.ndarray, exact: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return {
        "weights": weights,
        "images": len(labels),
        "accuracy": 100 * float((found == labels).mean()),
        "changed": int((found != exact).sum()),
    }


if __name__ == "__main__":
    main()
