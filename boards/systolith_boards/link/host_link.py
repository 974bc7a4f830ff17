"""The host link: a serial line on one side, a core and its memory on the other."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.link import SILENCE_S
from systolith_boards.link.bus import Bus
from systolith_boards.link.protocol import Protocol
from systolith_boards.link.receive import Receive
from systolith_boards.link.uart import UartTransmitter, check_divisor
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature

PATIENCE = 1 << 16
"""Cycles that the link waits for a bus."""

BAUD_TOLERANCE = 0.015
"""Most that a bit may be too long or too short, as a share of its time."""


def bit_cycles(clock_hz: int, baud: int) -> int:
    """Cycles of a bit.

    Raises:
        ValueError: the clock cannot make this baud rate.
    """
    divisor = round(clock_hz / baud)
    off = abs(clock_hz / baud / max(1, divisor) - 1)
    if off > BAUD_TOLERANCE:
        raise ValueError(
            f"a clock of {clock_hz} Hz makes {clock_hz / max(1, divisor):.0f} baud of {baud}, "
            f"{100 * off:.1f} % off: choose a baud rate of which it is a multiple"
        )
    return divisor


class HostLink(wiring.Component):
    """Lets a host read and write memory and registers over a UART (`systolith.link`).

    Args:
        config: the core.
        clock_hz: of the clock of this component and the core.
        baud: bits per second.
        memory_bytes: DRAM.
        silence: cycles without a byte that end a frame; by default `SILENCE_S`.
        patience: cycles after which a bus that does not answer is given up.

    Members:
        rx: `In(1)`, from the host, asynchronous.
        tx: `Out(1)`, to the host.
        csr: `Out(AxiLiteSignature())`, to the core's `s_axil`.
        memory: `Out(AxiSignature(config))`, to an `Arbiter`; single beats with the ID `LINK_ID`.
        memory_ready: `In(1)`, memory may be accessed.
        memory_failed: `In(1)`, its test has found errors; with `memory_ready`.
        irq: `In(1)`, the core's.

    Raises:
        ValueError: the clock cannot make this baud rate, or the memory's size makes no sense.
    """

    rx: Signal
    tx: Signal
    csr: wiring.PureInterface
    memory: wiring.PureInterface
    memory_ready: Signal
    memory_failed: Signal
    irq: Signal

    def __init__(
        self,
        config: CoreConfig,
        clock_hz: int,
        baud: int,
        memory_bytes: int,
        *,
        silence: int | None = None,
        patience: int = PATIENCE,
    ) -> None:
        divisor = bit_cycles(clock_hz, baud)
        if memory_bytes < 4096 or memory_bytes % 4096:
            raise ValueError(f"memory_bytes must be a multiple of 4096, but is {memory_bytes}")
        check_divisor(divisor)
        self._config = config
        self._facts = {"clock_hz": clock_hz, "memory_bytes": memory_bytes, "patience": patience}
        self._divisor = divisor
        self._silence = silence or round(SILENCE_S * clock_hz)
        super().__init__(
            {
                "rx": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "tx": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "csr": Out(AxiLiteSignature()),
                "memory": Out(AxiSignature(config)),
                "memory_ready": In(1),
                "memory_failed": In(1),
                "irq": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire bytes to words."""
        m = Module()
        m.submodules.receive = receive = Receive(self._divisor, self._silence)
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisor)
        m.submodules.protocol = protocol = Protocol()
        m.submodules.bus = bus = Bus(self._config, **self._facts)
        wiring.connect(m, receive.o, protocol.i)
        wiring.connect(m, protocol.o, transmitter.i)
        wiring.connect(m, protocol.words, bus.words)
        wiring.connect(m, bus.csr, wiring.flipped(self.csr))
        wiring.connect(m, bus.memory, wiring.flipped(self.memory))
        m.d.comb += [
            receive.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            protocol.silent.eq(receive.silent),
            protocol.error.eq(receive.error),
            bus.memory_ready.eq(self.memory_ready),
            bus.memory_failed.eq(self.memory_failed),
            bus.irq.eq(self.irq),
            bus.line_error.eq(receive.error),
            bus.frame_error.eq(protocol.frame_error),
            bus.bus_error.eq(protocol.bus_error),
        ]
        return m
