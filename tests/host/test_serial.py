"""The driver of boards against a model of one, over a terminal that loses bytes, or vanishes."""

import dataclasses
import errno
import os
import pty
import random
import threading
import tty
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import serial

from systolith import regs
from systolith.cli import main
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.device import DeviceError, DeviceTimeoutError
from systolith.host.serial_device import SerialDevice
from systolith.host.serial_port import DEFAULT_BAUD, SerialPort, parse_name
from systolith.host.session import DeviceFaultError, Session
from systolith.program import Program
from systolith.regs import FaultCause
from systolith_sim.board_model import BoardModel, faulty
from systolith_sim.check import check_outputs
from systolith_sim.devices import open_device
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.iss import IssDevice

CONFIG = PRESETS["tiny"]
GRAPH = encoder(16)
SILENCE_S = 0.02


@pytest.fixture(scope="module")
def program() -> Program:
    return schedule(GRAPH, CONFIG, name="small", seq_len=16)


def board(*, memory_bytes: int = 1 << 20, config: Any = CONFIG, **options: Any) -> BoardModel:
    device = IssDevice(config, memory_bytes=memory_bytes)
    return BoardModel(device, silence_s=SILENCE_S, **options)


def connect(model: BoardModel, **options: Any) -> SerialDevice:
    return SerialDevice(
        CONFIG, f"serial:{model.path}", **{"silence_s": 4 * SILENCE_S, "answer_s": 0.3} | options
    )


def test_a_program_runs_as_in_simulation(program: Program) -> None:
    with board() as model:
        device = connect(model)
        session = Session(device, program)
        for seed, length in ((1, 16), (2, 3)):
            inputs = inputs_for(GRAPH, seed)
            outputs = session.run(inputs, length=length)
            expected = run_qgraph(GRAPH, inputs, length)
            assert outputs.keys() == {binding.name for binding in program.outputs}
            for name, value in outputs.items():
                np.testing.assert_array_equal(value, expected[name])
        assert session.counters().retired["gemm"] > 0
        assert model.starts == 2
        assert device.errors() == dict.fromkeys(
            ("line_errors", "frame_errors", "bus_errors", "lost"), 0
        )
        device.close()


@pytest.mark.parametrize("seed", range(4))
def test_lost_doubled_and_changed_bytes_change_nothing(program: Program, seed: int) -> None:
    """Both ways; each program is started once, whatever was lost."""
    inputs = inputs_for(GRAPH, seed)
    faults = {
        "receive": faulty(1e-4, seed=seed),
        "transmit": faulty(3e-4, seed=seed + 100),
    }
    with board(**faults) as model:
        device = connect(model)
        session = Session(device, program)
        (output,) = session.run(inputs, length=16).values()
        (expected,) = (run_qgraph(GRAPH, inputs, 16)[each.name] for each in program.outputs)
        np.testing.assert_array_equal(output, expected)
        assert model.starts == 1
        assert device.errors()["lost"] > 0
        device.close()


def test_a_start_whose_answer_is_lost_is_no_second_start(program: Program) -> None:
    lost = list[bytes]()

    def transmit(data: bytes) -> bytes:
        if model.starts and not lost:
            lost.append(data)
            return b""
        return data

    with board(transmit=transmit) as model:
        device = connect(model)
        inputs = inputs_for(GRAPH, 1)
        (output,) = Session(device, program).run(inputs, length=16).values()
        (expected,) = (run_qgraph(GRAPH, inputs, 16)[each.name] for each in program.outputs)
        np.testing.assert_array_equal(output, expected)
        assert len(lost) == model.starts == device.errors()["lost"] == 1
        device.close()


def test_the_same_weights_are_not_sent_again(program: Program) -> None:
    image = random.Random(0).randbytes(200_000)
    with board() as model:
        device = connect(model)
        device.write_memory(0x1000, image)
        first = model.received
        device.write_memory(0x1000, image)
        assert model.received - first < 200
        changed = bytearray(image)
        changed[100_000] ^= 1
        device.write_memory(0x1000, changed)
        assert model.received - first < 80_000
        assert device.read_memory(0x1000, len(changed)) == changed
        device.close()


