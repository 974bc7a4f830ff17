"""Area and Fmax of one unit on ECP5, out of context: `python scripts/fmax.py affine`.

Pins would limit the clock, so the unit sits in a harness that reaches it through one bit each
way: a shift register feeds its inputs and another collects its outputs. The cell counts are the
unit's own, without the harness; the clock is that of the placed and routed harness, once for
each seed of the placer.
"""

import argparse
from collections.abc import Callable

from amaranth.lib import wiring

from systolith.config import preset
from systolith_boards.sdram.sdram import Sdram
from systolith_boards.sdram.timing import AS4C32M16, SdramTiming
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.memory.scratchpad import Scratchpad
from systolith_rtl.vector.affine import Affine, AffineConfig
from systolith_rtl.vector.row import RowEngine
from systolith_sim.routing import DEVICES, route
from systolith_sim.synthesis import synthesize_in_harness

UNITS: dict[str, Callable[[], wiring.Component]] = {
    "affine": lambda: Affine(AffineConfig()),
    "affine-column": lambda: Affine(AffineConfig(auxiliary=False)),
    "block-ram": lambda: BlockRam(width=128, depth=4096, granularity=8),
    "scratchpad-tiny": lambda: Scratchpad(preset("tiny")),
    "scratchpad-25k": lambda: Scratchpad(preset("ecp5-25k")),
    "scratchpad-85k": lambda: Scratchpad(preset("ecp5-85k")),
    "row": lambda: RowEngine(preset("ecp5-85k")),
    "sdram-tiny": lambda: Sdram(SdramTiming.at(AS4C32M16, 140e6), preset("tiny")),
    "sdram": lambda: Sdram(SdramTiming.at(AS4C32M16, 140e6), preset("ecp5-85k")),
}


def main() -> None:
    """Print a line per unit, and one per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("units", nargs="+", choices=UNITS)
    parser.add_argument("--device", default="25k", choices=DEVICES)
    parser.add_argument("--speed", type=int, default=6, choices=[6, 7, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--target", type=int, default=250, help="MHz asked of nextpnr")
    options = parser.parse_args()
    for name in options.units:
        cells, netlist = synthesize_in_harness(UNITS[name]())
        counts = ", ".join(f"{count} {cell}" for cell, count in sorted(cells.items()))
        print(f"{name}: {counts}", flush=True)
        for seed in options.seeds:
            routed = route(
                netlist,
                device=options.device,
                speed=options.speed,
                seed=seed,
                frequency=options.target,
            )
            print(f"  seed {seed}: {routed.fmax:.1f} MHz; {routed.path}", flush=True)


if __name__ == "__main__":
    main()
