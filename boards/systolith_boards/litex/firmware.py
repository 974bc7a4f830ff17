"""Bare-metal programs for the SoC: compiled by ziglang's Clang, as contents of its ROM."""

import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from systolith.c import driver_files, program_files
from systolith.config import preset
from systolith_sim.toolchain import run
from systolith_sim.vectors import small_program, vectors_of

EXAMPLE = Path(__file__).parent / "firmware"
"""A program that others can start from: main.c, what it needs of the board, linker script."""

TARGET = ("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m")
FLAGS = ("-std=c99", "-Os", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra", "-Werror")

_LOAD = 1
_HEADER = struct.Struct("<16x12xI10xHH6x")
_SEGMENT = struct.Struct("<8I")


def self_test(folder: Path, preset_name: str, *, seed: int = 1) -> list[Path]:
    """Write the driver and a small program with vectors; return the C sources."""
    program = small_program(preset(preset_name))
    vectors = vectors_of(program, seed=seed).all
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        **driver_files(),
        **program_files(program, "selftest", vectors=vectors),
    }.items():
        folder.joinpath(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return sorted(folder.glob("*.c"))


def compile_firmware(sources: Iterable[Path], soc: Path, result: Path) -> None:
    """Compile and link a program for a SoC.

    Args:
        sources: C files; headers are found beside them.
        soc: where `write_soc` wrote.
        result: the ELF file to write.

    Raises:
        ToolError: the compiler has something to say, warnings included.
    """
    sources = [each.resolve() for each in sources]
    # The linker looks for regions.ld where it is started.
    generated = soc.resolve() / "generated"
    folders = dict.fromkeys([generated, *(each.parent for each in sources)])
    command = [sys.executable, "-m", "ziglang", "cc", *TARGET, *FLAGS]
    command += [f"-I{folder}" for folder in folders]
    command += [f"-Wl,-T,{EXAMPLE / 'link.ld'}"]
    run([*command, *map(str, sources), "-o", str(result.resolve())], cwd=generated)


def rom_contents(elf: Path, size: int) -> list[int]:
    """The words of a ROM from address 0 on.

    Args:
        elf: a program.
        size: bytes of the ROM.

    Raises:
        ValueError: the program does not fit.
    """
    data = elf.read_bytes()
    first, each, count = _HEADER.unpack_from(data)
    image = bytearray()
    for index in range(count):
        kind, at, _, load, in_file, *_ = _SEGMENT.unpack_from(data, first + index * each)
        if kind != _LOAD or not in_file:
            continue
        if load + in_file > size:
            raise ValueError(f"the program needs {load + in_file} bytes of ROM, which has {size}")
        image.extend(bytes(max(0, load + in_file - len(image))))
        image[load : load + in_file] = data[at : at + in_file]
    image.extend(bytes(-len(image) % 4))
    return [word for (word,) in struct.iter_unpack("<I", image)]