def test_any_bytes_can_be_written_and_read() -> None:
    generator = random.Random(5)
    expected = bytearray(generator.randbytes(64))
    with board() as model:
        device = connect(model)
        device.write_memory(0, expected)
        for _ in range(40):
            size = generator.randrange(12)
            at = generator.randrange(64 - size)
            data = generator.randbytes(size)
            device.write_memory(at, data)
            expected[at : at + size] = data
            assert device.read_memory(at, size) == data
        assert device.read_memory(0, 64) == expected
        for at, size in ((-4, 4), (1 << 20, 1), ((1 << 20) - 4, 8)):
            with pytest.raises(DeviceError, match="are outside of the memory of 0x100000 bytes"):
                device.write_memory(at, bytes(size))
        device.close()


def test_memory_that_forgets_is_noticed() -> None:
    class Forgetful(IssDevice):
        def read_memory(self, address: int, size: int) -> bytes:
            return bytes(size)

    with BoardModel(Forgetful(CONFIG, memory_bytes=1 << 20), silence_s=SILENCE_S) as model:
        device = connect(model)
        with pytest.raises(DeviceError, match="memory at 0x0 does not keep what is written to it"):
            device.write_memory(0, b"\x01" * 20_000)
        device.close()


def test_a_board_is_found_after_whatever_the_line_was_used_for(program: Program) -> None:
    """A run that was broken off in mid-frame; a terminal that typed."""
    with board() as model:
        for garbage in (b"\xf9\x01\x00\x00", b"\x01\xff\x00", b"hello\r\n" * 20):
            handle = os.open(model.path, os.O_RDWR | os.O_NOCTTY)
            os.write(handle, garbage)
            os.close(handle)
            device = connect(model)
            assert device.read_csr(regs.offset("id")) == regs.MAGIC
            device.close()


def test_another_core_is_refused() -> None:
    other = PRESETS["ecp5-25k"]
    with board(config=other) as model:
        expected = (
            rf"the board has ecp5-25k \(hash {other.hash:016x}\), and tiny "
            rf"\(hash {CONFIG.hash:016x}\) is wanted\. Load the bitstream"
        )
        with pytest.raises(DeviceError, match=expected):
            connect(model)
    strange = dataclasses.replace(CONFIG, queue_depth=8)
    with (
        board(config=strange) as model,
        pytest.raises(DeviceError, match=rf"the board has a core \(hash {strange.hash:016x}\)"),
    ):
        connect(model)


def test_too_little_memory_is_refused_before_anything_is_sent(program: Program) -> None:
    with board(memory_bytes=16 << 10) as model:
        device = connect(model)
        before = model.received
        with pytest.raises(DeviceError, match=r"needs 0\.1 MiB of memory, and serial:/dev/pts/\d+"):
            Session(device, program)
        assert model.received == before
        device.close()


