"""Options that several commands share, and the device that they choose."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolith.cli.exits import UsageError
from systolith.cli.weights import add_weight_options
from systolith.compiler.estimate import Memory
from systolith.config import PRESETS, CoreConfig
from systolith.host.device import Device
from systolith.host.serial_port import DEFAULT_BAUD, parse_name
from systolith.program import Program
from systolith_boards.boards import BOARDS, DEFAULT_BOARD
from systolith_boards.simulation import BoardSimulation
from systolith_sim.devices import DEVICES, is_board, open_device

SIMULATED_BOARD = "board-sim"
"""The device that is a whole board in Verilator."""

DEFAULT_PRESET = "ecp5-85k"
"""128 MACs a cycle, and the board that the project is built for."""

DEFAULT_SEQ_LEN = "32"
"""Tokens, unless the user says otherwise."""

LONG_RUN_S = 20.0
"""A run that takes longer is announced."""

CYCLES_PER_SECOND = {"verilator": 4.5e5, "netlist": 2e3, "pysim": 150.0}
"""What simulators of `ecp5-85k` about reach; pysim is somewhat faster on smaller cores."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Which device, and what memory it has.

    Attributes:
        name: of the device.
        bandwidth: bytes per cycle.
        latency: cycles from a read request to its first data.
        trace: waveform file to write, or None.
        jobs: how many simulators may run at the same time; 0 for one on each processor.
    """

    name: str
    bandwidth: float
    latency: int
    trace: Path | None
    jobs: int = 0

    @staticmethod
    def of(options: argparse.Namespace) -> "DeviceOptions":
        """From parsed options."""
        return DeviceOptions(
            name=options.device,
            bandwidth=options.bandwidth,
            latency=options.latency,
            trace=options.trace,
            jobs=options.jobs,
        )


def add_model_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Options of commands that compile; with `several`, of models and formats of weights."""
    how: dict[str, Any] = {"action": "append"} if several else {}
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help=f"the core: {', '.join(PRESETS)} (default {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--seq-len",
        default=DEFAULT_SEQ_LEN,
        metavar="N[,N...]",
        help=f"tokens to compile for, or buckets to choose from (default {DEFAULT_SEQ_LEN})",
    )
    parser.add_argument(
        "--tokenizer", **how, type=Path, metavar="FILE", help="the model's tokenizer.json, for text"
    )
    parser.add_argument(
        "--calibration",
        **how,
        type=Path,
        metavar="FILE",
        help="inputs to calibrate on: .npz, or text (default: built-in sentences with a "
        "--tokenizer, else random tokens, which cost accuracy)",
    )
    add_weight_options(parser, several=several)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that run, behind `--preset`: see `chosen_preset`."""
    parser.set_defaults(preset=None)
    parser.add_argument(
        "--device",
        type=_device,
        metavar="DEVICE",
        default="verilator",
        help="where to run: verilator, the RTL as C++ (default); pysim, the RTL in Amaranth's "
        "simulator, very slow; netlist, the cells of its synthesis for ECP5, slow; iss, the "
        "instruction simulator, without time; serial:PORT, a board with this core, as in "
        "serial:/dev/ttyUSB0 or serial:COM3 (serial:PORT?baud=N if it was built for another baud "
        f"rate than {DEFAULT_BAUD}); board-sim or board-sim:BOARD, that board as RTL, with its "
        "core unless --preset says another, its serial line and a memory chip at its pins, behind "
        "the same driver (very slow: each byte takes 40 cycles on its way)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare every tensor with golden model and instruction simulator",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write report.json and report.md there, and if there is time what `systolith report` "
        "writes, with the core's counters",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    add_memory_options(parser)
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="write waveforms to FILE.vcd (verilator; slow and large; one input at a time)",
    )
    add_jobs_option(parser)


def chosen_preset(options: argparse.Namespace) -> str:
    """The preset that was asked for, or that of the simulated board, or the default."""
    board = _simulated_board(options.device)
    return options.preset or (BOARDS[board].preset if board else DEFAULT_PRESET)


def _simulated_board(device: str) -> str:
    """The board that a device of this name simulates, or "" if it is none."""
    kind, _, board = device.partition(":")
    return (board or DEFAULT_BOARD) if kind == SIMULATED_BOARD else ""


def _device(name: str) -> str:
    if name.partition(":")[0] == "serial":
        try:
            parse_name(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    elif board := _simulated_board(name):
        if board not in BOARDS:
            raise argparse.ArgumentTypeError(
                f"there is no board {board!r}; choose from {', '.join(BOARDS)}"
            )
    elif name not in DEVICES:
        raise argparse.ArgumentTypeError(
            f"there is no device {name!r}; choose from {', '.join(DEVICES)}, serial:PORT, "
            f"{SIMULATED_BOARD}"
        )
    return name


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """What memory the core has."""
    parser.add_argument(
        "--bandwidth",
        type=float,
        default=8.0,
        metavar="B",
        help="bytes per cycle of the memory (default 8)",
    )
    parser.add_argument(
        "--latency",
        type=int,
        default=30,
        metavar="N",
        help="cycles of latency of the memory (default 30)",
    )


def memory_of(options: argparse.Namespace) -> Memory:
    """The memory that was asked for, for an estimate.

    Raises:
        UsageError: there is no such memory.
    """
    if options.bandwidth <= 0 or options.latency < 0:
        raise UsageError("--bandwidth must be more than 0, and --latency must not be negative")
    return Memory(bandwidth=options.bandwidth, latency=options.latency)


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """How many simulators at the same time."""
    parser.add_argument(
        "--jobs",
        type=_count,
        default=0,
        metavar="N",
        help="simulate at most N inputs at the same time (verilator; default: one on each "
        "processor)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, but is {text!r}")
    return int(text)


@contextmanager
def opened(
    options: DeviceOptions, config: CoreConfig, *, inputs: int, check: bool, quiet: bool
) -> Iterator[list[Device]]:
    """Open the device that was asked for, more than once if that saves time.

    Simulators in C++ run side by side, one on each processor, as long as there are inputs.

    Args:
        options: the device.
        config: the core.
        inputs: how many are to be run.
        check: whether tensors will be watched.
        quiet: no messages.

    Raises:
        UsageError: the device cannot write the waveforms that were asked for.
    """
    if options.trace is not None and options.name != "verilator":
        raise UsageError(f"--trace needs --device verilator: {options.name} writes no waveforms")
    if options.trace is not None and options.trace.suffix != ".vcd":
        raise UsageError(f"--trace writes VCD: name the file .vcd, not {options.trace.name!r}")
    settings: dict[str, Any] = {}
    count = 1
    if is_board(options.name):
        settings["quiet"] = quiet
    elif options.name != "iss":
        settings |= {"bandwidth": options.bandwidth, "latency": options.latency}
    if options.name == "verilator":
        settings |= {"probed": check, "trace": options.trace}
        if quiet:
            settings["announce"] = _silent
        if options.trace is None:
            count = max(1, min(inputs, options.jobs or os.cpu_count() or 1))
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(_open(options.name, config, settings)))
            for _ in range(count)
        ]


def _open(name: str, config: CoreConfig, settings: dict[str, Any]) -> Device:
    board = _simulated_board(name)
    if not board:
        return open_device(name, config, **settings)
    if settings["quiet"]:
        settings = settings | {"announce": _silent}
    return BoardSimulation(config, board=board, **settings)


def say_expected_time(program: Program, devices: Sequence[Device], inputs: int) -> None:
    """Say how long a run will take, if that is long."""
    device, *_ = devices
    rate = CYCLES_PER_SECOND.get(device.name)
    if rate is None:
        return
    config = program.config
    if device.name == "pysim":
        rate *= max(1.0, 128 / config.macs_per_cycle)
    rounds = -(-inputs // len(devices))
    seconds = rounds * program.macs / config.macs_per_cycle / rate
    if seconds > LONG_RUN_S:
        print(
            f"systolith: about {_duration(seconds)} for {inputs} inputs on {device.name}",
            file=sys.stderr,
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"


def _silent(message: str) -> None:
    del message
