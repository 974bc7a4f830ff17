"""`systolith report`: where the cycles of a model go, estimated, or measured on the RTL."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from systolith.cli.exits import Exit
from systolith.cli.options import (
    DeviceOptions,
    add_memory_options,
    add_model_options,
    memory_of,
    opened,
    say_expected_time,
)
from systolith.cli.parallel import Run, run_all
from systolith.cli.prepare import prepare_one
from systolith.cli.report import FILES, write_profile
from systolith.program import Program
from systolith.report import Measured, profile
from systolith_sim.devices import DEVICES

TIMED = [name for name in DEVICES if name != "iss"]
"""Devices that count cycles."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="show where the cycles of a model go",
        description="Estimate when each engine does what, and write report.html (roofline, "
        "timeline, engines, layers, what to change), perf.json, layers.csv, engines.csv, and "
        "trace.json for ui.perfetto.dev. Without --device, nothing is simulated: it takes seconds.",
    )
    parser.add_argument("model", type=Path, help="an .onnx model, or a compiled .systolith program")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to"
    )
    parser.add_argument(
        "--device",
        choices=TIMED,
        help="run the program there, on zeros, which take as long as anything else: cycles, bytes, "
        "and why engines stand still are then the core's own counts, beside the estimate",
    )
    parser.add_argument("--json", action="store_true", help="print perf.json too, in one line")
    add_model_options(parser)
    add_memory_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    memory = memory_of(options)
    program = prepare_one(options, "a report is of one sequence length")
    measured = _measure(program, options) if options.device else None
    figures = write_profile(options.output, profile(program, memory, measured=measured))
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"{program.name}, {program.seq_len} tokens: {figures['cycles']:,} cycles "
            f"({figures['source']}), {figures['roofline_fraction']:.1%} of the roofline\n"
            f"{options.output / FILES[0]}"
        )
    return Exit.FINE


def _measure(program: Program, options: argparse.Namespace) -> Measured:
    """Run a program once, with all tokens valid."""
    chosen = DeviceOptions(
        name=options.device, bandwidth=options.bandwidth, latency=options.latency, trace=None
    )
    zeros = {each.name: np.zeros((each.rows, each.columns), each.dtype) for each in program.inputs}
    once = Run(padded={}, length=program.seq_len, codes=zeros)
    quiet = options.json
    with opened(chosen, program.config, inputs=1, check=False, quiet=quiet) as devices:
        say_expected_time(program, devices, 1)
        run_all(program, devices, [once], watch=False, quiet=quiet)
    return Measured(device=options.device, counters=once.counters)
