"""Golden model of the ROW engine: the row functions of `numerics` on NumPy arrays, bit for bit."""

import numpy as np
import numpy.typing as npt

from systolith.numerics import MANT_WIDTH, ROW_ONE, Row

Integers = npt.NDArray[np.int64]


def recip(value: npt.ArrayLike) -> Row[Integers]:
    """Return `1 / value` as row factors, as `numerics.recip` does.

    Here and below, operands broadcast, and one out of range gives an undefined result.

    Args:
        value: unsigned, `STATISTIC_WIDTH` bits.

    Returns:
        A record whose members have the shape of the operand.
    """
    value = np.asarray(value, np.int64)
    bits = _bit_length(value)
    divisor = np.maximum(value, 1)
    # 2**(bits + 15) has up to 71 bits, so it is divided by parts: 2**(bits - 1), then 16 zeros.
    quotient, rest = np.divmod(np.int64(1) << np.maximum(bits - 1, 0), divisor)
    for digits in (6, 6, 4):
        digit, rest = np.divmod(rest << digits, divisor)
        quotient = (quotient << digits) + digit
    return _record(quotient, -bits, nonzero=value > 0)


def rsqrt(value: npt.ArrayLike) -> Row[Integers]:
    """Return `1 / sqrt(value)` as row factors, as `numerics.rsqrt` does.

    Args:
        value: unsigned, `STATISTIC_WIDTH` bits.
    """
    value = np.asarray(value, np.int64)
    pairs = (2 * MANT_WIDTH - _bit_length(value)) >> 1
    normalised = value << 2 * np.maximum(pairs, 0) >> 2 * np.maximum(-pairs, 0)
    # Exact, since an integer of 32 bits and its root's distance to the next integer fit float64.
    root = np.sqrt(normalised.astype(np.float64)).astype(np.int64)
    quotient = (1 << 2 * MANT_WIDTH - 1) // np.maximum(root, 1)
    return _record(quotient, pairs - MANT_WIDTH, nonzero=value > 0)


def layer_norm_row(
    total: npt.ArrayLike, squares: npt.ArrayLike, *, n: npt.ArrayLike, eps: npt.ArrayLike
) -> Row[Integers]:
    """Return the records of a layer norm, as `numerics.layer_norm_row` does.

    Args:
        total: sums of the rows' n elements.
        squares: sums of their squares.
        n: elements of a row.
        eps: the norm's epsilon times `n**2`, in squared steps.
    """
    total, squares, n, eps = (np.asarray(each, np.int64) for each in (total, squares, n, eps))
    factor = rsqrt(n * squares - total * total + eps)
    # The mean in 2**-8 of a step, rounded half up: twice it, plus one, halved.
    return factor._replace(off=(2 * 256 * total + n) // (2 * n) + np.zeros_like(factor.off))


def rms_norm_row(squares: npt.ArrayLike, *, n: npt.ArrayLike, eps: npt.ArrayLike) -> Row[Integers]:
    """Return the records of an RMS norm, as `numerics.rms_norm_row` does.

    Args:
        squares: sums of the squares of the rows' n elements.
        n: elements of a row.
        eps: the norm's epsilon times n, in squared steps.
    """
    squares, n, eps = (np.asarray(each, np.int64) for each in (squares, n, eps))
    return rsqrt(n * squares + eps)


def _record(quotient: Integers, exp: Integers, *, nonzero: npt.NDArray[np.bool_]) -> Row[Integers]:
    """Make the record: 2**16 does not fit a mantissa, and 0 has a record of zeros."""
    overflow = quotient == 2 * ROW_ONE
    return Row(
        off=np.zeros_like(quotient),
        mant=np.where(nonzero, quotient >> overflow, 0),
        exp=np.where(nonzero, exp + overflow, 0),
    )


def _bit_length(value: Integers) -> Integers:
    """Count the bits of non-negative integers; halves of 32 bits are exact in float64."""
    high, low = value >> 32, value & 0xFFFFFFFF
    _, high_bits = np.frexp(high.astype(np.float64))
    _, low_bits = np.frexp(low.astype(np.float64))
    return np.where(high > 0, high_bits + 32, low_bits).astype(np.int64)
