"""A whole board in Verilator, driven through its serial line: the bits of the golden model."""

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from systolith.cli import Exit, main
from systolith.cli.exits import UsageError
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.device import DeviceError
from systolith.host.serial_device import SerialDevice
from systolith.host.session import Session
from systolith_boards.boards import BOARDS
from systolith_boards.simulation import BoardSimulation
from systolith_boards.simulation.build import program
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, inputs_for

CONFIG = PRESETS["tiny"]
MEMORY = 1 << 20
TOKENS = 16
GRAPH = encoder(TOKENS)


def board() -> BoardSimulation:
    return BoardSimulation(CONFIG, board="ulx3s-25f", memory_bytes=MEMORY, quiet=True)


def test_an_encoder_runs_on_the_board() -> None:
    """Twice with other inputs: the second session finds its weights in memory."""
    compiled = schedule(GRAPH, CONFIG, name="encoder", seq_len=TOKENS)
    with board() as device:
        assert device.memory_bytes == MEMORY
        for seed, length in ((1, 13), (2, 16)):
            session = Session(device, compiled)
            inputs = inputs_for(GRAPH, seed)
            outputs = session.run(inputs, length=length)
            golden = run_qgraph(GRAPH, inputs, length)
            for name, values in outputs.items():
                np.testing.assert_array_equal(values, golden[name])
            assert session.counters().cycles > 1000
        assert not any(device.errors().values())


def test_another_core_is_refused() -> None:
    """By the driver of real boards, at the simulated one's terminal."""
    with board() as device:
        device._port.close()
        name = f"serial:{device._port.path}"
        with pytest.raises(DeviceError, match=r"the board has tiny .* and ecp5-25k .* is wanted"):
            SerialDevice(PRESETS["ecp5-25k"], name, silence_s=3.0, answer_s=60.0)


def test_memory_is_as_large_as_a_chip() -> None:
    with pytest.raises(ValueError, match="power of two, but is 1000000"):
        program(BOARDS["ulx3s-25f"], CONFIG, memory_bytes=1_000_000, announce=print)


def test_a_board_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "model.onnx", "--device", "board-sim:arty"])
    assert ended.value.code == Exit.INPUT
    assert "there is no board 'arty'; choose from ulx3s-85f" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("board-sim:icepi-zero", "ecp5-25k-sdram"),
        ("board-sim:ulx3s-85f", "ecp5-85k"),
        ("board-sim", "ecp5-85k"),
        ("verilator", "ecp5-85k"),
        ("board-sim:icepi-zero --preset tiny", "tiny"),
    ],
)
@pytest.mark.parametrize("command", ["run", "demo"])
def test_a_board_has_its_own_core_unless_another_is_asked_for(
    command: str,
    words: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def preset_config(name: str) -> NoReturn:
        raise UsageError(f"the core is {name}")

    np.savez(tmp_path / "inputs.npz", x=np.zeros((1, 3)))
    given = ["model.onnx", "--inputs", str(tmp_path / "inputs.npz")] if command == "run" else []
    monkeypatch.setattr(f"systolith.cli.{command}_command.preset_config", preset_config)
    assert main([command, *given, "--device", *words.split()]) == Exit.INPUT
    assert f"the core is {expected}\n" in capsys.readouterr().err
