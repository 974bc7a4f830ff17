"""The pictures of a report, as SVG to put into a page: roofline, timeline, memory map."""

import math
from html import escape

import numpy as np

from systolith.isa import Engine
from systolith.report.memory_map import MemoryMap
from systolith.report.profile import Profile

WIDTH = 1120
"""Of a picture, in pixels."""

LEFT = 72
"""Pixels for the names beside a picture."""

LANE = 26
"""Pixels of an engine's lane in the timeline."""

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#bab0ac")
"""Of layers, in turn."""


def timeline(profile: Profile) -> str:
    """A lane for each engine, a box for each run of instructions of one layer."""
    scale = (WIDTH - LEFT) / profile.cycles
    colour = {
        layer.name: COLOURS[index % len(COLOURS)] for index, layer in enumerate(profile.layers)
    }
    height = LANE * len(Engine) + 24
    parts = [_open(WIDTH, height, "Timeline of the engines")]
    for lane, engine in enumerate(Engine):
        y = lane * LANE
        parts.append(f'<text x="0" y="{y + 17}">{engine.name}</text>')
        parts.append(
            f'<rect class="lane" x="{LEFT}" y="{y + 2}" width="{WIDTH - LEFT}" '
            f'height="{LANE - 4}"/>'
        )
        for layer, begin, end in _runs(profile, engine, 1 / scale):
            title = escape(f"{layer or engine.name}: cycles {begin:,} to {end:,}")
            parts.append(
                f'<rect x="{LEFT + begin * scale:.2f}" y="{y + 2}" '
                f'width="{max((end - begin) * scale, 0.3):.2f}" height="{LANE - 4}" '
                f'fill="{colour.get(layer, COLOURS[0])}"><title>{title}</title></rect>'
            )
    base = LANE * len(Engine)
    step = _round_step(profile.cycles)
    for cycle in range(0, profile.cycles + 1, step):
        x = LEFT + cycle * scale
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{base + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{cycle:,}</text>')
    return "".join([*parts, "</svg>"])


def roofline_picture(profile: Profile) -> str:
    """MACs per byte and per cycle on logarithmic axes: what is possible, and what is reached."""
    program = profile.program
    peak = program.macs_per_cycle
    bandwidth = profile.memory.bandwidth
    width, height, left, right, bottom = 520, 300, 56, 24, 36
    intensity = program.macs / max(program.dram_bytes, 1)
    reached = program.macs / profile.taken
    ridge = peak / bandwidth
    low = math.floor(math.log10(min(intensity, ridge) / 4))
    high = math.ceil(math.log10(max(intensity, ridge) * 4))
    top = math.log10(peak * 2)
    floor = min(math.log10(bandwidth * 10**low), math.log10(reached) - 0.3)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low) / (high - low)
        up = (math.log10(y) - floor) / (top - floor)
        return left + across * (width - left - right), (height - bottom) * (1 - up)

    def line(name: str, *points: tuple[float, float]) -> str:
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        return f'<polyline class="{name}" points="{text}"/>'

    parts = [_open(width, height, "Roofline")]
    start = max(10**low, 10**floor / bandwidth)
    parts.append(line("roof", (start, bandwidth * start), (ridge, peak), (10**high, peak)))
    end = height - bottom
    for power in range(low, high + 1):
        x, _ = place(10**power, peak)
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{end}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{end + 14}" text-anchor="middle">{10.0**power:g}</text>'
        )
    x, y = place(intensity, reached)
    parts.append(f'<circle class="reached" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    parts.append(f'<text x="{x + 6:.1f}" y="{y + 20:.1f}">{reached:.1f} MACs per cycle</text>')
    _, roof = place(10**high, peak)
    parts.append(f'<text x="0" y="{roof + 4:.1f}">{peak:.4g}</text>')
    parts.append(
        f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">MACs per byte of DRAM</text>'
    )
    return "".join([*parts, "</svg>"])


def memory_picture(profile: Profile, memory: MemoryMap) -> str:
    """Addresses downwards, time to the right; a colour is a layer, as in the timeline."""
    places, times = memory.owner.shape
    width, height = (WIDTH - LEFT) / times, 3
    bytes_each = profile.program.config.scratchpad_bytes // places
    parts = [_open(WIDTH, places * height + 24, "Scratchpad over time")]
    parts.append(
        f'<rect class="lane" x="{LEFT}" y="0" width="{WIDTH - LEFT}" height="{places * height}"/>'
    )
    for index, layer in enumerate(profile.layers):
        boxes = [
            f"M{LEFT + begin * width:.1f} {place * height}h{(end - begin) * width:.1f}"
            f"v{height}h-{(end - begin) * width:.1f}z"
            for place in range(places)
            for begin, end in _stretches(memory.owner[place] == index)
        ]
        if boxes:
            parts.append(
                f'<path fill="{COLOURS[index % len(COLOURS)]}" d="{"".join(boxes)}">'
                f"<title>{escape(layer.name)}</title></path>"
            )
    for place in range(0, places + 1, places // 4):
        kib = place * bytes_each / 1024
        parts.append(f'<text x="0" y="{max(place * height, 10)}">{kib:g} KiB</text>')
    return "".join([*parts, "</svg>"])


def _stretches(present: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _runs(profile: Profile, engine: Engine, gap: float) -> list[tuple[str, int, int]]:
    """Spans of an engine, those of one layer joined where less than `gap` cycles lie between."""
    runs: list[tuple[str, int, int]] = []
    for span in profile.spans:
        if span.engine != engine:
            continue
        if runs and runs[-1][0] == span.layer and span.begin - runs[-1][2] < gap:
            runs[-1] = span.layer, runs[-1][1], span.end
        else:
            runs.append((span.layer, span.begin, span.end))
    return runs


def _round_step(cycles: int) -> int:
    """A round number that divides an axis into at most ten parts."""
    power = 10 ** max(0, int(math.log10(max(cycles, 1))) - 1)
    return next(step * power for step in (1, 2, 5, 10) if cycles <= 10 * step * power)


def _open(width: int, height: int, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(label)}">'
    )
