"""A profile as one HTML page that needs nothing else."""

from html import escape

from systolith.host.session import NO_STALL_COUNTERS
from systolith.isa import Engine
from systolith.regs import Stall
from systolith.report.hints import hints
from systolith.report.memory_map import memory_map
from systolith.report.pictures import memory_picture, roofline_picture, timeline
from systolith.report.profile import Profile
from systolith.report.tables import performance

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1140px; margin: 2em auto; padding: 0 1em;
  color: #1d1d1f; background: #ffffff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15em .8em; text-align: right; border-bottom: 1px solid #dddddd; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; max-height: 36em; }
svg text { font: 12px system-ui, sans-serif; fill: #444444; }
.lane { fill: #f1f1f3; } .axis { stroke: #cccccc; stroke-width: .5; }
.roof { fill: none; stroke: #34507a; stroke-width: 2; } .reached { fill: #e45756; }
.note { color: #666666; }
"""


def render(profile: Profile) -> str:
    """Return the page; its figures are those of `performance`."""
    figures = performance(profile)
    program = profile.program
    title = f"{program.name}, {program.seq_len} tokens"
    core = (
        f"a core of {program.config.rows} by {program.config.columns} with "
        f"{program.config.scratchpad_bytes // 1024} KiB, {profile.memory.bandwidth:g} bytes per "
        f"cycle and {profile.memory.latency} cycles of latency"
    )
    says = f"Estimated, not simulated, for {core}."
    compared = []
    if profile.measured is not None:
        says = (
            f"Measured by the counters of the RTL ({profile.source}), {core}; timeline, scratchpad "
            "and layers are estimated."
        )
        off = profile.cycles / profile.taken - 1
        compared = [("cycles, estimated", f"{profile.cycles:,} ({off:+.2%})")]
        compared += [("bank clashes", f"{profile.measured.counters.clashes:,}")]
    summary = (
        ("cycles", f"{figures['cycles']:,}"),
        *compared,
        ("MACs", f"{figures['macs']:,}"),
        ("of them INT4", f"{figures['macs_int4'] / max(figures['macs'], 1):.1%}"),
        ("of peak", f"{figures['utilization']:.1%}"),
        ("of the roofline", f"{figures['roofline_fraction']:.1%} ({figures['bound']}-bound)"),
        ("bytes of DRAM", f"{figures['dram_bytes']:,}, at least {figures['least_dram_bytes']:,}"),
    )
    memory = memory_map(profile)
    advice = hints(profile) or ["nothing that would win half a percent"]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="note">{escape(says)}</p>',
            "<table>",
            *(f"<tr><td>{name}</td><td>{escape(value)}</td></tr>" for name, value in summary),
            "</table>",
            "<h2>What to change</h2><ul>",
            *(f"<li>{escape(line)}</li>" for line in advice),
            "</ul>",
            "<h2>Roofline</h2>",
            roofline_picture(profile),
            "<h2>Timeline</h2>",
            f'<div class="wide">{timeline(profile)}</div>',
            '<p class="note">A colour is a layer; point at a box for its name. trace.json has '
            "every instruction, for ui.perfetto.dev.</p>",
            "<h2>Scratchpad</h2>",
            f"<p>At most {int(memory.live.max()) / 1024:,.1f} of "
            f"{program.config.scratchpad_bytes / 1024:g} KiB are in use.</p>",
            f'<div class="wide">{memory_picture(profile, memory)}</div>',
            '<p class="note">From when it is written to when it is read last.</p>',
            "<h2>Engines</h2>",
            *_measured_engines(profile),
            '<p class="note">By the estimate: whose instruction each waits for.</p>',
            *_engines(profile),
            "<h2>Layers</h2>",
            '<div class="wide">',
            *_layers(profile),
            "</div>",
            "</body></html>",
        ]
    )


def _engines(profile: Profile) -> list[str]:
    reasons = sorted({reason for time in profile.engines.values() for reason in time.waiting})
    head = ["engine", "instructions", "working", *(f"waits for {each}" for each in reasons), "idle"]
    rows = []
    for name, time in profile.engines.items():
        shares = [time.working, *(time.waiting.get(each, 0) for each in reasons), time.idle]
        rows.append(
            [name, f"{time.instructions:,}", *(f"{x / profile.cycles:.1%}" for x in shares)]
        )
    return _table(head, rows)


def _measured_engines(profile: Profile) -> list[str]:
    """What the core counted; nothing if it did not run."""
    if profile.measured is None:
        return []
    counters = profile.measured.counters
    if not counters.has_stalls:
        return [f'<p class="note">{NO_STALL_COUNTERS.capitalize()}.</p>']
    causes = [cause.name.lower() for cause in Stall]
    rows = []
    for engine in Engine:
        name = engine.name.lower()
        shares = {"working": counters.busy[name] - counters.stall[name]}
        shares |= {**counters.stalls[name], "idle": counters.cycles - counters.busy[name]}
        cells = [
            f"{shares[state] / counters.cycles:.1%}" if state in shares else ""
            for state in ("working", *causes, "idle")
        ]
        rows.append([engine.name, f"{counters.retired[name]:,}", *cells])
    head = ["engine", "instructions", "working", *(f"stalled: {each}" for each in causes), "idle"]
    return [
        f'<p class="note">As the core counted on {escape(profile.measured.device)}: awaited, '
        "instructions of others; input and output, their data; bank, of the scratchpad; dram, the "
        "memory.</p>",
        *_table(head, rows),
    ]


def _layers(profile: Profile) -> list[str]:
    head = ["layer", "begins", "ends", "GEMM cycles", "MACs", "of the array", "DRAM bytes"]
    rows = []
    for layer in profile.layers:
        working = layer.working["GEMM"]
        share = f"{layer.needed / working:.1%}" if working else ""
        numbers = [layer.begin, layer.end, working, layer.macs]
        cells = [layer.name, *(f"{number:,}" for number in numbers), share]
        rows.append([*cells, f"{layer.dram_bytes:,}"])
    return _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    def line(kind: str, cells: list[str]) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"

    return ["<table>", line("th", head), *(line("td", row) for row in rows), "</table>"]
