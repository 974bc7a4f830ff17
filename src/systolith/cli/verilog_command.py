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
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    # Amaranth and Yosys take a second to start, which other commands need not pay.
    from systolith_rtl.export import to_verilog

    config = preset_config(options.preset)
    if not options.output.parent.is_dir():
        raise UsageError(f"there is no folder {options.output.parent}")
    name = f"systolith_{options.preset.replace('-', '_')}"
    text = to_verilog(config, name=name)
    options.output.write_text(text, "utf-8")
    lines = text.count("\n")
    print(f"{options.output}: module {name}, {lines:,} lines, configuration {config.hash:016x}")
    return Exit.FINE
