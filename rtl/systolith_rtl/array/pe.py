"""Processing element: one multiplier of the systolic array, with its weight and its partial sum."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith_rtl.multiplier import Multiplier
from systolith_rtl.pipeline import unless_idle

ACTIVATION_WIDTH = 9
"""Bits of a signed activation: s8 and u8 both fit."""

PRODUCT_WIDTH = 16
"""Bits of a signed product of an activation and an INT8 weight: at most 255 * 128 either way."""

WEIGHT_WIDTH = 8
"""Bits of a signed weight, or of two INT4 weights."""

NIBBLE = WEIGHT_WIDTH // 2
"""Bits of an INT4 weight."""

FIELD = 12
"""Bits of the product that belong to the low one of two packed INT4 weights."""

PACKED_WIDTH = 17
"""Bits of `w1 * 2**FIELD + w0`."""

BUS_WIDTH = 13
"""Bits of it that differ from one another: between weight and field, all are the sign of `w0`."""


def partial_width(rows: int) -> int:
    """Bits of a signed sum of `rows` products of an activation and an INT8 weight."""
    return (255 * 128 * rows).bit_length() + 1


def int4_partial_width(rows: int) -> int:
    """Bits of a signed sum of `rows` products of an activation and an INT4 weight."""
    return (255 * 8 * rows).bit_length() + 1


def bus_weight(byte: Value, int4: Value) -> Value:
    """Prepare a weight byte for a PE with INT4, once for a whole row of them.

    INT4 packs `byte[4:8] * 2**FIELD + byte[0:4]`, both signed; INT8 extends the byte's sign. In
    either case, bits 7 to 11 of the operand are equal, so one of them is sent.
    """
    low = byte[:NIBBLE].as_signed()
    high = byte[NIBBLE:].as_signed()
    sign = low[-1]
    packed = Cat(low, sign.replicate(4), (high - sign)[: NIBBLE + 1])
    plain = Cat(byte, byte[-1].replicate(BUS_WIDTH - WEIGHT_WIDTH))
    return Mux(int4, packed, plain)


class Pe(wiring.Component):
    """Multiply the activations that come by with a weight, and add to the partial sum from above.

    ::

        a, active weight -> product -> addend -> partial_o

    `partial_o` is `partial_i` of a cycle ago plus `a * weight` of `LATENCY` cycles ago, so a PE
    works one cycle later than the one above it. The active weight is a register of the DSP block.
    The next one waits in a shadow register: `capture` fills it from the bus, `swap` makes it the
    active weight, from the activation of the same cycle on. `swap` takes what an earlier cycle
    captured; capturing in the same cycle already fills the shadow register anew.

    While no valid activation is in a stage, its registers may hold (`unless_idle`), but for
    activation and product in the DSP block: four neighbouring multipliers of ECP5 have four clock
    enables together, and those of two diagonals would need five.

    The uppermost PE of a column has nothing to add: without `adds`, `partial_o` is the product, a
    cycle earlier.

    With `int4`, one multiplier serves two output channels. `weight` then is a `bus_weight`, and a
    row of `int4_valid` gives two sums: `partial` of the low weights, `high` of the high ones::

        product = a * (w1 * 2**12 + w0)
        a * w0 = product[0:12], signed        |a * w0| <= 255 * 8 < 2**11
        a * w1 = product[12:24], signed, + product[11]

    since a negative low product borrows one from the high one. For other rows, `high_o` is
    undefined.

    Members:
        a: `In(signed(9))`, activation.
        valid: `In(4)`: bit 0, `a` is one; bit i, `a` of i cycles ago was one. The PEs of a
            diagonal, which work in step, share these bits.
        swap: `In(1)`, with bit 0 of `valid`: `a` is the first one for the shadow register's weight.
        weight: `In(8)`, bus; `In(13)` with `int4`.
        capture: `In(1)`, the bus holds this PE's next weight.
        partial_i, partial_o: sums of `rows` products at most, `partial_width(rows)` signed bits.
        int4_valid: `In(4)`, like `valid`, but for rows with INT4 weights alone; only with `int4`,
            like the following.
        high_i, high_o: sums of the second channel, `int4_partial_width(rows)` signed bits.
    """

    LATENCY = 4

    a: Signal
    valid: Signal
    swap: Signal
    weight: Signal
    capture: Signal
    partial_i: Signal
    partial_o: Signal
    int4_valid: Signal
    high_i: Signal
    high_o: Signal

    def __init__(self, *, rows: int, int4: bool = False, adds: bool = True) -> None:
        self.int4 = int4
        self.adds = adds
        assert adds or not int4
        members = {
            "a": In(signed(ACTIVATION_WIDTH)),
            "valid": In(Pe.LATENCY),
            "swap": In(1),
            "weight": In(BUS_WIDTH if int4 else WEIGHT_WIDTH),
            "capture": In(1),
            "partial_i": In(signed(partial_width(rows))),
            "partial_o": Out(signed(partial_width(rows))),
        }
        if int4:
            members |= {
                "int4_valid": In(Pe.LATENCY),
                "high_i": In(signed(int4_partial_width(rows))),
                "high_o": Out(signed(int4_partial_width(rows))),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Build the stages drawn in the class docstring, left to right."""
        m = Module()
        # valid[i]: an activation is in the i-th row of registers
        _, *valid = unless_idle(platform, self.valid)

        shadow = Signal(len(self.weight), reset_less=True)
        with m.If(self.capture):
            m.d.sync += shadow.eq(self.weight)

        operand = self._operand(shadow)
        m.submodules.multiplier = multiplier = Multiplier(
            ACTIVATION_WIDTH, len(operand), separate_enables=True
        )
        m.d.comb += [
            multiplier.a.eq(self.a),
            multiplier.a_enable.eq(1),
            multiplier.b.eq(operand),
            multiplier.b_enable.eq(self.swap),
            multiplier.enable.eq(1),
        ]
        product = multiplier.product

        if self.int4:
            _, *high_valid = unless_idle(platform, self.int4_valid)
            self._add_two(m, product, valid, high_valid)
        else:
            # A register right behind the DSP block is worth 30 % of the array's clock.
            addend = Signal(signed(PRODUCT_WIDTH), reset_less=True)
            with m.If(valid[1]):
                m.d.sync += addend.eq(product)
            result = addend
            if self.adds:
                result = Signal.like(self.partial_o, name="partial", reset_less=True)
                with m.If(valid[2]):
                    m.d.sync += result.eq(self.partial_i + addend)
            m.d.comb += self.partial_o.eq(result)
        return m

    def _operand(self, shadow: Signal) -> Value:
        if not self.int4:
            return shadow.as_signed()
        fill = shadow[WEIGHT_WIDTH - 1].replicate(FIELD - WEIGHT_WIDTH)
        return Cat(shadow[:WEIGHT_WIDTH], fill, shadow[WEIGHT_WIDTH:]).as_signed()

    def _add_two(
        self, m: Module, product: Signal, valid: list[Value], high_valid: list[Value]
    ) -> None:
        _, *int4 = self.int4_valid
        low = Signal(signed(PRODUCT_WIDTH), reset_less=True)
        high = Signal(signed(FIELD), reset_less=True)
        borrowed = Signal(reset_less=True)
        with m.If(valid[1]):
            m.d.sync += low.eq(Mux(int4[1], product[:FIELD].as_signed(), product))
        with m.If(high_valid[1]):
            m.d.sync += [
                high.eq(product[FIELD : 2 * FIELD]),
                borrowed.eq(product[FIELD - 1]),
            ]
        partial = Signal.like(self.partial_o, reset_less=True)
        high_partial = Signal.like(self.high_o, reset_less=True)
        # What was borrowed comes back as the adder's carry: 1 + borrowed below the lowest bits.
        total = Cat(Const(1, 1), self.high_i).as_signed() + Cat(borrowed, high).as_signed()
        with m.If(valid[2]):
            m.d.sync += partial.eq(self.partial_i + low)
        with m.If(high_valid[2]):
            m.d.sync += high_partial.eq(total[1:])
        m.d.comb += [self.partial_o.eq(partial), self.high_o.eq(high_partial)]
