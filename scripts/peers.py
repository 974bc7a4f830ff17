"""Cycles of other cores on MiniLM-L6, as their own tools estimate them: `python scripts/peers.py`.

    python scripts/peers.py [--seq-len 32,128] [--work DIR] [--json] [scalesim|vela ...]

SCALE-Sim models a 16x8 systolic array, output- and weight-stationary, and the matmuls alone. Vela
estimates a whole encoder on Ethos-U85-128, with softmax, GELU, residuals and layer norm. Both are
models; neither is RTL or silicon. The share of the ideal is the matmuls' MACs over 128 per cycle,
divided by the cycles.

Each tool gets an environment of its own at its first use, from the package index, 600 MB in all.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from peer_tools import scalesim, vela
from peer_tools.encoder import Encoder
from peer_tools.figures import Figure, table
from systolith.cli.exits import Exit, UsageError
from systolith.cli.prepare import parse_buckets
from systolith_sim.toolchain import ToolError, cache_folder

TOOLS: dict[str, Callable[[Encoder, int, Path], list[Figure]]] = {
    "vela": vela.measure,  # the quicker one first
    "scalesim": scalesim.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tools, print what they say, and return the exit code as `systolith` has it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tools", nargs="*", metavar="TOOL", help=f"{' or '.join(TOOLS)} (default both)"
    )
    parser.add_argument(
        "--seq-len", default="32,128", metavar="N[,N...]", help="tokens (default 32,128)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=None,
        metavar="DIR",
        help="for environments, inputs, logs and reports (default: in systolith's cache folder)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except UsageError as error:
        print(f"peers: {error}", file=sys.stderr)
        return Exit.INPUT
    except KeyboardInterrupt:
        print("peers: interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    unknown = [name for name in options.tools if name not in TOOLS]
    if unknown:
        raise UsageError(f"there is no tool {unknown[0]}: take {' or '.join(TOOLS)}")
    lengths = parse_buckets(options.seq_len)
    # Tools run in folders of their own, where a relative path would lead elsewhere.
    work = (options.work or cache_folder() / "peers").absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--work: {error}") from None
    figures, failures = list[Figure](), list[ToolError]()
    for name, measure in TOOLS.items():
        if options.tools and name not in options.tools:
            continue
        try:
            for seq_len in lengths:
                figures += measure(Encoder(), seq_len, work)
        except ToolError as error:
            # Minutes of another tool's work are worth printing.
            failures.append(error)
    if options.json:
        print(json.dumps({"figures": [figure.as_json() for figure in figures]}))
    elif figures:
        print(table(figures))
    for failure in failures:
        print(f"peers: {failure}", file=sys.stderr)
    return Exit.TOOL if failures else Exit.FINE


if __name__ == "__main__":
    sys.exit(main())
