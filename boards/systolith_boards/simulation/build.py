"""From a board to a program that simulates it."""

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
from systolith_sim.verilator.compile import YOSYS_SCRIPT, Recipe, compile_verilog

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
    package = sorted(Path(__file__).parent.parent.rglob("*.py"))
    recipe = Recipe(
        top="top",
        prefix="Vboard",
        harness=HARNESS,
        shared=False,
        defines=(f"DIVISOR={DIVISOR}",),
    )
    key = recipe.key(described, config, chip, files=[*generator_sources(), *package])

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
        compile_verilog(recipe, [folder / "top.v"], result, announce=announce)

    return toolchain.cached(f"board-{described.name}-{key}", build)
