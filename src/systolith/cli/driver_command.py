"""`systolith driver`: the C driver, and programs as C sources."""

import argparse
import re
from pathlib import Path
from typing import Any

from systolith.c import driver_files, program_files
from systolith.cli.exits import Exit, UsageError
from systolith.cli.prepare import preset_config
from systolith.config import PRESETS
from systolith.program import Program


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "driver",
        help="write the C driver, and programs as C sources",
        description="Write systolith.h, systolith_driver.h and systolith_driver.c, freestanding "
        "C99, into a folder; with a program, also NAME.h and NAME.c, which define it for the "
        "driver. The files are yours.",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--program", type=Path, metavar="FILE", help="a program that `systolith compile` wrote"
    )
    source.add_argument(
        "--self-test",
        metavar="PRESET",
        help=f"a small program with vectors, to bring up a system: {', '.join(PRESETS)}",
    )
    parser.add_argument(
        "--name", help="of the variable and its files (default the program's, or selftest)"
    )
    parser.add_argument(
        "--vectors",
        action="store_true",
        help="add random inputs, and the outputs that the instruction simulator makes of them",
    )
    parser.add_argument("--seed", type=int, default=1, help="of these inputs (default 1)")
    parser.add_argument(
        "--incbin",
        action="store_true",
        help="put code and parameters into NAME.bin, which NAME.S includes: for large programs",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    files: dict[str, str | bytes] = {**driver_files()}
    lines = [f"{options.output}: driver of the core's registers, C99"]
    program = _program(options)
    if program is not None:
        # The compiler and the simulator take a second to start.
        from systolith_sim.vectors import vectors_of

        wanted = options.vectors or options.self_test
        vectors = vectors_of(program, seed=options.seed).all if wanted else None
        name = options.name or re.sub(r"\W", "_", program.name)
        try:
            files |= program_files(program, name, vectors=vectors, incbin=options.incbin)
        except ValueError as error:
            raise UsageError(f"{error}; give one by --name") from None
        size = sum(program.base_bytes.values())
        lines.append(
            f"  {name}: {len(program.code):,} bytes of instructions, {len(program.image):,} of "
            f"parameters, {size:,} of memory in all, configuration {program.config.hash:016x}"
        )
    elif options.vectors or options.name or options.incbin:
        raise UsageError("--vectors, --name and --incbin need --program or --self-test")
    options.output.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        options.output.joinpath(file).write_bytes(data)
    print("\n".join(lines))
    return Exit.FINE


def _program(options: argparse.Namespace) -> Program | None:
    if options.program is not None:
        return Program.load(options.program)
    if options.self_test is not None:
        from systolith_sim.vectors import small_program

        return small_program(preset_config(options.self_test))
    return None
