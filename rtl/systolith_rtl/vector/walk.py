"""The addresses of an operand of the vector engine, one after the other."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from systolith.config import CoreConfig
from systolith_rtl.vector.loop import TileLoop, extent_layout

ADDRESS_WIDTH = 32
"""Bits of a granule address in an instruction."""

STRIDE_WIDTH = 16
"""Bits of a stride."""


def walk_width(config: CoreConfig, longest: int) -> int:
    """Bits of an address while a walk takes steps of up to `longest` strides.

    An address that is out of range stops the walk, so no addition from one in range may wrap.
    """
    return bits_for(config.granules - 1 + longest * ((1 << STRIDE_WIDTH) - 1))


class OperandWalk(wiring.Component):
    """Walks a tensor's granules, groups outer and rows inner, and stops outside of the scratchpad.

    Members:
        start: `In(1)`, begin with the operands, which stay as they are until the end.
        address: `In(32)`, granule of the first element.
        stride: `In(16)`, granules from row to row.
        extent: `In(extent_layout(config))`, rows and columns.
        words: `In(1)`, elements are s16, and so a group has two granules.
        stop: `In(1)`, go no further from the next cycle on.
        step: `In(1)`, go on to the next row. Means nothing when not `active`.
        turn: `In(1)`, the same for the next group's address, from a register of its own: else one
            enable is made of the other.
        looks: `In(1)`, somebody wants `granule`, if `active`: it is a fault if it is outside.
        active: `Out(1)`, there is a `granule`.
        granule: `Out`, the first one of a group's.
        inside: `Out(1)`, it is in the scratchpad, and all before it are.
        fault: `Out(1)`, one was not; stays high until reset.
        fault_address: `Out(32)`, which one.
    """

    start: Signal
    address: Signal
    stride: Signal
    extent: data.View
    words: Signal
    stop: Signal
    step: Signal
    turn: Signal
    looks: Signal
    active: Signal
    granule: Signal
    inside: Signal
    fault: Signal
    fault_address: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "address": In(ADDRESS_WIDTH),
                "stride": In(STRIDE_WIDTH),
                "extent": In(extent_layout(config)),
                "words": In(1),
                "stop": In(1),
                "step": In(1),
                "turn": In(1),
                "looks": In(1),
                "active": Out(1),
                "granule": Out(walk_width(config, 1)),
                "inside": Out(1),
                "fault": Out(1),
                "fault_address": Out(ADDRESS_WIDTH),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the loop, the two sums, and the bound."""
        m = Module()
        config = self.config
        bound = exact_log2(config.granules)
        m.submodules.loop = loop = TileLoop(config)
        m.d.comb += [
            loop.start.eq(self.start),
            # A step too late, of which nothing comes.
            loop.stop.eq(self.stop | self.fault),
            loop.extent.eq(self.extent),
            # Without `active`, which would be one more net to all that is loaded between loops.
            loop.step.eq(self.step),
            self.active.eq(loop.active),
        ]
        # Nothing is chosen in front of a carry but between loops, when the group that begins is the
        # operand's first one: the next group's address is known ahead.
        width = len(self.granule)
        address = Signal(width, reset_less=True)
        next_group = Signal(width, reset_less=True)
        at_fault = Signal(width, reset_less=True)
        in_reach = Signal(init=1)  # Nobody has looked at what is outside.
        beyond = Signal(reset_less=True)  # `address` is, or one before it was.
        # What does not fit belongs to the first address, which is then the last.
        far = Signal(reset_less=True)
        outside = beyond | far
        group = Mux(loop.idle, self.address[:width], next_group)
        row = (address + self.stride)[:width]
        following = Mux(loop.last_row, group, row)
        with m.If(loop.loads | self.step):
            m.d.sync += address.eq(following)
            m.d.sync += beyond.eq(following[bound:].any() | (beyond & ~loop.loads))
        with m.If(loop.idle):
            m.d.sync += far.eq(self.address[width:].any())
        with m.If((loop.loads | self.turn) & loop.last_row):
            m.d.sync += next_group.eq(group + Mux(self.words, 2, 1))
        m.d.comb += [self.granule.eq(address), self.inside.eq(~outside)]

        with m.If(loop.active & self.looks & outside):
            m.d.sync += [self.fault.eq(1), in_reach.eq(0)]
        # Until there is a fault, every address may be that of one.
        with m.If(in_reach):
            m.d.sync += at_fault.eq(address)
        m.d.comb += self.fault_address.eq(Cat(at_fault, self.address[width:]))
        return m
