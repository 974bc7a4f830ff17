"""A serial port as the host link needs it: bytes in time, and errors that say what to do."""

import errno
import sys
import time
from contextlib import suppress
from typing import Protocol

import serial
from serial.tools import list_ports

from systolith.host.device import DeviceError

SCHEME = "serial:"
"""How the name of a serial device begins: `serial:/dev/ttyUSB0?baud=1000000`."""

DEFAULT_BAUD = 3_000_000
"""Unless the name says otherwise; the fastest that an FT231X can do."""

WRITE_PATIENCE_S = 30.0
"""How long a write may take, beyond the time that its bits need, if a board is to take it."""


class Port(Protocol):
    """Where bytes go and come from; a test may have another one."""

    baud: int
    """Bits per second: ten for a byte."""

    def write(self, data: bytes) -> None:
        """Send."""
        ...

    def read(self, size: int, timeout: float) -> bytes:
        """Return at most `size` bytes, fewer if there are none for so many seconds."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


def parse_name(name: str) -> tuple[str, int]:
    """Return port and baud rate of a device name.

    Raises:
        ValueError: it is no such name, or an option makes no sense.
    """
    path, _, query = name.removeprefix(SCHEME).partition("?")
    if not name.startswith(SCHEME) or not path:
        raise ValueError(f"a serial device is called {SCHEME}PORT, as {SCHEME}/dev/ttyUSB0")
    baud = DEFAULT_BAUD
    for option in filter(None, query.split("&")):
        key, _, value = option.partition("=")
        if key != "baud":
            raise ValueError(f"{name}: there is no option {key!r}, only baud")
        if not value.isdecimal() or not 300 <= int(value) <= 20_000_000:
            raise ValueError(f"{name}: baud must be from 300 to 20000000, but is {value!r}")
        baud = int(value)
    return path, baud


class SerialPort:
    """A port of this machine, 8 data bits, no parity, no handshake, nobody else's meanwhile.

    Args:
        path: such as `/dev/ttyUSB0` or `COM3`.
        baud: bits per second.
        patience_s: how long a write may take beyond the time that its bits need.

    Raises:
        DeviceError: the port is not there, not allowed, or in use.
    """

    def __init__(self, path: str, baud: int, *, patience_s: float = WRITE_PATIENCE_S) -> None:
        self.path, self.baud = path, baud
        self._patience_s = patience_s
        try:
            self._serial = serial.Serial(
                path, baud, timeout=0, write_timeout=patience_s, exclusive=True
            )
        except (serial.SerialException, OSError, ValueError) as error:
            raise DeviceError(_why_not(path, baud, error)) from error
        if sys.platform == "linux":
            # A USB converter waits up to 16 ms for more before it hands bytes on, unless it is told
            # not to; other ports have no such mode.
            with suppress(OSError, ValueError, AttributeError, NotImplementedError):
                self._serial.set_low_latency_mode(True)

    def write(self, data: bytes) -> None:
        """Send.

        Raises:
            DeviceError: the port is gone, or takes nothing.
        """
        try:
            self._serial.write_timeout = self._patience_s + 10 * len(data) / self.baud
            self._serial.write(data)
        except serial.SerialTimeoutException as error:
            raise DeviceError(
                f"{self.path} has not taken {len(data)} bytes in {self._patience_s:g} s: is flow "
                "control on, or the adapter stuck? Plug it in again."
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise self._gone(error) from error

    def read(self, size: int, timeout: float) -> bytes:
        """Return at most `size` bytes, fewer if there are none for so many seconds.

        Raises:
            DeviceError: the port is gone.
        """
        try:
            self._serial.timeout = timeout
            first = self._serial.read(1)
            if not first or size == 1:
                return first
            self._serial.timeout = 0
            return first + self._serial.read(size - 1)
        except (OSError, ValueError, TypeError) as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """Let go of the port, whatever has become of it."""
        with suppress(OSError, ValueError, TypeError):
            self._serial.close()

    def _gone(self, error: Exception) -> DeviceError:
        return DeviceError(
            f"{self.path} is gone ({error}): check the cable and the board's power, then run the "
            "same command again"
        )


def flush(port: Port, silence_s: float) -> int:
    """Read until nothing has come for so long; return how many bytes there were.

    Raises:
        DeviceError: the port is gone, or the other side does not stop talking.
    """
    count = 0
    end = time.monotonic() + 10 + 10 * silence_s
    while data := port.read(4096, silence_s):
        count += len(data)
        if time.monotonic() > end:
            raise DeviceError(
                "the serial line does not fall silent: something else than a Systolith board is "
                f"talking on it at {port.baud} baud"
            )
    return count


def _why_not(path: str, baud: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    text = str(error)
    if number == errno.ENOENT or "FileNotFoundError" in text:
        there = ", ".join(sorted(each.device for each in list_ports.comports()))
        return f"there is no port {path}: is the board plugged in? " + (
            f"There are {there}." if there else "This machine has no serial port."
        )
    if number == errno.EACCES or "PermissionError" in text:
        return (
            f"no permission for {path}: on Linux, ports belong to the group dialout. Run "
            "`sudo usermod -aG dialout $USER`, then log in again; if it is allowed, another "
            "program may have it."
        )
    if number in (errno.EBUSY, errno.EAGAIN) or "lock port" in text:
        return (
            f"{path} is in use by another program: close the terminal, litex_server or other "
            "systolith that has it"
        )
    return f"{path} cannot be opened with {baud} baud: {error}"
