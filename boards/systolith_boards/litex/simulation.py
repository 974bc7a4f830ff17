"""The SoC in Verilator: built once for each of its kind, then booted with any program."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from systolith.config import preset
from systolith_boards.litex.firmware import rom_contents
from systolith_boards.litex.soc import ROM_BYTES, ExampleSoc, write_soc
from systolith_sim.toolchain import Announce, cached, generator_sources, version
from systolith_sim.verilator.compile import Recipe, compile_verilog

HARNESS = Path(__file__).with_name("simulation.cpp")

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
    # A program of some thousand instructions is over sooner than a better compilation.
    recipe = Recipe(top="soc", prefix="Vsoc", harness=HARNESS, shared=False, optimize="-O1")
    key = recipe.key(
        options,
        preset(options.preset_name),
        *(version(package) for package in ("litex", "migen", "pythondata-cpu-vexriscv")),
        files=[*generator_sources(), *sorted(Path(__file__).parent.glob("*.py"))],
    )

    def build(result: Path) -> None:
        compile_verilog(recipe, sources, result, announce=announce)

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
