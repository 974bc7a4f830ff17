"""Buffers between the stages of the DMA."""

from amaranth.hdl import Module, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systolith_rtl.memory.block_ram import BlockRam


class Queue(wiring.Component):
    """A first-in first-out queue in LUT RAM; a payload can leave the cycle after it came.

    Members:
        i: payloads; `ready` depends on the level alone.
        o: the same, in order.
        empty: `Out(1)`, nothing is held.
    """

    i: stream.Interface
    o: stream.Interface
    empty: Signal

    def __init__(self, shape: ShapeLike, *, depth: int) -> None:
        self.depth = depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wrap Amaranth's."""
        m = Module()
        i, o = Value.cast(self.i.payload), Value.cast(self.o.payload)
        m.submodules.fifo = fifo = SyncFIFO(width=len(i), depth=self.depth)
        m.d.comb += [
            fifo.w_data.eq(i),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy),
            o.eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o.ready),
            self.empty.eq(~fifo.r_rdy),
        ]
        return m


class BeatFifo(wiring.Component):
    """Beats of a read channel in block RAM, whose writer has reserved the space.

    There is no way to refuse a beat: who issues reads must never ask for more than `depth` beats
    beyond those that have left at `o`. One beat per cycle in and out, 5 cycles from one to the
    other.

    Members:
        data: `In(width)`.
        push: `In(1)`.
        o: beats, in order.
    """

    PREFETCH = 8
    """Beats read ahead of the output; four cover the round trip of a credit."""

    data: Signal
    push: Signal
    o: stream.Interface

    def __init__(self, *, width: int, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two, but is {depth}")
        self.width = width
        self.depth = depth
        super().__init__(
            {"data": In(width), "push": In(1), "o": Out(stream.Signature(width))},
        )

    def elaborate(self, platform: object) -> Module:
        """Move beats from the block RAM into a small queue as that has room."""
        m = Module()
        m.submodules.ram = ram = BlockRam(width=self.width, depth=self.depth)
        m.submodules.ahead = ahead = Queue(self.width, depth=self.PREFETCH)
        write = Signal(range(self.depth))
        read = Signal(range(self.depth))
        stored = Signal(range(self.depth + 1))
        # Room in `ahead` that no read under way has claimed.
        room = Signal(range(self.PREFETCH + 1), init=self.PREFETCH)
        fetch = Signal()
        under_way = Signal(BlockRam.LATENCY)
        leave = Signal()
        m.d.comb += [
            # `stored` is a cycle late, so a beat is never read while it is being written.
            fetch.eq((stored != 0) & (room != 0)),
            leave.eq(self.o.valid & self.o.ready),
            ram.write_address.eq(write),
            ram.write_data.eq(self.data),
            ram.write_enable.eq(self.push),
            ram.read_address.eq(read),
            ram.read_enable.eq(fetch),
            ahead.i.payload.eq(ram.read_data),
            ahead.i.valid.eq(under_way[-1]),
            self.o.payload.eq(ahead.o.payload),
            self.o.valid.eq(ahead.o.valid),
            ahead.o.ready.eq(self.o.ready),
        ]
        m.d.sync += [
            write.eq(write + self.push),
            read.eq(read + fetch),
            under_way.eq((under_way << 1) | fetch),
        ]
        with m.If(self.push & ~fetch):
            m.d.sync += stored.eq(stored + 1)
        with m.Elif(fetch & ~self.push):
            m.d.sync += stored.eq(stored - 1)
        with m.If(fetch & ~leave):
            m.d.sync += room.eq(room - 1)
        with m.Elif(leave & ~fetch):
            m.d.sync += room.eq(room + 1)
        return m
