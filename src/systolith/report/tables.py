"""A profile for other tools: figures, layers as a table, and a trace for Perfetto."""

import csv
import io
from typing import Any

from systolith.host.figures import roofline_fraction, utilization
from systolith.isa import Engine
from systolith.report.profile import ESTIMATE, Measured, Profile


def performance(profile: Profile) -> dict[str, Any]:
    """Every figure of a profile, for `perf.json`.

    `source` says whose are the cycles, what is made of them, and the bytes. `engines` and `layers`
    are the estimate's; `measured` has what the core counted by engine, or is None; its `engines` is
    None if the core has no counters of stalls.
    """
    program = profile.program
    occupied = sum(span.occupied for span in profile.spans)
    return {
        "model": program.name,
        "seq_len": program.seq_len,
        "weights": program.weights,
        "source": profile.source,
        "bandwidth": profile.memory.bandwidth,
        "latency": profile.memory.latency,
        "cycles": profile.taken,
        "estimated_cycles": profile.cycles,
        "macs": program.macs,
        "macs_int4": program.macs_int4,
        "macs_per_cycle": program.macs_per_cycle,
        "utilization": utilization(program, profile.taken),
        "roofline_cycles": profile.roofline.cycles,
        "roofline_fraction": roofline_fraction(program, profile.taken, profile.memory.bandwidth),
        "bound": profile.roofline.bound,
        "dram_bytes": profile.dram_bytes,
        "least_dram_bytes": program.dram_bytes,
        "padding_cycles": occupied - program.array_cycles,
        "engines": {
            name: {
                "working": time.working,
                "waiting": dict(time.waiting),
                "idle": time.idle,
                "instructions": time.instructions,
            }
            for name, time in profile.engines.items()
        },
        "layers": [
            {
                "layer": layer.name,
                "begin": layer.begin,
                "end": layer.end,
                "macs": layer.macs,
                "dram_bytes": layer.dram_bytes,
                "instructions": layer.instructions,
                "working": layer.working,
            }
            for layer in profile.layers
        ],
        "measured": None if profile.measured is None else _measured(profile.measured),
    }


def _measured(measured: Measured) -> dict[str, Any]:
    counters = measured.counters
    return {
        "device": measured.device,
        "cycles": counters.cycles,
        "dram_bytes": counters.dram_bytes,
        "bank_clashes": counters.clashes,
        "engines": {
            engine.name: {
                "working": counters.busy[name] - counters.stall[name],
                "stalled": dict(counters.stalls[name]),
                "idle": counters.cycles - counters.busy[name],
                "instructions": counters.retired[name],
            }
            for engine in Engine
            for name in (engine.name.lower(),)
        }
        if counters.has_stalls
        else None,
    }


def engine_table(profile: Profile) -> str:
    """Where the engines' cycles went as CSV: a line for each engine and state, from each source."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "engine", "state", "cycles"])
    for name, time in profile.engines.items():
        states = {"working": time.working}
        states |= {f"waits for {reason}": cycles for reason, cycles in time.waiting.items()}
        for state, cycles in (states | {"idle": time.idle}).items():
            writer.writerow([ESTIMATE, name, state, cycles])
    if profile.measured is not None and profile.measured.counters.has_stalls:
        for name, time in _measured(profile.measured)["engines"].items():
            states = {"working": time["working"]} | time["stalled"] | {"idle": time["idle"]}
            for state, cycles in states.items():
                writer.writerow([profile.measured.device, name, state, cycles])
    return text.getvalue()


def layer_table(profile: Profile) -> str:
    """The layers as CSV: one line each, cycles and bytes in whole numbers."""
    text = io.StringIO()
    engines = [f"{engine.name.lower()}_cycles" for engine in Engine]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["layer", "begin", "end", "macs", "array_cycles", "dram_bytes", "instructions", *engines]
    )
    for layer in profile.layers:
        writer.writerow(
            [
                layer.name,
                layer.begin,
                layer.end,
                layer.macs,
                layer.occupied,
                layer.dram_bytes,
                layer.instructions,
                *(layer.working[engine.name] for engine in Engine),
            ]
        )
    return text.getvalue()


def trace(profile: Profile) -> dict[str, Any]:
    """A trace in Chrome's format, which ui.perfetto.dev opens; a microsecond there is a cycle."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 0, "name": "process_name", "args": {"name": profile.program.name}}
    ]
    for engine in Engine:
        events.append(
            {
                "ph": "M",
                "pid": 0,
                "tid": int(engine),
                "name": "thread_name",
                "args": {"name": engine.name},
            }
        )
    for span in profile.spans:
        events.append(
            {
                "ph": "X",
                "pid": 0,
                "tid": int(span.engine),
                "name": span.layer or span.instruction.opcode.name,
                "cat": span.instruction.opcode.name,
                "ts": span.begin,
                "dur": span.end - span.begin,
                "args": {
                    "instruction": span.index,
                    "waited": span.waited,
                    "waited_for": span.waited_for,
                    "macs": span.macs,
                    "dram_bytes": span.dram_bytes,
                },
            }
        )
    return {"traceEvents": events, "otherData": {"unit": "1 us is 1 cycle", "source": ESTIMATE}}
