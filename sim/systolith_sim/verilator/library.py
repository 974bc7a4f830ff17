"""The compiled simulator as Python objects: one `Simulation` is one core with its memory."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from systolith.host.device import DeviceError
from systolith.isa import Engine
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.simulated import Activity, Capture

_RAN, _INTERRUPT, _VIOLATION = range(3)


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """An instruction that an engine has retired.

    Attributes:
        cycle: the first one in which the engine's progress count shows it, since the simulation
            was made.
        engine: whose instruction.
        count: the engine's retired instructions, this one included.
    """

    cycle: int
    engine: Engine
    count: int


class _Options(ctypes.Structure):
    _fields_ = (
        ("memory_bytes", ctypes.c_uint64),
        ("scratchpad_bytes", ctypes.c_uint64),
        ("bandwidth", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("latency", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32),
        ("stall", ctypes.c_uint32),
        ("interleave", ctypes.c_uint32),
    )


class _Watch(ctypes.Structure):
    _fields_ = (
        ("target", ctypes.c_void_p),
        ("engine", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("row", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),
        ("row_bytes", ctypes.c_uint64),
        ("captured", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class _Retirement(ctypes.Structure):
    _fields_ = (
        ("cycle", ctypes.c_uint64),
        ("engine", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
    )


class _Counters(ctypes.Structure):
    _fields_ = (
        ("cycles", ctypes.c_uint64),
        ("read_beats", ctypes.c_uint64),
        ("write_beats", ctypes.c_uint64),
        ("pending", ctypes.c_uint64),
    )


_HANDLE = ctypes.c_void_p
_SIGNATURES = {
    "new": ([ctypes.c_void_p, ctypes.POINTER(_Options)], _HANDLE),
    "delete": ([_HANDLE], None),
    "reset": ([_HANDLE, ctypes.c_uint32], None),
    "run": ([_HANDLE, ctypes.c_uint64, ctypes.c_int], ctypes.c_int),
    "write_register": ([_HANDLE, ctypes.c_uint32, ctypes.c_uint32], ctypes.c_int),
    "read_register": (
        [_HANDLE, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)],
        ctypes.c_int,
    ),
    "inject": ([_HANDLE, ctypes.c_int64, ctypes.c_int64], None),
    "counters": ([_HANDLE, ctypes.POINTER(_Counters)], None),
    "message": ([_HANDLE], ctypes.c_char_p),
    "watch": ([_HANDLE, ctypes.POINTER(_Watch), ctypes.c_uint64], None),
    "record": ([_HANDLE, ctypes.POINTER(_Retirement), ctypes.c_uint64], None),
    "recorded": ([_HANDLE], ctypes.c_uint64),
    "trace_start": ([_HANDLE, ctypes.c_char_p], ctypes.c_int),
    "trace_stop": ([_HANDLE], None),
}


class Simulation:
    """A core out of reset, and its memory.

    Args:
        path: the shared library.
        name: for messages.
        memory: `[bytes]` in uint8; shared, not copied.
        timing: of the memory.
        scratchpad_bytes: of the core.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        memory: np.ndarray,
        timing: MemoryTiming,
        scratchpad_bytes: int,
    ) -> None:
        library = ctypes.CDLL(str(path))
        for function, (arguments, result) in _SIGNATURES.items():
            symbol = getattr(library, f"harness_{function}")
            symbol.argtypes, symbol.restype = arguments, result
        self._library = library
        self._name = name
        self._memory = memory  # the harness holds a pointer to it
        self._watches = (_Watch * 0)()
        self._record = (_Retirement * 0)()
        options = _Options(
            memory_bytes=memory.size,
            scratchpad_bytes=scratchpad_bytes,
            bandwidth=timing.tokens,
            seed=timing.seed,
            latency=timing.latency,
            outstanding=timing.outstanding,
            stall=timing.threshold,
            interleave=timing.interleave,
        )
        self._handle = library.harness_new(memory.ctypes.data, ctypes.byref(options))

    def close(self) -> None:
        """Free the core; nothing may be called after it."""
        if self._handle:
            self._library.harness_delete(self._handle)
            self._handle = None

    def run(self, cycles: int, *, until_interrupt: bool) -> bool:
        """Simulate so many cycles, or until the interrupt; return whether it is raised."""
        return self._check(self._library.harness_run(self._live, cycles, until_interrupt))

    def reset(self, cycles: int) -> None:
        """Hold `rst` for so many cycles; the memory forgets what is under way."""
        self._library.harness_reset(self._live, cycles)

    def write_register(self, offset: int, value: int) -> None:
        """Write a register over AXI4-Lite."""
        self._check(self._library.harness_write_register(self._live, offset, value))

    def read_register(self, offset: int) -> int:
        """Read a register over AXI4-Lite."""
        value = ctypes.c_uint32()
        self._check(self._library.harness_read_register(self._live, offset, ctypes.byref(value)))
        return value.value

    def inject(self, *, read_beat: int | None, write_beat: int | None) -> None:
        """Let the memory answer with an error at these beats from now on."""
        beats = (-1 if beat is None else beat for beat in (read_beat, write_beat))
        self._library.harness_inject(self._live, *beats)

    @property
    def activity(self) -> Activity:
        """What the simulation did until now."""
        counters = _Counters()
        self._library.harness_counters(self._live, ctypes.byref(counters))
        return Activity(
            counters.cycles, counters.read_beats, counters.write_beats, counters.pending
        )

    def watch(self, captures: Sequence[Capture]) -> None:
        """Fill `captures` from now on; needs a probe."""
        self._watches = (_Watch * len(captures))(
            *(
                _Watch(
                    target=capture.data.ctypes.data,
                    engine=int(capture.point.engine),
                    count=capture.point.count,
                    address=capture.address,
                    row=capture.row,
                    rows=capture.data.shape[0],
                    row_bytes=capture.data.shape[1],
                )
                for capture in captures
            )
        )
        self._library.harness_watch(self._live, self._watches, len(captures))

    def completed(self) -> list[bool]:
        """Which of the captures are complete."""
        return [bool(watch.captured) for watch in self._watches]

    def record(self, capacity: int) -> None:
        """Note so many retirements from now on; needs a probe."""
        self._record = (_Retirement * capacity)()
        self._library.harness_record(self._live, self._record, capacity)

    def recorded(self) -> list[Retirement]:
        """The retirements that have been noted, in order."""
        count = self._library.harness_recorded(self._live)
        return [
            Retirement(cycle=each.cycle, engine=Engine(each.engine), count=each.count)
            for each in self._record[:count]
        ]

    def trace_start(self, path: Path) -> None:
        """Write waveforms from now on, in VCD.

        Raises:
            DeviceError: this simulator was built without waveforms.
        """
        if not self._library.harness_trace_start(self._live, str(path).encode()):
            raise DeviceError(f"{self._name} was built without waveforms")

    def trace_stop(self) -> None:
        """Write no more waveforms, and close the file."""
        self._library.harness_trace_stop(self._live)

    @property
    def _live(self) -> int:
        if not self._handle:
            raise DeviceError(f"{self._name} has been closed")
        return self._handle

    def _check(self, result: int) -> bool:
        if result == _VIOLATION:
            message = self._library.harness_message(self._live).decode()
            raise DeviceError(f"{self._name}: {message}")
        return result == _INTERRUPT
