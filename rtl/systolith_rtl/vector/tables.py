"""Function tables, one copy per lane, and the exponential that shares them."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import TABLE_ENTRIES, CoreConfig
from systolith.numerics import EXP_TABLE, MAX_EXP_SHIFT, WORD_WIDTH, Format
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.pipeline import register, unless_idle
from systolith_rtl.vector.affine import clamp, exceeds_byte

SLOTS = 4
"""Tables of a lane. The last one is the exponential's; a core may use fewer of the others."""

EXP_SLOT = SLOTS - 1

WORDS = TABLE_ENTRIES // 2
"""32-bit words of a table: two entries each, the even one low."""

_FOURS = range(0, WORD_WIDTH - 6, 4)
"""Shifts by four octaves that leave something of an entry."""

_OCTAVE_WIDTH = MAX_EXP_SHIFT.bit_length()
assert BlockRam.LATENCY == 2  # Octaves are counted beside it.

_EXP_WORDS = [
    EXP_TABLE[even] | EXP_TABLE[even + 1] << WORD_WIDTH for even in range(0, TABLE_ENTRIES, 2)
]


class Tables(wiring.Component):
    """Replaces C words by table entries, or by the power of two that they stand for.

    For a table, the word is a u8 index, and the result is the entry saturated to the format. For
    the exponential, it is the (saturated) distance to the row's maximum, 0 or less, in units of
    `2**-8`; the result is `numerics.exp2`, and 0 for -32768.

    ::

        word -> block RAM, two cycles -> entry -> shifted -> result

    Members:
        write: `In(1)`, write two entries of a table in all lanes.
        write_address: `In(range(4 * 128))`, in units of two entries; ignored unless the table is
            one of the core's `table_slots`.
        write_data: `In(32)`.
        valid: `In(LATENCY)`, bit k is high if stage k has something before it; bit 0 belongs to
            the words, and each bit follows the one below it a cycle later.
        word: `In`, C indices or distances.
        exp: `In(1)`, distances; steady from two cycles before the words on, while anything is under
            way, as are the next two.
        table: `In(2)`, which table, for indices.
        out_format: `In(Format)`, for indices.
        value: `Out`, C results, `LATENCY` cycles later.
    """

    LATENCY = BlockRam.LATENCY + 3

    write: Signal
    write_address: Signal
    write_data: Signal
    valid: Signal
    word: data.View
    exp: Signal
    table: Signal
    out_format: Signal
    value: data.View

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        words = data.ArrayLayout(signed(WORD_WIDTH), config.columns)
        super().__init__(
            {
                "write": In(1),
                "write_address": In(range(SLOTS * WORDS)),
                "write_data": In(2 * WORD_WIDTH),
                "valid": In(self.LATENCY),
                "word": In(words),
                "exp": In(1),
                "table": In(range(SLOTS)),
                "out_format": In(Format),
                "value": Out(words),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the lanes."""
        m = Module()
        enables = unless_idle(platform, self.valid)
        # Each of the last two stages has its own copy.
        shifts, powers = Signal(), Signal()
        m.d.sync += [shifts.eq(self.exp), powers.eq(shifts)]
        legal = self.write_address < self.config.table_slots * WORDS
        table = Mux(self.exp, EXP_SLOT, self.table)
        for lane in range(self.config.columns):
            m.submodules[f"table{lane}"] = ram = BlockRam(
                width=2 * WORD_WIDTH,
                depth=SLOTS * WORDS,
                init=[0] * (EXP_SLOT * WORDS) + _EXP_WORDS,
            )
            word = self.word[lane]
            m.d.comb += [
                ram.write_address.eq(self.write_address),
                ram.write_data.eq(self.write_data),
                ram.write_enable.eq(self.write & legal),
                ram.read_address.eq(Cat(word[1:8], table)),
                ram.read_enable.eq(self.valid[0]),
            ]
            # Whole octaves below the maximum, rounded up: -(word >> 8) is ~(word >> 8) + 1. That it
            # is many is found a cycle ahead, so that there are few bits to add to.
            end = 8 + _OCTAVE_WIDTH
            many = word[-1] & ~word[end:-1].all()
            below = ~word[8:end] | many.replicate(_OCTAVE_WIDTH)
            below = register(m, f"lane{lane}_below", below, enables[0])
            sign = register(m, f"lane{lane}_sign", word[-1], enables[0])
            octaves = Mux(sign, Mux(below >= MAX_EXP_SHIFT, MAX_EXP_SHIFT, below + 1), 0)
            octaves = register(m, f"lane{lane}_octaves1", octaves[:_OCTAVE_WIDTH], enables[1])
            odd = word[0]
            at = BlockRam.LATENCY
            for stage in range(at):
                odd = register(m, f"lane{lane}_odd{stage}", odd, enables[stage])
            # Shifts by four octaves are told apart where there is time for it.
            fours = Cat(shifts & (octaves[2:] == four) for four in range(len(_FOURS)))
            fours = register(m, f"lane{lane}_fours", fours, enables[at])
            octaves = register(m, f"lane{lane}_octaves", octaves[:2], enables[at])
            entry = ram.read_data.word_select(odd, WORD_WIDTH)
            entry = register(m, f"lane{lane}_entry", entry, enables[at])
            # E is shifted by 7 and the octaves in all; the last bit is left for the rounding.
            within = entry[6:] >> octaves
            shifted = Mux(shifts, 0, entry[: len(within)])
            for four, chosen in enumerate(fours):
                moved = within[4 * four :]
                shifted |= moved & chosen.replicate(len(moved))
            # Of the exponential, nobody looks at the bits above.
            shifted = Cat(shifted, entry[len(within) :])
            shifted = register(m, f"lane{lane}_shifted", shifted, enables[at + 1])
            middle = entry[8:-1] != entry[-1].replicate(WORD_WIDTH - 9)
            clamps = exceeds_byte(entry, entry[-1], middle, self.out_format)
            clamps = register(m, f"lane{lane}_clamps", clamps, enables[at + 1])
            power = (shifted[: WORD_WIDTH - 6] + 1) >> 1
            result = Mux(powers, power, clamp(shifted, shifted[-1], clamps, self.out_format))
            result = result[:WORD_WIDTH].as_signed()
            value = register(m, f"lane{lane}_value", result, enables[at + 2])
            m.d.comb += self.value[lane].eq(value)
        return m
