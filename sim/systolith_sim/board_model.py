"""A board in Python: the link's protocol in front of the instruction simulator, behind a terminal.

It is written from docs/boards.md, shares no code with driver or gateware, and loses, doubles or
changes bytes on demand.
"""

import os
import pty
import random
import select
import threading
import time
import tty
import zlib
from collections.abc import Callable

from systolith import regs
from systolith.host.device import Device, DeviceError

POKE, WRITE, READ, CHECK = 0xF8, 0xF9, 0xFA, 0xFB
OKAY, NOTHING_THERE = 0, 1
_CORE, _LINK = 0xF000_0000, 0xF000_1000
_CORE_SPAN, _LINK_SPAN = 0x400, 0x40
_STATUS, _FRAME_ERRORS, _SCRATCH = 0x10, 0x18, 0x20

Faults = Callable[[bytes], bytes]
"""What a line makes of bytes."""


def faulty(rate: float, *, seed: int) -> Faults:
    """A line that loses, doubles or changes each byte with a probability."""
    generator = random.Random(seed)

    def line(data: bytes) -> bytes:
        result = bytearray()
        for byte in data:
            if generator.random() >= rate:
                result.append(byte)
                continue
            kind = generator.choice(("lost", "doubled", "changed"))
            if kind == "doubled":
                result += bytes((byte, byte))
            elif kind == "changed":
                result.append(byte ^ 1 << generator.randrange(8))
        return bytes(result)

    return line


