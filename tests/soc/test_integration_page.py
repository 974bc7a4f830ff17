"""What docs/integration.md says is so: its C is compiled, its core file read, facts compared."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from systolith.c import driver_files, program_files
from systolith.config import preset
from systolith.program import CODE_BASE, IMAGE_BASE, INPUT_BASE, OUTPUT_BASE, SCRATCH_BASE
from systolith_rtl.dma.burst import MAX_BEATS
from systolith_rtl.dma.read import NORMAL_MEMORY
from systolith_rtl.dma.write import MAX_BURSTS
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature
from systolith_sim.vectors import small_program

PAGE = (Path(__file__).parents[2] / "docs" / "integration.md").read_text()


def block(language: str) -> str:
    """The only block of a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return text


def test_the_c_example_is_strict_c99(tmp_path: Path) -> None:
    program = small_program(preset("tiny"))
    files = {**driver_files(), **program_files(program, "selftest"), "main.c": block("c")}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffreestanding"]
    target = ["-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m"]
    command = [sys.executable, "-m", "ziglang", "cc", *target, *flags, "-c", "main.c"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_core_file_is_one(tmp_path: Path) -> None:
    core = pytest.importorskip("fusesoc.capi2.coreparser", reason="the extra soc is not installed")
    path = tmp_path / "own.core"
    path.write_text(block("yaml"))
    read = core.Core2Parser().read(str(path))
    assert read["generate"]["npu"]["parameters"] == {"preset": "ecp5-25k", "module": "npu"}


def test_the_facts_are_those_of_the_core() -> None:
    assert f"at most {MAX_BEATS} beats" in PAGE
    assert f"at most {MAX_BURSTS} bursts under way" in PAGE
    assert f"32 bits of data, {AxiLiteSignature.ADDRESS_WIDTH} of address" in PAGE
    assert f"`cache` is {NORMAL_MEMORY} " in PAGE
    ids = AxiSignature.FETCH_ID, AxiSignature.STREAM_ID, AxiSignature.LOAD_ID
    assert "IDs {} (instructions), {} (weights) and {} (tensors)".format(*ids) in PAGE
    bases = ("instructions", "parameters", "inputs", "outputs", "tensors that leave")
    numbers = CODE_BASE, IMAGE_BASE, INPUT_BASE, OUTPUT_BASE, SCRATCH_BASE
    for base, what in zip(numbers, bases, strict=True):
        assert f"| {base} | {what}" in PAGE
    tiny, default = preset("tiny"), preset("ecp5-85k")
    assert f"({tiny.axi_data_bits} in `tiny`, {default.axi_data_bits} by default)" in PAGE
    assert tiny.axi_address_bits == default.axi_address_bits == 32
