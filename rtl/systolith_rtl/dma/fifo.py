"""Buffers between the stages of the DMA, and counts of what they hold."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith_rtl.memory.block_ram import BlockRam


def count(
    m: Module, name: str, *, up: Value, down: Value, limit: int, init: int = 0
) -> SimpleNamespace:
    """Count up to `limit`, with a register for whether there is anything, and one for room.

    Both are as exact as comparisons of the count, which would be in front of all that asks them.

    Args:
        m: the module to count in.
        name: of what is counted.
        up: one more; only while there is room.
        down: one less; only while there is something.
        limit: the largest count.
        init: the first one.

    Returns:
        `level`, `some` (it is above 0) and `room` (it is below `limit`), and `some_next` and
        `room_next`, which are those of the next cycle.
    """
    level = Signal(range(limit + 1), name=f"{name}_level", init=init)
    some = Signal(name=f"{name}_some", init=init > 0)
    room = Signal(name=f"{name}_room", init=init < limit)
    # Late signals pass one gate here, and none but the lowest bit's adder in `level`.
    with m.If(up != down):
        m.d.sync += level.eq(level + Cat(Const(1, 1), (~up).replicate(len(level) - 1)))
    some_next = up | (some & ~(down & (level == 1)))
    room_next = down | (room & ~(up & (level == limit - 1)))
    m.d.sync += [some.eq(some_next), room.eq(room_next)]
    return SimpleNamespace(
        level=level, some=some, room=room, some_next=some_next, room_next=room_next
    )


class Queue(wiring.Component):
    """A first-in first-out queue in LUT RAM; a payload can leave the cycle after it came.

    Args:
        shape: of a payload.
        depth: how many it holds, a power of two.
        trusted: whoever fills it never does so without room.

    Members:
        i: payloads; `ready` is a register.
        o: the same, in order; `valid` is a register.
        empty: `Out(1)`, nothing is held.
    """

    i: stream.Interface
    o: stream.Interface
    empty: Signal

    def __init__(self, shape: ShapeLike, *, depth: int, trusted: bool = False) -> None:
        self.depth = depth
        self.trusted = trusted
        exact_log2(depth)
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Two pointers that wrap around by themselves."""
        m = Module()
        i, o = Value.cast(self.i.payload), Value.cast(self.o.payload)
        m.submodules.storage = storage = Memory(shape=len(i), depth=self.depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")
        put, take = Signal(), Signal()
        held = count(m, "held", up=put, down=take, limit=self.depth)
        # A copy for the memory, which Yosys would merge without `keep`.
        writes = Signal(init=1, attrs={"keep": 1})
        held.room.attrs["keep"] = 1
        m.d.sync += writes.eq(held.room_next)
        m.d.comb += [
            put.eq(self.i.valid & (held.room | self.trusted)),
            take.eq(self.o.ready & held.some),
            # Into a free place anything may be written.
            write.en.eq(writes),
            write.data.eq(i),
            o.eq(read.data),
            self.i.ready.eq(held.room),
            self.o.valid.eq(held.some),
            self.empty.eq(~held.some),
        ]
        m.d.sync += [write.addr.eq(write.addr + put), read.addr.eq(read.addr + take)]
        return m


class BeatFifo(wiring.Component):
    """Beats of a read channel in block RAM, whose writer has reserved the space.

    There is no way to refuse a beat: who issues reads must never ask for more than `depth` beats
    beyond those that have left at `o`. One beat per cycle in and out, 5 cycles from one to the
    other. A beat that is an error does not leave, nor does any behind it.

    Members:
        data: `In(width)`.
        error: `In(1)`.
        push: `In(1)`.
        o: beats, in order; `valid` is a register.
        left: `Out(1)`, a beat left in the cycle before.
        failed: `Out(1)`, the next beat is an error.
    """

    data: Signal
    error: Signal
    push: Signal
    o: stream.Interface
    left: Signal
    failed: Signal

    def __init__(self, *, width: int, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two, but is {depth}")
        self.width = width
        self.depth = depth
        super().__init__(
            {
                "data": In(width),
                "error": In(1),
                "push": In(1),
                "o": Out(stream.Signature(width)),
                "left": Out(1),
                "failed": Out(1),
            },
        )

    def elaborate(self, platform: object) -> Module:
        """Read ahead of the output, in both stages of the block RAM."""
        m = Module()
        m.submodules.ram = ram = BlockRam(width=self.width, depth=self.depth, holds=True)
        write = Signal(range(self.depth))
        read = Signal(range(self.depth))
        fetch = Signal()
        left = Signal()
        # Neither an error nor what comes behind it counts.
        broken = Signal()
        breaks = broken | (self.push & self.error)
        # A push counts a cycle later than it could, and so does an error.
        pushed = Signal()
        ended = Signal()
        # A beat is never read while it is being written, since it counts later.
        stored = count(m, "stored", up=pushed, down=fetch, limit=self.depth)
        # Whether there are beats behind the block RAM's first register, behind its second, and
        # behind both.
        inside, valid, both = Signal(), Signal(), Signal()
        moves = ~valid | self.o.ready
        reads = ~both | self.o.ready
        m.d.comb += [
            fetch.eq(stored.some & reads),
            ram.write_address.eq(write),
            ram.write_data.eq(self.data),
            ram.write_enable.eq(self.push),
            ram.read_address.eq(read),
            ram.read_enable.eq(reads),
            ram.output_enable.eq(moves),
            self.o.payload.eq(ram.read_data),
            self.o.valid.eq(valid),
            self.left.eq(left),
            self.failed.eq(ended & ~(stored.some | inside | valid)),
        ]
        # The late signal enables.
        with m.If(reads):
            m.d.sync += read.eq(read + stored.some)
        m.d.sync += [
            broken.eq(breaks),
            pushed.eq(self.push & ~breaks),
            ended.eq(broken),
            write.eq(write + self.push),
            inside.eq(fetch | (inside & ~moves)),
            valid.eq((inside & moves) | (valid & ~moves)),
            # What is fetched here depends on `moves` alone.
            both.eq(Mux(moves, inside & stored.some, inside | stored.some)),
            left.eq(valid & self.o.ready),
        ]
        return m
