"""Golden model of GEMM's sums, fast: exact integers out of float32 BLAS.

K has 16 bits, and 65535 products of 255 and -128 fit an accumulator, so no sum overflows.
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
