"""CRC-32 of a stream of bytes, one bit a cycle: a UART is slower than that anyway."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

_POLYNOMIAL = 0xEDB8_8320
"""Of IEEE 802.3, bits reversed."""

RESIDUE = 0xDEBB_20E3
"""What the register holds after data and its CRC, whatever the data."""

CYCLES = 8
"""Cycles that a byte takes."""


class Crc(wiring.Component):
    """The CRC-32 of zlib, of bytes in, and itself as bytes out.

    Members:
        clear: `In(1)`, start anew unless `busy`; the register is all ones in the next cycle.
        byte: `In(8)`, taken in a cycle in which `feed` is high and `busy` is low.
        feed: `In(1)`.
        take: `In(1)`, like `feed` for the next byte of the CRC, which is on `o` in that cycle: the
            register moves on to the one after it.
        busy: `Out(1)`, for `CYCLES` cycles after `feed` or `take`.
        o: `Out(8)`, the lowest byte of the CRC.
        good: `Out(1)`, what was fed ends with its own CRC.
    """

    clear: Signal
    byte: Signal
    feed: Signal
    take: Signal
    busy: Signal
    o: Signal
    good: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "clear": In(1),
                "byte": In(8),
                "feed": In(1),
                "take": In(1),
                "busy": Out(1),
                "o": Out(8),
                "good": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Divide, or only shift: what is taken out makes room for zeros."""
        m = Module()
        crc = Signal(32, init=-1, reset_less=True)  # whoever begins clears it
        bits = Signal(8, reset_less=True)
        left = Signal(range(CYCLES + 1))
        divide = Signal(reset_less=True)
        m.d.comb += [
            self.busy.eq(left != 0),
            self.o.eq(~crc[:8]),
            self.good.eq(crc == RESIDUE),
        ]
        feedback = (crc[0] ^ bits[0]) & divide
        with m.If(self.busy):
            m.d.sync += [
                left.eq(left - 1),
                bits.eq(bits[1:]),
                crc.eq(Cat(crc[1:], 0) ^ Mux(feedback, _POLYNOMIAL, 0)),
            ]
        with m.Else():
            with m.If(self.feed | self.take):
                m.d.sync += [left.eq(CYCLES), bits.eq(self.byte), divide.eq(self.feed)]
            with m.If(self.clear):
                m.d.sync += crc.eq(-1)
        return m
