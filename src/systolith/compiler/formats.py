"""From real numbers to the core's: column records, weights, epsilons; and proofs that they fit."""

import numpy as np
import numpy.typing as npt

from systolith.compiler.errors import CompileError
from systolith.compiler.qgraph import Columns
from systolith.numerics import (
    ACC_WIDTH,
    COLUMN_OFF_WIDTH,
    FRACTION,
    MANT_WIDTH,
    STATISTIC_WIDTH,
    WORD_WIDTH,
    Format,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LONGEST_SHIFT = 31
"""Largest shift that a column is encoded with: what row exponents take off it still fits."""

MAX_EPS_MANTISSA = (1 << 16) - 1
MAX_EPS_SHIFT = 39

SMALLEST_STEP = 2.0**-100
"""Stands in for a step of 0, which a tensor of zeros would have."""


def encode_columns(
    scale: npt.ArrayLike,
    off: npt.ArrayLike = 0.0,
    *,
    scratchpad: bool = False,
    rows: bool = False,
    name: str = "",
) -> Columns:
    """Encode `y = x * scale + off`, y in steps of the result.

    Beyond `LONGEST_SHIFT` a mantissa gives up bits instead. What is lost is below `2**-7` of a
    step for any accumulator, and a channel whose gamma is nearly 0 becomes 0.

    Args:
        scale: real factor from steps of x to steps of the result.
        off: in steps of the result.
        scratchpad: whether x comes from the scratchpad, with `FRACTION` more bits.
        rows: whether a row record scales too; shifts may then be negative.
        name: of the tensor, for errors.

    Raises:
        CompileError: the factor or the offset is too large to encode.
    """
    scale, off = np.broadcast_arrays(
        np.atleast_1d(np.asarray(scale, np.float64)), np.asarray(off, np.float64)
    )
    fraction, exponent = np.frexp(scale)
    mant = np.rint(fraction * (1 << MANT_WIDTH - 1)).astype(np.int64)
    # Rounding up to 2**15 has a bit too many: halve it.
    carry = np.abs(mant) >> MANT_WIDTH - 1
    # The factor is mant * 2**-(shift + 7) without the fraction bits of the scratchpad.
    shift = MANT_WIDTH - 1 - exponent - 7 - carry + (FRACTION if scratchpad else 0)
    drop = np.clip(shift - LONGEST_SHIFT, 0, MANT_WIDTH)
    mant = np.sign(mant) * (np.abs(mant) >> carry >> drop)
    shift = np.where(mant == 0, 0, np.minimum(shift, LONGEST_SHIFT)).astype(np.int64)
    fixed = np.rint(off * (1 << FRACTION))
    if shift.min() < (-128 if rows else 0):
        raise CompileError(f"the scale of '{name}' is {np.abs(scale).max():g}, too large to encode")
    if not (np.abs(fixed) < 1 << COLUMN_OFF_WIDTH - 1).all():
        raise CompileError(
            f"the offset of '{name}' is {np.abs(off).max():g} steps", accepted="below 2**23"
        )
    return Columns(mant=mant, shift=shift, off=fixed.astype(np.int64))


def decoded(columns: Columns) -> Floats:
    """The factors that records of an accumulator really have."""
    return columns.mant * 2.0 ** -(columns.shift + 7.0)


def quantize_weight(weight: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round `[N, K]` to s8, symmetric, each row with its own step; return both."""
    step = np.maximum(np.abs(weight).max(1).astype(np.float64) / 127, SMALLEST_STEP)
    return np.rint(weight / step[:, None]).astype(np.int8), step


def check_accumulator(weight: npt.NDArray[np.int8], a_format: Format, name: str) -> None:
    """Prove that no sum of products with a row of weights leaves the accumulator.

    Raises:
        CompileError: it could.
    """
    wide = weight.astype(np.int64)
    up, down = np.maximum(wide, 0).sum(1), np.maximum(-wide, 0).sum(1)
    low, high = a_format.limits
    _check_sum(max((up * high - down * low).max(), (down * high - up * low).max()), name)


def check_product(k: int, a_format: Format, name: str) -> None:
    """Prove the same of two tensors, the second s8.

    Raises:
        CompileError: it could.
    """
    _check_sum(k * max(abs(limit) for limit in a_format.limits) * 128, name)


def _check_sum(largest: int, name: str) -> None:
    if largest >= 1 << ACC_WIDTH - 1:
        raise CompileError(
            f"sums of '{name}' could reach {largest}", accepted=f"below 2**{ACC_WIDTH - 1}"
        )


def encode_epsilon(eps: float, *, n: int, step: float, name: str) -> tuple[int, int]:
    """Encode a layer norm's epsilon as `mantissa << shift`, in squared steps times `n**2`.

    Raises:
        CompileError: with it, the deviation could outgrow its width.
    """
    exact = max(1, round(eps * (n / step) ** 2)) if eps > 0 else 0
    shift = max(0, exact.bit_length() - MAX_EPS_MANTISSA.bit_length())
    mantissa = (exact + (1 << shift >> 1)) >> shift
    if mantissa > MAX_EPS_MANTISSA:
        mantissa, shift = mantissa >> 1, shift + 1
    # n * sum of squares is at most n**2 * 2**30, and the square of the sum is not negative.
    largest = n * n * (1 << 2 * (WORD_WIDTH - 1)) + (mantissa << shift)
    if shift > MAX_EPS_SHIFT or largest >= 1 << STATISTIC_WIDTH:
        raise CompileError(
            f"epsilon {eps:g} of '{name}' is too large for rows of {n} and steps of {step:g}"
        )
    return mantissa, shift
