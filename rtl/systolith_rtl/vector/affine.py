"""Affine lane: accumulators or scratchpad elements in, scaled and saturated elements out.

The vector engine is a row of these. The arithmetic is `numerics.affine`, and this module adds
nothing to that definition, only the order in which hardware computes it.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, ValueLike, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.numerics import (
    ACC_WIDTH,
    COLUMN_OFF_WIDTH,
    FRACTION,
    MANT_WIDTH,
    RIGHT_SHIFT_WIDTH,
    SCALE_SHIFT,
    SCALE_WIDTH,
    SHIFT_WIDTH,
    WORD_WIDTH,
    Format,
    Source,
)
from systolith_rtl.interfaces import ROW_LAYOUT
from systolith_rtl.pipeline import Pipeline

COLUMN_LAYOUT = data.StructLayout(
    {
        "mant": signed(MANT_WIDTH),
        "shift": signed(SHIFT_WIDTH),
        "off": signed(COLUMN_OFF_WIDTH),
    }
)
"""`numerics.Column`."""

LOW_WIDTH = 17
"""Bits of X in the low product: unsigned, as many as an 18-bit signed operand has room for. The
high product has the other 15, signed."""

TOTAL_WIDTH = ACC_WIDTH + SCALE_WIDTH - 1
"""Bits of X times scale, without the offset or with it. Scales end at 131070, so the product is
at least 2**32 short of 2**48, and the offset is smaller than that."""

FINE_WIDTH = 3
"""Low bits of the right shift, left to the second half of the barrel shifter."""


@dataclass(frozen=True, kw_only=True)
class AffineConfig:
    """What is built into a lane; everything else arrives with each payload.

    Attributes:
        auxiliary: whether the lane has a third multiplier, which scales by rows or multiplies
            elements, as each payload says. It takes 3 more cycles. Without it, payloads have no
            `row`, and their source must not be `PRODUCT`.

    Raises:
        TypeError: `auxiliary` is not a bool.
    """

    auxiliary: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.auxiliary, bool):
            raise TypeError(f"auxiliary must be a bool, not {self.auxiliary!r}")

    @property
    def input_layout(self) -> data.StructLayout:
        """Payload of the input stream; `numerics.affine` explains the members."""
        members: dict[str, ShapeLike] = {
            "x": signed(ACC_WIDTH),
            "r": signed(WORD_WIDTH),
            "source": Source,
            "column": COLUMN_LAYOUT,
            "out_format": Format,
        }
        if self.auxiliary:
            members["row"] = ROW_LAYOUT
        return data.StructLayout(members)

    @property
    def output_shape(self) -> Shape:
        """Payload of the output stream: a number in the range of its payload's `out_format`."""
        return signed(WORD_WIDTH)

    @property
    def latency(self) -> int:
        """Cycles from a payload's acceptance to its result, not counting stalled cycles."""
        return 11 if self.auxiliary else 8


class Affine(wiring.Component):
    """Scale, offset, round and saturate elements: one payload per cycle, in order.

    ::

        [aux_operand -> aux_product -> scale ->] operand -> product -> total
            -> coarse -> fine -> offset -> word -> result

    The latency is `config.latency` cycles. While the receiver stalls a result, every stage and
    `i` stall with it. Neighbouring payloads may differ in everything, the source included. What
    `numerics.affine` refuses gives an undefined result, and disturbs no other.

    Bits of X: 32, though a centred word has but 25; of the scale: 18; of the total: 49; of the
    offset with residual and rounding: 33; of a result: 16.

    Members:
        i: `In(stream.Signature(config.input_layout))`, elements and what to do to them.
        o: `Out(stream.Signature(config.output_shape))`, results.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, config: AffineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(config.input_layout)),
                "o": Out(stream.Signature(config.output_shape)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the stages drawn in the class docstring, left to right."""
        m = Module()
        pipe = Pipeline(m, i=self.i, o=self.o)
        payload = self.i.p
        is_product = payload.source == Source.PRODUCT
        is_scratchpad = payload.source == Source.SCRATCHPAD
        operands = SimpleNamespace(
            x=Mux(is_scratchpad, payload.x.shift_left(FRACTION), payload.x)[:ACC_WIDTH].as_signed(),
            residual=Mux(is_product, 0, payload.r),
            column=payload.column,
            out_format=payload.out_format,
        )
        if self.config.auxiliary:
            row = payload.row
            off = Mux(is_scratchpad, row.off, 0)
            operands.factors = payload.x[:WORD_WIDTH].as_signed(), payload.r
            operands.row = SimpleNamespace(off=off, mant=row.mant, exp=row.exp)
            operands.is_product = is_product
        result = affine_stages(pipe, operands, auxiliary=self.config.auxiliary)
        assert pipe.depth == self.config.latency
        pipe.drive(result.value)
        return m


