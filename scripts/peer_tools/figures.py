"""What the tools are asked for and what they answer."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from systolith_sim.toolchain import ToolError

MACS_PER_CYCLE = 128
"""Of every core compared here: a 16 by 8 array, and Ethos-U85-128."""


class ReportError(ToolError):
    """A tool ended well, and its report is not what we know how to read."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The cycles that a tool gives for the encoder."""

    tool: str
    """With its version."""
    core: str
    """What was modelled: array, dataflow, memory."""
    includes: str
    """What of the encoder is in the cycles."""
    seq_len: int
    macs: int
    """Of the encoder's products, whatever the tool counts itself."""
    cycles: int

    @property
    def of_ideal(self) -> float:
        """Cycles that the products alone take at best, over those given: 1 is perfect."""
        return self.macs / MACS_PER_CYCLE / self.cycles

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return {**asdict(self), "of_ideal": round(self.of_ideal, 4)}


def table(figures: list[Figure]) -> str:
    """Lay out figures for people: a heading, a line per figure, right-aligned numbers."""
    rows = [("tool", "core", "includes", "T", "cycles", "of ideal")]
    rows += [
        (f.tool, f.core, f.includes, str(f.seq_len), f"{f.cycles:,}", f"{f.of_ideal:.1%}")
        for f in figures
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        texts = [row[n].ljust(widths[n]) for n in range(3)]
        numbers = [row[n].rjust(widths[n]) for n in range(3, len(row))]
        lines.append("  ".join([*texts, *numbers]))
    return "\n".join(lines)


def read_report(path: Path) -> str:
    """Read a report.

    Raises:
        ReportError: it is not there.
    """
    try:
        return path.read_text()
    except OSError as error:
        raise ReportError(f"a tool ended well but wrote no report: {error}") from None
