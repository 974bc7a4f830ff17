"""SCALE-Sim: a cycle model of a systolic array, here for the encoder's products alone.

It is given each shape once, since one takes it up to minutes, and its cycles are multiplied by
how often the encoder holds the shape. Operands come from buffers that always have them (`CALC`
bandwidth): there are no stalls. The first filling of the buffers, which it reports apart, is left
out, in its favour.
"""

from collections.abc import Sequence
from pathlib import Path

from peer_tools.encoder import Encoder, Matmul
from peer_tools.environment import Environment, run_tool
from peer_tools.figures import Figure, ReportError, read_report

VERSION = "3.0.0"
# NumPy 2.4 ends it with an exception, 2.2 does not.
ENVIRONMENT = Environment("scalesim", (f"scalesim=={VERSION}", "numpy==2.2.6"))
ROWS, COLUMNS = 16, 8
BUFFER_KIB = 64
"""Of each of the three buffers. It decides the prefetch, not the cycles without it."""

FLOWS = {"os": "output-stationary", "ws": "weight-stationary"}

_COMPUTE_COLUMNS = ["LayerID", "Total Cycles (incl. prefetch)", "Total Cycles", "Stall Cycles"]

_DRIVER = """\
import sys
from scalesim.scale_sim import scalesim
config, topology, layout, results = sys.argv[1:]
# The package's own command writes traces of gigabytes whatever one asks of it.
model = scalesim(save_disk_space=True, verbose=True, config=config, topology=topology,
                 layout=layout, input_type_gemm=True)
model.run_scale(top_path=results)
"""


def topology(matmuls: Sequence[Matmul]) -> str:
    """Write the products as SCALE-Sim's GEMM topology: name, M, N, K, and an empty last column."""
    lines = ["Layer,M,N,K,"]
    lines += [f"{each.name},{each.m},{each.n},{each.k}," for each in matmuls]
    return "\n".join(lines) + "\n"


def config(flow: str) -> str:
    """Write SCALE-Sim's configuration of the array with a dataflow, `os` or `ws`."""
    # It asks for every key, also for those of what is switched off.
    sections: dict[str, dict[str, object]] = {
        "general": {"run_name": flow},
        "architecture_presets": {
            "ArrayHeight": ROWS,
            "ArrayWidth": COLUMNS,
            "IfmapSramSzkB": BUFFER_KIB,
            "FilterSramSzkB": BUFFER_KIB,
            "OfmapSramSzkB": BUFFER_KIB,
            "IfmapOffset": 0,
            "FilterOffset": 10_000_000,
            "OfmapOffset": 20_000_000,
            "Dataflow": flow,
            "Bandwidth": 16,
            "ReadRequestBuffer": 64,
            "WriteRequestBuffer": 64,
        },
        "layout": {
            f"{operand}{key}": value
            for operand in ("Ifmap", "Filter")
            for key, value in {
                "CustomLayout": False,
                "SRAMBankBandwidth": 16,
                "SRAMBankNum": 16,
                "SRAMBankPort": 2,
            }.items()
        },
        "sparsity": {"SparsitySupport": False},
        "run_presets": {"InterfaceBandwidth": "CALC", "UseRamulatorTrace": False},
    }
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items()), ""]
    return "\n".join(lines)


def total_cycles(report: str, matmuls: Sequence[Matmul]) -> int:
    """Read COMPUTE_REPORT.csv: cycles of all products, each shape as often as there are of it.

    Raises:
        ReportError: other columns or layers than expected, or stalls, which `CALC` never has.
    """
    heading, *lines = [line for line in report.splitlines() if line.strip()] or [""]
    if not heading:
        raise ReportError("SCALE-Sim's compute report is empty")
    columns = [word.strip() for word in heading.split(",")]
    if columns[:4] != _COMPUTE_COLUMNS:
        raise ReportError(f"SCALE-Sim's compute report has other columns: {heading}")
    if len(lines) != len(matmuls):
        raise ReportError(f"SCALE-Sim reports {len(lines)} layers of {len(matmuls)}")
    total = 0
    for n, (line, matmul) in enumerate(zip(lines, matmuls, strict=True)):
        words = [word.strip() for word in line.split(",")[:4]]
        if words[0] != str(n) or not words[2].isdecimal() or words[3] != "0":
            raise ReportError(f"unexpected line of SCALE-Sim's compute report: {line}")
        total += matmul.count * int(words[2])
    return total


def measure(encoder: Encoder, seq_len: int, work: Path) -> list[Figure]:
    """Run both dataflows, in a minute to several for each.

    Raises:
        ToolError: it could not be installed, failed, or its report is unreadable.
    """
    python = ENVIRONMENT.python(work)
    matmuls = encoder.matmuls(seq_len)
    figures = []
    for flow, spoken in FLOWS.items():
        folder = work / f"scalesim-{flow}-{seq_len}"
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "driver.py": _DRIVER,
            "core.cfg": config(flow),
            "encoder.csv": topology(matmuls),
            # Unused without custom layouts, but the file has to be there.
            "layout.csv": "Layer,\n",
        }
        for name, text in files.items():
            (folder / name).write_text(text)
        report = folder / "results" / flow / "COMPUTE_REPORT.csv"
        report.unlink(missing_ok=True)  # An old one must not pass for this run's.
        run_tool(
            [python, *files, "results"],
            folder,
            what=f"SCALE-Sim, {spoken}, {seq_len} tokens",
            steps=len(matmuls),
            step_starts=b"Running Layer ",
        )
        figures.append(
            Figure(
                tool=f"SCALE-Sim {VERSION}",
                core=f"{ROWS}x{COLUMNS}, {spoken}",
                includes="matmuls alone",
                seq_len=seq_len,
                macs=encoder.macs(seq_len),
                cycles=total_cycles(read_report(report), matmuls),
            )
        )
    return figures
