"""The core in a SoC of LiteX: what LiteX knows of it, and a processor that drives it.

LiteX is imported in processes of its own: it changes the loggers of those that import it.
"""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from systolith import regs
from systolith.register_maps import csr_csv

pytestmark = [
    pytest.mark.synth,
    pytest.mark.skipif(
        importlib.util.find_spec("litex") is None
        or importlib.util.find_spec("pythondata_cpu_vexriscv") is None,
        reason="the extra soc is not installed",
    ),
]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "boards" / "systolith_boards" / "litex" / "firmware"


def litex(*arguments: str | Path, code: int = 0) -> str:
    """Run the command; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "systolith_boards.litex", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def soc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litex") / "soc"
    litex("generate", "-o", folder)
    return folder


def test_litex_knows_region_and_interrupt(soc: Path) -> None:
    rows = [
        row for row in csv.reader((soc / "csr.csv").read_text().splitlines()) if row[0][0] != "#"
    ]
    assert ["memory_region", "npu", "0x90000000", "4096", "io"] in rows
    (interrupt,) = (row[2] for row in rows if row[:2] == ["constant", "npu_interrupt"])
    soc_header = (soc / "generated" / "soc.h").read_text()
    assert f"#define NPU_INTERRUPT {interrupt}\n" in soc_header
    assert "#define NPU_BASE 0x90000000L\n" in (soc / "generated" / "mem.h").read_text()
    assert (
        "npu : ORIGIN = 0x90000000, LENGTH = 0x00001000"
        in (soc / "generated" / "regions.ld").read_text()
    )
    assert json.loads((soc / "csr.json").read_text())["memories"]["npu"]["base"] == 0x9000_0000


@pytest.mark.parametrize("whole", [True, False], ids=["of the SoC", "of the core alone"])
def test_litex_clients_find_the_registers(soc: Path, tmp_path: Path, whole: bool) -> None:
    """As LiteX reads the file, registers have names and addresses, and constants are numbers."""
    path = soc / "csr.csv"
    if not whole:
        path = tmp_path / "csr.csv"
        path.write_text(csr_csv(0x9000_0000))
    script = (
        "from litex.tools.remote.csr_builder import CSRBuilder\n"
        "import sys\n"
        "class Comm: read = write = None\n"
        "built = CSRBuilder(Comm(), sys.argv[1])\n"
        "for name in sys.argv[2:]: print(getattr(built.regs, 'systolith_' + name).addr)\n"
        "print(built.bases.systolith, built.constants.systolith_magic + 0)\n"
    )
    names = [register.name for register in regs.REGISTERS]
    done = subprocess.run(
        [sys.executable, "-c", script, path, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *addresses, last = done.stdout.splitlines()
    expected = [0x9000_0000 + register.offset for register in regs.REGISTERS]
    assert [int(each) for each in addresses] == expected
    assert last.split() == [str(0x9000_0000), str(regs.MAGIC)]


def test_the_core_is_in_the_verilog(soc: Path) -> None:
    sources = [Path(line) for line in (soc / "sources.txt").read_text().split()]
    assert all(source.is_file() for source in sources)
    top = (soc / "soc.v").read_text()
    assert "systolith systolith(" in " ".join(top.split())
    core = next(source for source in sources if source.name.startswith("systolith"))
    assert "module systolith(" in core.read_text()


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The example, booted."""
    folder = tmp_path_factory.mktemp("boot")
    return folder, litex("simulate", "-o", folder)


def test_a_processor_runs_programs_and_recovers_from_faults(booted: tuple[Path, str]) -> None:
    _, said = booted
    lines = said.splitlines()
    assert "PASS" in lines
    for how, interrupts in (("polling", 0), ("interrupt", 1), ("after the limit", 1)):
        (line,) = (each for each in lines if each.startswith(f"{how}: "))
        assert line.startswith(f"{how}: result 0, {interrupts} interrupts, 0 wrong bytes of 54, ")
    assert "fault: illegal instruction, control, instruction 4, address 0x0" in lines
    assert "fault: DRAM limit, STORE, instruction 9, address 0x40000035" in lines


def test_the_documented_output_is_this_one(booted: tuple[Path, str]) -> None:
    """But for the numbers of cycles, which change with the core and the compiler."""
    page = (ROOT / "docs" / "integration.md").read_text()
    shown = re.findall(r"^core with configuration .*?^PASS$", page, re.MULTILINE | re.DOTALL)
    said = re.findall(r"^core with configuration .*?^PASS$", booted[1], re.MULTILINE | re.DOTALL)
    cycles = re.compile(r"\d+ cycles")
    assert [cycles.sub("", text) for text in shown] == [cycles.sub("", text) for text in said]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (".cache = maintain_cache", ".context = 0", "polling: result 0, 0 interrupts, "),
        ("input[at] = selftest_test_input[at]", "input[at] = 0", "polling: result 0"),
        (
            "allow_interrupts(1u << NPU_INTERRUPT)",
            "allow_interrupts(0)",
            "interrupt: result 0, 0 interrupts, 0 wrong",
        ),
        ("changed_code[at + SYSTOLITH_HEADER_OPCODE_OFFSET] = 0xee", "(void)0", "1 interrupts, 0"),
    ],
    ids=["no cache maintenance", "other inputs", "no interrupt", "no fault"],
)
def test_the_example_fails_where_it_should(
    booted: tuple[Path, str], tmp_path: Path, old: str, new: str, said: str
) -> None:
    """Each of these would go unnoticed if the example compared nothing."""
    for path in EXAMPLE.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "main.c").read_text()
    assert old in text
    (tmp_path / "main.c").write_text(text.replace(old, new))
    output = litex("simulate", "-o", booted[0], "--firmware", tmp_path, code=1)
    assert "FAIL\n" in output
    assert said in output


@pytest.mark.slow
@pytest.mark.parametrize("bus", ["axi-lite", "axi"])
def test_other_buses_do_as_well(bus: str) -> None:
    """LiteX's AXI cuts IDs to one bit: reads must not depend on them."""
    assert "PASS\n" in litex("simulate", "--bus", bus)


def test_a_program_without_an_end_is_ended(booted: tuple[Path, str]) -> None:
    output = litex("simulate", "-o", booted[0], "--max-cycles", "2000", code=2)
    assert "not ended after 2000 cycles" in output


def test_without_litex_it_says_what_to_install(tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'litex' else find(name, *a)\n"
        "import systolith_boards.litex\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'systolith[soc]'" in done.stderr.splitlines()[-1]
