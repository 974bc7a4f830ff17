"""A memory on an AXI4 port, which also holds the master to the protocol: for tests of units.

Devices have another one, `memory_model`, which is a twin of the Verilator harness, so it is as
simple as it can be: bandwidth and latency, addresses before data, one error at a time. This one has
no bandwidth, and does what a slave may do beyond that: data before its address, errors anywhere,
ranges that must not be touched, and a record of every burst.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amaranth.hdl import Cat, Value

from systolith_sim.testbench import ProtocolError, SimulatorContext

BOUNDARY = 4096
"""Bytes whose multiples no burst may cross."""

OKAY, SLAVE_ERROR = 0, 2
"""Responses."""


@dataclass(kw_only=True)
class Burst:
    """A burst as the memory saw it.

    Attributes:
        cycle: in which its address was accepted.
        id: its ID.
        address: its first byte.
        beats: how many.
    """

    cycle: int
    id: int
    address: int
    beats: int


@dataclass(kw_only=True)
class AxiFaults:
    """Where the memory answers with an error.

    Attributes:
        reads: beats, as pairs of ID and number, counted from 0 for each ID.
        writes: bursts, counted from 0.
    """

    reads: set[tuple[int, int]] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)

    def response_to_read(self, id_: int, number: int) -> int:
        """What RRESP is to a beat."""
        return SLAVE_ERROR if (id_, number) in self.reads else OKAY

    def response_to_write(self, number: int) -> int:
        """What BRESP is to a burst."""
        return SLAVE_ERROR if number in self.writes else OKAY


class AxiMemory:
    """A memory that answers one AXI4 master, and checks it in every cycle.

    It is a background process: pass it to `simulate` as a monitor, or give `watch` to a
    `Simulator` as a background testbench. Each channel accepts and answers on its own; a burst is
    carried out when its address and its last beat are in.

    The rules it checks: once raised, VALID stays and the payload is stable until READY; bursts are
    INCR, of the bus width, aligned, and within 4 KiB; no burst reads, and no strobe writes, beside
    what is allowed; LAST comes with a burst's last beat.

    Attributes:
        cycle: clock edges since the simulation began.
        reads: read bursts, in the order of their addresses' acceptance.
        writes: write bursts, likewise.
        read_beats: cycle and ID of every beat of R that was accepted.
        write_beats: cycle of every beat of W that was accepted.
        refused_reads: cycles in which the master did not accept R.
        strobed: bytes that were written.
    """

    def __init__(
        self,
        memory: bytearray,
        axi: Any,
        *,
        latency: int = 30,
        stall: float = 0.0,
        interleave: bool = False,
        seed: int = 0,
        readable: Sequence[range] | None = None,
        writable: Sequence[range] | None = None,
        faults: AxiFaults | None = None,
        address_waits_for_data: bool = False,
    ) -> None:
        """Attach `memory` to `axi`.

        Args:
            memory: its bytes, from address 0 on; read and written in place.
            axi: an interface of `AxiSignature`, as its master sees it.
            latency: cycles from an accepted address to its first beat on R, and from the last
                accepted beat on W to the response.
            stall: probability, in each cycle and for each channel, that it does not move on.
            interleave: whether beats of different IDs come mixed.
            seed: of stalls and mixing.
            readable: addresses that may be read (rounded to whole beats); all, if not given.
            writable: addresses that may be written; all, if not given.
            faults: where to answer with an error.
            address_waits_for_data: accept AW only once W has been raised, as a slave may.
        """
        self.memory = memory
        self.cycle = 0
        self.reads: list[Burst] = []
        self.writes: list[Burst] = []
        self.read_beats: list[tuple[int, int]] = []
        self.write_beats: list[int] = []
        self.refused_reads = 0
        self.strobed = 0

        whole = [range(len(memory))]
        self._axi = axi
        self._bytes = len(axi.w.strb)
        self._latency = latency
        self._stall = stall
        self._interleave = interleave
        self._random = random.Random(seed)
        self._readable = [
            range(r.start // self._bytes * self._bytes, -(-r.stop // self._bytes) * self._bytes)
            for r in (whole if readable is None else readable)
        ]
        self._writable = whole if writable is None else writable
        self._faults = faults or AxiFaults()
        self._address_waits = address_waits_for_data

        # Master's channels: signals as one value, so that a cycle takes few samples.
        self._names = {
            "AR": _members(axi.ar, _ADDRESS),
            "AW": _members(axi.aw, _ADDRESS),
            "W": _members(axi.w, ("data", "strb", "last")),
        }
        self._pending: dict[str, int | None] = dict.fromkeys(self._names)
        self._ready = dict.fromkeys(self._names, False)

        # Bursts that are owed beats, a queue for each ID and one over all.
        self._read_queues: dict[int, deque[_Read]] = {}
        self._read_order: deque[int] = deque()
        self._read_numbers: dict[int, int] = {}
        self._on_r: tuple[int, bool] | None = None
        self._write_addresses: deque[Burst] = deque()
        self._write_data: deque[tuple[int, int, bool]] = deque()
        self._written = 0
        self._answers: deque[tuple[int, int, int]] = deque()
        self._on_b = False
        self._shown: dict[str, int] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is owed on any channel."""
        return not (
            any(self._read_queues.values())
            or self._on_r
            or self._write_addresses
            or self._write_data
            or self._answers
            or self._on_b
            or any(pending is not None for pending in self._pending.values())
        )

    async def watch(self, ctx: SimulatorContext) -> None:
        """Serve until the simulation ends.

        Raises:
            ProtocolError: the master broke a rule; the message names the cycle.
        """
        axi = self._axi
        flags = Cat(axi.ar.valid, axi.aw.valid, axi.w.valid, axi.r.ready, axi.b.ready)
        payloads = [Cat(signal for signal, _ in names) for names in self._names.values()]
        sample = ctx.tick().sample(flags, *payloads)
        self._drive(ctx)
        while True:
            _, _, raised, *values = await sample
            for bit, (channel, value) in enumerate(zip(self._names, values, strict=True)):
                self._check_stable(channel, bool(raised >> bit & 1), value)
            self._answered(raised)
            for channel, accept in (
                ("AR", self._accept_read),
                ("AW", self._accept_write),
                ("W", self._accept_data),
            ):
                value = self._pending[channel]
                if value is not None and self._ready[channel]:
                    self._pending[channel] = None
                    accept(self._unpack(channel, value))
            self._carry_out()
            self.cycle += 1
            self._drive(ctx)

    def _error(self, text: str) -> ProtocolError:
        return ProtocolError(f"Cycle {self.cycle}: {text}")

    def _stalls(self) -> bool:
        return self._stall > 0 and self._random.random() < self._stall

    def _unpack(self, channel: str, value: int) -> dict[str, int]:
        fields = {}
        for (signal, name), shift in zip(
            self._names[channel], _shifts(self._names[channel]), strict=True
        ):
            fields[name] = value >> shift & (1 << len(signal)) - 1
        return fields

    def _check_stable(self, channel: str, valid: bool, value: int) -> None:
        before = self._pending[channel]
        if before is not None:
            if not valid:
                raise self._error(f"{channel} dropped VALID before READY")
            if value != before:
                raise self._error(
                    f"{channel} changed before READY from {self._unpack(channel, before)} "
                    f"to {self._unpack(channel, value)}"
                )
        self._pending[channel] = value if valid else None

    def _check_address(self, channel: str, fields: dict[str, int]) -> Burst:
        burst = Burst(
            cycle=self.cycle, id=fields["id"], address=fields["addr"], beats=fields["len"] + 1
        )
        if fields["burst"] != 1:
            raise self._error(f"{channel} burst type {fields['burst']} is not INCR")
        if 1 << fields["size"] != self._bytes:
            raise self._error(
                f"{channel} size of {1 << fields['size']} bytes is not the bus width, "
                f"{self._bytes} bytes"
            )
        if fields["lock"]:
            raise self._error(f"{channel} is an exclusive access")
        if burst.address % self._bytes:
            raise self._error(f"{channel} address {burst.address:#x} is not aligned to the bus")
        end = burst.address + burst.beats * self._bytes
        if burst.address // BOUNDARY != (end - 1) // BOUNDARY:
            raise self._error(
                f"{channel} burst from {burst.address:#x} to {end - 1:#x} crosses 4 KiB"
            )
        return burst

    def _accept_read(self, fields: dict[str, int]) -> None:
        burst = self._check_address("AR", fields)
        end = burst.address + burst.beats * self._bytes
        if not any(r.start <= burst.address and end <= r.stop for r in self._readable):
            raise self._error(f"AR reads {burst.address:#x} to {end - 1:#x}, which is not allowed")
        self.reads.append(burst)
        queue = self._read_queues.setdefault(burst.id, deque())
        queue.append(_Read(burst, self.cycle + self._latency))
        self._read_order.append(burst.id)

    def _accept_write(self, fields: dict[str, int]) -> None:
        burst = self._check_address("AW", fields)
        self.writes.append(burst)
        self._write_addresses.append(burst)

    def _accept_data(self, fields: dict[str, int]) -> None:
        self.write_beats.append(self.cycle)
        self._write_data.append((fields["data"], fields["strb"], bool(fields["last"])))

    def _carry_out(self) -> None:
        """Write beats whose address is known."""
        while self._write_addresses and self._write_data:
            burst = self._write_addresses[0]
            data, strobe, last = self._write_data.popleft()
            address = burst.address + self._written * self._bytes
            for lane in range(self._bytes):
                if strobe >> lane & 1:
                    self._write_byte(address + lane, data >> 8 * lane & 0xFF)
            self._written += 1
            if last != (self._written == burst.beats):
                raise self._error(
                    f"WLAST is {int(last)} with beat {self._written} of a burst of {burst.beats}"
                )
            if last:
                number = len(self.writes) - len(self._write_addresses)
                response = self._faults.response_to_write(number)
                self._answers.append((self.cycle + self._latency, burst.id, response))
                self._write_addresses.popleft()
                self._written = 0

    def _write_byte(self, address: int, value: int) -> None:
        if not any(address in allowed for allowed in self._writable):
            raise self._error(f"WSTRB writes {address:#x}, which is not allowed")
        self.memory[address] = value
        self.strobed += 1

    def _answered(self, raised: int) -> None:
        """Take note of what the master accepted in the cycle that ends."""
        r_ready, b_ready = raised >> 3 & 1, raised >> 4 & 1
        if self._on_r is not None:
            if r_ready:
                self.read_beats.append((self.cycle, self._on_r[0]))
                self._on_r = None
            else:
                self.refused_reads += 1
        if self._on_b and b_ready:
            self._on_b = False

    def _drive(self, ctx: SimulatorContext) -> None:
        """Set everything for the next cycle."""
        axi = self._axi
        for channel, ready in (("AR", axi.ar.ready), ("W", axi.w.ready), ("AW", axi.aw.ready)):
            accept = not self._stalls()
            if channel == "AW" and self._address_waits:
                # Raised in the cycle that has begun, or accepted before.
                accept = accept and bool(self._write_data or ctx.get(axi.w.valid))
            if accept != self._ready[channel]:
                self._ready[channel] = accept
                ctx.set(ready, accept)
        if self._on_r is None:
            self._drive_read(ctx)
        if not self._on_b:
            due = bool(self._answers) and self._answers[0][0] <= self.cycle and not self._stalls()
            self._show(ctx, "b_valid", axi.b.valid, due)
            if due:
                _, id_, response = self._answers.popleft()
                ctx.set(axi.b.id, id_)
                ctx.set(axi.b.resp, response)
                self._on_b = True

    def _drive_read(self, ctx: SimulatorContext) -> None:
        r = self._axi.r
        if self._interleave:
            due = [i for i, queue in self._read_queues.items() if self._is_due(queue)]
            id_ = self._random.choice(due) if due else None
        else:
            id_ = self._read_order[0] if self._read_order else None
            if id_ is not None and not self._is_due(self._read_queues[id_]):
                id_ = None
        if id_ is None or self._stalls():
            self._show(ctx, "r_valid", r.valid, False)
            return
        read = self._read_queues[id_][0]
        address = read.burst.address + read.sent * self._bytes
        number = self._read_numbers.get(id_, 0)
        self._read_numbers[id_] = number + 1
        read.sent += 1
        last = read.sent == read.burst.beats
        if last:
            self._read_queues[id_].popleft()
            self._read_order.remove(id_)
        data = int.from_bytes(self.memory[address : address + self._bytes], "little")
        self._show(ctx, "r_valid", r.valid, True)
        self._show(ctx, "r_id", r.id, id_)
        self._show(ctx, "r_last", r.last, last)
        self._show(ctx, "r_resp", r.resp, self._faults.response_to_read(id_, number))
        ctx.set(r.data, data)
        self._on_r = (id_, last)

    def _show(self, ctx: SimulatorContext, name: str, signal: Any, value: int) -> None:
        """Set a signal, if it changes: setting takes as long as much of the rest."""
        if self._shown.get(name) != value:
            self._shown[name] = value
            ctx.set(signal, value)

    def _is_due(self, queue: "deque[_Read]") -> bool:
        return bool(queue) and queue[0].due <= self.cycle


@dataclass
class _Read:
    """A read burst that is owed beats from cycle `due` on."""

    burst: Burst
    due: int
    sent: int = 0


_ADDRESS = ("addr", "len", "id", "size", "burst", "lock", "cache", "prot", "qos")


def _members(channel: Any, names: tuple[str, ...]) -> list[tuple[Value, str]]:
    return [(Value.cast(getattr(channel, name)), name) for name in names]


def _shifts(members: list[tuple[Value, str]]) -> list[int]:
    shifts = [0]
    for signal, _ in members:
        shifts.append(shifts[-1] + len(signal))
    return shifts[:-1]
