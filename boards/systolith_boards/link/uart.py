"""Serial bytes, 8 data bits and no parity, to and from one wire each."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

LEAST_DIVISOR = 4
"""Clocks of a bit that the receiver needs."""

_FRAME_BITS = 10
"""Start, data, stop."""

_BREAK = 15
"""The receiver's bits left while a line that had no stop bit is low."""


def check_divisor(divisor: int) -> None:
    """Refuse what cannot work.

    Raises:
        ValueError: `divisor` is too small.
    """
    if divisor < LEAST_DIVISOR:
        raise ValueError(
            f"a bit must take at least {LEAST_DIVISOR} clocks, not {divisor}: choose a lower baud "
            "rate"
        )


class UartTransmitter(wiring.Component):
    """Sends bytes, each in exactly ten bits.

    Args:
        divisor: clocks of a bit.

    Members:
        i: `In(stream.Signature(8))`.
        tx: `Out(1)`, high when idle.

    Raises:
        ValueError: `divisor` is too small.
    """

    i: stream.Interface
    tx: Signal

    def __init__(self, divisor: int) -> None:
        check_divisor(divisor)
        self._divisor = divisor
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "tx": Out(1, init=1),  # pyright: ignore[reportCallIssue]
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Shift the frame out; ones follow it, so that the line idles."""
        m = Module()
        bits = Signal(_FRAME_BITS - 1, init=-1)
        left = Signal(range(_FRAME_BITS + 1), reset_less=True)
        clock = Signal(range(self._divisor), reset_less=True)
        idle = Signal(init=1)
        m.d.comb += self.i.ready.eq(idle)
        m.d.sync += self.tx.eq(bits[0])
        with m.If(idle):
            m.d.sync += clock.eq(self._divisor - 1)
            with m.If(self.i.valid):
                m.d.sync += [bits.eq(Cat(0, self.i.payload)), left.eq(_FRAME_BITS), idle.eq(0)]
        with m.Elif(clock == 0):
            m.d.sync += [
                bits.eq(Cat(bits[1:], 1)),
                left.eq(left - 1),
                idle.eq(left == 1),
                clock.eq(self._divisor - 1),
            ]
        with m.Else():
            m.d.sync += clock.eq(clock - 1)
        return m


class UartReceiver(wiring.Component):
    """Receives bytes, and notices when there is no stop bit.

    Each bit is the majority of three samples around its middle, so that a single glitch changes
    nothing. A start bit that is high in its middle was none. After a frame without a stop bit, the
    receiver waits until the line is high: a break is one error.

    Args:
        divisor: clocks of a bit. The sender's may differ by 4 % if this one is large, by 2 % if it
            is 8, and by hardly anything if it is 4.

    Members:
        rx: `In(1)`, asynchronous; high when idle.
        o: `Out(8)`, the byte.
        valid: `Out(1)`, for one cycle: `o` has a byte.
        error: `Out(1)`, for one cycle: a frame had no stop bit.
        low: `Out(1)`, the line is low: something is coming.

    Raises:
        ValueError: `divisor` is too small.
    """

    rx: Signal
    o: Signal
    valid: Signal
    error: Signal
    low: Signal

    def __init__(self, divisor: int) -> None:
        check_divisor(divisor)
        self._divisor = divisor
        super().__init__(
            {
                "rx": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "o": Out(8),
                "valid": Out(1),
                "error": Out(1),
                "low": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Sample the middle of each bit, the start bit's first."""
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        before = Signal(2, init=-1)
        m.d.sync += before.eq(Cat(line, before))
        bit = Signal()
        m.d.comb += [
            bit.eq((line & before[0]) | (line & before[1]) | (before[0] & before[1])),
            self.low.eq(~line),
        ]
        bits = Signal(8, reset_less=True)
        left = Signal(range(_FRAME_BITS + 1))
        clock = Signal(range(self._divisor))
        m.d.comb += self.o.eq(bits)
        m.d.sync += [self.valid.eq(0), self.error.eq(0)]
        with m.If(left == _BREAK), m.If(line):
            m.d.sync += left.eq(0)
        with m.Elif(left == 0):
            # The majority is seen a cycle after the middle one of its samples.
            m.d.sync += clock.eq(self._divisor // 2)
            with m.If(~line):
                m.d.sync += left.eq(_FRAME_BITS)
        with m.Elif(clock != 0):
            m.d.sync += clock.eq(clock - 1)
        with m.Else():
            m.d.sync += [clock.eq(self._divisor - 1), left.eq(left - 1)]
            with m.If(left == 1):
                m.d.sync += [self.valid.eq(bit), self.error.eq(~bit)]
                with m.If(~bit):
                    m.d.sync += left.eq(_BREAK)
            with m.Elif(left == _FRAME_BITS), m.If(bit):
                m.d.sync += left.eq(0)
            with m.Else():
                m.d.sync += bits.eq(Cat(bits[1:], bit))
        return m
