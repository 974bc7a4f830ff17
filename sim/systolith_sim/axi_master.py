"""A master for tests of AXI4 memories: bursts in any order of channels, with random stalls."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amaranth.hdl import Cat
from amaranth.utils import exact_log2

from systolith_sim.testbench import ProtocolError, SimulatorContext


@dataclass(kw_only=True)
class Transfer:
    """A burst, and what came of it.

    Attributes:
        address: its first byte.
        beats: how many.
        id: its ID.
        data: the beats to write; None for a read.
        strobes: for each of them; all bytes, if not given.
        burst: AXI's burst type.
        size: log2 of the bytes of a beat; those of the bus, if not given.
        offered: the cycle in which its address was first valid.
        finished: the cycle in which the last beat or the response was accepted.
        read: beats that were read.
        responses: one for a write, one for each beat of a read.
    """

    address: int
    beats: int
    id: int = 0
    data: Sequence[int] | None = None
    strobes: Sequence[int] | None = None
    burst: int = 1
    size: int | None = None
    offered: int | None = None
    finished: int | None = None
    read: list[int] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)


class AxiMaster:
    """Send transfers, as many at a time as the slave accepts, and hold it to the protocol.

    A transfer waits only for transfers before it of the other direction that touch the same
    bytes, so what it reads or leaves behind is certain.

    Attributes:
        cycle: clock edges since the first `run` began.
    """

    def __init__(self, axi: Any, *, stall: float = 0.0, seed: int = 0) -> None:
        """Attach to a slave.

        Args:
            axi: an interface of `AxiSignature`, as a slave has it.
            stall: probability, in each cycle and for each channel, that it does not move on.
            seed: of stalls.
        """
        self.cycle = 0
        self._axi = axi
        self._bytes = len(axi.w.strb)
        self._stall = stall
        self._random = random.Random(seed)
        self._reads: deque[Transfer] = deque()
        self._writes: deque[Transfer] = deque()
        self._beats: deque[tuple[int, int, bool]] = deque()
        self._raised = {"ar": False, "aw": False, "w": False}
        self._ready = {"r": False, "b": False}

    async def run(self, ctx: SimulatorContext, transfers: Sequence[Transfer]) -> None:
        """Send transfers in this order, and return when all are answered.

        Raises:
            ProtocolError: an answer that nobody waits for, or one that was withdrawn or changed.
        """
        axi = self._axi
        left = deque(transfers)
        addresses: dict[str, deque[Transfer]] = {"ar": deque(), "aw": deque()}
        held: dict[str, int | None] = {"r": None, "b": None}
        r_payload = Cat(axi.r.id, axi.r.resp, axi.r.last, axi.r.data)
        b_payload = Cat(axi.b.id, axi.b.resp)
        flags = Cat(axi.ar.ready, axi.aw.ready, axi.w.ready, axi.r.valid, axi.b.valid)
        sample = ctx.tick().sample(flags, r_payload, b_payload)
        while left or self._reads or self._writes or self._beats:
            self._admit(left, addresses)
            self._offer(ctx, addresses)
            _, _, seen, r_value, b_value = await sample
            for bit, channel in enumerate(("ar", "aw", "w")):
                if self._raised[channel] and seen >> bit & 1:
                    self._raised[channel] = False
                    ctx.set(getattr(axi, channel).valid, 0)
                    (self._beats if channel == "w" else addresses[channel]).popleft()
            for bit, (channel, value) in enumerate((("r", r_value), ("b", b_value)), start=3):
                valid = bool(seen >> bit & 1)
                if held[channel] is not None and (not valid or value != held[channel]):
                    raise ProtocolError(f"Cycle {self.cycle}: {channel} changed before READY")
                held[channel] = value if valid and not self._ready[channel] else None
                if valid and self._ready[channel]:
                    (self._take_read if channel == "r" else self._take_response)(value)
            self.cycle += 1
        for channel in ("r", "b"):
            ctx.set(getattr(axi, channel).ready, 0)
            self._ready[channel] = False

    def _goes(self) -> bool:
        return self._stall == 0 or self._random.random() >= self._stall

    def _admit(self, left: deque[Transfer], addresses: dict[str, deque[Transfer]]) -> None:
        """Hand transfers to their channels, until one must wait."""
        while left and len(self._reads) + len(self._writes) < 64:
            transfer = left[0]
            others = self._reads if transfer.data is not None else self._writes
            span = self._bytes * transfer.beats
            if any(
                other.address < transfer.address + span
                and transfer.address < other.address + self._bytes * other.beats
                for other in others
            ):
                return
            left.popleft()
            if transfer.data is None:
                self._reads.append(transfer)
                addresses["ar"].append(transfer)
            else:
                self._writes.append(transfer)
                addresses["aw"].append(transfer)
                strobes = transfer.strobes or [(1 << self._bytes) - 1] * transfer.beats
                self._beats.extend(
                    (word, strobe, index == transfer.beats - 1)
                    for index, (word, strobe) in enumerate(zip(transfer.data, strobes, strict=True))
                )

    def _offer(self, ctx: SimulatorContext, addresses: dict[str, deque[Transfer]]) -> None:
        axi = self._axi
        for name, waiting in addresses.items():
            if waiting and not self._raised[name] and self._goes():
                channel, transfer = getattr(axi, name), waiting[0]
                size = exact_log2(self._bytes) if transfer.size is None else transfer.size
                ctx.set(channel.id, transfer.id)
                ctx.set(channel.addr, transfer.address)
                ctx.set(channel.len, transfer.beats - 1)
                ctx.set(channel.size, size)
                ctx.set(channel.burst, transfer.burst)
                ctx.set(channel.valid, 1)
                self._raised[name] = True
                transfer.offered = self.cycle
        if self._beats and not self._raised["w"] and self._goes():
            word, strobe, last = self._beats[0]
            ctx.set(axi.w.data, word)
            ctx.set(axi.w.strb, strobe)
            ctx.set(axi.w.last, last)
            ctx.set(axi.w.valid, 1)
            self._raised["w"] = True
        for channel in ("r", "b"):
            goes = self._goes()
            if goes != self._ready[channel]:
                ctx.set(getattr(axi, channel).ready, goes)
                self._ready[channel] = goes

    def _take_read(self, value: int) -> None:
        transfer = self._owed(self._reads, value & 3, "R")
        transfer.responses.append(value >> 2 & 3)
        transfer.read.append(value >> 5)
        last = bool(value >> 4 & 1)
        if last != (len(transfer.read) == transfer.beats):
            raise ProtocolError(
                f"Cycle {self.cycle}: RLAST is {int(last)} with beat {len(transfer.read)} of "
                f"{transfer.beats}"
            )
        if last:
            transfer.finished = self.cycle
            self._reads.remove(transfer)

    def _take_response(self, value: int) -> None:
        transfer = self._owed(self._writes, value & 3, "B")
        transfer.responses.append(value >> 2)
        transfer.finished = self.cycle
        self._writes.remove(transfer)

    def _owed(self, waiting: deque[Transfer], id_: int, channel: str) -> Transfer:
        """The oldest transfer of this ID."""
        for transfer in waiting:
            if transfer.id == id_ and transfer.offered is not None:
                return transfer
        raise ProtocolError(f"Cycle {self.cycle}: {channel} with ID {id_}, which nobody waits for")
