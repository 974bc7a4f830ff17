"""Walking over the tiles of a matrix: counters, addresses, and what they start from."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
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


class Countdown:
    """A counter of what is still to come, which knows in a register whether that is nothing.

    Comparing a step ahead keeps the comparison out of the paths on which requests depend.

    Attributes:
        left: how many come after the present one.
        last: none does.
    """

    def __init__(self, name: str, width: int) -> None:
        self.left = Signal(width, name=f"{name}_left", reset_less=True)
        self.last = Signal(name=f"{name}_last", reset_less=True)

    def load(self, m: Module, left: Value, none: Value) -> None:
        """Start with `left` to come after the first one, or `none`."""
        m.d.sync += [self.left.eq(left), self.last.eq(none)]

    def step(self, m: Module) -> None:
        """Go on to the next one."""
        m.d.sync += [self.left.eq(self.left - 1), self.last.eq(self.left == 1)]


class TileAddress(wiring.Component):
    """The word address of each row of each tile of a matrix, by additions alone.

    The rows of a tile are `row_step` apart, tiles along k one word, and groups of tiles
    `group_step`. Only a word that is inside the scratchpad may be followed by another one; rows
    that are not looked at are excepted, if the tile ends with them.

    Members:
        idle: `In(1)`, with `start`: be at `base`, whatever else is high.
        start: `In(1)`, with `advance`, `tile_end` and `group_end`: begin at `base` again.
        base: `In(word_bits(config, "a_address"))`.
        base_outside: `In(1)`, it is beyond the scratchpad.
        row_step: `In`, words, like `a_row`.
        group_step: `In(group_bits)`, words.
        advance: `In(1)`, go on to the next row,
        tile_end: `In(1)`, of the next tile,
        group_end: `In(1)`, of the next group.
        address: `Out(range(config.words))`.
        outside: `Out(1)`, the address is beyond the scratchpad; a register.
        granule: `Out(32)`, the address in granules, also if it is outside.
    """

    idle: Signal
    start: Signal
    base: Signal
    base_outside: Signal
    row_step: Signal
    group_step: Signal
    advance: Signal
    tile_end: Signal
    group_end: Signal
    address: Signal
    outside: Signal
    granule: Signal

    def __init__(self, config: CoreConfig, *, group_bits: int = 0) -> None:
        self.word_granules = config.word_granules
        self.inside_bits = bits(config.words)
        row_bits = word_bits(config, "a_row")
        # Enough for a step from anywhere inside. A group of more than one row is left only if all
        # of it is inside, so the step to the next one is less than twice the scratchpad.
        self.low_bits = max(self.inside_bits + 1, row_bits) + 1
        super().__init__(
            {
                "idle": In(1),
                "start": In(1),
                "base": In(word_bits(config, "a_address")),
                "base_outside": In(1),
                "row_step": In(row_bits),
                "group_step": In(group_bits),
                "advance": In(1),
                "tile_end": In(1),
                "group_end": In(1),
                "address": Out(range(config.words)),
                "outside": Out(1),
                "granule": Out(WIDTHS["a_address"]),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Keep the addresses at which the present row, tile and group began."""
        m = Module()
        row, tile, group = (
            Signal(unsigned(self.low_bits), name=name, reset_less=True)
            for name in ("row", "tile", "group")
        )
        # Steps start inside, where these bits are 0, so they never change.
        high = Signal(len(self.base) - self.low_bits, reset_less=True)
        without_reset(self.outside)
        next_row, next_tile, next_group = (Signal(self.low_bits) for _ in range(3))
        m.d.comb += [
            next_row.eq(row + self.row_step),
            next_tile.eq(tile + 1),
            next_group.eq(group + self.group_step),
        ]

        # Each register has its own condition, so that no enable comes from another one.
        with m.If(self.idle | self.advance):
            with m.If(self.start):
                m.d.sync += [row.eq(self.base), self.outside.eq(self.base_outside)]
            with m.Else():
                for condition, step in (
                    (~self.tile_end, next_row),
                    (self.tile_end & ~self.group_end, next_tile),
                    (self.tile_end & self.group_end, next_group),
                ):
                    with m.If(condition):
                        m.d.sync += row.eq(step)
                        m.d.sync += self.outside.eq(step[self.inside_bits :].any())
        # A last row is a tile's and a group's last one too, so these need not look at `start`.
        with m.If(self.idle | (self.advance & self.tile_end)):
            m.d.sync += tile.eq(
                Mux(self.start, self.base, Mux(self.group_end, next_group, next_tile))
            )
        with m.If(self.idle | (self.advance & self.tile_end & self.group_end)):
            m.d.sync += group.eq(Mux(self.start, self.base, next_group))
        with m.If(self.idle | (self.advance & self.start)):
            m.d.sync += high.eq(self.base[self.low_bits :])

        m.d.comb += [
            self.address.eq(row),
            self.granule.eq(Cat(row, high).shift_left(bits(self.word_granules))),
        ]
        return m


def feeder_plan(config: CoreConfig) -> data.StructLayout:
    """What the feeder of activations must know of a GEMM; counts are of what follows the first.

    `outside`: the first address is beyond the scratchpad. `one_row`, `one_tile`, `one_group`: none
    follows. Only with INT4, `int4`: B has such weights, and `last_pair`: so its last group has more
    than C channels.
    """
    return data.StructLayout(
        {
            "address": unsigned(word_bits(config, "a_address")),
            "outside": unsigned(1),
            "row_step": unsigned(word_bits(config, "a_row")),
            "rows": unsigned(bits(config.accumulator_rows)),
            "rest": unsigned(3),
            "k_tiles": unsigned(WIDTHS["k"] - bits(config.rows)),
            "groups": unsigned(WIDTHS["n"] - bits(config.columns)),
            **dict.fromkeys(("one_row", "one_tile", "one_group"), unsigned(1)),
            "is_signed": unsigned(1),
            **({"int4": unsigned(1), "last_pair": unsigned(1)} if config.int4 else {}),
        }
    )


def loader_plan(config: CoreConfig) -> data.StructLayout:
    """What the loader of weights must know of a GEMM.

    `k_tail` and `n_tail` are the last valid byte of the last k tile and the last valid row of the
    last group; counts are of what follows the first. `int4` is there only with INT4.
    """
    return data.StructLayout(
        {
            "address": unsigned(word_bits(config, "b_address")),
            "outside": unsigned(1),
            "row_step": unsigned(word_bits(config, "b_row")),
            "k_tiles": unsigned(WIDTHS["k"] - bits(config.rows)),
            "k_tail": unsigned(bits(config.rows)),
            "groups": unsigned(WIDTHS["n"] - bits(config.columns)),
            **dict.fromkeys(("one_tile", "one_group"), unsigned(1)),
            "n_tail": unsigned(bits(config.columns)),
            "scratchpad": unsigned(1),
            **({"int4": unsigned(1)} if config.int4 else {}),
        }
    )
