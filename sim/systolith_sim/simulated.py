"""What the devices with time have in common: memory, interrupts, captures, and stall reports."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from systolith import regs
from systolith.config import CoreConfig
from systolith.host.device import Device, DeviceError, DeviceTimeoutError, Progress
from systolith.host.stall import describe_stall
from systolith.program import DTYPES, WatchPoint
from systolith.regs import Control
from systolith_sim.memory_model import MemoryTiming

MEMORY_BYTES = 64 << 20
"""DRAM of a simulated device, unless it is told otherwise. Untouched pages cost nothing."""


@dataclass
class Capture:
    """A watch point in bytes of the scratchpad, and what has been seen there.

    Attributes:
        point: what to capture.
        address: its first byte.
        row: bytes from row to row.
        data: `[rows, bytes of a row]`.
        complete: whether it has been captured in this run.
    """

    point: WatchPoint
    address: int
    row: int
    data: np.ndarray
    complete: bool = False


@dataclass(frozen=True)
class Activity:
    """What a simulation did.

    Attributes:
        cycles: since it was made.
        read_beats: of the memory port.
        write_beats: likewise.
        pending: transactions on the memory port that are not finished.
    """

    cycles: int
    read_beats: int
    write_beats: int
    pending: int


class SimulatedDevice(Device):
    """A core in a simulator, clock by clock, with the memory of `systolith_sim.memory_model`.

    A watched tensor is captured when its engine's count is reached, a few cycles after its last
    byte was written: an instruction that overwrites it must have waited for that count, as every
    one does that follows a reader of the tensor.

    Args:
        config: the core.
        memory_bytes: DRAM.
        timing: of the memory.
    """

    chunk: int
    """Cycles between two calls of `progress`."""

    def __init__(self, config: CoreConfig, *, memory_bytes: int, timing: MemoryTiming) -> None:
        if memory_bytes % 4096 or memory_bytes < 4096:
            raise ValueError(f"memory_bytes must be a multiple of 4096, but is {memory_bytes}")
        self.config = config
        self.memory_bytes = memory_bytes
        self.timing = timing
        self.bandwidth = min(timing.bandwidth, float(config.axi_bytes))
        self.memory = np.zeros(memory_bytes, np.uint8)
        self._captures: list[Capture] = []
        self._started = 0

    @property
    @abstractmethod
    def activity(self) -> Activity:
        """What the simulation did until now."""

    @abstractmethod
    def inject(self, *, read_beat: int | None = None, write_beat: int | None = None) -> None:
        """Let the memory answer with an error, once.

        Args:
            read_beat: the read beat it comes with, counted from now on.
            write_beat: the write beat whose burst's response it is, counted from now on.
        """

    @abstractmethod
    def step(self, cycles: int, *, until_interrupt: bool = False) -> bool:
        """Simulate so many cycles, or until the interrupt is raised.

        Returns:
            Whether it is raised; always false without `until_interrupt`.

        Raises:
            DeviceError: the core broke a rule of AXI; the message says which.
        """

    def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes to DRAM.

        Raises:
            DeviceError: not all of them lie in memory.
        """
        source = np.frombuffer(data, np.uint8)
        self._memory(address, source.size)[:] = source

    def read_memory(self, address: int, size: int) -> bytes:
        """Read bytes from DRAM.

        Raises:
            DeviceError: not all of them lie in memory.
        """
        return self._memory(address, size).tobytes()

    def wait_interrupt(self, *, max_cycles: int, progress: Progress | None = None) -> None:
        """Run until the core raises its interrupt.

        Raises:
            DeviceTimeoutError: it did not within `max_cycles`; the message says what each engine
                waits for.
            DeviceError: the core broke a rule of AXI.
        """
        left = max_cycles
        while left > 0:
            if self.step(min(self.chunk, left), until_interrupt=True):
                return
            left -= self.chunk
            if progress is not None:
                progress(self.activity.cycles - self._started)
        raise DeviceTimeoutError(
            f"{self.name}: no interrupt in {max_cycles} cycles; {describe_stall(self)}"
        )

    @property
    def captured(self) -> dict[str, np.ndarray]:
        """What the last run captured: `[rows, columns]` in int8, uint8 or int16, by name."""
        return {
            capture.point.name: capture.data.view(DTYPES[capture.point.format]).copy()
            for capture in self._captures
            if capture.complete
        }

    def _make_captures(self, points: Sequence[WatchPoint]) -> list[Capture]:
        granule = self.config.columns
        captures = list[Capture]()
        for point in points:
            size = point.columns * DTYPES[point.format].itemsize
            end = (point.address + (point.rows - 1) * point.row) * granule + size
            if end > self.config.scratchpad_bytes:
                raise ValueError(f"the watch point {point.name} ends beyond the scratchpad")
            data = np.zeros((point.rows, size), np.uint8)
            captures.append(Capture(point, point.address * granule, point.row * granule, data))
        return captures

    def _is_start(self, offset: int, value: int) -> bool:
        """Whether a register write starts a run; then it begins a new measurement."""
        return offset == regs.offset("control") and bool(value >> Control.START & 1)

    def _memory(self, address: int, size: int) -> np.ndarray:
        if address < 0 or address + size > self.memory_bytes:
            raise DeviceError(
                f"{self.name}: {size} bytes from {address:#x} are outside of the memory of "
                f"{self.memory_bytes:#x} bytes"
            )
        return self.memory[address : address + size]
