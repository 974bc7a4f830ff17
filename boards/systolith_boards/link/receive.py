"""What comes from the host, byte by byte, and when there was silence."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.link import RECEIVE_BYTES
from systolith_boards.link.uart import UartReceiver


class Receive(wiring.Component):
    """A receiver with room for some bytes, and a clock for silence.

    Args:
        divisor: clocks of a bit.
        silence: clocks without anything on the line after which it is silent.

    Members:
        rx: `In(1)`, asynchronous.
        o: `Out(stream.Signature(8))`.
        silent: `Out(1)`, the line has been silent, and every byte before that is taken.
        error: `Out(1)`, for one cycle: a byte is lost, because it had no stop bit or there was no
            room.
    """

    rx: Signal
    o: stream.Interface
    silent: Signal
    error: Signal

    def __init__(self, divisor: int, silence: int) -> None:
        self._divisor, self._silence = divisor, silence
        super().__init__(
            {
                "rx": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "o": Out(stream.Signature(8)),
                "silent": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A queue in LUT RAM: its read side is asynchronous, its output a register."""
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self._divisor)
        m.submodules.bytes = queue = Memory(shape=8, depth=RECEIVE_BYTES, init=[])
        write, read = queue.write_port(), queue.read_port(domain="comb")
        first = Signal(range(RECEIVE_BYTES))
        last = Signal(range(RECEIVE_BYTES))
        full = Signal()
        valid = Signal()
        payload = Signal(8, reset_less=True)
        # One place stays free, so that first and last say how many there are.
        m.d.comb += [
            receiver.rx.eq(self.rx),
            full.eq((last + 1)[: len(last)] == first),
            write.addr.eq(last),
            write.data.eq(receiver.o),
            write.en.eq(receiver.valid & ~full),
            read.addr.eq(first),
            self.o.valid.eq(valid),
            self.o.payload.eq(payload),
        ]
        m.d.sync += self.error.eq(receiver.error | (receiver.valid & full))
        with m.If(write.en):
            m.d.sync += last.eq(last + 1)
        with m.If(~valid | self.o.ready):
            m.d.sync += [payload.eq(read.data), valid.eq(first != last)]
            with m.If(first != last):
                m.d.sync += first.eq(first + 1)
        left = Signal(range(self._silence), init=self._silence - 1, reset_less=True)
        with m.If(receiver.low | receiver.valid | valid | (first != last)):
            m.d.sync += [left.eq(self._silence - 1), self.silent.eq(0)]
        with m.Elif(left == 0):
            m.d.sync += self.silent.eq(1)
        with m.Else():
            m.d.sync += left.eq(left - 1)
        return m
