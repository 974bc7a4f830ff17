"""Golden model of the GEMM engine's arithmetic: integer products, weight words, INT4 packing."""

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]


def matmul(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Multiply `A[m, k]` with the transpose of `B[n, k]`, as every GEMM does.

    Args:
        a: [m, k] activations, s8 or u8.
        b: [n, k] weights, s8.

    Returns:
        [m, n] sums.

    Raises:
        OverflowError: a sum does not fit an accumulator.
    """
    sums = np.asarray(a, np.int64) @ np.asarray(b, np.int64).T
    if np.any(sums != sums.astype(np.int32)):
        raise OverflowError(f"sums reach from {sums.min()} to {sums.max()}")
    return sums.astype(np.int32)


def ring_words(b: npt.ArrayLike, *, rows: int, columns: int) -> npt.NDArray[np.int8]:
    """Cut weights into the words that a GEMM takes from the ring, in order.

    For each group of `columns` rows of B, for each `rows` columns of it: one word for each of
    the group's rows. What is beyond B is 0.

    Args:
        b: [n, k] weights, s8.
        rows: R, bytes of a word.
        columns: C.

    Returns:
        [words, rows] array.
    """
    b = np.asarray(b, np.int8)
    n, k = b.shape
    padded = np.pad(b, ((0, -n % columns), (0, -k % rows)))
    tiles = padded.reshape(padded.shape[0] // columns, columns, padded.shape[1] // rows, rows)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3)).reshape(-1, rows)


def pack_int4(low: npt.ArrayLike, high: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Pack the weights of two output channels, each -8 to 7, into one operand of 17 bits."""
    return np.asarray(high, np.int64) * 4096 + np.asarray(low, np.int64)


def unpack_products(product: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Take the products of both channels out of an activation's product with a packed operand.

    The low 12 bits hold the product of the low weight, signed. A negative one has borrowed one
    from the bits above, which the sign bit gives back.

    Returns:
        The product of the low weight and that of the high one.
    """
    product = np.asarray(product, np.int64)
    low = (product + 2048 & 4095) - 2048
    high = (product >> 12) + (product >> 11 & 1)
    return low, high
