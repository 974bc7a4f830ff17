"""The wheel holds all that is needed, outside of any checkout."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from systolith_sim.models import BertShape, make_tokens, write_bert

ROOT = Path(__file__).parents[2]

SURROUNDINGS = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
"""For pip and build, whose warnings are not ours."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        env=SURROUNDINGS,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_packages_data_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "systolith/isa.py",
        "systolith/py.typed",
        "systolith/c/systolith_driver.h",
        "systolith/c/systolith_driver.c",
        "systolith/cli/demo_command.py",
        "systolith_rtl/core.py",
        "systolith_boards/fusesoc/systolith.core",
        "systolith_boards/litex/firmware/link.ld",
        "systolith_boards/litex/simulation.cpp",
        "systolith_sim/bench.v",
        "systolith_sim/netlist/Vcore.h",
        "systolith_sim/verilator/harness.cpp",
    ):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "docs")) for name in names)


def test_the_installed_wheel_runs_a_model(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows the dependencies of this one."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, env=SURROUNDINGS)
    # Dependencies come from here; the editable install of the checkout must not.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for path in here:
        for entry in Path(path).iterdir():
            if "systolith" not in entry.name and entry.suffix != ".pth":
                target = borrowed / entry.name
                if not target.exists():
                    target.symlink_to(entry)
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")

    # Nor must a path that leads to the checkout.
    surroundings = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    shape = BertShape()
    write_bert(tmp_path / "model.onnx", shape)
    (sample,) = make_tokens(shape, [10])
    np.savez(tmp_path / "inputs.npz", **sample)
    done = subprocess.run(
        [
            environment / "bin" / "systolith",
            *("run", "model.onnx", "--inputs", "inputs.npz", "--seq-len", "16"),
            *("--device", "iss", "--check", "--json"),
        ],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bit_exact"] is True
    where = subprocess.run(
        [python, "-c", "import systolith; print(systolith.__file__)"],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(environment) in where
