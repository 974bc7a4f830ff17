"""`systolith compile`: a model becomes a program file."""

import argparse
import json
from pathlib import Path
from typing import Any

from systolith.cli.exits import Exit, UsageError
from systolith.cli.options import add_memory_options, add_model_options, memory_of
from systolith.cli.prepare import PROGRAM_SUFFIX, prepare_one
from systolith.cli.weights import precision_table
from systolith.compiler.estimate import estimate
from systolith.host.figures import roofline, roofline_fraction, utilization
from systolith.isa import INSTRUCTION_BYTES
from systolith.program import Program


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
        metavar="FILE",
        help=f"program to write, by convention {PROGRAM_SUFFIX}",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="tell how many cycles the program takes, without simulating it",
    )
    add_memory_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    if options.model.suffix == PROGRAM_SUFFIX:
        raise UsageError(f"{options.model} is compiled already")
    if options.output is None and not options.estimate:
        raise UsageError("nothing to do: give -o FILE, or --estimate")
    if options.output is not None and not options.output.parent.is_dir():
        raise UsageError(f"there is no folder {options.output.parent}")
    program = prepare_one(options, "a program file holds one sequence length")
    if options.output is not None:
        program.save(options.output)
    facts: dict[str, Any] = {
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
        "precision": [dict(row) for row in program.precision],
    }
    if options.estimate:
        facts["estimate"] = _estimate(program, options)
    if options.json:
        print(json.dumps(facts))
        return Exit.FINE
    name = options.output or "not saved"
    print(f"{name}: {program.name} for {options.preset}, {program.seq_len} tokens")
    print(f"  {facts['instructions']:,} instructions, {len(program.image):,} bytes of parameters")
    print(f"  {program.macs:,} MACs, at least {program.dram_bytes:,} bytes over the memory port")
    for line in program.host:
        print(f"  on the host: {line}")
    for note in program.notes:
        print(f"  note: {note}")
    if program.weights == "mixed":
        print("  weights, and what each would lose in int4 alone:")
        print(precision_table(program))
    if options.estimate:
        figures = facts["estimate"]
        print(
            f"  estimate: {figures['cycles']:,} cycles at {figures['bandwidth']:g} bytes per cycle "
            f"and {figures['latency']} cycles of latency"
        )
        print(
            f"  {figures['utilization']:.1%} of {program.macs_per_cycle:.4g} MACs per cycle, "
            f"{figures['roofline_fraction']:.1%} of the roofline ({figures['bound']}-bound)"
        )
    return Exit.FINE


def _estimate(program: Program, options: argparse.Namespace) -> dict[str, Any]:
    """What the program will take, and how far that is from the least it could."""
    cycles = estimate(program.code, program.config, memory_of(options)).cycles
    return {
        "cycles": cycles,
        "bandwidth": options.bandwidth,
        "latency": options.latency,
        "utilization": utilization(program, cycles),
        "roofline_fraction": roofline_fraction(program, cycles, options.bandwidth),
        "bound": roofline(program, options.bandwidth).bound,
    }
