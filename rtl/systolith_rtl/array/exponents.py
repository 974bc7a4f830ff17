"""Block exponents: the shift of INT4 sums between the array's bottom and the accumulators."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.numerics import EXPONENT_WIDTH
from systolith_rtl.array.control import MIN_PERIOD, row_control
from systolith_rtl.array.pe import int4_partial_width, partial_width
from systolith_rtl.pipeline import unless_idle

MAX_EXPONENT = (1 << EXPONENT_WIDTH) - 1


def shifted_width(rows: int) -> int:
    """Bits of a shifted sum of `rows` products of an activation and an INT4 weight."""
    return int4_partial_width(rows) + MAX_EXPONENT


class ExponentShift(wiring.Component):
    """Shift each INT4 sum left by the exponent of its tile and channel; INT8 sums just pass.

    `word` holds the exponents of the next 2R / C tiles. As a tile's first row enters the array,
    its 2C exponents, C of the low weights and C of the high ones, leave it for a queue, in which
    they wait until the row has come through. So the word may be replaced in the very cycle in
    which its last tile begins::

        word -> queue -> head -> exponents of column 0, column 1, ...

    A column takes its exponents as the tile's first row reaches it, one column a cycle, and tiles
    are at least C cycles apart, so the head stays as long as any column needs it.

    For a row whose control comes in cycle p, column c takes its sums in cycle
    `p + LATENCY - 1 + c`, and gives them in the next one.

    Members:
        word: `In(8 * R)`.
        load: `In(1)`, `word` has new exponents.
        begin: `In(1)`, the first row of an INT4 tile enters the array.
        control: `In(row_control(config))`, of the row that will leave it.
        low_i: `In(ArrayLayout(signed(partial_width(R)), C))`.
        high_i: `In(ArrayLayout(signed(int4_partial_width(R)), C))`.
        low_o: `Out`, likewise.
        high_o: `Out(ArrayLayout(signed(shifted_width(R)), C))`.
    """

    LATENCY = 5

    word: Signal
    load: Signal
    begin: Signal
    control: data.View
    low_i: data.View
    high_i: data.View
    low_o: data.View
    high_o: data.View

    def __init__(self, config: CoreConfig) -> None:
        rows, columns = config.rows, config.columns
        self.columns = columns
        # A tile's exponents leave the queue R + 2 cycles after they came.
        tiles = (rows + 2) // max(columns, MIN_PERIOD) + 1
        self.depth = 1 << (tiles - 1).bit_length()
        low = data.ArrayLayout(signed(partial_width(rows)), columns)
        high = data.ArrayLayout(signed(int4_partial_width(rows)), columns)
        shifted = data.ArrayLayout(signed(shifted_width(rows)), columns)
        super().__init__(
            {
                "word": In(8 * rows),
                "load": In(1),
                "begin": In(1),
                "control": In(row_control(config)),
                "low_i": In(low),
                "high_i": In(high),
                "low_o": Out(low),
                "high_o": Out(shifted),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Hand exponents on from word to queue to columns, and shift."""
        m = Module()
        columns, width = self.columns, EXPONENT_WIDTH
        size = 2 * columns * width

        word = Signal(len(self.word), reset_less=True)
        with m.If(self.load):
            m.d.sync += word.eq(self.word)
        with m.Elif(self.begin):
            m.d.sync += word.eq(word >> size)

        # Rows on their way: bit i is for the row whose control came i + 1 cycles ago.
        count = columns + self.LATENCY - 1
        valid, start, int4 = (Signal(count, name=name) for name in ("valid", "start", "int4"))
        m.d.sync += [
            valid.eq(Cat(self.control.valid, valid)),
            start.eq(Cat(self.control.valid & self.control.start, start)),
            int4.eq(Cat(self.control.valid & self.control.int4, int4)),
        ]
        shifts, shifts_high = (unless_idle(platform, bits) for bits in (valid, int4))
        head = self._queue(m, word[:size], start[1] & int4[1])
        for c in range(columns):
            low, high = (
                Signal(width, name=f"{name}_exponent{c}", reset_less=True)
                for name in ("low", "high")
            )
            with m.If(start[c + 2]):
                m.d.sync += [
                    low.eq(Mux(int4[c + 2], head.word_select(c, width), 0)),
                    high.eq(head.word_select(columns + c, width)),
                ]
            low_o = Signal.like(self.low_o[c], name=f"low{c}", reset_less=True)
            high_o = Signal.like(self.high_o[c], name=f"high{c}", reset_less=True)
            with m.If(shifts[c + 3]):
                m.d.sync += low_o.eq(self.low_i[c] << low)
            with m.If(shifts_high[c + 3]):
                m.d.sync += high_o.eq(self.high_i[c] << high)
            m.d.comb += [self.low_o[c].eq(low_o), self.high_o[c].eq(high_o)]
        return m

    def _queue(self, m: Module, exponents: Value, take: Value) -> Signal:
        """Keep a tile's exponents from `begin` to `take`, and then until the next `take`."""
        memory = Memory(shape=len(exponents), depth=self.depth, init=[])
        m.submodules.queue = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        first, last = (Signal(range(self.depth), name=name) for name in ("first", "last"))
        head = Signal(len(exponents), reset_less=True)
        m.d.comb += [
            write.addr.eq(last),
            write.data.eq(exponents),
            write.en.eq(self.begin),
            read.addr.eq(first),
        ]
        with m.If(self.begin):
            m.d.sync += last.eq(last + 1)
        with m.If(take):
            m.d.sync += [first.eq(first + 1), head.eq(read.data)]
        return head
