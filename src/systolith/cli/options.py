"""Options that several commands share, and the device that they choose."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from systolith.config import PRESETS, CoreConfig
from systolith.host.device import Device
from systolith.program import Program
from systolith_sim.devices import DEVICES, open_device

DEFAULT_PRESET = "ecp5-85k"
"""128 MACs a cycle, and the board that the project is built for."""

DEFAULT_SEQ_LEN = "32"
"""Tokens, unless the user says otherwise."""

LONG_RUN_S = 20.0
"""A run that takes longer is announced."""

CYCLES_PER_SECOND = {"verilator": 8e5, "pysim": 150.0}
"""What simulators of `ecp5-85k` about reach; pysim is somewhat faster on smaller cores."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Which device, and what memory it has.

    Attributes:
        name: of the device.
        bandwidth: bytes per cycle.
        latency: cycles from a read request to its first data.
        trace: waveform file to write, or None.
    """

    name: str
    bandwidth: float
    latency: int
    trace: Path | None

    @staticmethod
    def of(options: argparse.Namespace) -> "DeviceOptions":
        """From parsed options."""
        return DeviceOptions(
            name=options.device,
            bandwidth=options.bandwidth,
            latency=options.latency,
            trace=options.trace,
        )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that compile."""
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
        "--tokenizer", type=Path, metavar="FILE", help="the model's tokenizer.json, for text"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="inputs to calibrate on: .npz, or text (default: built-in sentences with a "
        "--tokenizer, else random tokens, which cost accuracy)",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that run."""
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="verilator",
        help="where to run: verilator, the RTL as C++ (default); pysim, the RTL in Amaranth's "
        "simulator, very slow; iss, the instruction simulator, without time",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare every tensor with golden model and instruction simulator",
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write report.json and report.md there"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.add_argument(
        "--bandwidth",
        type=float,
        default=8.0,
        metavar="B",
        help="bytes per cycle of the simulated memory (default 8)",
    )
    parser.add_argument(
        "--latency",
        type=int,
        default=30,
        metavar="N",
        help="cycles of latency of the simulated memory (default 30)",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="write waveforms, .fst or .vcd (verilator; slow and large)",
    )


def open_for(options: DeviceOptions, config: CoreConfig, *, check: bool, quiet: bool) -> Device:
    """Open the device that was asked for."""
    settings: dict[str, object] = {}
    if options.name != "iss":
        settings |= {"bandwidth": options.bandwidth, "latency": options.latency}
    if options.name == "verilator":
        settings |= {"probed": check, "trace": options.trace}
        if quiet:
            settings["announce"] = _silent
    return open_device(options.name, config, **settings)


def say_expected_time(program: Program, device: Device, inputs: int) -> None:
    """Say how long a run will take, if that is long."""
    rate = CYCLES_PER_SECOND.get(device.name)
    if rate is None:
        return
    config = program.config
    if device.name == "pysim":
        rate *= max(1.0, 128 / config.macs_per_cycle)
    seconds = inputs * program.macs / config.macs_per_cycle / rate
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
