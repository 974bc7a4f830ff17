"""`systolith verilog`: the core as one Verilog file."""

import argparse
from pathlib import Path
from typing import Any

from systolith.cli.exits import Exit, UsageError
from systolith.cli.options import DEFAULT_PRESET
from systolith.cli.prepare import preset_config
from systolith.config import PRESETS


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verilog",
        help="export the core as one Verilog file",
        description="Write the core as one self-contained Verilog-2005 file with AXI4 and "
        "AXI4-Lite ports: clk, rst, s_axil_*, m_axi_*, irq. The file is yours.",
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help=f"the core: {', '.join(PRESETS)} (default {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="file to write"
    )
    parser.add_argument(
        "--module", help="name of the module (default systolith_ and the preset's name)"
    )
    parser.add_argument(
        "--bench",
        type=Path,
        metavar="FILE",
        help="write a test bench, too, plain Verilog that runs a small program and prints PASS",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    # Amaranth and Yosys take a second to start, which other commands need not pay.
    from systolith_rtl.export import to_verilog

    config = preset_config(options.preset)
    for path in filter(None, (options.output, options.bench)):
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}")
    name = options.module or f"systolith_{options.preset.replace('-', '_')}"
    try:
        text = to_verilog(config, name=name)
    except ValueError as error:
        raise UsageError(f"{error}; give another one by --module") from None
    options.output.write_text(text, "utf-8")
    lines = text.count("\n")
    print(f"{options.output}: module {name}, {lines:,} lines, configuration {config.hash:016x}")
    if options.bench is not None:
        from systolith_sim.bench import verilog_bench
        from systolith_sim.vectors import small_program, vectors_of

        program = small_program(config)
        text = verilog_bench(program, vectors_of(program), core=name)
        options.bench.write_text(text, "utf-8")
        print(f"{options.bench}: module {name}_bench, prints PASS or ends with an error")
    return Exit.FINE
