"""`--report DIR`: the figures of a run as files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from systolith.cli.execute import Outcome, summary
from systolith.host.device import Device
from systolith.host.figures import roofline
from systolith.program import Program


def write_report(
    folder: Path, program: Program, device: Device, preset: str, outcome: Outcome
) -> None:
    """Write `report.json`, with every counter, and `report.md`, to read."""
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
    lines += ["| input | engine | busy | of that waiting | instructions |", "|---|---|---|---|---|"]
    for index, run in enumerate(report["runs"]):
        counters = run["counters"]
        lines += [
            f"| {index} | {name} | {busy} | {counters['stall'][name]} | "
            f"{counters['retired'][name]} |"
            for name, busy in counters["busy"].items()
        ]
    return "\n".join(lines) + "\n"
