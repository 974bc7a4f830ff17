"""Buffers that go between two units whose handshakes would be one long path."""

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


def _ports(shape: ShapeLike, **more: wiring.Member) -> dict[str, wiring.Member]:
    """Members that every buffer has, and `more`."""
    return {
        "i": In(stream.Signature(shape)),
        **more,
        "i_enable": Out(1),
        "o": Out(stream.Signature(shape)),
        "empty": Out(1),
    }


class Skid(wiring.Component):
    """Two registers that cut the path of `ready`: one payload per cycle, one cycle of latency.

    Members:
        i: payloads; `ready` is a register.
        i_next: `Out(1)`, `i.ready` of the next cycle.
        i_enable: `Out(1)`, a copy of `i.ready` for all registers that move when it is high.
        o: the same; payload and `valid` are registers.
        empty: `Out(1)`, nothing is held.
    """

    i: stream.Interface
    i_next: Signal
    i_enable: Signal
    o: stream.Interface
    empty: Signal

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__(_ports(shape, i_next=Out(1)))

    def elaborate(self, platform: object) -> Module:
        """Fill the spare register only while the output is refused."""
        m = Module()
        i, o = Value.cast(self.i.payload), Value.cast(self.o.payload)
        held = Signal(len(i), reset_less=True)
        spare = Signal(len(i), reset_less=True)
        # Copies, which Yosys would merge without `keep`: what decides has no wires to all bits.
        spare_valid = Signal()
        takes, ready, enable = (
            Signal(name=name, init=1, attrs={"keep": 1}) for name in ("takes", "ready", "enable")
        )
        valid = Signal(attrs={"keep": 1})
        full = Signal(attrs={"keep": 1})
        free = ~valid | self.o.ready
        m.d.comb += [
            self.i.ready.eq(ready),
            self.i_enable.eq(enable),
            self.i_next.eq(free | (ready & ~self.i.valid)),
            self.o.valid.eq(valid),
            o.eq(held),
            self.empty.eq(~valid),
        ]
        # Both take what is there, be it valid or not: late signals enable as little as may be.
        with m.If(takes):
            m.d.sync += spare.eq(i)
        with m.If(~full | self.o.ready):
            m.d.sync += held.eq(Mux(spare_valid, spare, i))
        holds = spare_valid | self.i.valid
        m.d.sync += [
            valid.eq((valid & ~self.o.ready) | holds),
            full.eq((valid & ~self.o.ready) | holds),
            spare_valid.eq(~free & holds),
            takes.eq(self.i_next),
            ready.eq(self.i_next),
            enable.eq(self.i_next),
        ]
        return m


class PingPong(wiring.Component):
    """Two registers that take turns: one payload per cycle, one cycle of latency, like `Skid`.

    Where `o.ready` comes late: it moves a few bits, whatever a payload has. In turn, `o.payload`
    comes through a multiplexer.

    Members:
        i: payloads; `ready` is a register.
        i_enable: `Out(1)`, a copy of `i.ready` for all registers that move when it is high.
        o: the same; `valid` is a register.
        empty: `Out(1)`, nothing is held.

    Attributes:
        turn, reads: which register is written next, and which is read.
        takes: which register loads whatever there is, valid or not.
    """

    i: stream.Interface
    i_enable: Signal
    o: stream.Interface
    empty: Signal

    def __init__(self, shape: ShapeLike) -> None:
        self.turn = Signal(attrs={"keep": 1})
        self.reads = Signal()
        self.takes = Signal(2, init=0b01, attrs={"keep": 1})
        super().__init__(_ports(shape))

    def elaborate(self, platform: object) -> Module:
        """Write the one that is free, and read the one that came first."""
        m = Module()
        i, o = Value.cast(self.i.payload), Value.cast(self.o.payload)
        places = [Signal(len(i), name=f"place{index}", reset_less=True) for index in range(2)]
        # Copies, as of `Skid`.
        valid = Signal(attrs={"keep": 1})
        ready, enable = (
            Signal(name=name, init=1, attrs={"keep": 1}) for name in ("ready", "enable")
        )
        m.d.comb += [
            self.i.ready.eq(ready),
            self.i_enable.eq(enable),
            self.o.valid.eq(valid),
            o.eq(Mux(self.reads, places[1], places[0])),
            self.empty.eq(~valid),
        ]
        for place, takes_now in zip(places, self.takes, strict=True):
            with m.If(takes_now):
                m.d.sync += place.eq(i)
        comes = self.i.valid & ready
        stays = valid & ~self.o.ready
        fills = stays & (comes | ~ready)
        turns = self.turn ^ comes
        m.d.sync += [
            valid.eq(stays | comes | ~ready),
            ready.eq(~fills),
            enable.eq(~fills),
            self.turn.eq(turns),
            self.takes.eq(Cat(~fills & ~turns, ~fills & turns)),
            self.reads.eq(self.reads ^ (valid & self.o.ready)),
        ]
        return m
