"""The simulated board as a device: the driver of real boards, at a pseudo-terminal."""

import subprocess
from contextlib import suppress

from systolith.config import CoreConfig
from systolith.host.device import DeviceError
from systolith.host.serial_device import SerialDevice
from systolith.host.serial_port import DEFAULT_BAUD, SerialPort
from systolith_boards.boards import BOARDS, DEFAULT_BOARD
from systolith_boards.simulation.build import CYCLES_PER_SECOND, MEMORY_BYTES, SILENCE, program
from systolith_sim.toolchain import Announce, announce_on_stderr

PATIENCE_S = 600.0
"""Seconds for an answer, and to take a block: a simulation is as fast as the machine has time for
it, and takes 4 KiB in a second or, beside other programs, in more than half a minute."""

END_S = 10.0
"""Seconds that the simulation may take to end."""


class BoardSimulation(SerialDevice):
    """A board in Verilator: UART pins, memory pins with a strict model of the chip, the core.

    Args:
        config: the core.
        board: which board.
        memory_bytes: what its chip stores.
        quiet: no progress.
        announce: told what takes its time while it is being built.

    Raises:
        ToolError: a tool is missing or failed.
        DeviceError: as of `SerialDevice`.
    """

    def __init__(
        self,
        config: CoreConfig,
        *,
        board: str = DEFAULT_BOARD,
        memory_bytes: int = MEMORY_BYTES,
        quiet: bool = False,
        announce: Announce = announce_on_stderr,
    ) -> None:
        path = program(BOARDS[board], config, memory_bytes=memory_bytes, announce=announce)
        self._process = subprocess.Popen(
            [str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        terminal = self._process.stdout.readline().strip()
        try:
            if not terminal:
                raise DeviceError("board-sim: this machine has no pseudo-terminals")
            super().__init__(
                config,
                f"serial:{terminal}",
                quiet=quiet,
                port=SerialPort(terminal, DEFAULT_BAUD, patience_s=PATIENCE_S),
                silence_s=1.3 * SILENCE / CYCLES_PER_SECOND,
                answer_s=PATIENCE_S,
            )
        except BaseException:
            self._end()
            raise
        self.name = "board-sim"

    def close(self) -> None:
        """End the simulation.

        Raises:
            DeviceError: a rule of the memory chip was broken.
        """
        super().close()
        said = self._end()
        if self._process.returncode:
            raise DeviceError(f"board-sim ended with {self._process.returncode}: {said}")

    def _end(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            return self._process.communicate(timeout=END_S)[1].strip()
        self._process.kill()
        return self._process.communicate()[1].strip()
