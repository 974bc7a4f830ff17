"""The integer arithmetic of Systolith: widths, rounding, saturation, the vector engine's formula.

This module is the only definition. The RTL imports its widths, the NumPy golden models
(`systolith_sim.golden`) vectorise its functions, the compiler chooses operands within its
ranges, and tests hold all of them to the functions below, bit for bit. It works on Python
integers, which cannot overflow, and depends on the standard library alone, so that it can be
read as the specification it is.
"""

from collections.abc import Sequence
from enum import IntEnum
from math import isqrt
from typing import Generic, NamedTuple, TypeVar

ACC_WIDTH = 32
"""Bits of a signed matmul accumulator, and of whatever else a lane scales."""

WORD_WIDTH = 16
"""Bits of the widest element in the scratchpad, which is signed."""

EXPONENT_WIDTH = 2
"""Bits of the exponent of a block of INT4 weights, by which their sum is shifted left."""

MANT_WIDTH = 16
"""Bits of a mantissa: signed in a column's record, unsigned in a row's."""

SHIFT_WIDTH = 8
"""Bits of a column's signed shift."""

EXP_WIDTH = 8
"""Bits of a row's signed exponent."""

RIGHT_SHIFT_WIDTH = 6
"""Bits of the unsigned right shift: a column's shift less a row's exponent, clamped."""

MAX_RIGHT_SHIFT = (1 << RIGHT_SHIFT_WIDTH) - 1
"""The largest right shift, 63. From 48 on, only the sign is left."""

FRACTION = 8
"""Fraction bits of both offsets: they count in units of `2**-FRACTION`."""

COLUMN_OFF_WIDTH = 32
"""Bits of a column's signed offset: up to `2**23` steps of the result, for a bias on s16."""

ROW_OFF_WIDTH = WORD_WIDTH + FRACTION
"""Bits of a row's signed offset: any mean of scratchpad elements."""

ROW_ONE = 1 << MANT_WIDTH - 1
"""The row mantissa of 1.0, and the smallest but 0: rows are normalised."""

SCALE_SHIFT = MANT_WIDTH - 2
"""Right shift of the product of both mantissas, which leaves `SCALE_WIDTH` bits of it."""

SCALE_WIDTH = 2 * MANT_WIDTH - SCALE_SHIFT
"""Bits of the signed scale: 18, one ECP5 DSP operand."""

STATISTIC_WIDTH = 56
"""Bits of the unsigned operand of `recip` and `rsqrt`: 4096 times the squares of 4096 words."""

T_co = TypeVar("T_co", covariant=True)


class Column(NamedTuple, Generic[T_co]):
    """What a lane does to each element of a column; `T_co` is int, or in golden models an array.

    Attributes:
        mant: signed, `MANT_WIDTH` bits.
        shift: signed, `SHIFT_WIDTH` bits; the factor of `X` is `mant * 2**-(shift + 7)`. The
            rows of a norm have exponents so low that it may be negative; without a row, a
            negative shift acts as 0.
        off: signed, `COLUMN_OFF_WIDTH` bits, in units of `2**-FRACTION` of the result's step.
            Bias, beta and both zero points are in it.
    """

    mant: T_co
    shift: T_co
    off: T_co


class Row(NamedTuple, Generic[T_co]):
    """What a lane does to each element of a row, before the column: `(x - off) * factor`.

    Attributes:
        off: signed, `ROW_OFF_WIDTH` bits, in units of `2**-FRACTION` of the element's step.
        mant: unsigned, 0 or normalised to `ROW_ONE` and above, `MANT_WIDTH` bits.
        exp: signed, `EXP_WIDTH` bits; the row's factor is `mant * 2**(exp - 15)`.
    """

    off: T_co
    mant: T_co
    exp: T_co


NO_ROW = Row(off=0, mant=ROW_ONE, exp=0)
"""The record that changes nothing: its scale is exactly `column.mant << 1`."""


class Source(IntEnum):
    """What a lane scales."""

    ACCUMULATOR = 0
    SCRATCHPAD = 1
    PRODUCT = 2


