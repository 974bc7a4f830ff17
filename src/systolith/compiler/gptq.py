"""GPTQ: weights of 4 bits that err least on the inputs that a layer really meets.

Columns are rounded one after the other, and what rounding one does to the result is made up for by
those that are still to come (Frantar et al., "GPTQ", 2022). Beyond that, each block of columns has
an exponent: all four are tried where the block's turn comes, with the errors of those before it
already on it; and each row has a step, of which some below the largest weight's are tried.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systolith.compiler.formats import SMALLEST_STEP, Floats
from systolith.compiler.qgraph import Int4Weights

CODES = (-8, 7)
"""Smallest and largest weight of 4 bits."""

EXPONENTS = 4
"""Exponents from 0 to 3."""

DAMPING = 0.01
"""Of the mean diagonal, added to the Hessian's: keeps what few samples say from being believed."""

LOT = 8
"""Blocks after which errors are spread over all columns behind them."""

STEPS = (1.0, 0.9, 0.8, 0.7)
"""Steps that are tried, by the smallest one that saturates no weight."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Int4Fit:
    """Rounded weights, and what they count in.

    Attributes:
        weights: `[N, K]`.
        step: `[N]`.
    """

    weights: Int4Weights
    step: Floats

    def values(self) -> Floats:
        """The weights as real numbers, `[N, K]`."""
        return self.weights.values() * self.step[:, None]


def gptq(
    weight: Floats,
    hessian: Floats,
    *,
    block: int,
    damping: float = DAMPING,
    steps: tuple[float, ...] = STEPS,
) -> Int4Fit:
    """Round weights to 4 bits so that results change least.

    The loss of a row is `d . hessian . d^T`, d what rounding changes in it: with the mean of
    `x^T x` over inputs x, the mean square of the result's error. Rows do not influence each other.

    Args:
        weight: `[N, K]`.
        hessian: `[K, K]`, symmetric, positive semidefinite.
        block: columns that share an exponent.
        damping: see `DAMPING`.
        steps: see `STEPS`.
    """
    n, k = weight.shape
    upper = _inverse_factor(hessian, damping)
    largest = np.abs(weight).max(1) / ((CODES[1] + 0.5) * 2 ** (EXPONENTS - 1))
    step = np.maximum(np.array(steps)[:, None] * largest, SMALLEST_STEP)  # [steps, N]
    unit = step[:, None] * 2.0 ** np.arange(EXPONENTS)[:, None]  # [steps, exponents, N]
    spread = (upper / np.diag(upper)[:, None]).astype(np.float32)
    left = np.repeat(weight[None].astype(np.float32), len(steps), axis=0)
    errors = np.zeros_like(left)
    codes = np.zeros((len(steps), n, k), np.int8)
    exponents = np.zeros((len(steps), n, -(-k // block)), np.uint8)
    loss = np.zeros((len(steps), n))
    which = np.indices((len(steps), n))
    lot = block * LOT
    for number, first in enumerate(range(0, k, block)):
        columns = slice(first, min(first + block, k))
        if first % lot == 0 and first:
            # What the last lot erred goes to all columns behind it at once, which is faster.
            done = slice(first - lot, first)
            left[:, :, first:] -= errors[:, :, done] @ spread[done, first:]
        pending = slice(first - first % lot, first)
        now = left[:, :, columns] - errors[:, :, pending] @ spread[pending, columns]
        tried = _round_block(now, upper[columns, columns], unit)
        best = tried.loss.argmin(1)
        chosen = (which[0], best, which[1])
        codes[:, :, columns] = tried.codes[chosen]
        exponents[:, :, number] = best
        loss += tried.loss[chosen]
        errors[:, :, columns] = tried.errors[chosen] * unit[chosen][..., None]
    best, rows = loss.argmin(0), np.arange(n)
    weights = Int4Weights(codes=codes[best, rows], exponents=exponents[best, rows], block=block)
    return Int4Fit(weights=weights, step=step[best, rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """A block, rounded with every step and every exponent: `[steps, exponents, N, columns]`.

    Errors count in units of the codes; `loss` is the block's share, `[steps, exponents, N]`.
    """

    codes: npt.NDArray[np.float32]
    errors: npt.NDArray[np.float32]
    loss: Floats


def _round_block(weight: Floats, upper: Floats, unit: Floats) -> _Block:
    """Round the columns of a block, `[steps, N, columns]`, one after the other."""
    size = weight.shape[-1]
    # Columns first, so that each is contiguous; and counted in steps: then a product of matrices
    # brings all errors so far to a column.
    scaled = np.moveaxis(weight, -1, 0)[:, :, None].astype(np.float32) / unit.astype(np.float32)
    factors = (upper / np.diag(upper)[:, None]).astype(np.float32)
    codes = np.zeros(scaled.shape, np.float32)
    errors = np.zeros_like(codes)
    loss = np.zeros_like(unit, np.float32)
    flat = errors.reshape(size, -1)
    for i in range(size):
        left = scaled[i] - (factors[:i, i] @ flat[:i]).reshape(unit.shape)
        np.clip(np.rint(left, out=codes[i]), *CODES, out=codes[i])
        np.subtract(left, codes[i], out=errors[i])
        loss += np.square(errors[i]) / np.float32(upper[i, i] ** 2)
    return _Block(
        codes=np.moveaxis(codes, 0, -1),
        errors=np.moveaxis(errors, 0, -1),
        loss=loss.astype(np.float64) * unit**2,
    )


def _inverse_factor(hessian: Floats, damping: float) -> Floats:
    """The upper triangular U with `U^T U` the inverse of the damped Hessian."""
    size = len(hessian)
    diagonal = max(float(np.mean(np.diag(hessian))), SMALLEST_STEP)
    damped = hessian + np.eye(size) * (damping * diagonal)
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float64)
