"""`systolith ops`: what the compiler supports, from the checks themselves."""

import argparse
import json
from typing import Any

from systolith.cli.exits import Exit
from systolith.compiler import lookup, pooling
from systolith.compiler.ops import supported_operators


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ops",
        help="list supported operators and their constraints",
        description="List what the compiler accepts, generated from its own checks.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    operators = supported_operators() | lookup.recognized() | pooling.recognized()
    if options.json:
        print(json.dumps(operators))
        return Exit.FINE
    for name, constraints in operators.items():
        print(name)
        for constraint in constraints:
            print(f"  - {constraint}")
    return Exit.FINE
