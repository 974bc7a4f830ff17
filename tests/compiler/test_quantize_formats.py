"""Numbers that the quantizer encodes: column records, weights, epsilons, tables, chunks."""

from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systolith.compiler.activations import EXACT, FAST
from systolith.compiler.errors import CompileError
from systolith.compiler.formats import (
    LONGEST_SHIFT,
    check_accumulator,
    check_product,
    decoded,
    encode_columns,
    encode_epsilon,
    quantize_weight,
)
from systolith.compiler.graph import Linear
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.steps import make_table, smooth_steps
from systolith.numerics import Column, Format, Source, affine, layer_norm_row, lookup


def column(scale: float, off: float = 0.0, *, scratchpad: bool = False) -> Column[int]:
    columns = encode_columns(scale, off, scratchpad=scratchpad)
    return Column(int(columns.mant[0]), int(columns.shift[0]), int(columns.off[0]))


@pytest.mark.parametrize(
    ("scale", "off", "record"),
    [
        (1.0, 0.0, Column(16384, 7, 0)),
        (0.5, 1.5, Column(16384, 8, 384)),
        (-3.0, -0.25, Column(-24576, 6, -64)),
        # Just below 1, the mantissa rounds up to 2**15, which has a bit too many.
        (1 - 2.0**-30, 0.0, Column(16384, 7, 0)),
        # 32767 * 2**-39 has shift 32: it gives up one bit of its mantissa.
        (32767 * 2.0**-39, 0.0, Column(16383, 31, 0)),
        # A gamma that is nearly 0 is 0.
        (6e-33, 0.5, Column(0, 0, 128)),
        (0.0, 0.0, Column(0, 0, 0)),
    ],
)
def test_columns_by_hand(scale: float, off: float, record: Column[int]) -> None:
    assert column(scale, off) == record


@given(
    x=st.integers(-(1 << 22), (1 << 22) - 1),
    scale=st.floats(1e-7, 200.0),
    sign=st.sampled_from([-1, 1]),
    off=st.floats(-30000, 30000),
)
def test_columns_scale_accumulators(x: int, scale: float, sign: int, off: float) -> None:
    """What the core computes is the real result, but for the mantissa's 16 bits and rounding."""
    scale *= sign
    y = affine(x, source=Source.ACCUMULATOR, column=column(scale, off), out_format=Format.S16)
    exact = np.clip(x * scale + off, -32768, 32767)
    assert abs(y - exact) <= 0.5 + 0.01 + abs(x * scale) * 2.0**-15


@given(x=st.integers(-32768, 32767), scale=st.floats(1e-4, 100.0))
def test_columns_scale_scratchpad_elements(x: int, scale: float) -> None:
    record = column(scale, scratchpad=True)
    y = affine(x, source=Source.SCRATCHPAD, column=record, out_format=Format.S16)
    assert abs(y - np.clip(x * scale, -32768, 32767)) <= 0.51 + abs(x * scale) * 2.0**-15


@given(st.floats(2.0**-30, 2.0**7))
def test_records_are_in_range_and_precise(scale: float) -> None:
    columns = encode_columns(scale)
    assert 0 <= columns.shift[0] <= LONGEST_SHIFT
    assert abs(columns.mant[0]) < 1 << 15
    lost = max(0, -int(np.floor(np.log2(scale))) + 7 - LONGEST_SHIFT)
    assert decoded(columns)[0] == pytest.approx(scale, rel=2.0 ** (lost - 14))


def test_scales_and_offsets_that_do_not_fit() -> None:
    with pytest.raises(CompileError, match="the scale of 'x' is 1000, too large to encode"):
        encode_columns(1000.0, name="x")
    with pytest.raises(CompileError, match="the offset of 'x' is 1e"):
        encode_columns(1.0, 1e7, name="x")


def test_weights_have_a_step_for_each_row() -> None:
    weight = np.array([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0], [254.0, 2.0, -3.1]])
    codes, step = quantize_weight(weight)
    np.testing.assert_array_equal(codes, [[64, -127, 32], [0, 0, 0], [127, 1, -2]])
    np.testing.assert_allclose(step[[0, 2]], [1 / 127, 2.0])


def test_int8_weights_come_back_exactly() -> None:
    """Files with int8 weights lose nothing, if each row reaches 127."""
    random = np.random.default_rng(3)
    codes = random.integers(-127, 128, (64, 100)).astype(np.int8)
    codes[:, 17] = 127
    step = random.uniform(0.001, 0.1, 64).astype(np.float32)
    weight = codes.astype(np.float32) * step[:, None]
    np.testing.assert_array_equal(quantize_weight(weight)[0], codes)


