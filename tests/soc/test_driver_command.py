"""`systolith driver`, as users meet it."""

from pathlib import Path

import pytest

from systolith.cli import Exit, main
from systolith.config import preset
from systolith_sim.vectors import small_program, vectors_of

DRIVER = {"systolith.h", "systolith_driver.c", "systolith_driver.h"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_driver_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "-o", str(tmp_path / "c")]) == Exit.FINE
    assert names(tmp_path / "c") == DRIVER
    assert "driver of the core's registers" in capsys.readouterr().out


def test_a_program_file_with_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = small_program(preset("tiny"))
    program.save(tmp_path / "model.systolith")
    options = ["--program", str(tmp_path / "model.systolith"), "--name", "my_model"]
    assert main(["driver", "-o", str(tmp_path / "c"), *options]) == Exit.FINE
    assert names(tmp_path / "c") == DRIVER | {"my_model.c", "my_model.h"}
    assert "my_model: 704 bytes of instructions, 576 of parameters" in capsys.readouterr().out
    text = (tmp_path / "c" / "my_model.c").read_text()
    assert f".config_hash = 0x{program.config.hash:016x}ull," in text
    assert "_test_" not in text
    assert main(["driver", "-o", str(tmp_path / "c"), *options, "--vectors", "--seed", "3"]) == 0
    text = (tmp_path / "c" / "my_model.c").read_text()
    (line,) = vectors_of(program, seed=3).outputs["out"][:1, :8].view("u1").tolist()
    assert ", ".join(map(str, line)) in text.partition("my_model_test_output[54] = {\n")[2]


def test_a_self_test(tmp_path: Path) -> None:
    assert main(["driver", "-o", str(tmp_path), "--self-test", "large", "--incbin"]) == Exit.FINE
    files = {"selftest.c", "selftest.h", "selftest.S", "selftest.bin"}
    assert names(tmp_path) == DRIVER | files
    program = small_program(preset("large"))
    assert (tmp_path / "selftest.bin").read_bytes() == program.code + program.image
    assert "selftest_test_output[54]" in (tmp_path / "selftest.c").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vectors"], "need --program or --self-test"),
        (["--self-test", "huge"], "there is no preset 'huge'"),
        (["--self-test", "tiny", "--name", "7"], "'7' cannot be the name of a variable"),
        (["--program", "none"], "none: there is no such file"),
    ],
)
def test_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["driver", "-o", str(tmp_path / "c"), *options]) == Exit.INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
