"""`python -m systolith_boards.litex`: an example SoC with a core, written out or simulated."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from systolith.config import PRESETS
from systolith_boards.litex.firmware import EXAMPLE, compile_firmware, self_test
from systolith_boards.litex.simulation import MAX_CYCLES, SocOptions, boot, simulator
from systolith_boards.litex.soc import write_soc
from systolith_rtl.export import ExportError
from systolith_sim.toolchain import ToolError, announce_on_stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    if not options.verbose:
        logging.disable(logging.INFO)  # LiteX tells what it does, in some hundred lines
    soc = SocOptions(
        preset_name=options.preset, cpu_variant=options.cpu_variant, bus_standard=options.bus
    )
    try:
        if options.command == "generate":
            return _generate(soc, options.output)
        with tempfile.TemporaryDirectory() as scratch:
            return _simulate(soc, options.output or Path(scratch), options)
    except (ToolError, ExportError, ValueError) as error:
        print(f"systolith_boards.litex: {error}", file=sys.stderr)
        return 3


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--preset", choices=PRESETS, default="tiny", help="the core (default tiny)")
    common.add_argument(
        "--cpu-variant",
        default="standard",
        choices=["lite", "standard", "full"],
        help="of VexRiscv (default standard, which has two caches; lite has one, of instructions)",
    )
    common.add_argument(
        "--bus",
        choices=["wishbone", "axi-lite", "axi"],
        default="wishbone",
        help="of the SoC (default wishbone, as LiteX's)",
    )
    common.add_argument("--verbose", action="store_true", help="show what LiteX says")
    parser = argparse.ArgumentParser(
        prog="python -m systolith_boards.litex",
        description="A LiteX SoC with a VexRiscv processor and a Systolith core. To put the core "
        "into a SoC of yours, call systolith_boards.litex.add_systolith.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    generate = commands.add_parser(
        "generate",
        parents=[common],
        help="write the SoC",
        description="Write soc.v, csr.csv, csr.json, C headers and linker regions into a folder. "
        "sources.txt lists all Verilog files.",
    )
    generate.add_argument("-o", "--output", type=Path, metavar="DIR", required=True)
    simulate = commands.add_parser(
        "simulate",
        parents=[common],
        help="boot a bare-metal program on the SoC in Verilator",
        description="Compile a C program, boot it on the simulated SoC, and print what it says on "
        "the UART. It ends the simulation by sending byte 4, or byte 21 if it failed.",
    )
    simulate.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to keep everything in"
    )
    simulate.add_argument(
        "--firmware",
        type=Path,
        default=EXAMPLE,
        metavar="DIR",
        help="C sources (default the example, which runs a program on the core, also after "
        f"faults: {EXAMPLE})",
    )
    simulate.add_argument(
        "--max-cycles",
        type=int,
        default=MAX_CYCLES,
        metavar="N",
        help=f"when to end in any case (default {MAX_CYCLES:,})",
    )
    return parser


def _generate(soc: SocOptions, output: Path) -> int:
    sources = write_soc(soc.make(), output)
    print(f"{output}: SoC with {soc.preset_name}; Verilog:")
    for source in sources:
        print(f"  {source}")
    return 0


def _simulate(soc: SocOptions, output: Path, options: argparse.Namespace) -> int:
    folder, elf = output / "soc", output / "firmware.elf"
    program = simulator(soc, folder, announce=announce_on_stderr)
    sources = sorted(options.firmware.glob("*.c"))
    if not sources:
        raise ValueError(f"there is no C file in {options.firmware}")
    compile_firmware([*sources, *self_test(output / "driver", soc.preset_name)], folder, elf)
    done = boot(program, folder, elf, max_cycles=options.max_cycles)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
