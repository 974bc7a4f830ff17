"""`systolith sweep`: one model on many cores, to choose one."""

import argparse
import csv
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from systolith.cli.exits import Exit, UsageError
from systolith.cli.inputs import load_tokenizer
from systolith.cli.options import add_model_options
from systolith.cli.prepare import Calibration, calibration, parse_buckets, preset_config
from systolith.cli.weights import listed_weights
from systolith.config import ISA_VERSION, NUMERICS_VERSION
from systolith.sweep import expand, front, picture, sweep
from systolith.sweep.executors import LOCAL, ExecutorError, open_executor

COLUMNS: tuple[str, ...] = (
    "array",
    "scratchpad_kib",
    "seq_len",
    "weights",
    "bandwidth",
    "latency",
    "cycles",
    "utilization",
    "roofline_fraction",
    "bound",
    "dram_bytes",
    "multipliers",
    "block_rams",
    "loss",
    "refused",
)
"""Of sweep.csv."""

Value = TypeVar("Value")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sweep",
        help="estimate a model on many cores",
        description="Compile a model for every combination of array, scratchpad, length and "
        "weights, estimate its cycles with every bandwidth, count multipliers and block RAMs, "
        "measure its loss (1 - cosine of the output's tokens to floating point), and write "
        "sweep.csv, and pareto.svg for each length and bandwidth. What was measured before is "
        "taken from sweep.jsonl in the same folder, so a sweep can be interrupted and extended.",
    )
    parser.add_argument("model", type=Path, help="an .onnx model")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="results")
    add_model_options(parser, several=True)
    parser.add_argument(
        "--shapes",
        default="8x4,8x8,16x4,16x8,16x16,32x8,32x16",
        metavar="RxC,...",
        help="arrays, rows x columns (default %(default)s)",
    )
    parser.add_argument(
        "--scratchpads", default="256", metavar="KIB,...", help="KiB (default %(default)s)"
    )
    parser.add_argument(
        "--bandwidths", default="8", metavar="B,...", help="bytes per cycle (default %(default)s)"
    )
    parser.add_argument(
        "--latency", type=int, default=30, metavar="N", help="cycles (default %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes"
    )
    parser.add_argument(
        "--executor",
        default=LOCAL,
        metavar="WHO",
        help=f"{LOCAL} of this machine (default), or dask://host:port of a Dask scheduler; its "
        "workers need the model at the same path (pip install 'systolith[cluster]')",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    if not options.model.is_file():
        raise UsageError(f"there is no model {options.model}")
    if options.jobs < 1 or options.latency < 0:
        raise UsageError("--jobs must be at least 1, and --latency must not be negative")
    weights, quantization = listed_weights(options)
    points, refused = expand(
        preset_config(options.preset),
        shapes=parse_list("--shapes", options.shapes, _shape, "16x8,32x16"),
        scratchpads=parse_list("--scratchpads", options.scratchpads, _kib, "128,256"),
        seq_lens=parse_buckets(options.seq_len),
        bandwidths=parse_list("--bandwidths", options.bandwidths, _positive, "4,8"),
        latency=options.latency,
        weights=weights,
    )
    for reason in refused:
        print(f"not a core: {reason}")
    if not points:
        raise UsageError("nothing to measure: none of these cores can be built")
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
    calibrated = calibration(options.calibration, tokenizer)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with (
            open_executor(options.executor, options.jobs) as executor,
            tqdm(total=len(points), unit=" points", disable=None) as bar,
        ):
            rows = sweep(
                options.model.resolve(),
                calibrated.samples,
                points,
                quantization=quantization,
                executor=executor,
                memory=options.output / "sweep.jsonl",
                identity=_identity(options.model, calibrated),
                progress=bar.update,
            )
    except ExecutorError as error:
        raise UsageError(str(error)) from None
    with (options.output / "sweep.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        if "refused" in row:
            print(f"{row['array']}, {row['scratchpad_kib']:g} KiB: {row['refused']}")
    works = sorted({(row["seq_len"], row["bandwidth"]) for row in rows if "cycles" in row})
    for work in works:
        _show(options.output, options.model.name, *work, rows)
    print(f"\n{options.output / 'sweep.csv'}: {len(rows)} points")
    return Exit.FINE


def _show(
    folder: Path, model: str, seq_len: int, bandwidth: float, rows: list[dict[str, Any]]
) -> None:
    same = [
        row
        for row in rows
        if "cycles" in row and (row["seq_len"], row["bandwidth"]) == (seq_len, bandwidth)
    ]
    title = f"{model}, {seq_len} tokens, {bandwidth:g} bytes per cycle"
    path = folder / f"pareto-{seq_len}-{bandwidth:g}.svg"
    path.write_text(picture(same, title), "utf-8")
    print(f"\n{title}: what nothing beats in cycles, multipliers and loss ({path.name})")
    print(
        "  array    weights  scratchpad        cycles  of roofline  multipliers  block RAMs    loss"
    )
    for row in front(same):
        print(
            f"  {row['array']:<8} {row['weights']:<6} {row['scratchpad_kib']:>7g} KiB "
            f"{row['cycles']:>13,} "
            f"{row['roofline_fraction']:>12.1%} {row['multipliers']:>12,} {row['block_rams']:>11,}"
            + (f" {row['loss']:>7.4f}" if "loss" in row else "")
        )


def parse_list(option: str, text: str, parse: Callable[[str], Value], example: str) -> list[Value]:
    """Values from a list with commas.

    Raises:
        UsageError: one of them is none.
    """
    try:
        return [parse(word.strip()) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes a list such as {example}: {text!r}") from None


def _shape(word: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", word):
        raise ValueError(word)
    rows, columns = word.split("x")
    return int(rows), int(columns)


def _kib(word: str) -> int:
    return int(word) << 10


def _positive(word: str) -> float:
    value = float(word)
    if not 0 < value < float("inf"):
        raise ValueError(word)
    return value


def _identity(model: Path, calibrated: Calibration) -> str:
    digest = hashlib.sha256(model.read_bytes())
    digest.update(f"{ISA_VERSION} {NUMERICS_VERSION}".encode())
    for sample in calibrated.samples or []:
        for name, value in sorted(sample.items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]
