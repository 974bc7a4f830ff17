"""`systolith report`: where the cycles of a model go, without simulating it."""

import argparse
import json
from pathlib import Path
from typing import Any

from systolith.cli.exits import Exit
from systolith.cli.options import add_memory_options, add_model_options, memory_of
from systolith.cli.prepare import prepare_one
from systolith.report import layer_table, performance, profile, render, trace

FILES = ("report.html", "perf.json", "layers.csv", "trace.json")
"""What is written."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="show where the cycles of a model go",
        description="Estimate when each engine does what, and write report.html (roofline, "
        "timeline, engines, layers, what to change), perf.json, layers.csv, and trace.json for "
        "ui.perfetto.dev. Nothing is simulated: it takes seconds.",
    )
    parser.add_argument("model", type=Path, help="an .onnx model, or a compiled .systolith program")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to"
    )
    parser.add_argument("--json", action="store_true", help="print perf.json too, in one line")
    add_model_options(parser)
    add_memory_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    memory = memory_of(options)
    program = prepare_one(options, "a report is of one sequence length")
    measured = profile(program, memory)
    figures = performance(measured)
    options.output.mkdir(parents=True, exist_ok=True)
    texts = (
        render(measured),
        json.dumps(figures, indent=2) + "\n",
        layer_table(measured),
        json.dumps(trace(measured)) + "\n",
    )
    for name, text in zip(FILES, texts, strict=True):
        (options.output / name).write_text(text, "utf-8")
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"{program.name}, {program.seq_len} tokens: {figures['cycles']:,} cycles, "
            f"{figures['roofline_fraction']:.1%} of the roofline\n{options.output / FILES[0]}"
        )
    return Exit.FINE
