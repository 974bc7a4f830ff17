"""A board without pins in a simulator: link, arbiter and core, reached through UART bytes.

For the simulators, it is a core: memory on `m_axi`, and behind `s_axil` the far end of the serial
line, with one register that takes and gives bytes. So every device for cores simulates it, and the
driver of boards talks to it in the same process, without a terminal.
"""

import time
from pathlib import Path

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith import link
from systolith.config import CoreConfig
from systolith_boards.link.arbiter import Arbiter
from systolith_boards.link.host_link import HostLink
from systolith_boards.link.uart import UartReceiver, UartTransmitter
from systolith_rtl.core import Core
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature
from systolith_sim.simulated import SimulatedDevice
from systolith_sim.toolchain import digest, generator_sources, version
from systolith_sim.verilator.design import Design

DIVISOR = 4
"""Clocks of a bit; the fewest that the link can do."""

SILENCE = 2000
"""Clocks of silence that end a frame."""

VALID = 1 << 8
"""Bit of the byte register: there was a byte."""

_QUEUE = 512


class SimulatedBoard(wiring.Component):
    """Link, arbiter and core; the byte register stands for the UART of a host.

    Members:
        s_axil: `In(AxiLiteSignature())`. A write of any address sends the low byte, and is answered
            when the line has taken it; a read takes a received byte, with `VALID` if there is one.
        m_axi: `Out(AxiSignature(config))`.
        irq: `Out(1)`.
    """

    s_axil: wiring.PureInterface
    m_axi: wiring.PureInterface
    irq: Signal

    def __init__(self, config: CoreConfig, *, memory_bytes: int) -> None:
        self._config = config
        self._memory_bytes = memory_bytes
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature()),
                "m_axi": Out(AxiSignature(config)),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire a board as its top does, and the other end of the line to the register."""
        m = Module()
        config, bus = self._config, self.s_axil
        baud = 1_000_000
        m.submodules.core = core = Core(config)
        m.submodules.arbiter = arbiter = Arbiter(config)
        m.submodules.link = host = HostLink(
            config, DIVISOR * baud, baud, self._memory_bytes, silence=SILENCE, patience=4096
        )
        wiring.connect(m, host.csr, core.s_axil)
        wiring.connect(m, host.memory, arbiter.link)
        wiring.connect(m, core.m_axi, arbiter.core)
        wiring.connect(m, arbiter.memory, wiring.flipped(self.m_axi))
        m.d.comb += [
            host.memory_ready.eq(1),
            host.irq.eq(core.irq),
            self.irq.eq(core.irq),
        ]

        m.submodules.sender = sender = UartTransmitter(DIVISOR)
        m.submodules.receiver = receiver = UartReceiver(DIVISOR)
        m.submodules.queue = queue = SyncFIFOBuffered(width=8, depth=_QUEUE)
        takes = Signal()
        m.d.comb += [
            host.rx.eq(sender.tx),
            receiver.rx.eq(host.tx),
            queue.w_data.eq(receiver.o),
            queue.w_en.eq(receiver.valid),
            sender.i.payload.eq(bus.w.data[:8]),
            takes.eq(bus.aw.valid & bus.w.valid & ~bus.b.valid & sender.i.ready),
            sender.i.valid.eq(takes),
            bus.aw.ready.eq(takes),
            bus.w.ready.eq(takes),
            bus.ar.ready.eq(~bus.r.valid),
            queue.r_en.eq(bus.ar.valid & bus.ar.ready),
        ]
        with m.If(bus.b.ready):
            m.d.sync += bus.b.valid.eq(0)
        with m.If(takes):
            m.d.sync += bus.b.valid.eq(1)
        with m.If(bus.r.ready):
            m.d.sync += bus.r.valid.eq(0)
        with m.If(bus.ar.valid & bus.ar.ready):
            m.d.sync += [bus.r.valid.eq(1), bus.r.data.eq(Cat(queue.r_data, queue.r_rdy))]
        return m


def board_design(config: CoreConfig, *, memory_bytes: int) -> Design:
    """The board as `systolith_sim` simulates cores."""
    sources = [*generator_sources(), *sorted(Path(__file__).parent.glob("*.py"))]
    sources.append(Path(link.__file__))
    key = digest(config, memory_bytes, version("amaranth"), files=sources)
    return Design(
        name=f"board{config.rows}x{config.columns}",
        key=key,
        make=lambda: SimulatedBoard(config, memory_bytes=memory_bytes),
        probed=False,
    )


class SimulatedPort:
    """The serial port of a simulated board, as `systolith.host.serial_port.Port`.

    Time passes in the simulator only while bytes are written or waited for.

    Args:
        board: a simulator of `board_design`.
    """

    baud = 20_000_000

    def __init__(self, board: SimulatedDevice) -> None:
        self._board = board

    def write(self, data: bytes) -> None:
        """Send."""
        for byte in data:
            self._board.write_csr(0, byte)

    def read(self, size: int, timeout: float) -> bytes:
        """Return what has come, or what comes in so many seconds of the machine's clock."""
        end = time.monotonic() + timeout
        found = bytearray()
        while len(found) < size:
            word = self._board.read_csr(0)
            if word & VALID:
                found.append(word & 0xFF)
            elif found or time.monotonic() > end:
                break
            else:
                self._board.step(SILENCE // 4)
        return bytes(found)

    def close(self) -> None:
        """Leave the simulator to who opened it."""