def test_accumulator_bounds_are_tight() -> None:
    # 255 * 127 * 66311 is 2**31 less 7,113; one more product is too many.
    most = (2**31 - 1) // (255 * 127)
    good, bad = np.full((1, most), 127, np.int8), np.full((1, most + 1), 127, np.int8)
    check_accumulator(good, Format.U8, "x")
    with pytest.raises(CompileError, match=r"sums of 'x' could reach .*; accepted: below 2\*\*31"):
        check_accumulator(bad, Format.U8, "x")
    # A u8 operand cannot make the sum of negative weights positive.
    check_accumulator(np.concatenate([good, -good], axis=1), Format.U8, "x")
    most = (2**31 - 1) // (128 * 127)
    check_accumulator(np.full((1, most), -127, np.int8), Format.S8, "x")
    with pytest.raises(CompileError, match="could reach"):
        check_accumulator(np.full((1, most + 1), -127, np.int8), Format.S8, "x")
    check_product(2**31 // (128 * 128) - 1, Format.S8, "x")
    with pytest.raises(CompileError, match="could reach"):
        check_product(2**31 // (128 * 128), Format.S8, "x")


@pytest.mark.parametrize(
    ("eps", "n", "step", "encoded"),
    [
        (1e-12, 384, 1e-3, (1, 0)),
        (0.0, 384, 1e-3, (0, 0)),
        (1.0, 100, 1.0, (10000, 0)),
        # 655,355 is halved to 40,960 steps of 16, the next one up.
        (6.55355, 100, 2.0**-2 * 1.2649110640673518, (40960, 4)),
    ],
)
def test_epsilon(eps: float, n: int, step: float, encoded: tuple[int, int]) -> None:
    assert encode_epsilon(eps, n=n, step=step, name="x") == encoded


def test_epsilon_that_is_too_large() -> None:
    with pytest.raises(CompileError, match="epsilon 1 of 'x' is too large"):
        encode_epsilon(1.0, n=4096, step=1e-6, name="x")


@given(eps=st.floats(1e-12, 1e-3), n=st.integers(8, 4096), step=st.floats(1e-5, 1.0))
def test_epsilon_leaves_room_for_every_row(eps: float, n: int, step: float) -> None:
    """The widest row there is still fits: numerics raises if it does not."""
    mantissa, shift = encode_epsilon(eps, n=n, step=step, name="x")
    encoded = mantissa << shift
    assert encoded == pytest.approx(max(1, eps * (n / step) ** 2), rel=2.0**-15, abs=1)
    half = n // 2
    total = -32768 * half + 32767 * (n - half)
    squares = 32768**2 * half + 32767**2 * (n - half)
    layer_norm_row(total, squares, n=n, eps=encoded)


def test_gelu_table() -> None:
    table = make_table("gelu", -9.0, 4.0)
    assert len(table.entries) == 256
    assert -4.5 < table.low < -2.0  # Below, GELU is 0 within a fraction of a step.
    for index in (0, 100, 255):
        h = table.low + index * table.index_step
        exact = 0.5 * h * (1 + erf(h / sqrt(2)))
        value = (lookup(table.entries, index, out_format=Format.U8) - table.zero) * table.step
        assert value == pytest.approx(exact, abs=0.51 * table.step)
    assert table.low + 255 * table.index_step == pytest.approx(4.0)
    assert min(table.entries) == 0
    assert max(table.entries) == 255


@pytest.mark.parametrize("function", EXACT)
def test_every_table_holds_its_function(function: str) -> None:
    low, high = -12.0, 7.0
    table = make_table(function, low, high)
    x = np.linspace(low, high, 997)
    index = np.clip(np.rint((x - table.low) / table.index_step), 0, 255).astype(int)
    value = (np.array(table.entries)[index] - table.zero) * table.step
    slope = np.abs(np.gradient(EXACT[function](x), x)).max()
    allowed = 0.55 * table.step + 0.51 * table.index_step * slope
    assert np.abs(value - EXACT[function](x)).max() <= allowed
    assert (table.zero - 0) * table.step == pytest.approx(table.zero * table.step)


def test_relu_table_wastes_nothing_below_zero() -> None:
    table = make_table("relu", -100.0, 10.0)
    assert table.low == pytest.approx(0, abs=0.05)
    assert table.zero == 0


def test_table_of_one_value() -> None:
    table = make_table("gelu", 1.5, 1.5)
    assert table.index_step > 0
    assert (table.entries[128] - table.zero) * table.step == pytest.approx(1.4, abs=0.01)


@pytest.mark.parametrize("function", FAST)
def test_fast_functions(function: str) -> None:
    x = np.linspace(-20, 20, 2001, dtype=np.float32)
    fast = FAST[function](x)
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast, EXACT[function](x.astype(np.float64)), atol=4e-6)


def test_smoothing_balances_channels() -> None:
    weight = np.array([[1.0, 0.5, 4.0], [-2.0, 0.1, 1.0]])
    linear = Linear(out="y", x="x", weight=weight, bias=np.zeros(2))
    absmax = np.array([8.0, 1.0, 2.0])
    np.testing.assert_allclose(smooth_steps(absmax, [linear], 1.0), absmax / 127)
    steps = smooth_steps(absmax, [linear], 0.0)
    np.testing.assert_allclose(steps * [2, 0.5, 4], np.full(3, steps[0] * 2))
    half = smooth_steps(absmax, [linear], 0.5)
    assert (absmax / half).max() == pytest.approx(127)


@pytest.mark.parametrize(
    ("width", "most", "sizes"),
    [
        (1536, 1536, [1504, 32]),
        (1536, 768, [768, 736, 32]),
        (1536, 400, [384, 384, 384, 352, 32]),
        (256, 256, [240, 16]),
        (128, 64, [64, 48, 16]),
        (48, 1536, [48]),
    ],
)
def test_chunks_by_hand(width: int, most: int, sizes: list[int]) -> None:
    assert QuantizeOptions(max_chunk=most).chunks(width) == sizes


@given(st.integers(1, 6000), st.integers(64, 2048), st.none() | st.integers(0, 256))
def test_chunks(width: int, most: int, wide: int | None) -> None:
    sizes = QuantizeOptions(max_chunk=most, wide_channels=wide).chunks(width)
    assert sum(sizes) == width
    assert min(sizes) > 0
    assert max(sizes) <= max(most, wide or 0)


def test_options_are_checked() -> None:
    for changes in ({"alpha": 1.5}, {"headroom": 0.5}, {"max_chunk": 8}, {"wide_channels": -1}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            QuantizeOptions(**changes)  # pyright: ignore[reportArgumentType]
