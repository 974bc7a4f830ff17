"""The corner turn that stores a tensor transposed."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig


class Transposer(wiring.Component):
    """Turns blocks of C rows of C bytes into the granules of their columns.

    The rows of a group come in one by one; the last block of a group is filled up with rows of
    zeros. Two cycles after a block's last row its columns begin to leave, one per cycle, while the
    next block comes in. Nothing waits, so the sender must leave as many cycles without a row after
    the last row of a group as there are rows to fill up.

    Members:
        soon: `In(1)`, there is a row in the next cycle.
        row: `In(8 * C)`, the bytes of its columns.
        tail: `In(range(C))`, the last one of them that is stored.
        last_row: `In(1)`, the row is the last one of its group.
        last_group: `In(1)`, the group is the last one.
        granule_valid: `Out(1)`, there is a granule.
        granule: `Out(8 * C)`, the bytes of its rows.
        last_column: `Out(1)`, it is the last one of its block.
        last_block: `Out(1)`, its block is the last one of its group.
        final: `Out(1)`, its group is the last one.
    """

    soon: Signal
    row: Signal
    tail: Signal
    last_row: Signal
    last_group: Signal
    granule_valid: Signal
    granule: Signal
    last_column: Signal
    last_block: Signal
    final: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        width = 8 * config.columns
        super().__init__(
            {
                "soon": In(1),
                "row": In(width),
                "tail": In(range(config.columns)),
                "last_row": In(1),
                "last_group": In(1),
                "granule_valid": Out(1),
                "granule": Out(width),
                "last_column": Out(1),
                "last_block": Out(1),
                "final": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the buffer that fills and the one that empties: two shift registers."""
        m = Module()
        size = self.config.columns
        width = 8 * size

        count = Signal(range(size))
        at_end = Signal()  # `count` is at the block's last row.
        valid = Signal()
        padding = Signal()
        # What is captured with the last row serves until the padding behind it is through.
        tail = Signal.like(self.tail, reset_less=True)
        last_group = Signal(reset_less=True)
        last_block = Signal(reset_less=True)
        # A copy for each granule, since they go to all bits of it.
        shifts = [Signal(name=f"shift{index}", attrs={"keep": 1}) for index in range(size)]
        complete = [Signal(name=f"complete{index}", attrs={"keep": 1}) for index in range(size)]
        shift = shifts[0]
        pads = Signal()
        m.d.comb += pads.eq(Mux(shift, (padding | self.last_row) & ~at_end, padding))
        m.d.sync += [valid.eq(self.soon), padding.eq(pads)]
        m.d.sync += [copy.eq(self.soon | pads) for copy in shifts]
        m.d.sync += [copy.eq(shift & at_end) for copy in complete]
        with m.If(shift):
            m.d.sync += count.eq(Mux(at_end, 0, count + 1))
            m.d.sync += at_end.eq(count == size - 2)
            m.d.sync += last_block.eq(padding | self.last_row)
        with m.If(valid):
            m.d.sync += [tail.eq(self.tail), last_group.eq(self.last_group)]

        filling = [Signal(width, name=f"filling{index}", reset_less=True) for index in range(size)]
        following = [*filling[1:], Mux(padding, 0, self.row)]
        for row, behind, copy in zip(filling, following, shifts, strict=True):
            with m.If(copy):
                m.d.sync += row.eq(behind)

        # It shifts all the time; nobody looks at what is behind the last column.
        emptying = [
            Signal(width, name=f"emptying{index}", reset_less=True) for index in range(size)
        ]
        following = [*emptying[1:], emptying[-1]]
        for column, (granule, behind, copy) in enumerate(
            zip(emptying, following, complete, strict=True)
        ):
            turned = Cat(row.word_select(column, 8) for row in filling)
            m.d.sync += granule.eq(Mux(copy, turned, behind))
        left = Signal.like(self.tail, reset_less=True)
        m.d.comb += [self.granule.eq(emptying[0]), self.last_column.eq(left == 0)]
        with m.If(complete[0]):
            m.d.sync += [
                self.granule_valid.eq(1),
                left.eq(tail),
                self.last_block.eq(last_block),
                self.final.eq(last_group),
            ]
        with m.Else():
            m.d.sync += left.eq(left - 1)
            with m.If(self.last_column):
                m.d.sync += self.granule_valid.eq(0)
        return m
