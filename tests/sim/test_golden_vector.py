"""The golden models of VECTOR and GEMM, held to `numerics` and to exact sums."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systolith import numerics
from systolith.isa import Function, Statistic
from systolith.numerics import MASKED, Column, Format, Row, Source
from systolith_sim.golden.gemm import gemm
from systolith_sim.golden.vector import exp2, take_statistics, vector_pass
from systolith_sim.strategies import affine_operands, columns, integers_near_edges, rows

SCORES = integers_near_edges(16, signed=True)


@settings(max_examples=50)
@given(operands=st.lists(affine_operands(), min_size=1, max_size=3), data=st.data())
def test_rows_and_columns_go_to_their_elements(operands: list[Any], data: st.DataObject) -> None:
    """Every element of a pass has its own row's and its own column's record."""
    m, n = data.draw(st.integers(1, 3)), len(operands)
    column = [each["column"] for each in operands]
    row = [data.draw(rows()) for _ in range(m)]
    out_format = operands[0]["out_format"]
    x = [[data.draw(SCORES) for _ in range(n)] for _ in range(m)]
    r = [[data.draw(SCORES) for _ in range(n)] for _ in range(m)]
    result = vector_pass(
        x,
        r,
        function=Function.AFFINE,
        source=Source.SCRATCHPAD,
        column=Column(*(np.array(each) for each in zip(*column, strict=True))),
        row=Row(*(np.array(each)[:, None] for each in zip(*row, strict=True))),
        out_format=out_format,
    )
    expected = [
        [
            numerics.affine(
                x[i][j],
                r[i][j],
                source=Source.SCRATCHPAD,
                column=column[j],
                row=row[i],
                out_format=out_format,
            )
            for j in range(n)
        ]
        for i in range(m)
    ]
    assert result.tolist() == expected


@given(
    x=integers_near_edges(32, signed=True),
    column=columns(),
    seed=st.integers(0, 99),
    out_format=st.sampled_from(Format),
)
def test_table_pass(x: int, column: Column[int], seed: int, out_format: Format) -> None:
    table = Random(seed).choices(range(-32768, 32768), k=256)
    result = vector_pass(
        [[x]],
        function=Function.TABLE,
        source=Source.ACCUMULATOR,
        column=column,
        table=table,
        out_format=out_format,
    )
    index = numerics.affine(x, source=Source.ACCUMULATOR, column=column, out_format=Format.U8)
    assert result.tolist() == [[numerics.lookup(table, index, out_format=out_format)]]


@given(scores=st.lists(SCORES, min_size=1, max_size=20), unit=st.integers(0, 1))
def test_exp_pass(scores: list[int], unit: int) -> None:
    peak = max(scores)
    result = vector_pass(
        [scores],
        function=Function.EXP,
        source=Source.SCRATCHPAD,
        maximum=[[peak]],
        unit=unit,
        out_format=Format.U8,
    )
    assert result.tolist() == [[numerics.exp2(score, peak, unit=unit) for score in scores]]


@pytest.mark.parametrize("unit", [0, 1])
def test_exp_of_every_distance(unit: int) -> None:
    scores = np.arange(-32768, 32768)
    expected = [numerics.exp2(int(score), 32767, unit=unit) for score in scores]
    assert exp2(scores, 32767, unit=unit).tolist() == expected


def test_exp_refuses_scores_above_their_maximum() -> None:
    with pytest.raises(ValueError, match=r"^a score is 3 above its row's maximum$"):
        exp2([[1, 5], [0, 0]], [[2], [0]], unit=1)


def test_masked_columns_are_masked_scores() -> None:
    neutral = Column(mant=128, shift=8, off=0)
    for valid, expected in ((0, [MASKED] * 3), (2, [1, 2, MASKED]), (5, [1, 2, 3])):
        result = vector_pass(
            [[1, 2, 3]],
            function=Function.AFFINE,
            source=Source.SCRATCHPAD,
            column=neutral,
            out_format=Format.S16,
            valid=valid,
        )
        assert result.tolist() == [expected]


@given(y=st.lists(st.lists(SCORES, min_size=3, max_size=3), min_size=1, max_size=4))
def test_statistics(y: list[list[int]]) -> None:
    elements = np.array(y, np.int16)
    expected = [numerics.statistics(row) for row in y]
    for statistic, names in (
        (Statistic.MAX, ("maximum", "absmax")),
        (Statistic.MOMENTS, ("total", "squares")),
    ):
        taken = take_statistics(elements, statistic)
        assert set(taken) == set(names)
        for name in names:
            assert taken[name].tolist() == [getattr(each, name) for each in expected]
    taken = take_statistics(elements, Statistic.SUM)
    assert taken["total"].tolist() == [each.total for each in expected]
    assert not taken["squares"].any()


@given(y=st.lists(SCORES, min_size=4, max_size=4), cut=st.integers(0, 4))
@pytest.mark.parametrize("statistic", [Statistic.MAX, Statistic.SUM, Statistic.MOMENTS])
def test_statistics_go_on_where_earlier_columns_ended(
    statistic: Statistic, y: list[int], cut: int
) -> None:
    elements = np.array([y], np.int16)
    first = take_statistics(elements[:, :cut], statistic)
    both = take_statistics(elements[:, cut:], statistic, first)
    whole = take_statistics(elements, statistic)
    assert {name: values.tolist() for name, values in both.items()} == {
        name: values.tolist() for name, values in whole.items()
    }


def test_statistics_of_no_columns_and_of_too_many() -> None:
    nothing = np.zeros((1, 0), np.int16)
    assert take_statistics(nothing, Statistic.MAX)["maximum"].tolist() == [MASKED]
    assert take_statistics(nothing, Statistic.MAX)["absmax"].tolist() == [0]
    assert take_statistics(nothing, Statistic.NONE) == {}
    lowest = np.full((1, 4096), -32768, np.int16)
    assert take_statistics(lowest, Statistic.MOMENTS)["squares"].tolist() == [1 << 42]
    with pytest.raises(ValueError, match="the sum of a row does not fit its width"):
        take_statistics(np.full((1, 4097), -32768, np.int16), Statistic.SUM)


@pytest.mark.parametrize("k", [1, 511, 512, 513, 1500])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_gemm_is_exact(k: int, dtype: type[np.integer]) -> None:
    """Random operands, and the largest: one more product in a float32 would show."""
    random = np.random.default_rng(k)
    bits = np.iinfo(dtype)
    a = random.integers(bits.min, bits.max + 1, (5, k)).astype(dtype)
    a[0] = bits.max
    b = random.integers(-128, 128, (7, k)).astype(np.int8)
    b[0], b[1] = -128, -127
    expected = a.astype(np.int64) @ b.astype(np.int64).T
    np.testing.assert_array_equal(gemm(a, b), expected)
