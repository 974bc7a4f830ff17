"""The buffer that goes between two units whose handshakes would be one long path."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Skid(wiring.Component):
    """Two registers that cut the path of `ready`: one payload per cycle, one cycle of latency.

    Members:
        i: payloads; `ready` is a register.
        o: the same; payload and `valid` are registers.
        empty: `Out(1)`, nothing is held.
    """

    i: stream.Interface
    o: stream.Interface
    empty: Signal

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Fill the spare register only while the output is refused."""
        m = Module()
        i, o = Value.cast(self.i.payload), Value.cast(self.o.payload)
        held = Signal(len(i), reset_less=True)
        spare = Signal(len(i), reset_less=True)
        spare_valid = Signal()
        valid = Signal()
        m.d.comb += [
            self.i.ready.eq(~spare_valid),
            self.o.valid.eq(valid),
            o.eq(held),
            self.empty.eq(~valid),
        ]
        # Both take what is there, be it valid or not: late signals enable as little as may be.
        with m.If(~spare_valid):
            m.d.sync += spare.eq(i)
        with m.If(~valid | self.o.ready):
            m.d.sync += [
                held.eq(Mux(spare_valid, spare, i)),
                valid.eq(spare_valid | self.i.valid),
                spare_valid.eq(0),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += spare_valid.eq(1)
        return m
