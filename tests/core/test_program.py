"""Program files: what is written comes back, and what is damaged is refused."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.program import FORMAT_VERSION, Program, ProgramError
from systolith_sim.graphs import encoder


@pytest.fixture(scope="module")
def program() -> Program:
    return schedule(
        encoder(16),
        PRESETS["tiny"],
        name="small",
        seq_len=16,
        prologue=b"before",
        epilogue=b"after",
        host=("lookup",),
        notes=("a note",),
    )


def test_a_saved_program_comes_back(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "small.systolith"
    program.save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["small.systolith"]
    again = Program.load(path)
    for item in dataclasses.fields(Program):
        assert getattr(again, item.name) == getattr(program, item.name), item.name


def test_steps_by_channel_come_back(program: Program, tmp_path: Path) -> None:
    steps = np.linspace(0.5, 2.0, 64)
    binding = dataclasses.replace(program.inputs[0], step=steps)
    dataclasses.replace(program, inputs=(binding,)).save(tmp_path / "p")
    np.testing.assert_array_equal(Program.load(tmp_path / "p").inputs[0].step, steps)


def changed(path: Path, **changes: object) -> None:
    """Change the header of a program file."""
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays["header"].tobytes()) | changes
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 99},
            f"program format 99, and this is Systolith with format {FORMAT_VERSION}. Compile",
        ),
        ({"hash": "0" * 16}, "compiled for configuration 0000000000000000"),
        ({"watch": 5}, "is damaged"),
        ({"config": {"rows": 3}}, "is damaged"),
    ],
    ids=str,
)
def test_other_versions_and_damage_are_named(
    program: Program, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "p.systolith"
    program.save(path)
    changed(path, **changes)
    with pytest.raises(ProgramError, match=message):
        Program.load(path)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_truncated_file_is_refused(program: Program, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "p.systolith"
    program.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ProgramError, match="is not a Systolith program, or is damaged"):
        Program.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"none\.systolith: there is no such file"):
        Program.load(tmp_path / "none.systolith")