class Stages(Protocol):
    """What a datapath is built with: `Pipeline`, or another owner of valid bits."""

    def stage(self, name: str, **values: ValueLike) -> SimpleNamespace:
        """Register values; see `Pipeline.stage`."""
        ...

    def multiply(self, name: str, a: Value, b: Value) -> Signal:
        """Multiply beside the next two stages; see `Pipeline.multiply`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loan:
    """The auxiliary multiplier in the hands of somebody else, who gets squares from it.

    Attributes:
        active: whether it is lent. Elements in the lane then have no row and are no product.
        word: signed, `WORD_WIDTH` bits; its square is there as many cycles later as a
            multiplication takes.
    """

    active: Value
    word: Value


def affine_stages(
    pipe: Stages, i: Any, *, auxiliary: bool, loan: Loan | None = None
) -> SimpleNamespace:
    """Append the stages drawn at `Affine`.

    Args:
        pipe: where to.
        i: has `x`, X but for the row's offset, and `residual`, as `numerics.affine` makes them of a
            source; `column` and `out_format`; with `auxiliary` also `row`, whose offset is 0 but
            for the scratchpad, `is_product`, and `factors`, of which X is the product then.
        auxiliary: as in `AffineConfig`.
        loan: who uses the auxiliary multiplier besides, if anybody.

    Returns:
        The result as `value`, and with `auxiliary` the product of the auxiliary multiplier as
        `aux`.
    """
    # `s` is what the latest stage holds, or what the next one computes from it.
    s = _scale_by_row(pipe, i, loan) if auxiliary else _scale_by_column(i)
    aux = s.aux

    # Two products that each fit one 18x18 multiplier: signed high half, unsigned low half.
    high = pipe.multiply("high", s.x[LOW_WIDTH:].as_signed(), s.scale)
    low = pipe.multiply("low", s.x[:LOW_WIDTH], s.scale)
    s = pipe.stage("operand", shift=s.shift, off=s.off, out_format=s.out_format)
    s = pipe.stage("product", shift=s.shift, off=s.off, out_format=s.out_format)
    s = pipe.stage(
        "total",
        value=(high.shift_left(LOW_WIDTH) + low)[:TOTAL_WIDTH].as_signed(),
        shift=s.shift,
        off=s.off,
        out_format=s.out_format,
    )

    s = pipe.stage(
        "coarse",
        value=s.value >> Cat(Const(0, FINE_WIDTH), s.shift[FINE_WIDTH:]),
        shift=s.shift[:FINE_WIDTH],
        off=s.off,
        out_format=s.out_format,
    )
    s = pipe.stage("fine", value=s.value >> s.shift, off=s.off, out_format=s.out_format)
    s = pipe.stage(
        "offset",
        value=(s.value + s.off)[FRACTION:TOTAL_WIDTH].as_signed(),
        out_format=s.out_format,
    )
    # Every format lies within S16, so one clamp does. What decides on it, and what is next to a
    # number that does not fit, is known a stage ahead.
    value, sign = s.value, s.value[-1]
    middle = value[8 : WORD_WIDTH - 1] != sign.replicate(WORD_WIDTH - 9)
    s = pipe.stage(
        "word",
        value=value[:WORD_WIDTH],
        nearest=_nearest_bits(sign, s.out_format),
        clamps=Cat(
            _any_differs(value[WORD_WIDTH - 1 : -1], sign),
            exceeds_byte(value, sign, middle, s.out_format),
        ),
    )
    s = pipe.stage("result", value=Mux(s.clamps.any(), _nearest(s.nearest), s.value).as_signed())
    return SimpleNamespace(value=s.value, aux=aux)


def _scale_by_column(i: Any) -> SimpleNamespace:
    """Return the operands of the main multipliers and of the stages behind them."""
    return SimpleNamespace(
        x=i.x,
        scale=i.column.mant.shift_left(1),
        shift=_clamp_unsigned(i.column.shift, RIGHT_SHIFT_WIDTH),
        off=_total_offset(i.column.off, i.residual),
        out_format=i.out_format,
        aux=None,
    )


def _scale_by_row(pipe: Stages, i: Any, loan: Loan | None) -> SimpleNamespace:
    """Do the same three stages later, with the auxiliary multiplier beside them.

    Each payload chooses its job: `x * r` for a product, else the scale. A product has no row,
    so its scale takes no multiplier, nor does any other while the multiplier is lent; for other
    payloads without a row, `NO_ROW` gives the same scale.
    """
    is_product = i.is_product
    a = Mux(is_product, i.factors[0], i.column.mant)
    b = Mux(is_product, i.factors[1], i.row.mant)
    if loan is not None:
        a = Mux(loan.active, loan.word, a)
        b = Mux(loan.active, loan.word, b)
    aux = pipe.multiply("aux", a, b)
    s = pipe.stage(
        "aux_operand",
        x=(i.x - i.row.off)[:ACC_WIDTH].as_signed(),
        mant=i.column.mant,
        distance=i.column.shift - i.row.exp,
        off=_total_offset(i.column.off, i.residual),
        is_product=is_product,
        out_format=i.out_format,
    )
    s = pipe.stage(
        "aux_product",
        x=s.x,
        mant=s.mant,
        shift=_clamp_unsigned(s.distance, RIGHT_SHIFT_WIDTH),
        off=s.off,
        is_product=s.is_product,
        out_format=s.out_format,
    )
    # To round half up is to add the highest bit that is shifted out.
    rounded = aux[SCALE_SHIFT:].as_signed() + aux[SCALE_SHIFT - 1]
    unscaled = s.is_product if loan is None else s.is_product | loan.active
    s = pipe.stage(
        "scale",
        x=Mux(s.is_product, aux, s.x)[:ACC_WIDTH],
        scale=Mux(unscaled, s.mant.shift_left(1), rounded)[:SCALE_WIDTH].as_signed(),
        shift=s.shift,
        off=s.off,
        out_format=s.out_format,
    )
    s.aux = aux
    return s


def _total_offset(off: Value, residual: Value) -> Value:
    """Return all that is added before the last shift, in one sum.

    A residual is added in whole steps, so it may as well come before the rounding, and leaves
    room for the half below it: ((v + 128) >> 8) + r == (v + 128 + (r << 8)) >> 8.
    """
    half = Const(1 << FRACTION - 1, FRACTION)
    return off + Cat(half, residual).as_signed()


def _clamp_unsigned(value: Value, width: int) -> Value:
    """Clamp a signed value to the range of `width` unsigned bits."""
    # `any` may see the sign, which decides first; without it, a lane takes some 25 LUTs more.
    return Mux(value[-1], 0, value[:width] | value[width:].any().replicate(width))


def _any_differs(bits: Value, sign: Value) -> Value:
    """Return, for every dozen of bits, whether any of them is not the sign."""
    ranges = (bits[start : start + 12] for start in range(0, len(bits), 12))
    return Cat(part != sign.replicate(len(part)) for part in ranges)


def exceeds_byte(word: Value, sign: Value, middle: Value, out_format: Value) -> Value:
    """Return whether a word is out of the range of `out_format`, which is high if that is U8 or S8.

    Args:
        word: `WORD_WIDTH` bits.
        sign: of the number.
        middle: whether any of the bits from 8 on, but the highest, is not the sign.
        out_format: `Format`.
    """
    low = Mux(out_format == Format.U8, sign, word[7] ^ sign)
    return (out_format != Format.S16) & (middle | low)


def clamp(word: Value, sign: Value, clamps: Value, out_format: Value) -> Value:
    """Return a word, or the number of `out_format` that is next to what does not fit."""
    return Mux(clamps, _nearest(_nearest_bits(sign, out_format)), word).as_signed()


def _nearest_bits(sign: Value, out_format: Value) -> Value:
    """Return the different bits of the number of `out_format` that is farthest on a side.

    Bit by bit: 0111.. or 1000.. for S16, 0..01..1 or 1..10..0 for S8, 0..01..1 or 0 for U8.
    """
    is_s8, is_s16 = out_format == Format.S8, out_format == Format.S16
    high = Mux(is_s16, ~sign, sign & is_s8)
    return Cat(~sign, sign ^ ~is_s8, high, sign & (out_format != Format.U8))


def _nearest(bits: Value) -> Value:
    """Return the number of which these are the different bits: 0 to 6, 7, 8 to 14, 15."""
    low, middle, high, top = bits
    return Cat(low.replicate(7), middle, high.replicate(WORD_WIDTH - 9), top)
