"""The vectorised row functions against the definition."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systolith import numerics
from systolith.numerics import MAX_NORM_LENGTH, STATISTIC_WIDTH, Row
from systolith_sim import golden
from systolith_sim.strategies import integers_near_edges

operands = st.lists(integers_near_edges(STATISTIC_WIDTH, signed=False), min_size=1, max_size=50)

EDGES = sorted(
    {0, *((1 << bit) + step for bit in range(STATISTIC_WIDTH) for step in (-1, 0, 1))}
    | {(1 << STATISTIC_WIDTH) - 1}
)


def as_rows(record: Row[npt.NDArray[np.int64]]) -> list[Row[int]]:
    """Turn a record of arrays into a list of records."""
    return [Row(*(int(member) for member in members)) for members in zip(*record, strict=True)]


@pytest.mark.parametrize("name", ["recip", "rsqrt"])
def test_edges(name: str) -> None:
    """Every power of two, its neighbours, zero and the largest operand."""
    assert as_rows(getattr(golden, name)(EDGES)) == [
        getattr(numerics, name)(value) for value in EDGES
    ]


@given(values=operands)
def test_recip_and_rsqrt(values: list[int]) -> None:
    assert as_rows(golden.recip(values)) == [numerics.recip(value) for value in values]
    assert as_rows(golden.rsqrt(values)) == [numerics.rsqrt(value) for value in values]


@given(root=st.integers(1, 65535), pairs=st.integers(0, 12))
def test_rsqrt_around_squares(root: int, pairs: int) -> None:
    """Where the integer root jumps."""
    values = [(root * root << 2 * pairs) + step for step in (-1, 0, 1)]
    assert as_rows(golden.rsqrt(values)) == [numerics.rsqrt(value) for value in values]


@given(
    n=st.integers(1, MAX_NORM_LENGTH),
    elements=st.lists(st.integers(-32768, 32767), min_size=1, max_size=20),
    eps=integers_near_edges(STATISTIC_WIDTH - 1, signed=False),
)
def test_norms(n: int, elements: list[int], eps: int) -> None:
    """Rows of n equal elements, and of one element and zeros."""
    total = np.array([n * element for element in elements] + elements)
    squares = np.array([n * element**2 for element in elements] + [e * e for e in elements])
    pairs = [(int(t), int(s)) for t, s in zip(total, squares, strict=True)]
    assert as_rows(golden.layer_norm_row(total, squares, n=n, eps=eps)) == [
        numerics.layer_norm_row(t, s, n=n, eps=eps) for t, s in pairs
    ]
    assert as_rows(golden.rms_norm_row(squares, n=n, eps=eps)) == [
        numerics.rms_norm_row(s, n=n, eps=eps) for _, s in pairs
    ]


def test_operands_broadcast() -> None:
    """[rows, 1] statistics and one n give [rows, 1] members, as `golden.affine` wants them."""
    statistics = np.array([[10], [20]])
    record = golden.layer_norm_row(statistics, 100 * statistics, n=4, eps=1)
    assert [member.shape for member in record] == [(2, 1)] * 3
