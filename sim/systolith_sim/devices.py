"""One way to open any device, by its name: simulators, and boards."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from systolith.config import CoreConfig
from systolith.host.device import Device
from systolith_sim.memory_model import MemoryTiming

_TIMING = {field.name for field in fields(MemoryTiming)}


def _iss(config: CoreConfig, **options: Any) -> Device:
    from systolith_sim.iss import IssDevice

    return IssDevice(config, **options)


def _pysim(config: CoreConfig, **options: Any) -> Device:
    from systolith_sim.pysim import PysimDevice

    return PysimDevice(config, **_with_timing(options))


def _verilator(config: CoreConfig, **options: Any) -> Device:
    from systolith_sim.verilator import VerilatorDevice

    return VerilatorDevice(config, **_with_timing(options))


def _netlist(config: CoreConfig, **options: Any) -> Device:
    from systolith_sim.netlist import NetlistDevice

    return NetlistDevice(config, **_with_timing(options))


# Imported when used: a simulation of instructions needs no Verilator.
DEVICES: dict[str, Callable[..., Device]] = {
    "iss": _iss,
    "pysim": _pysim,
    "verilator": _verilator,
    "netlist": _netlist,
}
"""What can be opened: instructions in NumPy, RTL in Amaranth's simulator, RTL in Verilator, and the
cells that synthesis makes of the RTL."""


def is_board(name: str) -> bool:
    """Whether a device of this name is a board, real or simulated: a driver cannot look inside."""
    return name.startswith("serial:") or name.split(":")[0] == "board-sim"


def open_device(name: str, config: CoreConfig, **options: Any) -> Device:
    """Open a device.

    Args:
        name: one of `DEVICES`, or `serial:PORT` for a board (`systolith.host.serial_device`).
        config: the core.
        **options: of the device's class; those of `MemoryTiming` may be given here directly, as
            in `open_device("verilator", config, latency=60, bandwidth=4)`.

    Raises:
        ValueError: there is none of that name, or an option makes no sense.
        TypeError: the device has no such option.
        DeviceError: a board does not answer, or has another core.
    """
    if name.startswith("serial:"):
        from systolith.host.serial_device import SerialDevice

        return SerialDevice(config, name, **options)
    if name not in DEVICES:
        raise ValueError(
            f"there is no device {name!r}; there are serial:PORT for boards, and "
            f"{', '.join(DEVICES)}"
        )
    return DEVICES[name](config, **options)


def _with_timing(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if name in _TIMING}
    if not given:
        return options
    if "timing" in options:
        raise TypeError(f"give either timing or {', '.join(given)}, not both")
    others = {name: value for name, value in options.items() if name not in _TIMING}
    return others | {"timing": MemoryTiming(**given)}
