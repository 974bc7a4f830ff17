"""The AXI4 memory that simulated cores are connected to: what it does, and in which cycle.

`MemoryModel` is this memory in Python, for Amaranth's simulator; `verilator/harness.cpp` is the
same machine in C++. Given the same timing and the same core, both take the same cycles.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TOKEN_SHIFT = 16
STALL_BITS = 10
_MASK64 = (1 << 64) - 1


class AxiViolationError(Exception):
    """A core broke a rule of AXI, or left the memory."""


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """How fast and how kind a memory is.

    Attributes:
        latency: cycles from an accepted read address to its first beat, and from the last beat of
            a write to its response.
        bandwidth: bytes per cycle, reads and writes together; a fraction is kept on average.
        outstanding: bursts it accepts ahead, in each direction.
        stall: probability with which each channel stands still in a cycle, likewise the host's
            side of the register port.
        seed: of stalls and interleaving.
        interleave: whether beats of different IDs come in random order; else bursts are answered
            in the order of their addresses.

    Raises:
        ValueError: a value makes no sense.
    """

    latency: int = 30
    bandwidth: float = 8.0
    outstanding: int = 16
    stall: float = 0.0
    seed: int = 0
    interleave: bool = False

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("latency", self.latency >= 1, "at least 1"),
            ("bandwidth", 0 < self.bandwidth <= 1024, "above 0 and at most 1024"),
            ("outstanding", self.outstanding >= 1, "at least 1"),
            ("stall", 0 <= self.stall <= 0.95, "from 0 to 0.95"),
        ):
            if not valid:
                raise ValueError(f"{name} must be {expected}, but is {getattr(self, name)}")

    @property
    def tokens(self) -> int:
        """Bytes per cycle, in units of `2**-TOKEN_SHIFT`."""
        return max(1, round(self.bandwidth * (1 << TOKEN_SHIFT)))

    @property
    def threshold(self) -> int:
        """A channel stands still when `STALL_BITS` random bits are below it."""
        return round(self.stall * (1 << STALL_BITS))


class SplitMix:
    """The generator `splitmix64`, as simple in C++ as here."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK64

    def next(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK64
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
        return z ^ (z >> 31)


@dataclass
class _Burst:
    address: int
    ready_at: int
    identity: int
    beats: int
    error: bool = False


Get = Callable[[str], int]
"""Reads a port by its name in the Verilog, such as `m_axi_arvalid`."""

Set = Callable[[str, int], None]
"""Drives a port by its name."""

_ADDRESS_FIELDS = ("addr", "id", "len", "size", "burst", "lock")


class MemoryModel:
    """The memory behind the `m_axi` port of a core.

    A cycle goes: `take` what is transferred in it, clock edge, `drive` the inputs of the next one.

    Attributes:
        cycle: the current cycle.
        read_beats: read beats so far.
        write_beats: write beats so far.
        random: where stalls come from, here and at the register port.
    """

    def __init__(self, memory: np.ndarray, timing: MemoryTiming, beat_bytes: int) -> None:
        self._memory = memory
        self._timing = timing
        self._beat = beat_bytes
        self._beat_tokens = beat_bytes << TOKEN_SHIFT
        self._bucket = self._tokens = self._beat_tokens + timing.tokens
        self.cycle = 0
        self.read_beats = 0
        self.write_beats = 0
        self.random = SplitMix(timing.seed)
        self._reads = deque[_Burst]()
        self._writes = deque[_Burst]()
        self._responses = deque[_Burst]()
        self._held: dict[str, tuple[int, ...] | None] = {"ar": None, "aw": None, "w": None}
        self._inputs = {"rvalid": 0, "bvalid": 0, "arready": 0, "awready": 0, "wready": 0}
        self._wants_write = False
        self._write_turn = False
        self._error_read = self._error_write = -1

    @property
    def pending(self) -> int:
        """Transactions that are not finished."""
        waiting = len(self._reads) + len(self._writes) + len(self._responses)
        return waiting + self._inputs["rvalid"] + self._inputs["bvalid"]

    def inject(self, *, read_beat: int | None, write_beat: int | None) -> None:
        """Answer the n-th read beat and the n-th write beat's burst from now on with SLVERR."""
        self._error_read = -1 if read_beat is None else self.read_beats + read_beat
        self._error_write = -1 if write_beat is None else self.write_beats + write_beat

    def stalled(self, random: int, field: int) -> bool:
        """Whether a channel stands still."""
        bits = random >> (field * STALL_BITS) & ((1 << STALL_BITS) - 1)
        return bits < self._timing.threshold

    def take(self, get: Get) -> None:
        """Take what the core transfers in this cycle.

        Raises:
            AxiViolationError: it may not.
        """
        for channel, queue, name in (("ar", self._reads, "AR"), ("aw", self._writes, "AW")):
            held = self._held[channel]
            valid = get(f"m_axi_{channel}valid")
            if not valid and held is None:
                continue
            fields = tuple(get(f"m_axi_{channel}{field}") for field in _ADDRESS_FIELDS)
            self._check_held(name, valid, held, fields)
            ready = self._inputs[f"{channel}ready"]
            self._held[channel] = None if ready else fields
            if ready:
                self._check_legal(name, fields)
                queue.append(
                    _Burst(fields[0], self.cycle + self._timing.latency, fields[1], fields[2] + 1)
                )

        valid = get("m_axi_wvalid")
        self._wants_write = bool(valid)
        if valid or self._held["w"] is not None:
            beat = tuple(get(f"m_axi_w{field}") for field in ("data", "strb", "last"))
            self._check_held("W", valid, self._held["w"], beat)
            self._held["w"] = None if self._inputs["wready"] else beat
            if self._inputs["wready"]:
                self._write(*beat)

        if self._inputs["rvalid"] and get("m_axi_rready"):
            self._inputs["rvalid"] = 0
        if self._inputs["bvalid"] and get("m_axi_bready"):
            self._inputs["bvalid"] = 0

    def drive(self, put: Set) -> None:
        """Drive the inputs of the cycle that has begun."""
        timing = self._timing
        inputs = self._inputs
        random = self.random.next() if timing.threshold or timing.interleave else _MASK64
        self._tokens = min(self._tokens + timing.tokens, self._bucket)

        chosen = None
        if not inputs["rvalid"] and self._reads and not self.stalled(random, 0):
            chosen = self._choose(random >> 54)
        can_write = bool(self._writes) and not self.stalled(random, 1)
        scarce = self._tokens < 2 * self._beat_tokens
        if chosen is not None and can_write and self._wants_write and scarce:
            # There is enough for one: turn about.
            if self._write_turn:
                chosen = None
            else:
                can_write = False
            self._write_turn = not self._write_turn
        if chosen is not None and self._tokens >= self._beat_tokens:
            self._read(chosen, put)
        inputs["wready"] = int(can_write and self._tokens >= self._beat_tokens)

        responds = bool(self._responses) and self._responses[0].ready_at <= self.cycle
        if not inputs["bvalid"] and responds and not self.stalled(random, 2):
            response = self._responses.popleft()
            inputs["bvalid"] = 1
            put("m_axi_bid", response.identity)
            put("m_axi_bresp", 2 if response.error else 0)
        for channel, queue, field in (("ar", self._reads, 3), ("aw", self._writes, 4)):
            room = len(queue) < timing.outstanding
            inputs[f"{channel}ready"] = int(room and not self.stalled(random, field))
        for name, value in inputs.items():
            put(f"m_axi_{name}", value)

    def _choose(self, random: int) -> _Burst | None:
        """The oldest burst; when interleaving, the oldest one of a random ID."""
        if not self._timing.interleave:
            oldest = self._reads[0]
            return oldest if oldest.ready_at <= self.cycle else None
        first = dict[int, _Burst]()
        for burst in self._reads:
            if burst.ready_at <= self.cycle:
                first.setdefault(burst.identity, burst)
        candidates = list(first.values())
        return candidates[random % len(candidates)] if candidates else None

    def _read(self, burst: _Burst, put: Set) -> None:
        self._tokens -= self._beat_tokens
        beat = self._memory[burst.address : burst.address + self._beat]
        put("m_axi_rdata", int.from_bytes(beat.tobytes(), "little"))
        put("m_axi_rid", burst.identity)
        put("m_axi_rresp", 2 if self.read_beats == self._error_read else 0)
        put("m_axi_rlast", int(burst.beats == 1))
        self._inputs["rvalid"] = 1
        self.read_beats += 1
        burst.address += self._beat
        burst.beats -= 1
        if not burst.beats:
            # Not `remove`, which compares: two bursts may be equal.
            position = next(i for i, other in enumerate(self._reads) if other is burst)
            del self._reads[position]

    def _write(self, data: int, strobe: int, last: int) -> None:
        burst = self._writes[0]
        if last != (burst.beats == 1):
            self._fail(f"W: WLAST is {last} with {burst.beats} beats to go, at {burst.address:#x}")
        for index, byte in enumerate(data.to_bytes(self._beat, "little")):
            if strobe >> index & 1:
                self._memory[burst.address + index] = byte
        burst.error |= self.write_beats == self._error_write
        self.write_beats += 1
        burst.address += self._beat
        burst.beats -= 1
        self._tokens -= self._beat_tokens
        if not burst.beats:
            burst.ready_at = self.cycle + self._timing.latency
            self._responses.append(self._writes.popleft())

    def _check_held(
        self, name: str, valid: int, held: tuple[int, ...] | None, now: tuple[int, ...]
    ) -> None:
        if held is not None and not valid:
            self._fail(f"{name}: VALID was withdrawn before READY")
        if held is not None and now != held:
            self._fail(f"{name}: changed while it waited for READY")

    def _check_legal(self, name: str, fields: tuple[int, ...]) -> None:
        address, _, length, size, burst, lock = fields
        count = (length + 1) * self._beat
        if burst != 1 or 1 << size != self._beat or lock:
            self._fail(
                f"{name}: burst type {burst}, size {size}, lock {lock}: "
                "not whole incrementing beats"
            )
        if address % self._beat:
            self._fail(f"{name}: address {address:#x} is no multiple of {self._beat}")
        if address % 4096 + count > 4096:
            self._fail(f"{name}: {count} bytes from {address:#x} cross a 4 KiB boundary")
        if address + count > len(self._memory):
            self._fail(f"{name}: {count} bytes from {address:#x} are outside of the memory")

    def _fail(self, message: str) -> None:
        raise AxiViolationError(f"cycle {self.cycle}: {message}")
