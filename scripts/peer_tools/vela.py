"""Vela: Arm's compiler for Ethos-U, and its estimate of the cycles of a whole encoder.

Each operator of the compiled network is a line of its per-layer report, with the operator of the
TFLite file that it came from. So the products can be told from the rest, for a comparison with
models of arrays alone.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peer_tools.encoder import Encoder
from peer_tools.encoder_file import EncoderFile
from peer_tools.environment import Environment, run_tool
from peer_tools.figures import Figure, ReportError, read_report

VERSION = "5.2.0"
ENVIRONMENT = Environment(
    "vela", (f"ethos-u-vela=={VERSION}", "flatbuffers==25.12.19", "numpy==2.4.6")
)
ACCELERATOR = "ethos-u85-128"
SYSTEM = "Ethos_U85_SYS_DRAM_Mid"
MEMORY = "Sram_Only"
"""Weights and activations in SRAM, the fastest there is: the memory is not what is compared."""

MATMULS = ("FullyConnected", "BatchMatMul")


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Vela's estimate."""

    total: int
    matmuls: int
    """Of the operators that became nothing but products."""


def cycles(summary: str, layers: str) -> Cycles:
    """Read Vela's summary and its per-layer report, both CSV.

    Raises:
        ReportError: columns are missing, or there are operators that the NPU leaves to the host,
            whose cycles no report has, or the layers do not add up to the total.
    """
    totals = list(csv.DictReader(io.StringIO(summary)))
    if len(totals) != 1:
        raise ReportError(f"Vela's summary has {len(totals)} networks, not 1")
    rows = list(csv.DictReader(io.StringIO(layers)))
    total = _number(totals[0], "cycles_total")
    each = [_number(row, "Op Cycles") for row in rows]
    host = [row.get("Name") for row in rows if row.get("Target") != "NPU"]
    if host:
        raise ReportError(f"{len(host)} operators are not on the NPU, the first is {host[0]}")
    # A report that leaves operators out would leave cycles out. Rounding is to a cycle each.
    if abs(sum(each) - total) > len(each):
        raise ReportError(f"Vela's layers take {sum(each):,} cycles together, not {total:,}")
    matmuls = sum(
        count
        for row, count in zip(rows, each, strict=True)
        if row.get("Original Operator") in MATMULS
    )
    return Cycles(total=total, matmuls=matmuls)


def measure(encoder: Encoder, seq_len: int, work: Path) -> list[Figure]:
    """Compile the encoder, in seconds.

    Raises:
        ToolError: it could not be installed, failed, or its report is unreadable.
    """
    python = ENVIRONMENT.python(work)
    folder = work / f"vela-{seq_len}"
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "encoder.tflite"
    model.write_bytes(EncoderFile(encoder, seq_len).serialize())
    summary = folder / "results" / f"encoder_summary_{SYSTEM}.csv"
    layers = folder / "results" / "encoder_per-layer.csv"
    for report in (summary, layers):
        report.unlink(missing_ok=True)  # An old one must not pass for this run's.
    options = {
        "--accelerator-config": ACCELERATOR,
        "--config": "Arm/vela.ini",
        "--system-config": SYSTEM,
        "--memory-mode": MEMORY,
        "--output-dir": "results",
    }
    run_tool(
        [
            python,
            *("-m", "ethosu.vela", model.name, "--verbose-performance"),
            *(word for option in options.items() for word in option),
        ],
        folder,
        what=f"Vela, {seq_len} tokens",
    )
    estimate = cycles(read_report(summary), read_report(layers))
    return [
        Figure(
            tool=f"Vela {VERSION}",
            core=f"{ACCELERATOR}, all in SRAM",
            includes=includes,
            seq_len=seq_len,
            macs=encoder.macs(seq_len),
            cycles=count,
        )
        for includes, count in (
            ("matmuls of the encoder", estimate.matmuls),
            ("whole encoder", estimate.total),
        )
    ]


def _number(row: Mapping[str, str | None], column: str) -> int:
    text = row.get(column)
    try:
        return int(float(text or ""))
    except ValueError:
        raise ReportError(f"Vela's report has no number in column {column}: {text}") from None
