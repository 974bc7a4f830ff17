"""Walking over the tiles of a matrix: counters, addresses, and what they start from."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import OPERANDS, Opcode
from systolith_rtl.reset import without_reset

WIDTHS = {field.name: field.width for field in OPERANDS[Opcode.GEMM]}
"""Bits of a GEMM's operands."""


def bits(power: int) -> int:
    """Bits that count up to a power of two, exclusive."""
    return power.bit_length() - 1


def word_bits(config: CoreConfig, name: str) -> int:
    """Bits of a granule count of an instruction once it counts words."""
    return WIDTHS[name] - bits(config.word_granules)


def count_layout(width: int, *, part: bool = True) -> data.StructLayout:
    """How many there are: `whole`, in the lowest `width` bits, and one more if there is a `part`.

    `one` and `two` say that there are that many.
    """
    names = ("part", "one", "two") if part else ("one", "two")
    return data.StructLayout({"whole": unsigned(width), **dict.fromkeys(names, unsigned(1))})


def set_count(m: Module, count: data.View, whole: Value, part: Value | None = None) -> None:
    """Register a count of `whole` and, if `part` is high, one more; at least one in all."""
    low, few = whole[:2], whole[2:] == 0
    one, two = few & (low == 1), few & (low == 2)
    if part is not None:
        one, two = few & (low == Mux(part, 0, 1)), few & (low == Mux(part, 1, 2))
        m.d.sync += count.part.eq(part)
    m.d.sync += [count.whole.eq(whole), count.one.eq(one), count.two.eq(two)]


class Progress:
    """Which of several is the present one, as far as it matters: in registers.

    It counts up from a constant, which takes no multiplexers, and compares two steps ahead, so that
    no comparison is in the paths on which requests depend.

    Attributes:
        ahead: the present one, counted from 0, + 3; less one if there is a part. While the next one
            is the first one, its.
        last: it is the last one.
        next_last: the next one is.
    """

    def __init__(self, name: str, width: int) -> None:
        self.ahead = Signal(width, name=f"{name}_ahead", reset_less=True)
        self.last = Signal(name=f"{name}_last", init=1)
        self.next_last = Signal(name=f"{name}_next_last", reset_less=True)

    def walk(
        self,
        m: Module,
        goes: Value,
        moves: Value,
        *,
        turn: Value,
        new: data.View,
        count: data.View,
        valid: Value | int = 1,
        again: bool = True,
    ) -> None:
        """Describe each step, in Amaranth.

        Args:
            m: where to.
            goes: go on to the next one.
            moves: the same, but need not be high with `turn`.
            turn: it is the first one of `new`. High at the last one; `goes` may be, too, when there
                is none.
            new: how many there will be.
            count: how many there are. It may be `new` already while `turn` is high.
            valid: `new` is. Else the next one is taken for the last one.
            again: behind the last one comes the first one of `count`.
        """
        first = (turn | self.last) if again else turn
        with m.If(moves):
            m.d.sync += self.ahead.eq(self.ahead + 1)
        with m.If(goes):
            with m.If(turn):
                m.d.sync += [self.last.eq(new.one | ~Value.cast(valid)[0])]
                m.d.sync += self.next_last.eq(new.two)
            with m.Elif(self.last & again):
                m.d.sync += [self.last.eq(count.one), self.next_last.eq(count.two)]
            with m.Else():
                m.d.sync += self.last.eq(self.next_last)
                m.d.sync += self.next_last.eq(self.ahead == count.whole)
        # Nobody looks at it at the last one, so its reset needs no enable.
        with m.If(first):
            part = Const(0, 1)
            if "part" in count.shape().members:
                part = Mux(turn, new.part, count.part)
            m.d.sync += self.ahead.eq(Cat(~part, Const(1, 1)))