@pytest.mark.parametrize(
    ("status", "message"), [(0, "is not ready after"), (3, "memory failed its test")]
)
def test_memory_that_does_not_work_is_told(
    status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("systolith.host.serial_device.READY_S", 0.2)
    with board(memory_status=status) as model, pytest.raises(DeviceError, match=message):
        connect(model)


def test_a_cable_that_is_pulled_is_told(program: Program) -> None:
    """While weights are sent, and while the core runs."""

    class Endless(IssDevice):
        def wait_interrupt(self, **_: Any) -> None:
            raise DeviceTimeoutError("for ever")

    def runs(device: SerialDevice) -> None:
        session = Session(device, program)
        session.run(inputs_for(GRAPH, 1), length=16, max_cycles=10**12)

    work: dict[str, Callable[[SerialDevice], object]] = {
        "write": lambda device: device.write_memory(0, bytes(range(256)) * (1 << 16)),
        "wait": runs,
    }
    for action in work:
        with BoardModel(Endless(CONFIG, memory_bytes=32 << 20), silence_s=SILENCE_S) as model:
            device = connect(model)
            timer = threading.Timer(0.3, model.pull)
            timer.start()
            with pytest.raises(DeviceError, match=r"/dev/pts/\d+ is gone .* check the cable"):
                work[action](device)
            timer.join()
            device.close()


def test_faults_are_those_of_other_devices(program: Program) -> None:
    broken = dataclasses.replace(program, code=program.code[:64] + b"\xff" * 64)
    with board() as model:
        device = connect(model)
        session = Session(device, broken)
        with pytest.raises(DeviceFaultError) as caught:
            session.run(inputs_for(GRAPH, 1), length=16)
        assert (caught.value.cause, caught.value.pc) == (FaultCause.ILLEGAL_INSTRUCTION, 1)
        session.reset()
        device.close()


def test_no_interrupt_in_time_is_told(program: Program) -> None:
    with board() as model:
        device = connect(model)
        # 50 million cycles a second.
        with pytest.raises(DeviceTimeoutError, match=r"in 5000000 cycles \(0\.1 s\); the core is"):
            device.wait_interrupt(max_cycles=5_000_000)
        device.close()


def test_silence_is_told() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        with pytest.raises(
            DeviceError, match=r"no Systolith board answers at 115200 baud \(nothing\)\. Is the bit"
        ):
            SerialDevice(
                CONFIG,
                f"serial:{os.ttyname(slave)}?baud=115200",
                silence_s=0.02,
                answer_s=0.1,
            )
    finally:
        os.close(master)
        os.close(slave)


def test_a_line_that_takes_nothing_is_told() -> None:
    master, slave = pty.openpty()
    port = SerialPort(os.ttyname(slave), DEFAULT_BAUD, patience_s=0.05)
    with pytest.raises(
        DeviceError, match=r"has not taken 1000000 bytes in 0\.05 s: is flow control"
    ):
        port.write(bytes(1_000_000))
    port.close()
    os.close(master)
    os.close(slave)


def test_something_else_is_told() -> None:
    with (
        board(transmit=lambda data: b"\x00" * len(data)) as model,
        pytest.raises(DeviceError, match=r"only \d+ bytes of something else"),
    ):
        connect(model, answer_s=0.1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (serial.SerialException(errno.EACCES, "Permission denied"), "usermod -aG dialout"),
        (serial.SerialException(errno.EBUSY, "busy"), "is in use by another program"),
        (serial.SerialException(errno.EAGAIN, "Could not exclusively lock port"), "is in use"),
        (serial.SerialException(errno.EINVAL, "bad"), "cannot be opened with 3000000 baud"),
    ],
)
def test_ports_that_cannot_be_opened(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(serial, "Serial", fails)
    with pytest.raises(DeviceError, match=message):
        open_device("serial:/dev/ttyUSB0", CONFIG)


def test_the_command_line_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(device: str) -> str:
        with pytest.raises(SystemExit):
            main(["run", "model.onnx", "--device", device])
        return capsys.readouterr().err

    assert "there is no device 'fpga'; choose from iss, pysim" in refused("fpga")
    assert "a serial device is called serial:PORT" in refused("serial:")
    assert "there is no option 'speed', only baud" in refused("serial:/dev/x?speed=1")
    assert "baud must be from 300 to 20000000, but is 'fast'" in refused("serial:/dev/x?baud=fast")
    assert parse_name("serial:COM3") == ("COM3", DEFAULT_BAUD)
    assert parse_name("serial:/dev/ttyUSB1?baud=1000000") == ("/dev/ttyUSB1", 1_000_000)
    with pytest.raises(DeviceError, match="there is no port /dev/nothing: is the board plugged in"):
        open_device("serial:/dev/nothing", CONFIG)


def test_a_port_has_one_user() -> None:
    with board() as model:
        device = connect(model)
        with pytest.raises(DeviceError, match="is in use by another program"):
            connect(model)
        device.close()


def test_outputs_of_a_board_are_held_to_the_golden_model(program: Program) -> None:
    inputs = inputs_for(GRAPH, 1)
    outputs = Session(IssDevice(CONFIG), program).run(inputs, length=16)
    assert check_outputs(program, inputs, 16, {"serial:x": outputs}) is None
    (name,) = outputs
    wrong = outputs[name].copy()
    wrong[3, 5] += 1
    difference = check_outputs(program, inputs, 16, {"serial:x": {name: wrong}})
    assert difference is not None
    assert (difference.row, difference.column) == (3, 5)
