"""`systolith compile`: a model becomes a program file."""

import argparse
import json
from pathlib import Path
from typing import Any

from systolith.cli.exits import Exit, UsageError
from systolith.cli.inputs import load_tokenizer
from systolith.cli.options import add_model_options
from systolith.cli.prepare import (
    PROGRAM_SUFFIX,
    calibration,
    parse_buckets,
    prepare,
    preset_config,
)
from systolith.isa import INSTRUCTION_BYTES


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compile",
        help="compile a model into a program file",
        description="Quantize and compile an ONNX model for one core and one sequence length.",
    )
    parser.add_argument("model", type=Path, help="an .onnx model")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"program to write, by convention {PROGRAM_SUFFIX}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    if options.model.suffix == PROGRAM_SUFFIX:
        raise UsageError(f"{options.model} is compiled already")
    if not options.output.parent.is_dir():
        raise UsageError(f"there is no folder {options.output.parent}")
    buckets = parse_buckets(options.seq_len)
    if len(buckets) != 1:
        raise UsageError("a program file holds one sequence length: give one --seq-len")
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
    program = prepare(
        options.model,
        config=preset_config(options.preset),
        seq_len=buckets[0],
        calibrated=calibration(options.calibration, tokenizer),
        quiet=options.json,
    )
    program.save(options.output)
    facts = {
        "model": program.name,
        "preset": options.preset,
        "seq_len": program.seq_len,
        "weights": program.weights,
        "instructions": len(program.code) // INSTRUCTION_BYTES,
        "image_bytes": len(program.image),
        "macs": program.macs,
        "dram_bytes": program.dram_bytes,
        "host": list(program.host),
        "notes": list(program.notes),
    }
    if options.json:
        print(json.dumps(facts))
        return Exit.FINE
    print(f"{options.output}: {program.name} for {options.preset}, {program.seq_len} tokens")
    print(f"  {facts['instructions']:,} instructions, {len(program.image):,} bytes of parameters")
    print(f"  {program.macs:,} MACs, at least {program.dram_bytes:,} bytes over the memory port")
    for line in program.host:
        print(f"  on the host: {line}")
    for note in program.notes:
        print(f"  note: {note}")
    return Exit.FINE
