"""`systolith build`: a bitstream for a board."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from systolith.cli.exits import Exit, UsageError
from systolith.cli.prepare import preset_config
from systolith.cli.routing_options import add_routing_options
from systolith.config import PRESETS
from systolith.host.serial_port import DEFAULT_BAUD
from systolith_boards.boards import BOARDS
from systolith_boards.build import TimingError, build
from systolith_boards.sdram.timing import CHIPS
from systolith_sim.toolchain import announce_on_stderr


def add_parser(commands: Any) -> None:
    """Add the command."""
    lines = "\n".join(
        f"  {board.name:<12} {board.title}, {board.chip.name}, {board.preset} at "
        f"{board.frequency / 1e6:g} MHz"
        for board in BOARDS.values()
    )
    parser = commands.add_parser(
        "build",
        help="make a bitstream for a board: host link, core, memory controller",
        description="Make a bitstream with the tools of the extra `fpga` alone: "
        "PLL, SDRAM controller, UART host link, core, and LEDs that tell its state. Then load it "
        "with `systolith program`, and run models with `--device serial:PORT`.",
        epilog=f"boards, and what is built for them:\n{lines}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--board", required=True, choices=BOARDS, metavar="BOARD", help="see below")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="where BOARD.bit, BOARD.svf and BOARD.json go (default build/BOARD)",
    )
    parser.add_argument("--preset", help=f"another core: {', '.join(PRESETS)}")
    parser.add_argument("--freq", type=float, metavar="MHZ", help="another clock")
    parser.add_argument(
        "--baud", type=int, default=DEFAULT_BAUD, help="of the host link (default %(default)s)"
    )
    parser.add_argument("--chip", choices=CHIPS, help="another memory chip that the board may have")
    add_routing_options(parser)
    parser.add_argument(
        "--allow-slow", action="store_true", help="make a bitstream even if its clock is too fast"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    board = BOARDS[options.board]
    folder = options.output or Path("build", board.name)
    if options.baud < 1:
        raise UsageError("--baud must be positive")
    try:
        facts = build(
            board,
            preset_config(options.preset or board.preset),
            folder,
            frequency=board.frequency if options.freq is None else options.freq * 1e6,
            baud=options.baud,
            chip=CHIPS[options.chip] if options.chip else board.chip,
            seeds=options.seeds,
            nextpnr=options.nextpnr,
            router=options.router,
            refined=options.refined,
            allow_slow=options.allow_slow,
            announce=announce_on_stderr,
        )
    except TimingError as error:
        print(f"systolith: {error}", file=sys.stderr)
        return Exit.DIFFERENT
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.json:
        print(json.dumps(facts))
        return Exit.FINE
    print(f"{folder / board.name}.bit: {board.title}, {facts['device']}")
    print(f"  clock           {facts['clock_mhz']:>10g} MHz")
    for seed, clock in facts["fmax_mhz"].items():
        best = f"; {facts['critical_path']}" if seed == facts["best_seed"] else ""
        print(f"  Fmax, seed {seed:<5}{clock:>10.1f} MHz{best}")
    for name, (used, available) in facts["used"].items():
        print(f"  {name:<16}{used:>10,} of {available:,}")
    print(f"  configuration {facts['configuration_hash']}, {facts['baud']:,} baud")
    print(f"load it: systolith program --board {board.name} {folder / board.name}.bit")
    return Exit.FINE
