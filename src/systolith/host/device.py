"""What a host can do to a core, whether simulated or real."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from systolith.config import CoreConfig
from systolith.program import WatchPoint

Progress = Callable[[int], None]
"""Called now and then with the cycles (for the ISS: instructions) since the start."""


class DeviceError(Exception):
    """A device does not do what it should: it is gone, hangs, or answers nonsense."""


class DeviceTimeoutError(DeviceError):
    """No interrupt in the time given; the message says which engine waits for what."""


class Device(ABC):
    """A core with its memory: the only thing a `Session` talks to.

    Memory addresses are the core's AXI addresses, from 0 to `memory_bytes`.
    """

    name: str
    """`iss`, `pysim`, `verilator`, ..."""

    config: CoreConfig
    """What the core is; a board reads it back and compares the hash."""

    memory_bytes: int
    """DRAM that the core can reach."""

    bandwidth: float
    """Bytes per cycle of the memory port that a roofline may count with; 0 if not timed."""

    @abstractmethod
    def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes to DRAM."""

    @abstractmethod
    def read_memory(self, address: int, size: int) -> bytes:
        """Read bytes from DRAM."""

    @abstractmethod
    def write_csr(self, offset: int, value: int) -> None:
        """Write a 32-bit register (`systolith.regs`)."""

    @abstractmethod
    def read_csr(self, offset: int) -> int:
        """Read a 32-bit register."""

    @abstractmethod
    def wait_interrupt(self, *, max_cycles: int, progress: Progress | None = None) -> None:
        """Run until the core raises its interrupt.

        Raises:
            DeviceTimeoutError: it did not within `max_cycles`.
        """

    def watch(self, points: Sequence[WatchPoint]) -> None:
        """From the next run on, capture these tensors as they are completed; () for none.

        Raises:
            NotImplementedError: the device cannot look into the core.
        """
        raise NotImplementedError(f"{self.name} cannot look into the core")

    @property
    def captured(self) -> dict[str, np.ndarray]:
        """What the last run captured: `[rows, columns]` in int8, uint8 or int16, by name."""
        return {}

    def __enter__(self) -> Self:
        """Return the device; it is closed when the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:  # noqa: B027 - most devices have nothing to let go of
        """Let go of the device; nothing may be called after it."""
