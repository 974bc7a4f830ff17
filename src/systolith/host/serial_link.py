"""The host's side of the link's protocol: frames, their answers, and what to do without one."""

import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from systolith.host.device import DeviceError
from systolith.host.serial_port import Port, flush
from systolith.link import (
    ANSWER,
    ANSWER_BYTES,
    HEADER_BYTES,
    RECEIVE_BYTES,
    REJECTED,
    SILENCE_S,
    Command,
    Status,
)

TRIES = 8
"""How often in a row something may fail before the line counts as broken."""

ANSWER_S = 1.0
"""How much longer than its bits need an answer may take: the drivers of both ends, and others."""

CHECK_WORDS_PER_S = 100_000
"""Words that a link checks in a second, at the very least."""

READS_AHEAD = RECEIVE_BYTES // HEADER_BYTES
"""Requests that may wait in the link while it answers."""

WRITES_AHEAD = 4
"""Blocks that may be under way before the first one is answered."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the link is asked to do.

    Attributes:
        command: what.
        address: in bytes, a multiple of 4.
        argument: words, or the value of a POKE.
        payload: the words of a WRITE, in memory's order of bytes.
    """

    command: Command
    address: int
    argument: int
    payload: bytes = b""

    def frame(self, tag: int) -> bytes:
        """The bytes on the wire."""
        start = bytes((self.command, tag))
        start += (self.address // 4).to_bytes(4, "big") + self.argument.to_bytes(4, "big")
        start += _crc(start)
        if self.command is not Command.WRITE:
            return start
        whole = start + turned(self.payload)
        return whole + _crc(whole)

    @property
    def answer_bytes(self) -> int:
        """Length of its answer."""
        return ANSWER_BYTES + (4 * self.argument if self.command is Command.READ else 0)


class _LostError(Exception):
    """A frame or its answer did not arrive whole."""


class NoAnswerError(DeviceError):
    """Nothing gets through, however often it is tried."""


class RefusedError(DeviceError):
    """The link understood, and its bus refused.

    Attributes:
        status: why.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class SerialLink:
    """Carries requests out, each exactly as if nothing was ever lost.

    A request that is not answered as it should is repeated with the same tag, after a silence that
    lets the link drop what it has of it. Reads and writes of memory may be carried out twice; the
    link carries a POKE out once.

    Args:
        port: where to.
        name: for messages.
        silence_s: how long a silence must be.
        tries: how often in a row something may fail.
        answer_s: how long to wait for an answer beyond what its bits need.

    Attributes:
        lost: frames or answers that did not arrive whole.
        dropped: bytes that came and were no answer.
    """

    def __init__(
        self,
        port: Port,
        *,
        name: str,
        silence_s: float = 1.3 * SILENCE_S,
        tries: int = TRIES,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.name = name
        self.lost = 0
        self.dropped = 0
        self._port = port
        self._silence_s = silence_s
        self._tries = tries
        self._answer_s = answer_s
        self._tag = 0
        self._buffer = b""

    def transact(
        self,
        requests: Sequence[Request],
        *,
        done: Callable[[Request], object] | None = None,
        tries: int | None = None,
    ) -> list[bytes]:
        """Carry requests out, in order; return the words of each answer, in memory's order.

        The next ones are under way before the first one is answered.

        Args:
            requests: of one command.
            done: called after each.
            tries: instead of the link's.

        Raises:
            DeviceError: the port is gone.
            NoAnswerError: nothing gets through.
            RefusedError: the bus refused; the rest is not tried.
        """
        tries = tries or self._tries
        waiting = deque(enumerate(requests))
        tags = dict[int, int]()
        under_way = deque[tuple[int, Request]]()
        results = [b""] * len(requests)
        failures = 0
        while waiting or under_way:
            while waiting and len(under_way) < _ahead(waiting[0][1]):
                index, request = waiting.popleft()
                if index not in tags:
                    self._tag = tags[index] = (self._tag + 1) % 256
                under_way.append((index, request))
                self._port.write(request.frame(tags[index]))
            index, request = under_way[0]
            try:
                results[index] = self._answer(request, tags[index], under_way)
            except _LostError as error:
                self.lost += 1
                failures += 1
                self.resynchronize()
                if failures >= tries:
                    raise NoAnswerError(
                        f"{self.name}: {request.command.name} at {request.address:#x} failed "
                        f"{failures} times in a row; at last, {error}. Check cable and baud rate "
                        f"({self._port.baud})."
                    ) from None
                waiting.extendleft(reversed(under_way))
                under_way.clear()
                continue
            failures = 0
            under_way.popleft()
            if done is not None:
                done(request)
        return results

    def resynchronize(self) -> None:
        """Be silent until the link has dropped what it has, and drop what comes meanwhile.

        Raises:
            DeviceError: the port is gone, or there is no silence.
        """
        self.dropped += len(self._buffer) + flush(self._port, self._silence_s)
        self._buffer = b""

    def _answer(
        self, request: Request, tag: int, under_way: Sequence[tuple[int, Request]]
    ) -> bytes:
        """Wait for the answer to the oldest request.

        Raises:
            _LostError: it did not come, or not whole.
        """
        size = request.answer_bytes
        sent = sum(len(each.payload) + HEADER_BYTES + 4 for _, each in under_way)
        patience = self._answer_s + 10 * (sent + size) / self._port.baud
        if request.command is Command.CHECK:
            patience += request.argument / CHECK_WORDS_PER_S
        end = time.monotonic() + patience
        while len(self._buffer) < size:
            if self._buffer[:1] not in (b"", bytes([ANSWER])):
                break
            data = self._port.read(1 << 16, max(0.0, end - time.monotonic()))
            if not data and time.monotonic() >= end:
                got = f"{len(self._buffer)} of {size} bytes" if self._buffer else "nothing"
                raise _LostError(f"{got} came in {patience:.1f} s")
            self._buffer += data
        if self._buffer[0] == REJECTED:
            raise _LostError("the board had not received what was sent")
        if self._buffer[:2] != bytes((ANSWER, tag)):
            raise _LostError(f"the answer began with {self._buffer[:2].hex(' ')}")
        answer, self._buffer = self._buffer[:size], self._buffer[size:]
        words, status = answer[2:-5], answer[-5]
        # The words of a CHECK count, but are here and not in the answer.
        counted = turned(request.payload) if request.command is Command.CHECK else words
        if answer[-4:] != _crc(answer[:2] + counted + answer[-5:-4]):
            if request.command is Command.CHECK:
                return b""
            raise _LostError("the answer's CRC was wrong")
        if status != Status.OKAY:
            raise RefusedError(
                f"{self.name}: {request.command.name} at {request.address:#x}: "
                f"{_REASONS.get(status, f'status {status}')}",
                status,
            )
        return b"same" if request.command is Command.CHECK else turned(words)


_REASONS: dict[int, str] = {
    Status.NOTHING_THERE: "nothing is there, or memory is not ready",
    Status.BUS_ERROR: "the bus answered with an error",
    Status.TIMEOUT: "the bus does not answer. Load the bitstream again.",
}


def turned(data: bytes) -> bytes:
    """Words in the other order of bytes."""
    return np.frombuffer(data, "<u4").astype(">u4").tobytes()


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _ahead(request: Request) -> int:
    return WRITES_AHEAD if request.command is Command.WRITE else READS_AHEAD
