"""A board behind a serial port, as a device."""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from systolith import link, regs
from systolith.config import PRESETS, CoreConfig
from systolith.host.device import Device, DeviceError, DeviceTimeoutError, Progress
from systolith.host.serial_link import TRIES, NoAnswerError, Request, SerialLink
from systolith.host.serial_port import SCHEME, Port, SerialPort, parse_name
from systolith.host.stall import describe_stall
from systolith.link import Command, Flag

BLOCK_WORDS = 1024
"""Words of a WRITE or READ: what is sent again if a byte is lost."""

CHECK_WORDS = 1 << 14
"""Words that are compared before they are sent."""

CHECKED_FROM = 1 << 14
"""Bytes from which on a write is compared with what is there."""

SHOWN_FROM_S = 2.0
"""Seconds from which on a transfer shows its progress."""

POLL_S = 0.002
"""Seconds between two looks at the interrupt; what USB takes comes on top."""

READY_S = 5.0
"""Seconds that memory may need to get ready."""


class SerialDevice(Device):
    """A core on a board, over `systolith_boards.link`.

    What is written is compared with what is there first, block by block, and only what differs is
    sent: a session with the same weights takes a second instead of a minute.

    Args:
        config: the core that is wanted.
        name: `serial:PORT`, or `serial:PORT?baud=N`.
        quiet: no progress.
        port: what to use instead of a port of this machine.
        silence_s, answer_s: see `SerialLink`.

    Raises:
        ValueError: the name makes no sense.
        DeviceError: the port cannot be opened, nothing answers, the bitstream is another one, or
            the board's memory does not work.
    """

    bandwidth = 0.0

    def __init__(
        self,
        config: CoreConfig,
        name: str,
        *,
        quiet: bool = False,
        port: Port | None = None,
        silence_s: float = 1.3 * link.SILENCE_S,
        answer_s: float = 1.0,
    ) -> None:
        path, baud = parse_name(name)
        self.name = SCHEME + path
        self.config = config
        self._quiet = quiet
        self._started = 0.0
        self._port = SerialPort(path, baud) if port is None else port
        self._link = SerialLink(self._port, name=self.name, silence_s=silence_s, answer_s=answer_s)
        try:
            self._greet()
            self.memory_bytes = self._read_word(link.address("memory_bytes"))
            self.clock_hz = self._read_word(link.address("clock_hz"))
            self._check_core()
            self._wait_for_memory()
        except BaseException:
            self._port.close()
            raise

    def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes to DRAM, unless they are there.

        Raises:
            DeviceError: not all of them lie in memory, or they do not arrive.
        """
        data = bytes(data)
        self._check_range(address, len(data))
        if not data:
            return
        # Whole words: what is around the bytes stays.
        before, after = address % 4, -(address + len(data)) % 4
        if before:
            data = self.read_memory(address - before, before) + data
        if after:
            data += self.read_memory(address - before + len(data), after)
        start = address - before
        with self._progress(len(data), "to") as bar:
            if len(data) < CHECKED_FROM:
                self._send(start, data, bar)
                return
            step = 4 * CHECK_WORDS
            for at in range(0, len(data), step):
                part = data[at : at + step]
                if not self._same(start + at, part):
                    self._send(start + at, part, bar)
                    # An answer may be lost, too, so one that differs is no proof.
                    if not any(self._same(start + at, part) for _ in range(TRIES)):
                        raise DeviceError(
                            f"{self.name}: memory at {start + at:#x} does not keep what is written "
                            f"to it: {len(part)} bytes arrived, and read otherwise"
                        )
                else:
                    bar.update(len(part))

    def read_memory(self, address: int, size: int) -> bytes:
        """Read bytes from DRAM.

        Raises:
            DeviceError: not all of them lie in memory, or they do not arrive.
        """
        self._check_range(address, size)
        if not size:
            return b""
        start = address // 4 * 4
        words = -(-(address + size - start) // 4)
        with self._progress(4 * words, "from") as bar:
            requests = [
                Request(
                    command=Command.READ,
                    address=start + 4 * at,
                    argument=min(BLOCK_WORDS, words - at),
                )
                for at in range(0, words, BLOCK_WORDS)
            ]
            parts = self._link.transact(requests, done=lambda one: bar.update(4 * one.argument))
        return b"".join(parts)[address - start :][:size]

    def write_csr(self, offset: int, value: int) -> None:
        """Write a 32-bit register of the core."""
        if offset == regs.offset("control"):
            self._started = time.monotonic()
        self._poke(link.CORE_BASE + offset, value)

    def read_csr(self, offset: int) -> int:
        """Read a 32-bit register of the core."""
        return self._read_word(link.CORE_BASE + offset)

    def wait_interrupt(self, *, max_cycles: int, progress: Progress | None = None) -> None:
        """Look at the interrupt until it is raised.

        Raises:
            DeviceTimeoutError: it was not in the time that the core needs for `max_cycles`.
            DeviceError: the board is gone.
        """
        end = time.monotonic() + max_cycles / self.clock_hz
        while True:
            late = time.monotonic() > end
            if self._read_word(link.address("status")) >> Flag.INTERRUPT & 1:
                return
            if late:
                raise DeviceTimeoutError(
                    f"{self.name}: no interrupt in {max_cycles} cycles "
                    f"({max_cycles / self.clock_hz:.1f} s); {describe_stall(self)}"
                )
            if progress is not None:
                progress(int((time.monotonic() - self._started) * self.clock_hz))
            time.sleep(POLL_S)

    def errors(self) -> dict[str, int]:
        """What the link has counted, modulo 256, and what this side found lost."""
        names = ("line_errors", "frame_errors", "bus_errors")
        counted = {name: self._read_word(link.address(name)) for name in names}
        return counted | {"lost": self._link.lost}

    def close(self) -> None:
        """Let go of the port."""
        self._port.close()

    def _greet(self) -> None:
        """Find the link, whatever the line has been used for before."""
        baud = self._port.baud
        self._link.resynchronize()
        scratch = link.address("scratch")
        # The second value has another tag: one of both is not the tag of somebody's last write.
        for _ in range(2):
            token = random.getrandbits(32)
            try:
                self._poke(scratch, token, tries=2)
                magic, version = (self._read_word(link.address(n)) for n in ("magic", "version"))
            except NoAnswerError as error:
                heard = self._link.dropped
                heard_what = f"only {heard} bytes of something else" if heard else "nothing"
                raise DeviceError(
                    f"{self.name}: no Systolith board answers at {baud} baud ({heard_what}). Is "
                    "the bitstream loaded, is this its port, and is this the baud rate it was "
                    f"built with ({SCHEME}PORT?baud=N)?"
                ) from error
            if magic != link.MAGIC or version != link.PROTOCOL_VERSION:
                raise DeviceError(
                    f"{self.name}: the board's link has magic {magic:#010x} and version {version}, "
                    f"and this driver needs {link.MAGIC:#010x} and {link.PROTOCOL_VERSION}. Build "
                    "the bitstream with this version of systolith."
                )
            if self._read_word(scratch) == token:
                return
        raise DeviceError(f"{self.name}: the link does not keep what is written to it")

    def _check_core(self) -> None:
        magic = self.read_csr(regs.offset("id"))
        if magic != regs.MAGIC:
            raise DeviceError(
                f"{self.name}: behind the link is no Systolith core: its id register reads "
                f"0x{magic:08x} instead of 0x{regs.MAGIC:08x}"
            )
        low, high = (self.read_csr(regs.offset(f"config_hash_{end}")) for end in ("lo", "hi"))
        found = low | high << 32
        if found != self.config.hash:
            loaded, wanted = _core_name(found), _core_name(self.config.hash)
            raise DeviceError(
                f"{self.name}: the board has {loaded}, and {wanted} is wanted. Load the bitstream "
                "for it, or choose the board's core by --preset."
            )

    def _wait_for_memory(self) -> None:
        end = time.monotonic() + READY_S
        while True:
            status = self._read_word(link.address("status"))
            if status >> Flag.MEMORY_READY & 1:
                break
            if time.monotonic() > end:
                raise DeviceError(
                    f"{self.name}: the board's memory is not ready after {READY_S:.0f} s; load the "
                    "bitstream again"
                )
            time.sleep(0.05)
        if status >> Flag.MEMORY_FAILED & 1:
            raise DeviceError(
                f"{self.name}: the board's memory failed its test: the bitstream is for another "
                "memory, its clock is too fast (build with --freq 60), or the chip is broken"
            )

    def _same(self, address: int, data: bytes) -> bool:
        check = Request(
            command=Command.CHECK, address=address, argument=len(data) // 4, payload=data
        )
        return bool(self._link.transact([check])[0])

    def _send(self, address: int, data: bytes, bar: tqdm) -> None:
        size = 4 * BLOCK_WORDS
        requests = [
            Request(
                command=Command.WRITE,
                address=address + at,
                argument=len(data[at : at + size]) // 4,
                payload=data[at : at + size],
            )
            for at in range(0, len(data), size)
        ]
        self._link.transact(requests, done=lambda one: bar.update(len(one.payload)))

    def _poke(self, address: int, value: int, *, tries: int = TRIES) -> None:
        poke = Request(command=Command.POKE, address=address, argument=value)
        self._link.transact([poke], tries=tries)

    def _read_word(self, address: int) -> int:
        (data,) = self._link.transact([Request(command=Command.READ, address=address, argument=1)])
        return int.from_bytes(data, "little")

    def _check_range(self, address: int, size: int) -> None:
        if address < 0 or address + size > self.memory_bytes:
            raise DeviceError(
                f"{self.name}: {size} bytes from {address:#x} are outside of the memory of "
                f"{self.memory_bytes:#x} bytes"
            )

    @contextmanager
    def _progress(self, size: int, direction: str) -> Iterator[tqdm]:
        short = 10 * size / self._port.baud < SHOWN_FROM_S
        with tqdm(
            desc=f"{direction} {self.name}",
            total=size,
            unit="B",
            unit_scale=True,
            disable=True if self._quiet or short else None,
            leave=False,
            file=sys.stderr,
        ) as bar:
            yield bar


def _core_name(hash_value: int) -> str:
    names = [name for name, config in PRESETS.items() if config.hash == hash_value]
    return f"{names[0] if names else 'a core'} (hash {hash_value:016x})"
