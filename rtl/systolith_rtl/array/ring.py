"""Weight ring: the queue between STREAM, which fetches weights, and the array, which loads them."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.interfaces import RingSignature
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.pipeline import unless_idle


class WeightRing(wiring.Component):
    """A queue of R-byte words in block RAM, read as late as the scratchpad is.

    A word may be popped in the cycle after its push, and its place is counted in `push.free` in
    the cycle after its pop.

    Members:
        push: `In(RingSignature(config))`.
        available: `Out(1)`, there is a word.
        pop: `In(1)`, take it; only while `available`.
        data: `Out(8 * R)`, the word that was popped `config.read_latency` cycles ago.
    """

    push: Any
    available: Signal
    pop: Signal
    data: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.width = 8 * config.rows
        self.depth = config.ring_words
        self.latency = config.read_latency
        super().__init__(
            {
                "push": In(RingSignature(config)),
                "available": Out(1),
                "pop": In(1),
                "data": Out(self.width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Put a register before each port of the memory, and one behind it."""
        m = Module()
        m.submodules.ram = ram = BlockRam(width=self.width, depth=self.depth)
        assert self.latency >= ram.LATENCY + 2

        head = Signal(range(self.depth))
        with m.If(self.push.push):
            m.d.sync += [
                head.eq(head + 1),
                ram.write_address.eq(head),
                ram.write_data.eq(self.push.data),
            ]
        m.d.sync += ram.write_enable.eq(self.push.push)

        # `read_address` is the place of the word that is popped next, a cycle later.
        tail = Signal(range(self.depth))
        popped = Signal(ram.LATENCY + 1)
        output = Signal(self.width, reset_less=True)
        with m.If(self.pop):
            m.d.sync += tail.eq(tail + 1)
        with m.If(unless_idle(platform, self.pop)):
            m.d.sync += ram.read_address.eq(tail)
        m.d.sync += [popped.eq((popped << 1) | self.pop), ram.read_enable.eq(self.pop)]
        with m.If(popped[-1]):
            m.d.sync += output.eq(ram.read_data)
        word = output
        for stage in range(self.latency - ram.LATENCY - 2):
            delayed = Signal(self.width, name=f"output{stage}", reset_less=True)
            m.d.sync += delayed.eq(word)
            word = delayed
        m.d.comb += self.data.eq(word)

        free = Signal(range(self.depth + 1), init=self.depth)
        # `pop` is late, so it says only whether to count, and `push` which way.
        with m.If(self.push.push ^ self.pop):
            m.d.sync += free.eq(free + Cat(Const(1, 1), self.push.push.replicate(len(free) - 1)))
        # Knowing that there is a word costs a register, and saves a comparison after `pop`.
        # There are several unless `free` is the depth, a power of two, or one less.
        assert self.depth.bit_count() == 1
        several = ~(free[-1] | free[:-1].all())
        m.d.sync += self.available.eq(self.push.push | several | (self.available & ~self.pop))
        m.d.comb += self.push.free.eq(free)
        return m
