"""Which results no other one beats, and a picture of all."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Row = Mapping[str, Any]
"""A result: see `systolith.sweep.run`."""

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 860, 460, 90, 60, 48
"""Of the picture, in pixels, with its margins."""


COSTS = ("cycles", "multipliers", "block_rams", "loss")
"""What is to be small; the loss where it was measured."""

LARGEST = 12
"""Radius of the circle with the most block RAMs, in pixels; their areas are in proportion."""


def together(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each core, length, bandwidth and format that all models have results of.

    Its cycles are the geometric mean of the models' cycles, its roofline fraction their mean, its
    loss the largest.

    Args:
        rows: results of several models.
    """
    models = {row["model"] for row in rows}
    points: dict[str, list[Row]] = {}
    for row in rows:
        if "cycles" in row:
            points.setdefault(row["key"], []).append(row)
    return [_mean(same) for same in points.values() if len(same) == len(models)]


def _mean(rows: Sequence[Row]) -> Row:
    mean = {
        "model": "all models",
        "cycles": round(math.exp(sum(math.log(row["cycles"]) for row in rows) / len(rows))),
        "roofline_fraction": sum(row["roofline_fraction"] for row in rows) / len(rows),
    }
    loss = {"loss": max(row["loss"] for row in rows)} if all("loss" in row for row in rows) else {}
    own = ("utilization", "bound", "dram_bytes", "loss")  # of one model
    return {name: value for name, value in rows[0].items() if name not in own} | mean | loss


def front(rows: Sequence[Row], costs: Sequence[str] = COSTS) -> list[Row]:
    """Return the rows that no other one beats in one cost without being worse in another.

    Args:
        rows: results of one and the same work.
        costs: less is better; those that a row does not have are 0.
    """

    def beats(one: Row, other: Row) -> bool:
        pairs = [(one.get(cost, 0), other.get(cost, 0)) for cost in costs]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    best = [row for row in rows if not any(beats(other, row) for other in rows)]
    return sorted(best, key=lambda row: [row.get(cost, 0) for cost in costs])


def picture(rows: Sequence[Row], title: str) -> str:
    """Multipliers across, cycles up, both logarithmic, and block RAMs as the areas of circles.

    Those of the front are red; a line for each format of weights goes through them.
    """
    across = [row["multipliers"] for row in rows]
    up = [row["cycles"] for row in rows]
    x_range, y_range = _around(across), _around(up)

    def place(row: Row) -> tuple[float, float]:
        x = _share(row["multipliers"], x_range) * (WIDTH - LEFT - RIGHT) + LEFT
        y = (1 - _share(row["cycles"], y_range)) * (HEIGHT - BOTTOM - 30) + 30
        return x, y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="16" font-size="14">{escape(title)}: cycles, by multipliers</text>',
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 8}" text-anchor="end" fill="#666666">'
        "areas: block RAMs; red: nothing beats it</text>",
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">multipliers</text>',
    ]
    bottom = HEIGHT - BOTTOM
    for tick in _ticks(x_range):
        x, _ = place({"multipliers": tick, "cycles": y_range[0]})
        parts.append(f'<line x1="{x:.1f}" y1="30" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:,}</text>')
    for tick in _ticks(y_range):
        _, y = place({"multipliers": x_range[0], "cycles": tick})
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,}</text>')
    best = front(rows)
    for weights in dict.fromkeys(row["weights"] for row in best):
        same = [place(row) for row in best if row["weights"] == weights]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in same)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#34507a" stroke-width="1.5"/>')
    most = max(row["block_rams"] for row in rows)
    # The small ones last, so that none hides behind a large one.
    for row in sorted(rows, key=lambda row: -row["block_rams"]):
        x, y = place(row)
        radius = LARGEST * math.sqrt(row["block_rams"] / most)
        colour = "#e45756" if row in best else "#9aa5b1"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" '
            'fill-opacity="0.8">'
            f"<title>{escape(_describe(row))}</title></circle>"
        )
        if row in best:
            # Names go above and below in turn: neighbours may be close.
            lift = -radius - 3 if best.index(row) % 2 else radius + 13
            parts.append(f'<text x="{x + 4:.1f}" y="{y + lift:.1f}">{escape(_name(row))}</text>')
    return "".join([*parts, "</svg>\n"])


def _name(row: Row) -> str:
    return f"{row['array']} {row['weights']}"


def _describe(row: Row) -> str:
    return (
        f"{_name(row)}, {row['scratchpad_kib']} KiB, {row['seq_len']} tokens, "
        f"{row['bandwidth']:g} bytes per cycle: {row['cycles']:,} cycles, "
        f"{row['roofline_fraction']:.1%} of the roofline, {row['multipliers']:,} multipliers, "
        f"{row['block_rams']:,} block RAMs" + (f", loss {row['loss']:.4f}" if "loss" in row else "")
    )


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range with some room around all values."""
    return min(values) / 1.3, max(values) * 1.3


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return math.log(value / low) / math.log(high / low)


def _ticks(limits: tuple[float, float]) -> list[int]:
    """Round numbers in a range: 1, 2 and 5 of each decade, or more of them in a narrow one."""
    low, high = limits
    digits = (1, 2, 5) if high / low > 5 else range(1, 10)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    numbers = (digit * 10**power for power in range(max(first, 0), last + 1) for digit in digits)
    return [number for number in numbers if low <= number <= high]
