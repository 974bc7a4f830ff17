"""The boards: which FPGA, which memory, which pins, and what is built for them unless asked."""

from dataclasses import dataclass
from typing import Any

from systolith_boards.sdram.timing import CHIPS, SdramChip


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Attributes:
        name: as users type it.
        title: as its makers call it.
        platform: name of the class in a module of amaranth-boards, as `module:class`.
        device: nextpnr's name of the FPGA.
        source: the oscillator's name.
        source_hz: its frequency.
        chip: the memory.
        preset: the core that is built unless asked for another.
        frequency: its clock unless asked for another, Hz.
        loader: openFPGALoader's name of the board.
    """

    name: str
    title: str
    platform: str
    device: str
    source: str
    source_hz: float
    chip: SdramChip
    preset: str
    frequency: float
    loader: str

    def make_platform(self) -> Any:
        """The platform with its pins, and with blocks of ECP5 for the core.

        Raises:
            ImportError: amaranth-boards is not installed.
        """
        import importlib

        from systolith_rtl.ecp5 import Ecp5Primitives

        module, name = self.platform.split(":")
        base = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)
        return type(name, (Ecp5Primitives, base), {})()


def _ulx3s(size: str, device: str, preset: str, frequency: float) -> Board:
    return Board(
        name=f"ulx3s-{size.lower()}",
        title=f"Radiona ULX3S {size}",
        platform=f"ulx3s:ULX3S_{size}_Platform",
        device=device,
        source="clk25",
        source_hz=25e6,
        chip=CHIPS["IS42S16160-7"],
        preset=preset,
        frequency=frequency,
        loader="ulx3s",
    )


BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        _ulx3s("85F", "85k", "ecp5-85k", 105e6),
        _ulx3s("25F", "25k", "ecp5-25k-sdram", 105e6),
        _ulx3s("12F", "12k", "ecp5-25k-sdram", 105e6),
        Board(
            name="icepi-zero",
            title="Icepi Zero 1.3",
            platform="icepi_zero:IcepiZero1_3Platform",
            device="25k",
            source="clk50",
            source_hz=50e6,
            chip=CHIPS["W9825G6KH-6"],
            preset="ecp5-25k-sdram",
            frequency=105e6,
            loader="icepi-zero",
        ),
    )
}
"""By name."""

DEFAULT_BOARD = "ulx3s-85f"
"""The one that is simulated unless another is asked for."""


def board(name: str) -> Board:
    """Return a board by its name.

    Raises:
        ValueError: there is none of that name; the message lists them.
    """
    if name not in BOARDS:
        raise ValueError(f"there is no board {name!r}; there are {', '.join(BOARDS)}")
    return BOARDS[name]
