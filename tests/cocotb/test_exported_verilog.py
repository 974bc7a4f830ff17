"""The exported Verilog under Icarus Verilog, driven by cocotb as its users would drive it.

What happens inside the simulator is in `host_bench.py`; here it is built, fed and started.
"""

import shutil
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

pytestmark = pytest.mark.synth


def test_program_in_icarus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tests of the bench: as fast as memory can, and with random back-pressure."""
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog (iverilog) is not installed")
    if find_libpython.find_libpython() is None:
        pytest.skip("cocotb needs Python's shared library, and this Python has none")
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
    monkeypatch.syspath_prepend(Path(__file__).parent)
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
    assert get_results(results) == (2, 0)
