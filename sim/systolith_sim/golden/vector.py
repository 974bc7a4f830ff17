"""Golden model of a VECTOR pass: what the vector engine makes of [rows, columns] elements.

It knows nothing of addresses: the instruction simulator hands it what an instruction reads, the
model runner hands it whole tensors.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from systolith.isa import Function, Statistic
from systolith.numerics import (
    EXP_TABLE,
    MASKED,
    MAX_EXP_SHIFT,
    NO_ROW,
    SQUARES_WIDTH,
    TOTAL_SUM_WIDTH,
    Column,
    Format,
    Row,
    Source,
)
from systolith_sim.golden.affine import DTYPES, affine

Ints = npt.NDArray[np.int64]
Elements = npt.NDArray[np.int8 | np.uint8 | np.int16]

NO_COLUMN: Column[npt.ArrayLike] = Column(mant=0, shift=0, off=0)
"""For EXP, which has none."""

_EXP = np.array(EXP_TABLE)


def vector_pass(
    x: npt.ArrayLike,
    r: npt.ArrayLike = 0,
    *,
    function: Function,
    source: Source,
    column: Column[npt.ArrayLike] = NO_COLUMN,
    row: Row[npt.ArrayLike] = NO_ROW,
    table: npt.ArrayLike = (),
    maximum: npt.ArrayLike = 0,
    unit: int = 0,
    out_format: Format,
    valid: int | None = None,
) -> Elements:
    """Compute the elements that a VECTOR stores; the operands broadcast.

    Args:
        x: [rows, columns] elements.
        r: [rows, columns] second operands.
        function: what to compute.
        source: where `x` comes from, and whether `r` is added or multiplied.
        column: records, each member [columns] or a number; not for EXP.
        row: records, each member [rows, 1] or a number.
        table: [256] entries, for TABLE.
        maximum: [rows, 1] largest scores, for EXP.
        unit: 0 if scores count in `2**-8`, 1 for `2**-7`, for EXP.
        out_format: format of the result.
        valid: columns that are no masked scores; None for all.

    Returns:
        [rows, columns] array of int8, uint8 or int16, as `out_format` says.

    Raises:
        ValueError: a score is above its row's maximum.
    """
    match function:
        case Function.EXP:
            y = exp2(x, maximum, unit=unit)
        case Function.TABLE:
            index = affine(x, r, source=source, column=column, row=row, out_format=Format.U8)
            y = lookup(table, index, out_format=out_format)
        case _:
            y = affine(x, r, source=source, column=column, row=row, out_format=out_format)
    if valid is not None:
        y[:, valid:] = MASKED
    return y


def exp2(scores: npt.ArrayLike, maximum: npt.ArrayLike, *, unit: int) -> Elements:
    """Softmax numerators, `numerics.exp2` over arrays that broadcast; uint8.

    Raises:
        ValueError: a score is above its row's maximum.
    """
    x = np.asarray(scores, np.int64)
    distance = (x - np.asarray(maximum, np.int64)) << unit
    if distance.size and distance.max() > 0:
        raise ValueError(f"a score is {int(distance.max()) >> unit} above its row's maximum")
    octaves = np.minimum(-(distance >> 8), MAX_EXP_SHIFT)
    y = (_EXP[distance & 255] + (1 << octaves + 6)) >> octaves + 7
    return np.where(x == MASKED, 0, y).astype(np.uint8)


def lookup(table: npt.ArrayLike, index: Elements, *, out_format: Format) -> Elements:
    """Table entries at u8 indices, `numerics.lookup` over arrays."""
    entries = np.clip(np.asarray(table, np.int64), *Format(out_format).limits)
    return entries.astype(DTYPES[out_format])[index]


def take_statistics(
    y: Elements, statistic: Statistic, before: Mapping[str, Ints] | None = None
) -> dict[str, Ints]:
    """What a pass keeps of its rows: [rows] arrays of `numerics.Statistics` that it replaces.

    Args:
        y: [rows, columns] stored elements that count, maybe no columns at all.
        statistic: which members.
        before: what earlier columns of the same pass gave.

    Raises:
        ValueError: a sum does not fit its width.
    """
    wide = y.astype(np.int64)
    if statistic == Statistic.MAX:
        maximum = wide.max(1, initial=MASKED)
        absmax = np.abs(wide).max(1, initial=0)
        if before is not None:
            maximum = np.maximum(maximum, before["maximum"])
            absmax = np.maximum(absmax, before["absmax"])
        return {"maximum": maximum, "absmax": absmax}
    if statistic == Statistic.NONE:
        return {}
    total = wide.sum(1)
    squares = np.zeros_like(total)
    if statistic == Statistic.MOMENTS:
        squares = np.einsum("mn,mn->m", wide, wide)
    if before is not None:
        total = total + before["total"]
        squares = squares + before["squares"]
    half = 1 << TOTAL_SUM_WIDTH - 1
    if np.any((total < -half) | (total >= half)) or np.any(squares >> SQUARES_WIDTH):
        raise ValueError("the sum of a row does not fit its width")
    return {"total": total, "squares": squares}
