"""The host's side: devices, sessions, and whole models on them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from systolith.host.device import Device, DeviceError
    from systolith.host.inference import Inference, Model
    from systolith.host.session import Counters, DeviceFaultError, Session

__all__ = ["Counters", "Device", "DeviceError", "DeviceFaultError", "Inference", "Model", "Session"]

_HOMES = {
    "Counters": "session",
    "Device": "device",
    "DeviceError": "device",
    "DeviceFaultError": "session",
    "Inference": "inference",
    "Model": "inference",
    "Session": "session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
