"""The quantized graph: what a compiled model computes, in integers, before it has addresses.

It stands between quantization, which makes it, and the scheduler, which turns each operator into
instructions; the golden model carries it out. Every operator means exactly what `numerics` says,
so the numbers do not depend on addresses, order or time. A tensor is written once, by one
operator, but for the columns of a tensor that several operators fill side by side.

Shapes are `[rows, columns]`: tokens by channels. Integers are NumPy arrays of int64 unless said
otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of the scratchpad.

    Attributes:
        name: unique in the graph.
        rows: usually tokens.
        columns: usually channels; the last valid one, without padding.
        format: of its elements.
        layer: the layer of the model that it belongs to, for reports.
        step: real value of one step, a number or `[columns]`; 0 where it has none.
        zero: code of the real value 0.
        source: the name of the float tensor that it stands for, if it stands for one.
    """

    name: str
    rows: int
    columns: int
    format: Format
    layer: str = ""
    step: float | npt.NDArray[np.float64] = 0.0
    zero: int = 0
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class View:
    """Some neighbouring columns of a tensor, of all its rows or of some neighbouring ones.

    Attributes:
        tensor: its name.
        first: first column, a multiple of 8.
        columns: how many.
        top: first row.
        rows: how many, or None for all from `top` on.
    """

    tensor: str
    first: int
    columns: int
    top: int = 0
    rows: int | None = None

    def rows_of(self, tensor: Tensor) -> int:
        """How many rows of the tensor it has."""
        return tensor.rows - self.top if self.rows is None else self.rows


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Column records: `[N]` arrays, or `[1]` for one record that all columns share."""

    mant: Ints
    shift: Ints
    off: Ints


@dataclass(frozen=True, kw_only=True)
class Epilogue:
    """What the vector engine does on the way to the result.

    Attributes:
        columns: the records.
        rows: name of the row record to scale by, or None.
        residual: s16 tensor added to the rounded result, in its steps.
        table: 256 entries, s16; the affine result is then its u8 index.
        mask_length: whether columns from the run-time length on become the masked score.
        statistic: what to take of the stored rows.
        statistic_name: what the row operators call it.
    """

    columns: Columns
    rows: str | None = None
    residual: View | None = None
    table: tuple[int, ...] | None = None
    mask_length: bool = False
    statistic: Statistic = Statistic.NONE
    statistic_name: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """Rows of patches, brought in from an image of s8 codes in the host's memory.

    A row is a patch: for each of some channels, from top to bottom, a run of its pixels from left
    to right; runs begin at multiples of `pitch` columns. Patches follow each other from left to
    right, then from top to bottom.

    Attributes:
        image: the image's name.
        channels, height, width: of all of it: `[channels * height, width]` codes.
        patch: height and width of a patch.
        first, count: channels that are taken.
        pitch: columns from run to run, at least a patch's width; 0 lies between them.
        lead: rows of 0 in front.
        step: real value of one step, for each of all channels.
    """

    image: str
    channels: int
    height: int
    width: int
    patch: tuple[int, int]
    first: int
    count: int
    pitch: int
    lead: int
    step: npt.NDArray[np.float64]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches, from top to bottom and from left to right."""
        return self.height // self.patch[0], self.width // self.patch[1]


@dataclass(frozen=True, kw_only=True)
class Indices:
    """A list of numbers of rows, u32 each, one of those that the host writes side by side.

    Attributes:
        name: of all lists, `[lists, rows]`.
        limits: how many rows each list chooses from.
        number: of this one.
    """

    name: str
    limits: tuple[int, ...]
    number: int


@dataclass(frozen=True, kw_only=True)
class Input:
    """Bring a tensor in from the host: s16 codes, patches of an image, or a list as u8 bytes."""

    out: str
    patches: Patches | None = None
    indices: Indices | None = None
    layer: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup:
    """Bring in rows of a table that comes with the program.

    Attributes:
        out: s8 or s16, a row for each number of the list.
        table: codes `[rows, columns]`, int8 or int16.
        indices: the list, 4 columns of a tensor of bytes for each row.
    """

    out: View
    table: npt.NDArray[np.int8] | npt.NDArray[np.int16]
    indices: View
    layer: str = ""
    part: str = "lookup"