class BoardModel:
    """A link in a thread of its own; a context, which ends the thread.

    Args:
        device: the core and its memory.
        silence_s: what ends a frame.
        receive: what happens to bytes on their way in.
        transmit: likewise out.
        memory_status: bit 0, memory is ready; bit 1, its test failed.

    Attributes:
        path: of the terminal that a driver opens.
        received: bytes that came in.
        starts: how often a program was started.
    """

    def __init__(
        self,
        device: Device,
        *,
        silence_s: float = 0.02,
        receive: Faults = bytes,
        transmit: Faults = bytes,
        memory_status: int = 1,
    ) -> None:
        self.device = device
        self.received = 0
        self.starts = 0
        self.rejected = 0
        self._silence_s = silence_s
        self._receive, self._transmit = receive, transmit
        self._memory_status = memory_status
        self._scratch = 0
        self._last_tag = 0
        self._guarded = self._skips = False
        self._buffer = b""
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "BoardModel":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pull()

    def pull(self) -> None:
        """Pull the cable: the port vanishes."""
        if not self._stop.is_set():
            self._stop.set()
            if threading.current_thread() is not self._thread:
                self._thread.join(10)
            os.close(self._master)
            os.close(self._slave)

    def _run(self) -> None:
        heard = time.monotonic()
        while not self._stop.is_set():
            if select.select([self._master], [], [], self._silence_s / 4)[0]:
                data = os.read(self._master, 1 << 16)
                self.received += len(data)
                self._buffer += self._receive(data)
                heard = time.monotonic()
                self._frames()
            elif time.monotonic() - heard > self._silence_s:
                if self._buffer:
                    self._reject()
                self._skips = self._guarded = False

    def _send(self, data: bytes) -> None:
        data = self._transmit(data)
        while data and not self._stop.is_set():
            data = data[os.write(self._master, data) :]

    def _reject(self) -> None:
        self.rejected += 1
        self._buffer = b""
        self._skips = True
        if self._guarded:
            self._send(b"\x5a")

    def _frames(self) -> None:
        while self._buffer and not self._skips:
            first = self._buffer[0]
            self._guarded |= first in (POKE, WRITE, READ, CHECK)
            if first in (POKE, WRITE, READ, CHECK):
                size = self._command()
            elif first in (1, 2, 3, 4) and not self._guarded:
                size = self._uartbone()
            else:
                return self._reject()
            if not size:
                return None
            self._buffer = self._buffer[size:]
        if self._skips:
            self._buffer = b""
        return None

    def _command(self) -> int:
        """Carry out what the buffer begins with; return its length, or 0 if it is not whole."""
        if len(self._buffer) < 14:
            return 0
        head = self._buffer[:14]
        command, tag = head[0], head[1]
        address, argument = int.from_bytes(head[2:6], "big"), int.from_bytes(head[6:10], "big")
        bad_size = command != POKE and not 0 < argument < 0x10000
        if int.from_bytes(head[10:], "little") != zlib.crc32(head[:10]) or bad_size:
            self._reject()
            return 0
        if command == WRITE:
            return self._write(tag, address, argument)
        answer = b""
        status = OKAY
        if command == POKE:
            if tag != self._last_tag:
                status = self._put(4 * address, argument)
                self._last_tag = tag if status == OKAY else self._last_tag
        else:
            for index in range(argument):
                status, word = self._get(4 * (address + index)) if status == OKAY else (status, 0)
                answer += word.to_bytes(4, "big")
        self._answer(tag, status, answer, shown=command != CHECK)
        return 14

    def _write(self, tag: int, address: int, count: int) -> int:
        size = 14 + 4 * count + 4
        if len(self._buffer) < size:
            return 0
        frame = self._buffer[:size]
        words = [int.from_bytes(frame[at : at + 4], "big") for at in range(14, size - 4, 4)]
        inside = 4 * (address + count) <= self.device.memory_bytes
        if inside:
            # As they come: that one was wrong turns out at the end.
            data = b"".join(word.to_bytes(4, "little") for word in words)
            self.device.write_memory(4 * address, data)
        if int.from_bytes(frame[-4:], "little") != zlib.crc32(frame[:-4]):
            self._reject()
            return 0
        self._answer(tag, OKAY if inside else NOTHING_THERE, b"", shown=True)
        return size

    def _answer(self, tag: int, status: int, words: bytes, *, shown: bool) -> None:
        start, end = bytes((0xA5, tag)), bytes((status,))
        crc = zlib.crc32(start + words + end).to_bytes(4, "little")
        self._send(start + (words if shown else b"") + end + crc)

    def _uartbone(self) -> int:
        if len(self._buffer) < 6:
            return 0
        command, count = self._buffer[0], self._buffer[1]
        address, step = int.from_bytes(self._buffer[2:6], "big"), command in (1, 2)
        if command in (2, 4):
            words = [self._get(4 * (address + index * step))[1] for index in range(count)]
            self._send(b"".join(word.to_bytes(4, "big") for word in words))
            return 6
        if len(self._buffer) < 6 + 4 * count:
            return 0
        for index in range(count):
            word = int.from_bytes(self._buffer[6 + 4 * index :][:4], "big")
            self._put(4 * (address + index * step), word)
        return 6 + 4 * count

    def _get(self, address: int) -> tuple[int, int]:
        if address + 4 <= self.device.memory_bytes:
            return OKAY, int.from_bytes(self.device.read_memory(address, 4), "little")
        if 0 <= address - _CORE < _CORE_SPAN:
            return OKAY, self.device.read_csr(address - _CORE)
        if 0 <= address - _LINK < _LINK_SPAN:
            return OKAY, self._link_register(address - _LINK)
        return NOTHING_THERE, 0

    def _link_register(self, offset: int) -> int:
        read = self.device.read_csr
        names = "interrupt_pending", "interrupt_enable"
        interrupt = all(read(regs.offset(name)) for name in names)
        return {
            0x00: int.from_bytes(b"LINK", "little"),
            0x04: 1,
            0x08: self.device.memory_bytes,
            0x0C: 50_000_000,
            _STATUS: self._memory_status | interrupt << 2,
            _FRAME_ERRORS: self.rejected & 0xFF,
            _SCRATCH: self._scratch,
        }.get(offset, 0)

    def _put(self, address: int, value: int) -> int:
        if address + 4 <= self.device.memory_bytes:
            self.device.write_memory(address, value.to_bytes(4, "little"))
        elif 0 <= address - _CORE < _CORE_SPAN:
            self._write_csr(address - _CORE, value)
        elif 0 <= address - _LINK < _LINK_SPAN:
            if address - _LINK == _SCRATCH:
                self._scratch = value
        else:
            return NOTHING_THERE
        return OKAY

    def _write_csr(self, offset: int, value: int) -> None:
        self.device.write_csr(offset, value)
        if offset == regs.offset("control") and value & 1:
            self.starts += 1
            try:
                self.device.wait_interrupt(max_cycles=1)
            except DeviceError:
                return  # it hangs, as a core does