class Format(IntEnum):
    """How a result is stored. Every format lies within `S16`."""

    S8 = 0
    U8 = 1
    S16 = 2

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number."""
        return {"S8": (-128, 127), "U8": (0, 255), "S16": (-32768, 32767)}[self.name]


def round_shift(value: int, shift: int) -> int:
    """Divide by `2**shift`, rounding half up: `floor(value / 2**shift + 1/2)`.

    A tie goes towards positive infinity, whatever the sign: 2.5 gives 3, -2.5 gives -2. In
    hardware that is one addition before an arithmetic shift, with no look at the sign.
    """
    return (value + (1 << shift >> 1)) >> shift


def clamp(value: int, lowest: int, highest: int) -> int:
    """Return the number from `lowest` to `highest` that is nearest to `value`."""
    return max(lowest, min(value, highest))


def affine(
    x: int,
    r: int = 0,
    *,
    source: Source,
    column: Column[int],
    row: Row[int] = NO_ROW,
    out_format: Format,
) -> int:
    """Scale, offset, round and saturate one element: what a vector lane does.

    ::

        scale = round_shift(column.mant * row.mant, SCALE_SHIFT)
        right_shift = clamp(column.shift - row.exp, 0, MAX_RIGHT_SHIFT)
        y = round_shift((X * scale >> right_shift) + column.off, FRACTION) + residual

    and `y`, saturated to `out_format`, is the result. `X` and the residual depend on the source:

    ============  ============================  ========  ===================
    source        X                             residual  restriction
    ============  ============================  ========  ===================
    ACCUMULATOR   x                             r         row.off must be 0
    SCRATCHPAD    (x << FRACTION) - row.off     r
    PRODUCT       x * r                         0         row must be NO_ROW
    ============  ============================  ========  ===================

    Floors nest (`>>` is one), so `y` is `X * scale * 2**-(right_shift + FRACTION)` plus the offset
    in exact arithmetic, rounded half up once. Only the scale is rounded before, to at most half a
    unit, and not at all with `NO_ROW`. The residual counts in steps of the result.

    The compiler keeps `column.shift - row.exp` in range; beyond it, the clamp is the
    definition, so that all models fail alike. The code -32768, which marks a masked score, has
    no meaning here: what reads and writes scores takes care of it.

    Args:
        x: signed, `ACC_WIDTH` bits from an accumulator, else `WORD_WIDTH`, which covers u8.
        r: signed, `WORD_WIDTH` bits; the second operand.
        source: where `x` comes from, and whether `r` is added or multiplied.
        column: the column's record.
        row: the row's record.
        out_format: format of the result.

    Raises:
        ValueError: an operand does not fit its width, or the source's restriction is broken.
    """
    _check_signed("x", x, ACC_WIDTH if source == Source.ACCUMULATOR else WORD_WIDTH)
    _check_signed("r", r, WORD_WIDTH)
    _check_signed("column.mant", column.mant, MANT_WIDTH)
    _check_signed("column.shift", column.shift, SHIFT_WIDTH)
    _check_signed("column.off", column.off, COLUMN_OFF_WIDTH)
    _check_signed("row.off", row.off, ROW_OFF_WIDTH)
    _check_unsigned("row.mant", row.mant, MANT_WIDTH)
    _check_signed("row.exp", row.exp, EXP_WIDTH)
    if 0 < row.mant < ROW_ONE:
        raise ValueError(f"row.mant must be 0 or at least {ROW_ONE}, but is {row.mant}")

    residual = r
    match Source(source):
        case Source.ACCUMULATOR:
            if row.off != 0:
                raise ValueError(f"row.off must be 0 for an accumulator, but is {row.off}")
            operand = x
        case Source.SCRATCHPAD:
            operand = (x << FRACTION) - row.off
        case Source.PRODUCT:
            if row != NO_ROW:
                raise ValueError(f"row must be {NO_ROW} for a product, but is {row}")
            operand = x * r
            residual = 0

    scale = round_shift(column.mant * row.mant, SCALE_SHIFT)
    right_shift = clamp(column.shift - row.exp, 0, MAX_RIGHT_SHIFT)
    y = round_shift((operand * scale >> right_shift) + column.off, FRACTION) + residual
    return clamp(y, *Format(out_format).limits)


def recip(value: int) -> Row[int]:
    """Return `1 / value` as a row's factor, at most `2**-15` of it too small; 0 for 0.

    A power of two has an exact reciprocal.

    Raises:
        ValueError: `value` does not fit `STATISTIC_WIDTH` unsigned bits.
    """
    _check_unsigned("value", value, STATISTIC_WIDTH)
    if value == 0:
        return Row(off=0, mant=0, exp=0)
    # Between 2**15, exclusive, and 2**16, inclusive.
    bits = value.bit_length()
    return _normalised((1 << bits + MANT_WIDTH - 1) // value, -bits)


def rsqrt(value: int) -> Row[int]:
    """Return `1 / sqrt(value)` as a row's factor, less than `2**-15` of it off; 0 for 0.

    Raises:
        ValueError: `value` does not fit `STATISTIC_WIDTH` unsigned bits.
    """
    _check_unsigned("value", value, STATISTIC_WIDTH)
    if value == 0:
        return Row(off=0, mant=0, exp=0)
    # Move the operand by pairs of bits until it has 31 or 32, and its root 16.
    pairs = (2 * MANT_WIDTH - value.bit_length()) >> 1
    root = isqrt(value << 2 * pairs if pairs > 0 else value >> -2 * pairs)
    return _normalised((1 << 2 * MANT_WIDTH - 1) // root, pairs - MANT_WIDTH)


MASKED = -(1 << WORD_WIDTH - 1)
"""The score that softmax does not count: -32768. `exp2` of it is 0."""

EXP_TABLE = tuple(round(255 * 128 * 2 ** (index / 256)) for index in range(256))
"""`255 * 2**f` for f = 0, 1/256, ..., 255/256, in units of `2**-7`; 16 unsigned bits."""

MAX_EXP_SHIFT = 10
"""From this many octaves below the maximum on, the rounded numerator is 0."""

MAX_NORM_LENGTH = 4096
"""Most elements of a row whose statistics are exact."""


def exp2(score: int, maximum: int, *, unit: int = 0) -> int:
    """Softmax numerator of a score, u8: 255 at the row's maximum, 0 for `MASKED`.

    Args:
        score: s16, base-2 logarithm in units of `2**-8`, or `2**-7` if `unit` is 1.
        maximum: s16, the row's largest score.
        unit: 0 or 1.

    Raises:
        ValueError: an operand does not fit, or the score is above the maximum.
    """
    _check_signed("score", score, WORD_WIDTH)
    _check_signed("maximum", maximum, WORD_WIDTH)
    if score > maximum:
        raise ValueError(f"score must be at most the maximum, {maximum}, but is {score}")
    if score == MASKED:
        return 0
    distance = (score - maximum) << unit
    octaves = min(-(distance >> 8), MAX_EXP_SHIFT)
    return (EXP_TABLE[distance & 255] + (1 << octaves + 6)) >> octaves + 7


def lookup(table: Sequence[int], index: int, *, out_format: Format) -> int:
    """Replace a u8 index by the table's entry, saturated to the result's format."""
    _check_unsigned("index", index, 8)
    return clamp(table[index], *Format(out_format).limits)


class Statistics(NamedTuple):
    """What is kept of a row's stored elements; a pass replaces the pair it takes.

    Attributes:
        maximum: s16, the largest element, -32768 for none. (MAX)
        absmax: u16, the largest magnitude. (MAX)
        total: s28, the sum. (SUM, MOMENTS)
        squares: u43, the sum of squares; 0 after SUM. (MOMENTS)
    """

    maximum: int
    absmax: int
    total: int
    squares: int


TOTAL_SUM_WIDTH = 28
"""Bits of a signed sum of `MAX_NORM_LENGTH` words."""

SQUARES_WIDTH = 43
"""Bits of an unsigned sum of `MAX_NORM_LENGTH` squares of words."""


def statistics(elements: Sequence[int]) -> Statistics:
    """Take all statistics of the valid elements of a row as stored."""
    return Statistics(
        maximum=max(elements, default=MASKED),
        absmax=max((abs(element) for element in elements), default=0),
        total=sum(elements),
        squares=sum(element * element for element in elements),
    )


def layer_norm_row(total: int, squares: int, *, n: int, eps: int) -> Row[int]:
    """The record of a layer norm: the row's mean, and `1 / (n * standard deviation)`.

    The compiler folds the factor n into the columns.

    Args:
        total: sum of the row's n elements.
        squares: sum of their squares.
        n: 1 to `MAX_NORM_LENGTH`.
        eps: the norm's epsilon times `n**2`, in squared steps.

    Raises:
        ValueError: the deviation does not fit `STATISTIC_WIDTH` unsigned bits.
    """
    _check_length(n)
    factor = rsqrt(n * squares - total * total + eps)
    return factor._replace(off=(512 * total + n) // (2 * n))


def rms_norm_row(squares: int, *, n: int, eps: int) -> Row[int]:
    """The record of an RMS norm: `1 / (sqrt(n) * root mean square)`; the mean is taken as 0.

    Args:
        squares: sum of the squares of the row's n elements.
        n: 1 to `MAX_NORM_LENGTH`.
        eps: the norm's epsilon times n, in squared steps.

    Raises:
        ValueError: the operand does not fit `STATISTIC_WIDTH` unsigned bits.
    """
    _check_length(n)
    return rsqrt(n * squares + eps)


def _check_length(n: int) -> None:
    if not 1 <= n <= MAX_NORM_LENGTH:
        raise ValueError(f"n must be from 1 to {MAX_NORM_LENGTH}, but is {n}")


def _normalised(mant: int, exp: int) -> Row[int]:
    """Make room for the one mantissa, 2**16, that has a bit too many."""
    return Row(0, mant >> 1, exp + 1) if mant >> MANT_WIDTH else Row(0, mant, exp)


def _check_signed(name: str, value: int, width: int) -> None:
    if not -1 << width - 1 <= value < 1 << width - 1:
        raise ValueError(f"{name} must fit in {width} signed bits, but is {value}")


def _check_unsigned(name: str, value: int, width: int) -> None:
    if not 0 <= value < 1 << width:
        raise ValueError(f"{name} must fit in {width} unsigned bits, but is {value}")
