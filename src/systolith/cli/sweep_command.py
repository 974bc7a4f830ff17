"""`systolith sweep`: models on many cores, to choose one."""

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
from systolith.cli.inputs import Sample, load_tokenizer
from systolith.cli.options import add_model_options
from systolith.cli.prepare import calibration, parse_buckets, preset_config
from systolith.cli.weights import listed_weights
from systolith.config import ISA_VERSION, NUMERICS_VERSION
from systolith.sweep import Work, expand, front, picture, sweep, together
from systolith.sweep.executors import LOCAL, ExecutorError, open_executor

COLUMNS: tuple[str, ...] = (
    "model",
    "array",
    "lanes",
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
        help="estimate models on many cores",
        description="Compile models for every combination of array, scratchpad, length and "
        "weights, estimate their cycles with every bandwidth, count multipliers and block RAMs, "
        "measure their loss (1 - cosine of the output's tokens to floating point), and write "
        "sweep.csv, and a Pareto picture for each model, length and bandwidth, and for all models "
        "together (geometric mean of cycles, largest loss). What was measured before is "
        "taken from sweep.jsonl in the same folder, so a sweep can be interrupted and extended. "
        "--tokenizer and --calibration are for all models, or given once for each, in their order "
        "('-' for a model without).",
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help=".onnx models")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="results")
    add_model_options(parser, several=True)
    parser.add_argument(
        "--shapes",
        default="8x4,8x8,16x4,16x8,16x16,32x8,32x16",
        metavar="RxC,...",
        help="arrays, rows x columns; the vector engine has a lane for each column "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--lanes",
        metavar="L,...",
        help="lanes of the vector engine: every number of rows in --shapes with each of them, "
        "instead of the columns there",
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
    works = _works(options)
    if options.jobs < 1 or options.latency < 0:
        raise UsageError("--jobs must be at least 1, and --latency must not be negative")
    weights, quantization = listed_weights(options)
    points, refused = expand(
        preset_config(options.preset),
        shapes=_shapes(options),
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
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with (
            open_executor(options.executor, options.jobs) as executor,
            tqdm(total=len(works) * len(points), unit=" points", disable=None) as bar,
        ):
            rows = sweep(
                works,
                points,
                quantization=quantization,
                executor=executor,
                memory=options.output / "sweep.jsonl",
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
            where = f"{row['model']}, {row['array']}, {row['scratchpad_kib']:g} KiB"
            print(f"{where}, {row['seq_len']} tokens: {row['refused']}")
    shown = [*rows, *(together(rows) if len(works) > 1 else [])]
    subjects = [
        (row["model"], row["seq_len"], row["bandwidth"]) for row in shown if "cycles" in row
    ]
    for subject in dict.fromkeys(subjects):
        _show(options.output, *subject, shown)
    print(f"\n{options.output / 'sweep.csv'}: {len(rows)} points")
    return Exit.FINE


def _show(
    folder: Path, model: str, seq_len: int, bandwidth: float, rows: list[dict[str, Any]]
) -> None:
    same = [
        row
        for row in rows
        if "cycles" in row
        and (row["model"], row["seq_len"], row["bandwidth"]) == (model, seq_len, bandwidth)
    ]
    title = f"{model}, {seq_len} tokens, {bandwidth:g} bytes per cycle"
    path = folder / f"pareto-{_file_name(model)}-{seq_len}-{bandwidth:g}.svg"
    path.write_text(picture(same, title), "utf-8")
    print(f"\n{title}: what nothing beats ({path.name})")
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
    return _count(word) << 10


def _count(word: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", word):
        raise ValueError(word)
    return int(word)


def _positive(word: str) -> float:
    value = float(word)
    if not 0 < value < float("inf"):
        raise ValueError(word)
    return value


def _works(options: argparse.Namespace) -> list[Work]:
    """The models with what they are calibrated on.

    Raises:
        UsageError: there is no such file, or another number of tokenizers than of models.
    """
    models: list[Path] = options.models
    for model in models:
        if not model.is_file():
            raise UsageError(f"there is no model {model}")
    if len({model.resolve() for model in models}) < len(models):
        raise UsageError("a model is given twice")
    # Files of different folders may have one name.
    unique = len({model.stem for model in models}) == len(models)
    works = []
    for model, tokenizer, inputs in zip(
        models,
        _for_each(models, "--tokenizer", options.tokenizer),
        _for_each(models, "--calibration", options.calibration),
        strict=True,
    ):
        samples = calibration(inputs, load_tokenizer(tokenizer) if tokenizer else None).samples
        works.append(
            Work(
                name=model.stem if unique else str(model),
                model=model.resolve(),
                samples=samples,
                identity=_identity(model, samples),
            )
        )
    return works


def _for_each(models: list[Path], option: str, given: list[Path] | None) -> list[Path | None]:
    if not given:
        return [None] * len(models)
    files = [None if str(path) == "-" else path for path in given]
    if len(files) == 1:
        return files * len(models)
    if len(files) != len(models):
        raise UsageError(
            f"{option} is given {len(files)} times for {len(models)} models: give it once for all, "
            f"or once for each, in their order ('-' for a model without)"
        )
    return files


def _shapes(options: argparse.Namespace) -> list[tuple[int, int]]:
    shapes = parse_list("--shapes", options.shapes, _shape, "16x8,32x16")
    if options.lanes is None:
        return shapes
    lanes = parse_list("--lanes", options.lanes, _count, "4,8")
    return [(rows, columns) for rows in dict.fromkeys(r for r, _ in shapes) for columns in lanes]


def _file_name(model: str) -> str:
    return re.sub(r"[^\w.-]+", "-", model).strip("-")


def _identity(model: Path, samples: list[Sample] | None) -> str:
    digest = hashlib.sha256(model.read_bytes())
    digest.update(f"{ISA_VERSION} {NUMERICS_VERSION}".encode())
    for sample in samples or []:
        for name, value in sorted(sample.items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]