class TileAddress(wiring.Component):
    """The word address of each row of each tile of a matrix, by additions alone.

    The rows of a tile are `row_step` apart, tiles along k one word; where a group of tiles begins
    is told. Only a word that is inside the scratchpad may be followed by another one; rows that
    are not looked at are excepted, if the tile ends with them.

    Members:
        advance: `In(1)`, go on to the next row.
        start: `In(1)`, with `advance` and `to_group`: to `base`.
        base: `In(word_bits(config, "a_address"))`.
        base_outside: `In(1)`, it is beyond the scratchpad.
        to_group: `In(1)`, with `advance`: to the row with which the next group begins,
        group: `In(low_bits)`.
        to_tile: `In(1)`, with `advance` and not `to_group`: to the one of the next tile. At the
            earliest in the cycle after one of `first`.
        first: `In(1)`, this is a tile's first row.
        row_step: `In`, words, like `a_row`.
        row: `Out(low_bits)`, the address,
        address: `Out(range(config.words))`, as far as it is inside.
        outside: `Out(1)`, the address is beyond the scratchpad; a register.
        granule: `Out(32)`, the address in granules, also if it is outside.
    """

    advance: Signal
    start: Signal
    base: Signal
    base_outside: Signal
    to_group: Signal
    group: Signal
    to_tile: Signal
    first: Signal
    row_step: Signal
    row: Signal
    address: Signal
    outside: Signal
    granule: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.word_granules = config.word_granules
        self.inside_bits = bits(config.words)
        row_bits = word_bits(config, "a_row")
        # Enough for a step from anywhere inside. A group of more than one row is left only if all
        # of it is inside, so the step to the next one is less than twice the scratchpad.
        self.low_bits = max(self.inside_bits + 1, row_bits) + 1
        super().__init__(
            {
                "advance": In(1),
                "start": In(1),
                "base": In(word_bits(config, "a_address")),
                "base_outside": In(1),
                "to_group": In(1),
                "group": In(self.low_bits),
                "to_tile": In(1),
                "first": In(1),
                "row_step": In(row_bits),
                "row": Out(self.low_bits),
                "address": Out(range(config.words)),
                "outside": Out(1),
                "granule": Out(WIDTHS["a_address"]),
            }
        )
        without_reset(self.row)

    def elaborate(self, platform: object) -> Module:
        """Keep the address of the present row, and where the next tile begins."""
        m = Module()
        tile = Signal(self.inside_bits + 1, reset_less=True)
        # Steps start inside, where these bits are 0, so they never change.
        high = Signal(len(self.base) - self.low_bits, reset_less=True)
        step = Signal(self.low_bits)
        m.d.comb += step.eq(self.row + self.row_step)
        # The first row is looked at, so it is inside if another one follows.
        with m.If(self.first):
            m.d.sync += tile.eq(self.row[: self.inside_bits] + 1)
        with m.If(self.advance):
            # Multiplexers of four, of which two bits choose.
            begins = Mux(self.start, self.base[: self.low_bits], self.group)
            outside = Mux(self.start, self.base_outside, self.group[self.inside_bits :].any())
            goes_on = Mux(self.to_tile, tile, step)
            m.d.sync += [
                self.row.eq(Mux(self.to_group, begins, goes_on)),
                self.outside.eq(Mux(self.to_group, outside, goes_on[self.inside_bits :].any())),
            ]
        with m.If(self.advance & self.start):
            m.d.sync += high.eq(self.base[self.low_bits :])

        m.d.comb += [
            self.address.eq(self.row),
            self.granule.eq(Cat(self.row, high).shift_left(bits(self.word_granules))),
        ]
        return m


def feeder_plan(config: CoreConfig) -> data.StructLayout:
    """What the feeder of activations must know of a GEMM.

    `outside`: the first address is beyond the scratchpad. `row_step` is 1 if there is one row: then
    that is how far tiles are apart. `one`: there is one row in all. Only with INT4, `int4`: B has
    such weights, and `last_pair`: so its last group has more than C channels.
    """
    return data.StructLayout(
        {
            "address": unsigned(word_bits(config, "a_address")),
            "outside": unsigned(1),
            "row_step": unsigned(word_bits(config, "a_row")),
            "rows": count_layout(bits(config.accumulator_rows), part=False),
            "k_tiles": count_layout(WIDTHS["k"] - bits(config.rows)),
            "groups": count_layout(WIDTHS["n"] - bits(config.columns)),
            "one": unsigned(1),
            "is_signed": unsigned(1),
            **({"int4": unsigned(1), "last_pair": unsigned(1)} if config.int4 else {}),
        }
    )


def loader_plan(config: CoreConfig) -> data.StructLayout:
    """What the loader of weights must know of a GEMM.

    `k_tail` and `n_tail` are the last valid byte of the last k tile and the last valid row of the
    last group. `int4` is there only with INT4.
    """
    return data.StructLayout(
        {
            "address": unsigned(word_bits(config, "b_address")),
            "outside": unsigned(1),
            "row_step": unsigned(word_bits(config, "b_row")),
            "k_tiles": count_layout(WIDTHS["k"] - bits(config.rows)),
            "k_tail": unsigned(bits(config.rows)),
            "groups": count_layout(WIDTHS["n"] - bits(config.columns)),
            "n_tail": unsigned(bits(config.columns)),
            "scratchpad": unsigned(1),
            **({"int4": unsigned(1)} if config.int4 else {}),
        }
    )
