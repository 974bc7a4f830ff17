"""What cores take on ECP5, on record: a core that has grown is noticed when it comes in."""

import json
from pathlib import Path
from typing import Any

from systolith_sim.synthesis import needs

GROWTH = 0.05
"""Share by which a core may grow before that counts."""

_KEPT = ("device", "speed", "cells", "fmax_mhz", "versions")

Record = dict[str, dict[str, Any]]
"""By preset, what `synthesize_core` returned, as far as it is kept."""


class RecordError(ValueError):
    """A file is no record, or lacks a preset."""


def read_record(file: Path) -> Record:
    """Read what `write_record` wrote.

    Raises:
        RecordError: it cannot be read, or is something else.
    """
    try:
        record = json.loads(file.read_text())
        for figures in record.values():
            needs(figures["cells"])
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise RecordError(f"{file} cannot be read as a record of cells: {error!r}") from error
    return record


def write_record(file: Path, record: Record, preset: str, result: dict[str, Any]) -> None:
    """Write a record down, with the cells and clocks of one core taken from `result`."""
    record = record | {preset: {name: result[name] for name in _KEPT}}
    file.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")


def growth(record: Record, preset: str, result: dict[str, Any]) -> list[str]:
    """Compare a synthesized core with a record.

    Returns:
        A line for each kind of cell of which it needs more than `GROWTH` more than before.

    Raises:
        RecordError: the preset is not on record.
    """
    if preset not in record:
        raise RecordError(f"{preset} is not on record: add it with --record")
    before, now = needs(record[preset]["cells"]), needs(result["cells"])
    return [
        f"{preset} takes {now[kind]:,} {kind}, more than {1 + GROWTH:g} times the {count:,} "
        "on record"
        for kind, count in before.items()
        if now[kind] > count * (1 + GROWTH)
    ]
