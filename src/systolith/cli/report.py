"""`--report DIR`: the figures of a run as files; and those of `systolith report`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from systolith.cli.execute import Outcome, summary
from systolith.compiler.estimate import Memory
from systolith.host.device import Device
from systolith.host.figures import roofline
from systolith.host.session import NO_STALL_COUNTERS
from systolith.program import Program
from systolith.regs import Stall
from systolith.report import (
    Measured,
    Profile,
    engine_table,
    layer_table,
    performance,
    profile,
    render,
    trace,
)

FILES = ("report.html", "perf.json", "layers.csv", "engines.csv", "trace.json")
"""What is written of a profile."""


def write_profile(folder: Path, profiled: Profile) -> dict[str, Any]:
    """Write a profile in all its forms; return the figures of `perf.json`."""
    figures = performance(profiled)
    folder.mkdir(parents=True, exist_ok=True)
    texts = (
        render(profiled),
        json.dumps(figures, indent=2) + "\n",
        layer_table(profiled),
        engine_table(profiled),
        json.dumps(trace(profiled)) + "\n",
    )
    for name, text in zip(FILES, texts, strict=True):
        (folder / name).write_text(text, "utf-8")
    return figures


def write_report(
    folder: Path, program: Program, device: Device, preset: str, memory: Memory, outcome: Outcome
) -> None:
    """Write `report.json`, with every counter, and `report.md`, to read.

    Besides, if the device has time, what `systolith report` writes, with the counters of the first
    input's run beside the estimate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bound = roofline(program, device.bandwidth)
    report: dict[str, Any] = summary(program, device, preset, outcome)
    report["roofline"] = {
        "compute_cycles": bound.compute,
        "memory_cycles": bound.memory,
        "bound": bound.bound,
        "least_dram_bytes": program.dram_bytes,
    }
    report["notes"] = list(program.notes)
    report["runs"] = [
        {
            "cosine": result.cosine,
            "difference": None if result.difference is None else str(result.difference),
            "counters": asdict(result.counters),
        }
        for result in outcome.results
    ]
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    (folder / "report.md").write_text(_markdown(report), "utf-8")
    counters = outcome.results[0].counters
    if counters.cycles:
        measured = Measured(device=device.name, counters=counters)
        write_profile(folder, profile(program, memory, measured=measured))


def _markdown(report: dict[str, Any]) -> str:
    lines = [f"# {report['model']} on {report['preset']} ({report['device']})", ""]
    lines += ["| figure | value |", "|---|---|"]
    for name in (
        "seq_len",
        "weights",
        "cycles",
        "macs",
        "utilization",
        "roofline_fraction",
        "dram_bytes",
        "wall_s",
        "bit_exact",
        "cosine",
        "inputs",
        "bandwidth",
    ):
        value = report[name]
        shown = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        lines.append(f"| {name} | {shown} |")
    lines += ["", "## On the host", "", *(f"- {line}" for line in report["host"])]
    if report["notes"]:
        lines += ["", "## Notes", "", *(f"- {line}" for line in report["notes"])]
    lines += ["", "## Engines, in cycles", ""]
    if not all(run["counters"]["stalls"] for run in report["runs"]):
        return "\n".join([*lines, f"{NO_STALL_COUNTERS.capitalize()}.", ""])
    causes = [cause.name.lower() for cause in Stall]
    head = ["input", "engine", "busy", *(f"of that {each}" for each in causes), "instructions"]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for index, run in enumerate(report["runs"]):
        counters = run["counters"]
        for name, busy in counters["busy"].items():
            waits = [counters["stalls"][name].get(cause, "-") for cause in causes]
            cells = (index, name, busy, *waits, counters["retired"][name])
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
