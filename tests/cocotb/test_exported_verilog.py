"""The exported Verilog under Icarus Verilog, driven by cocotb as its users would drive it.

What happens inside the simulator is in `examples/cocotb/host_bench.py`; here it is built, fed with
what the golden model expects, and started. Then the example is run as its README says.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

runner = pytest.importorskip("cocotb_tools.runner", reason="the extra cocotb is not installed")
pytest.importorskip("cocotbext.axi", reason="the extra cocotb is not installed")

import find_libpython  # noqa: E402 - comes with cocotb
from cocotb_tools.check_results import get_results  # noqa: E402

from systolith.compiler.schedule import schedule  # noqa: E402
from systolith.config import preset  # noqa: E402
from systolith_rtl.export import to_verilog  # noqa: E402
from systolith_sim.golden.qgraph import run_qgraph  # noqa: E402
from systolith_sim.graphs import gemm, inputs_for  # noqa: E402

CONFIG = preset("tiny")
NAME = "systolith_tiny"

WARNINGS = ",".join(
    ["error"]
    + [
        f"ignore::DeprecationWarning:cocotbext.axi.{module}"
        for module in ("axi_slave", "axil_master", "reset", "stream")
    ]
)
"""Inside the simulator too, warnings are errors; but cocotbext-axi calls cocotb in old ways."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "cocotb"

needs_simulator = pytest.mark.skipif(
    shutil.which("iverilog") is None or find_libpython.find_libpython() is None,
    reason="Icarus Verilog, or the shared library of Python that cocotb needs, is not installed",
)

pytestmark = [pytest.mark.synth, needs_simulator]


def test_program_in_icarus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As fast as memory can, with random back-pressure, and after a fault."""
    (tmp_path / "core.v").write_text(to_verilog(CONFIG))
    graph = gemm(6, 10, 16)
    program = schedule(graph, CONFIG, name="gemm", seq_len=6)
    inputs = inputs_for(graph, 1)
    golden = run_qgraph(graph, inputs, 6)
    outputs = {each.name: golden[each.name] for each in program.outputs}
    program.save(tmp_path / "program")
    np.savez(tmp_path / "vectors.npz", **inputs, **outputs)

    icarus = runner.get_runner("icarus")
    icarus.build(
        sources=[tmp_path / "core.v"],
        hdl_toplevel=NAME,
        build_dir=tmp_path,
        build_args=["-g2005"],
        timescale=("1ns", "1ps"),
    )
    # The simulator's Python imports from where this one does.
    monkeypatch.syspath_prepend(EXAMPLE)
    results = icarus.test(
        test_module="host_bench",
        hdl_toplevel=NAME,
        hdl_toplevel_lang="verilog",
        build_dir=tmp_path,
        seed=1,
        extra_env={
            "PROGRAM": str(tmp_path / "program"),
            "VECTORS": str(tmp_path / "vectors.npz"),
            "PYTHONWARNINGS": WARNINGS,
        },
    )
    assert get_results(results) == (3, 0)


def run_example(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A copy of the example, outside of any checkout."""
    for path in EXAMPLE.glob("*.py"):
        shutil.copy(path, folder)
    return subprocess.run(
        [sys.executable, "run.py", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": WARNINGS},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "npu.v").write_text(to_verilog(preset("ecp5-25k"), name="npu"))
    done = run_example(tmp_path, "npu.v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "npu, ecp5-25k: 3 of 3 tests passed" in done.stdout


def test_the_example_fails_where_it_should(tmp_path: Path) -> None:
    """Without a core, with the core of nobody, and with one that stores nothing."""
    text = to_verilog(CONFIG)
    done = run_example(tmp_path, "none.v")
    assert done.returncode != 0
    assert "none.v" in done.stderr
    (tmp_path / "core.v").write_text(text.replace(f"{CONFIG.hash:016x}", "0" * 16, 1))
    done = run_example(tmp_path, "core.v")
    assert done.returncode != 0
    assert "is no core of a preset" in done.stderr
    # Registers answer, and nothing is ever stored.
    changed = text.replace("m_axi_wlast, m_axi_wstrb, m_axi_wdata", "m_axi_wlast, no, m_axi_wdata")
    wire = "  wire [3:0] m_axi_wstrb;\n"
    changed = changed.replace(wire, f"{wire}  wire [3:0] no;\n  assign m_axi_wstrb = 4'd0;\n")
    assert changed.count("no;") == changed.count(", no,") == 1
    (tmp_path / "core.v").write_text(changed)
    done = run_example(tmp_path, "core.v")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Failed 3 of 3 tests" in done.stderr
