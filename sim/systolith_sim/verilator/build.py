"""From a design to a shared library: RTLIL, Yosys, and what `compile` does."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from systolith_sim import toolchain
from systolith_sim.toolchain import Announce
from systolith_sim.verilator.compile import YOSYS_SCRIPT, Recipe, compile_verilog
from systolith_sim.verilator.design import Design, to_rtlil

HARNESS = Path(__file__).with_name("harness.cpp")
REHEARSAL = Path(__file__).with_name("rehearsal.py")


def library(design: Design, *, traced: bool, announce: Announce) -> Path:
    """Return the shared library that simulates `design`, building it if the cache has none.

    Args:
        design: what to simulate.
        traced: whether it can write waveforms, which makes it slower even when it does not.
        announce: told what takes its time.

    Raises:
        ToolError: a tool is missing or failed.
    """
    recipe = Recipe(
        top="top",
        prefix="Vcore",
        harness=HARNESS,
        shared=True,
        defines=("PROBED",) * design.probed,
        traced=traced,
    )
    key = recipe.key(design.key, design.rehearsal, files=[REHEARSAL, Path(__file__)])
    variant = "-".join(
        ["verilator", design.name, *["probed"] * design.probed, *["traced"] * traced]
    )

    def build(result: Path) -> None:
        announce(f"building simulator {variant}: elaborating")
        folder = result.parent
        Path(folder, "top.il").write_text(to_rtlil(design.make()))
        announce(f"building simulator {variant}: Yosys")
        toolchain.yosys(YOSYS_SCRIPT, cwd=folder, announce=announce)

        def rehearse() -> None:
            assert design.rehearsal is not None
            facts = json.dumps(asdict(design.rehearsal))
            toolchain.run([sys.executable, str(REHEARSAL), str(result), facts], cwd=folder)

        compile_verilog(
            recipe,
            [folder / "top.v"],
            result,
            announce=announce,
            rehearse=rehearse if design.rehearsal and not traced else None,
        )
        announce(f"building simulator {variant}: done")

    return toolchain.cached(f"{variant}-{key}.so", build)
