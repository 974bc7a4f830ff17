"""The generated test bench in plain Verilog: it passes, and it notices what goes wrong."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from systolith.cli import Exit, main
from systolith.config import preset
from systolith_boards.exported import exported
from systolith_sim import toolchain
from systolith_sim.bench import verilog_bench
from systolith_sim.vectors import small_program, vectors_of

pytestmark = [
    pytest.mark.synth,
    pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed"),
]

TINY = preset("tiny")


def run(core: str, bench: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    for name, text in (("core.v", core), ("bench.v", bench)):
        (folder / name).write_text(text)
    command = ["iverilog", "-g2005", *options, "-s", "systolith_bench", "-o", "bench.vvp"]
    subprocess.run([*command, "core.v", "bench.v"], cwd=folder, check=True)
    return subprocess.run(
        ["vvp", "-n", "bench.vvp"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def core() -> str:
    return exported(TINY).read_text()


@pytest.fixture(scope="module")
def bench() -> str:
    program = small_program(TINY)
    return verilog_bench(program, vectors_of(program), core="systolith")


def test_it_passes_with_and_without_stalls(core: str, bench: str, tmp_path: Path) -> None:
    cycles = []
    for stalls in (0, 1):
        done = run(core, bench, tmp_path, f"-Psystolith_bench.STALLS={stalls}")
        assert done.returncode == 0, done.stdout
        first, last = done.stdout.splitlines()
        assert last == "PASS: 54 bytes as expected"
        cycles.append(int(first.split()[3]))
    assert cycles[0] < cycles[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"compare\((\d+), 8'h..\)", r"compare(\1, 8'h5c)", "instead of 5c"),
        (r"if \(m_axi_wstrb\[lane\]\) memory", "memory", "instead of a5"),
        (r"\.m_axi_bresp\(2'd0\)", ".m_axi_bresp(2'd2)", "the core stopped the program"),
        (r"address % 4096 \+", "address % 64 + 4000 +", "a burst crosses 4 KiB"),
        (r"write_register\(10'h010, 32'h00000001\)", "", "the program did not end"),
        (r"write_register\(10'h018, 32'h00000001\)", "", "the program did not end"),
        (r"write_register\(10'h010, 32'd8\)", "", "the interrupt has not been acknowledged"),
        (r"32'h5953544c\) fail", "32'h5953544d) fail", "there is no Systolith"),
    ],
    ids=["result", "strobes", "error", "4 KiB", "start", "enable", "acknowledge", "magic"],
)
def test_it_notices(
    core: str, bench: str, tmp_path: Path, old: str, new: str, message: str
) -> None:
    """A core, a memory or an expectation with one mistake."""
    changed, count = re.subn(old, new, bench, count=1)
    assert count == 1
    done = run(core, changed, tmp_path, "-Psystolith_bench.TIMEOUT=5000")
    assert done.returncode != 0
    assert message in done.stdout
    assert "PASS" not in done.stdout


def test_verilator_takes_it(core: str, bench: str, tmp_path: Path) -> None:
    (tmp_path / "core.v").write_text(core)
    (tmp_path / "bench.v").write_text(bench)
    command, _, environment = toolchain.verilator()
    flags = ["--lint-only", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style"]
    toolchain.run(
        [*command, *flags, "--top-module", "systolith_bench", "bench.v", "core.v"],
        cwd=tmp_path,
        env=environment,
    )


def test_the_command_writes_core_and_bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", "ecp5-25k", "--module", "npu"]
    paths = ["-o", str(tmp_path / "npu.v"), "--bench", str(tmp_path / "npu_bench.v")]
    assert main(["verilog", *options, *paths]) == Exit.FINE
    assert "npu_bench.v: module npu_bench" in capsys.readouterr().out
    command = ["iverilog", "-g2005", "-o", "npu.vvp", "npu.v", "npu_bench.v"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(
        ["vvp", "-n", "npu.vvp"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "PASS" in done.stdout


def test_names_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--preset", "tiny", "-o", str(tmp_path / "core.v")]
    assert main(["verilog", *output, "--module", "a b"]) == Exit.INPUT
    assert "'a b' cannot be the name of a module" in capsys.readouterr().err
    assert main(["verilog", *output, "--bench", str(tmp_path / "no" / "bench.v")]) == Exit.INPUT
    assert "there is no folder" in capsys.readouterr().err
    program = small_program(TINY)
    with pytest.raises(ValueError, match="'1a' cannot be the name"):
        verilog_bench(program, vectors_of(program), core="1a")
