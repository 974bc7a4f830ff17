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
        valid: `In(1)`, there is a row.
        row: `In(8 * C)`, the bytes of its columns.
        columns: `In(range(C + 1))`, how many of them are stored, from 1 to C.
        last_row: `In(1)`, the row is the last one of its group.
        last_group: `In(1)`, the group is the last one.
        granule_valid: `Out(1)`, there is a granule.
        granule: `Out(8 * C)`, the bytes of its rows.
        last_column: `Out(1)`, it is the last one of its block.
        last_block: `Out(1)`, its block is the last one of its group.
        final: `Out(1)`, its group is the last one.
    """

    valid: Signal
    row: Signal
    columns: Signal
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
                "valid": In(1),
                "row": In(width),
                "columns": In(range(config.columns + 1)),
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

        filling = Signal(size * width, reset_less=True)
        count = Signal(range(size))
        at_end = Signal()  # `count` is at the block's last row.
        padding = Signal()
        # What is captured with the last row serves until the padding behind it is through.
        columns = Signal.like(self.columns, reset_less=True)
        last_group = Signal(reset_less=True)
        last_block = Signal(reset_less=True)
        shift = Signal()
        complete = Signal()
        m.d.comb += shift.eq(self.valid | padding)
        m.d.sync += complete.eq(shift & at_end)
        with m.If(shift):
            m.d.sync += filling.eq(Cat(filling[width:], Mux(padding, 0, self.row)))
            m.d.sync += count.eq(Mux(at_end, 0, count + 1))
            m.d.sync += at_end.eq(count == size - 2)
            m.d.sync += padding.eq((padding | self.last_row) & ~at_end)
            m.d.sync += last_block.eq(padding | self.last_row)
        with m.If(self.valid):
            m.d.sync += [columns.eq(self.columns), last_group.eq(self.last_group)]

        emptying = Signal(size * width, reset_less=True)
        left = Signal(range(size + 1))
        m.d.comb += [
            self.granule_valid.eq(left != 0),
            self.granule.eq(emptying[:width]),
            self.last_column.eq(left == 1),
        ]
        with m.If(complete):
            byte = [
                [filling.word_select(row * size + c, 8) for row in range(size)] for c in range(size)
            ]
            m.d.sync += [
                emptying.eq(Cat(byte)),
                left.eq(columns),
                self.last_block.eq(last_block),
                self.final.eq(last_group),
            ]
        with m.Elif(self.granule_valid):
            m.d.sync += emptying.eq(emptying[width:])
            m.d.sync += left.eq(left - 1)
        return m