@dataclass(frozen=True, kw_only=True, eq=False)
class Constant:
    """A tensor that comes with the program.

    Attributes:
        out: its name.
        values: codes `[rows, columns]`, int16.
        layer, head, part: where it belongs: the scheduler orders by them.
    """

    out: str
    values: npt.NDArray[np.int16]
    layer: str = ""
    head: int | None = None
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Hand a tensor to the host."""

    x: str
    layer: str = ""


def gathered_bytes(operator: Lookup, rows: int) -> int:
    """Bytes of so many rows of a table."""
    return rows * operator.table.shape[1] * operator.table.itemsize


def int4_bytes(n: int, k: int, block: int) -> int:
    """Bytes of `[n, k]` weights of 4 bits: half of one for each, a quarter for an exponent."""
    return (2 * n * k + n * -(-k // block) + 3) // 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Int4Weights:
    """Weights of 4 bits, in blocks along K that share an exponent: `codes << exponents`.

    Attributes:
        codes: int8 `[N, K]`, -8 to 7.
        exponents: uint8 `[N, ceil(K / block)]`, 0 to 3.
        block: weights of a block; the array's rows, since the core shifts sums of tiles.
    """

    codes: npt.NDArray[np.int8]
    exponents: npt.NDArray[np.uint8]
    block: int

    def values(self) -> npt.NDArray[np.int8]:
        """The weights that they stand for, `[N, K]`, -64 to 56."""
        shifts = np.repeat(self.exponents, self.block, axis=1)[:, : self.codes.shape[1]]
        return self.codes << shifts.astype(np.int8)

    def part(self, rows: slice) -> "Int4Weights":
        """Some of the rows."""
        return Int4Weights(codes=self.codes[rows], exponents=self.exponents[rows], block=self.block)


@dataclass(frozen=True, kw_only=True)
class Matmul:
    """`out = epilogue(a . b^T)`, or its transpose.

    Attributes:
        out: `[M, N]`, or `[N, M]` if `transpose`.
        a: `[M, K]`, s8 or u8.
        b: weights `[N, K]`, int8 or of 4 bits, or a view `[N, K]` of an s8 tensor.
        epilogue: what happens to the sums.
        transpose: whether the result is stored transposed, which only bytes can be.
        layer, head, part: where it comes from: the scheduler orders by them.
        macs: multiply-accumulates for a row of a, if there are fewer than N times K: heads may
            be padded.
    """

    out: View
    a: View
    b: npt.NDArray[np.int8] | Int4Weights | View
    epilogue: Epilogue
    transpose: bool = False
    layer: str = ""
    head: int | None = None
    part: str = ""
    macs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Map:
    """`out = epilogue(x)`, element by element; with `multiply`, of `x * multiply`.

    If the result has fewer rows than x, those are the first ones. With `transpose`, it is stored
    transposed, which only bytes can be, and has all rows, as columns.
    """

    out: View
    x: View
    epilogue: Epilogue
    multiply: View | None = None
    transpose: bool = False
    layer: str = ""
    head: int | None = None
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Exp:
    """`out = exp2(x - row maximum)`, u8, and the sums of its rows.

    Attributes:
        out: numerators.
        x: scores, s16.
        maximum: name of the statistic that holds the rows' maxima.
        total: name of the statistic that it makes.
        unit: 0 if scores count in `2**-8`, 1 for `2**-7`.
    """

    out: View
    x: View
    maximum: str
    total: str
    unit: int = 0
    layer: str = ""
    head: int | None = None
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class RowRecords:
    """Row records from statistics.

    Attributes:
        out: name of the records.
        source: name of the statistic.
        operation: which.
        rows: how many.
        n: elements of a row, for norms.
        eps_mantissa, eps_shift: epsilon, as in the ROW instruction.
    """

    out: str
    source: str
    operation: RowOperation
    rows: int
    n: int = 1
    eps_mantissa: int = 0
    eps_shift: int = 0
    layer: str = ""
    head: int | None = None
    part: str = ""


Operator = Input | Constant | Lookup | Output | Matmul | Map | Exp | RowRecords


@dataclass(frozen=True, kw_only=True)
class QGraph:
    """A model in integers.

    Attributes:
        tensors: by name.
        operators: in an order in which they may be carried out.
        length: which of them depend on a run-time length: always the number of valid rows
            of the input, or "none".
    """

    tensors: dict[str, Tensor]
    operators: Sequence[Operator]
    length: Literal["rows", "none"] = "rows"
    notes: Sequence[str] = field(default_factory=tuple)

    def macs(self, *, int4: bool | None = None) -> int:
        """Multiply-accumulates of the matmuls, without padding.

        Args:
            int4: only of those whose weights have 4 bits, or only of the others; None for all.
        """
        total = 0
        for operator in self.operators:
            if isinstance(operator, Matmul) and int4 in (None, isinstance(operator.b, Int4Weights)):
                n, m = operator.out.columns, self.tensors[operator.out.tensor].rows
                if operator.transpose:
                    n, m = m, n
                total += m * (n * operator.a.columns if operator.macs is None else operator.macs)
        return total

    def weights(self) -> Literal["int8", "int4", "mixed"]:
        """Which formats the weights have."""
        kinds = {
            isinstance(operator.b, Int4Weights)
            for operator in self.operators
            if isinstance(operator, Matmul) and not isinstance(operator.b, View)
        }
        return "mixed" if len(kinds) == 2 else "int4" if True in kinds else "int8"
