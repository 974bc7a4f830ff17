"""Golden model of the GEMM engine: its sums, its weight words, its packing of INT4.

Sums are exact integers out of float32 BLAS, which is fast. K has 16 bits, and 65535 products of 255
and -128 fit an accumulator, so none overflows.
"""

import numpy as np
import numpy.typing as npt

EXACT_K = 512
"""Longest sum of u8 times s8 products below `2**24`, up to which float32 has every integer."""


def gemm(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Multiply s8 or u8 `a[M, K]` by the transpose of s8 `b[N, K]`, exactly."""
    left, right = a.astype(np.float32), b.astype(np.float32)
    total = np.zeros((a.shape[0], b.shape[0]), np.int64)
    for k in range(0, a.shape[1], EXACT_K):
        part = left[:, k : k + EXACT_K] @ right[:, k : k + EXACT_K].T
        total += part.astype(np.int64)
    return total


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
