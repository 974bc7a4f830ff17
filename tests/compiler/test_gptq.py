"""GPTQ: integers in range, errors below round-to-nearest's, and a hand-made case."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systolith.compiler.gptq import CODES, Int4Fit, gptq
from systolith.compiler.qgraph import Int4Weights


def inputs(k: int, count: int, seed: int) -> np.ndarray:
    """Correlated inputs of very different ranges, as activations are."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, k)) @ (np.eye(k) + 0.4 * rng.normal(size=(k, k)) / np.sqrt(k))
    return (mixed + 0.5) * np.exp(rng.normal(size=k))


def loss(weight: np.ndarray, found: Int4Fit, x: np.ndarray) -> float:
    """Mean square of what rounding changes in the results."""
    return float(np.mean(np.square(x @ (weight - found.values()).T)))


def nearest(weight: np.ndarray, block: int) -> Int4Fit:
    """Round every weight on its own, each block with the exponent that suits it best."""
    n, k = weight.shape
    step = np.abs(weight).max(1) / (7.5 * 8)
    codes = np.zeros((n, k), np.int8)
    exponents = np.zeros((n, -(-k // block)), np.uint8)
    for row in range(n):
        for b in range(exponents.shape[1]):
            part = weight[row, b * block : (b + 1) * block]
            tried = [np.clip(np.rint(part / (step[row] * 2**e)), *CODES) for e in range(4)]
            errors = [np.sum((part - c * step[row] * 2**e) ** 2) for e, c in enumerate(tried)]
            exponents[row, b] = np.argmin(errors)
            codes[row, b * block : (b + 1) * block] = tried[int(np.argmin(errors))]
    weights = Int4Weights(codes=codes, exponents=exponents, block=block)
    return Int4Fit(weights=weights, step=step)


@pytest.mark.parametrize("block", [4, 16, 32])
@pytest.mark.parametrize("shape", [(24, 64), (8, 130), (40, 33)])
def test_errs_less_than_rounding_to_nearest_on_new_inputs(
    shape: tuple[int, int], block: int
) -> None:
    n, k = shape
    x = inputs(k, 40 * k, 1)
    seen, new = x[: 20 * k], x[20 * k :]
    weight = np.random.default_rng(2).standard_t(4, size=(n, k)) * 0.1
    found = gptq(weight, seen.T @ seen / len(seen), block=block)
    assert loss(weight, found, new) < 0.75 * loss(weight, nearest(weight, block), new)


@given(
    n=st.integers(1, 6),
    k=st.integers(1, 50),
    block=st.sampled_from([4, 8, 16, 32]),
    seed=st.integers(0, 1 << 16),
    scale=st.sampled_from([0.0, 1e-12, 1.0, 1e9]),
)
@settings(max_examples=60, deadline=None)
def test_codes_and_exponents_are_in_range(
    n: int, k: int, block: int, seed: int, scale: float
) -> None:
    weight = np.random.default_rng(seed).normal(size=(n, k)) * scale
    x = inputs(k, 5, seed)
    found = gptq(weight, x.T @ x, block=block)
    assert found.weights.codes.shape == (n, k)
    assert found.weights.codes.min() >= -8
    assert found.weights.codes.max() <= 7
    assert found.weights.exponents.shape == (n, -(-k // block))
    assert found.weights.exponents.max() <= 3
    assert np.isfinite(found.values()).all()
    if scale:
        assert np.abs(weight - found.values()).max() <= np.abs(weight).max()


def test_weights_on_the_grid_stay_what_they_are() -> None:
    """A block of small weights gets exponent 0, one of large weights 3: nothing is lost."""
    small, large = np.arange(-8, 8) * 1.0, np.array([7, -7, 6, -5, 4, 3, 2, 1] * 2) * 8.0
    large[0] = 7.5 * 8  # The largest weight makes the step 1, and is the only one to be rounded.
    weight = np.concatenate([small, large])[None]
    found = gptq(weight, np.eye(32), block=16, steps=(1.0,))
    assert found.step[0] == 1.0
    assert found.weights.exponents.tolist() == [[0, 3]]
    assert np.array_equal(found.values()[0, :16], small)
    assert np.array_equal(found.values()[0, 17:], large[1:])


def test_later_columns_make_up_for_earlier_ones() -> None:
    """Two inputs that are equal: what the first weight has too much, the second one lacks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    x[:, 1] = x[:, 0]
    # The last weight has the block count in eights, so 12 is between 8 and 16.
    weight = np.array([[12.0, 12.0, 60.0]])
    found = gptq(weight, x.T @ x / 1000, block=16, steps=(1.0,), damping=1e-6)
    assert sorted(found.values()[0, :2]) == [8.0, 16.0]
    assert nearest(weight, 16).values()[0, :2].sum() == 32.0


def test_rows_do_not_influence_each_other() -> None:
    x = inputs(48, 200, 3)
    hessian = x.T @ x
    weight = np.random.default_rng(4).normal(size=(5, 48))
    together = gptq(weight, hessian, block=16)
    for row in range(5):
        alone = gptq(weight[row : row + 1], hessian, block=16)
        assert np.array_equal(alone.weights.codes[0], together.weights.codes[row])
        assert np.array_equal(alone.weights.exponents[0], together.weights.exponents[row])
