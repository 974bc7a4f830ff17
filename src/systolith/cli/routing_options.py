"""Options of the commands that call nextpnr: seeds, which nextpnr, and how it routes."""

import argparse

from systolith_sim.routing import ROUTERS


def add_routing_options(parser: argparse.ArgumentParser) -> None:
    """Seeds as a list in `seeds`; `nextpnr`, `router` and `refined`."""
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seeds",
        type=_up_to,
        default=[1],
        metavar="N",
        help="try the placer's seeds 1 to N, one on each processor, and keep the fastest "
        "(default 1)",
    )
    seeds.add_argument(
        "--seed",
        dest="seeds",
        type=_seed,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="SEED",
        help="try these seeds instead",
    )
    parser.add_argument(
        "--nextpnr",
        metavar="PROGRAM",
        help="a nextpnr-ecp5 to take instead of yowasp's: one compiled for this machine is about "
        "twice as fast",
    )
    parser.add_argument(
        "--router",
        choices=ROUTERS,
        default=ROUTERS[0],
        help=f"nextpnr's router (default {ROUTERS[0]}; {ROUTERS[1]} ends sooner where cores leave "
        "room, with slower clocks)",
    )
    parser.add_argument(
        "--no-refine",
        dest="refined",
        action="store_false",
        help="leave cells where nextpnr has placed them, and do not move those of slow paths",
    )


def _up_to(text: str) -> list[int]:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seeds: at least 1")
    return list(range(1, int(text) + 1))


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: 0, 1, 2 and so on")
    return int(text)
