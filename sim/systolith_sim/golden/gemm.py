"""Golden model of the GEMM engine: its sums, its weight words, its packing of INT4.

Sums are exact integers out of float32 BLAS, which is fast. K has 16 bits, and 65535 products of 255
and -128 fit an accumulator, so none overflows. INT4 weights have at most half of an INT8 weight's
magnitude when their exponents have been applied.
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


def int4_gemm(
    a: npt.NDArray[np.integer],
    b: npt.NDArray[np.integer],
    exponents: npt.NDArray[np.integer],
    *,
    rows: int,
) -> npt.NDArray[np.int64]:
    """Multiply s8 or u8 `a[M, K]` by the transpose of s4 `b[N, K]` with block exponents.

    The sum of each block of `rows` products is shifted left before it is added to the others.

    Args:
        a: activations.
        b: weights, -8 to 7.
        exponents: [N, blocks], 0 to 3.
        rows: R, weights of a block.
    """
    total = np.zeros((a.shape[0], b.shape[0]), np.int64)
    for block, exponent in enumerate(np.asarray(exponents, np.int64).T):
        k = slice(block * rows, (block + 1) * rows)
        total += gemm(a[:, k], b[:, k]) << exponent
    return total


def int4_ring_words(
    b: npt.ArrayLike, exponents: npt.ArrayLike, *, rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    """Cut INT4 weights and their exponents into the words that a GEMM takes from the ring.

    For each group of 2C rows of B, for each R columns of it: C words, word c with row c of the
    group in the low nibbles and row C + c in the high ones. Before the first tile and after every
    2R / C tiles of a group comes a word of exponents, 2 bits each, of those tiles in turn. What is
    beyond B is 0.

    Args:
        b: [n, k] weights, -8 to 7.
        exponents: [n, tiles], 0 to 3.
        rows: R, bytes of a word.
        columns: C.

    Returns:
        [words, rows] array.

    Raises:
        ValueError: a weight or an exponent is out of range.
    """
    b, exponents = np.asarray(b), np.asarray(exponents)
    if b.min() < -8 or b.max() > 7:
        raise ValueError("weights of INT4 are from -8 to 7")
    if exponents.min() < 0 or exponents.max() > 3:
        raise ValueError("exponents are from 0 to 3")
    n, k = b.shape
    covered = 2 * rows // columns
    words = list[bytes]()
    for first in range(0, n, 2 * columns):
        group = np.zeros((2 * columns, -(-k // rows) * rows), np.int64)
        shifts = np.zeros((2 * columns, -(-k // rows)), np.int64)
        group[: n - first, :k] = b[first : first + 2 * columns]
        shifts[: n - first] = exponents[first : first + 2 * columns]
        for tile in range(shifts.shape[1]):
            if tile % covered == 0:
                fields = shifts[:, tile : tile + covered].T.reshape(-1)
                value = sum(int(field) << 2 * place for place, field in enumerate(fields))
                words.append(value.to_bytes(rows, "little"))
            low, high = np.split(group[:, tile * rows : (tile + 1) * rows] & 15, 2)
            words += [word.tobytes() for word in (high << 4 | low).astype(np.uint8)]
    return np.frombuffer(b"".join(words), np.uint8).reshape(-1, rows)


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
