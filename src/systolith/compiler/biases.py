"""What is added to attention scores and does not depend on the input: positions, hidden keys."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from systolith.compiler.graph import MASKED_BELOW

Kind = Literal["add", "keep", "drop"]
"""Whether an array is added to scores, or says which of them to keep, or to drop."""

HIDDEN = -1e9
"""Stands for a boolean that hides a key."""

Bias = npt.NDArray[np.float32]


def as_bias(array: npt.NDArray, kind: Kind, shape: tuple[int, ...]) -> Bias | None:
    """A mask or a bias as what is added to scores.

    Args:
        array: what is applied.
        kind: how.
        shape: of the scores, `[..., heads, T, T]`.

    Returns:
        `[heads, T, T]`, or `[1, T, T]` where all heads have the same; None if it does not fit the
        scores, is not finite where keys count, or hides all keys of a query.
    """
    numbers = array.astype(np.float32)
    if kind != "add":
        hidden = ~array.astype(bool) if kind == "keep" else array.astype(bool)
        numbers = np.where(hidden, np.float32(HIDDEN), np.float32(0))
    try:
        whole = np.broadcast_to(numbers, shape)
    except ValueError:
        return None
    heads = whole.reshape(-1, *shape[-2:])
    if len(heads) > 1 and (heads == heads[:1]).all():
        heads = heads[:1]
    counts = heads > MASKED_BELOW
    if not counts.any(-1).all() or not np.isfinite(heads[counts]).all():
        return None
    return np.maximum(heads, np.float32(HIDDEN))


def join_biases(first: Bias | None, second: Bias) -> Bias | None:
    """The sum of two; None if nothing is left of it."""
    total = second if first is None else np.maximum(first + second, np.float32(HIDDEN))
    return total if total.any() else None
