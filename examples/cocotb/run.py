"""Simulate an exported core with cocotb: `systolith verilog -o core.v`, `python run.py core.v`.

It writes a program and what must come out of it, builds the simulator in `build/`, and runs the
tests of host_bench.py. No Makefile, and nothing but what pip installs, besides Icarus Verilog.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from systolith.config import PRESETS
from systolith.program import Program
from systolith_sim.vectors import small_program, vectors_of

BENCH = "host_bench"
HERE = Path(__file__).parent


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description="Simulate an exported core with cocotb.")
    parser.add_argument("verilog", type=Path, help="what `systolith verilog` wrote")
    parser.add_argument("--program", type=Path, metavar="FILE", help="a compiled model")
    parser.add_argument("--build", type=Path, default=HERE / "build", metavar="DIR")
    options = parser.parse_args()

    module, preset = _core(options.verilog)
    program = Program.load(options.program) if options.program else small_program(PRESETS[preset])
    build = options.build.resolve()
    build.mkdir(parents=True, exist_ok=True)
    program.save(build / "program")
    np.savez(build / "vectors.npz", **vectors_of(program).all)

    runner = get_runner("icarus")
    runner.build(
        sources=[options.verilog.resolve()],
        hdl_toplevel=module,
        build_dir=build,
        build_args=["-g2005"],
        timescale=("1ns", "1ps"),
    )
    sys.path.insert(0, str(HERE))  # where the simulator's Python finds the bench
    # It leaves with an error of its own if tests failed.
    results = runner.test(
        test_module=BENCH,
        hdl_toplevel=module,
        hdl_toplevel_lang="verilog",
        build_dir=build,
        seed=1,
        extra_env={"PROGRAM": str(build / "program"), "VECTORS": str(build / "vectors.npz")},
    )
    tests, failed = get_results(results)
    print(f"{module}, {preset}: {tests - failed} of {tests} tests passed")
    return 0 if tests else 1


def _core(path: Path) -> tuple[str, str]:
    """Name of the module, and of the preset: the file begins with them."""
    try:
        head = path.read_text("utf-8")[:2000]
    except OSError as error:
        sys.exit(f"{path} cannot be read: {error.strerror}")
    module = re.search(r"^// (\w+): a Systolith", head, re.MULTILINE)
    found = re.search(r"^// Configuration ([0-9a-f]{16}),", head, re.MULTILINE)
    names = [name for name, each in PRESETS.items() if found and f"{each.hash:016x}" == found[1]]
    if not module or not names:
        sys.exit(f"{path} is no core of a preset of this version of Systolith")
    return module[1], names[0]


if __name__ == "__main__":
    sys.exit(main())
