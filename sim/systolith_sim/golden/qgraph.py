"""Golden model of a whole quantized graph: operator by operator, on whole tensors.

It knows no instructions, addresses or schedule, so whatever a program makes of the same graph
must come out equal.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from systolith.compiler.qgraph import (
    Columns,
    Constant,
    Epilogue,
    Exp,
    Indices,
    Input,
    Int4Weights,
    Lookup,
    Map,
    Matmul,
    Output,
    Patches,
    QGraph,
    RowRecords,
    View,
)
from systolith.isa import Function, RowOperation, Statistic
from systolith.numerics import (
    NO_ROW,
    Column,
    Format,
    Row,
    Source,
    Statistics,
    layer_norm_row,
    recip,
    rms_norm_row,
)
from systolith_sim.golden.affine import DTYPES
from systolith_sim.golden.gemm import gemm, int4_gemm
from systolith_sim.golden.vector import take_statistics, vector_pass


def run_qgraph(
    graph: QGraph, inputs: Mapping[str, npt.ArrayLike], length: int
) -> dict[str, np.ndarray]:
    """Carry out a graph.

    Args:
        graph: what to compute.
        inputs: codes of every input, `[rows, columns]`, by name. Rows that are missing at the
            end are padding, 0. Of an image, `[channels * height, width]`, all have to be there.
        length: valid rows of the inputs; scores of columns from it on are masked.

    Returns:
        All tensors by name, in int8, uint8 or int16, `[rows, columns]`; all statistics as
        `name.maximum`, `name.absmax`, `name.total` and `name.squares`, those that were taken; all
        row records as `name.off`, `name.mant` and `name.exp`; int64 `[rows]`.

    Raises:
        ValueError: an input is missing, or does not fit its tensor; a norm's deviation or a row's
            sum does not fit its width.
    """
    run = _Run(graph, length)
    for operator in graph.operators:
        match operator:
            case Input(indices=Indices(name=name, number=number)):
                if name not in inputs:
                    raise ValueError(f"the input {name} is missing")
                run.numbers(operator.out, np.asarray(inputs[name])[number])
            case Lookup():
                run.lookup(operator)
            case Input(patches=patches):
                name = operator.out if patches is None else patches.image
                if name not in inputs:
                    raise ValueError(f"the input {name} is missing")
                if patches is None:
                    run.input(operator, np.asarray(inputs[name]))
                else:
                    run.patches(operator.out, patches, np.asarray(inputs[name]))
            case Constant():
                run.values[operator.out] = operator.values.copy()
            case Matmul():
                run.matmul(operator)
            case Map():
                run.map(operator)
            case Exp():
                run.exp(operator)
            case RowRecords():
                run.row_records(operator)
            case Output():
                pass
    return run.values


class _Run:
    """Values so far; views of tensors by name."""

    def __init__(self, graph: QGraph, length: int) -> None:
        self.values: dict[str, np.ndarray] = {}
        self._graph = graph
        self._length = length

    def input(self, operator: Input, codes: np.ndarray) -> None:
        tensor = self._graph.tensors[operator.out]
        rows, columns = codes.shape
        if rows > tensor.rows or columns != tensor.columns:
            raise ValueError(
                f"{tensor.name} has {tensor.rows} rows of {tensor.columns}, but the input has "
                f"{rows} rows of {columns}"
            )
        low, high = tensor.format.limits
        if codes.size and (codes.min() < low or codes.max() > high):
            raise ValueError(
                f"{tensor.name} goes from {low} to {high}, but the input from {codes.min()} to "
                f"{codes.max()}"
            )
        self._whole(tensor.name)[:rows] = codes

    def numbers(self, name: str, rows: np.ndarray) -> None:
        """Numbers of rows as bytes, least significant first."""
        out = self._whole(name).reshape(-1, 4)
        for place in range(4):
            out[: len(rows), place] = rows >> 8 * place & 255

    def lookup(self, operator: Lookup) -> None:
        digits = self._view(operator.indices).astype(np.int64).reshape(-1, 4)
        self._view(operator.out)[:] = operator.table[digits @ (1 << 8 * np.arange(4))]

    def patches(self, name: str, patches: Patches, codes: np.ndarray) -> None:
        if codes.shape != (patches.channels * patches.height, patches.width):
            raise ValueError(f"{patches.image} has another shape than {codes.shape}")
        image = codes.reshape(patches.channels, patches.height, patches.width)
        (down, right), (high, wide) = patches.grid, patches.patch
        out = self._whole(name).reshape(-1, patches.count, high, patches.pitch)
        for number in range(down * right):
            top, left = number // right * high, number % right * wide
            taken = image[patches.first :][: patches.count, top : top + high, left : left + wide]
            out[patches.lead + number, :, :, :wide] = taken

    def matmul(self, operator: Matmul) -> None:
        a = self._view(operator.a)
        match operator.b:
            case View():
                sums = gemm(a, self._view(operator.b))
            case Int4Weights(codes=codes, exponents=exponents, block=block):
                sums = int4_gemm(a, codes, exponents, rows=block)
            case weights:
                sums = gemm(a, weights)
        self._finish(operator, sums, 0, Source.ACCUMULATOR)

    def map(self, operator: Map) -> None:
        out = self._graph.tensors[operator.out.tensor]
        rows = out.columns if operator.transpose else out.rows
        x = self._view(operator.x)[:rows]
        if operator.multiply is None:
            self._finish(operator, x, 0, Source.SCRATCHPAD)
        else:
            self._finish(operator, x, self._view(operator.multiply)[:rows], Source.PRODUCT)

    def exp(self, operator: Exp) -> None:
        y = vector_pass(
            self._view(operator.x),
            function=Function.EXP,
            source=Source.SCRATCHPAD,
            maximum=self.values[f"{operator.maximum}.maximum"][:, None],
            unit=operator.unit,
            out_format=Format.U8,
        )
        self._view(operator.out)[:] = y
        self._statistics(operator.total, y, Statistic.SUM)

    def row_records(self, operator: RowRecords) -> None:
        def statistic(member: str) -> list[int]:
            return self.values[f"{operator.source}.{member}"][: operator.rows].tolist()

        n, eps = operator.n, operator.eps_mantissa << operator.eps_shift
        match operator.operation:
            case RowOperation.LAYER_NORM:
                pairs = zip(statistic("total"), statistic("squares"), strict=True)
                records = [layer_norm_row(total, squares, n=n, eps=eps) for total, squares in pairs]
            case RowOperation.RMS_NORM:
                records = [rms_norm_row(squares, n=n, eps=eps) for squares in statistic("squares")]
            case RowOperation.RECIPROCAL:
                records = [recip(total) for total in statistic("total")]
        for member, values in zip(Row._fields, np.array(records).T, strict=True):
            self.values[f"{operator.out}.{member}"] = values

    def _finish(
        self, operator: Matmul | Map, x: np.ndarray, r: npt.ArrayLike, source: Source
    ) -> None:
        """Take elements through the epilogue to where the operator's result belongs."""
        epilogue, row = operator.epilogue, NO_ROW
        valid = self._length if epilogue.mask_length else x.shape[1]
        if epilogue.rows is not None:
            members = (
                self.values[f"{epilogue.rows}.{name}"][: len(x), None] for name in Row._fields
            )
            row = Row(*members)
        if epilogue.residual is not None:
            r = self._view(epilogue.residual)
        y = vector_pass(
            x,
            r,
            function=Function.AFFINE if epilogue.table is None else Function.TABLE,
            source=source,
            column=_column(epilogue.columns),
            row=row,
            table=epilogue.table or (),
            out_format=self._graph.tensors[operator.out.tensor].format,
            valid=valid if epilogue.mask_length else None,
        )
        self._view(operator.out)[:] = y.T if operator.transpose else y
        self._take(epilogue, y[:, :valid])

    def _take(self, epilogue: Epilogue, y: np.ndarray) -> None:
        if epilogue.statistic != Statistic.NONE:
            self._statistics(epilogue.statistic_name, y, epilogue.statistic)

    def _statistics(self, name: str, y: np.ndarray, statistic: Statistic) -> None:
        for member, values in take_statistics(y, statistic).items():
            assert member in Statistics._fields
            self.values[f"{name}.{member}"] = values

    def _whole(self, name: str) -> np.ndarray:
        if name not in self.values:
            tensor = self._graph.tensors[name]
            self.values[name] = np.zeros((tensor.rows, tensor.columns), DTYPES[tensor.format])
        return self.values[name]

    def _view(self, view: View) -> np.ndarray:
        rows = view.rows_of(self._graph.tensors[view.tensor])
        return self._whole(view.tensor)[
            view.top : view.top + rows, view.first : view.first + view.columns
        ]


def _column(columns: Columns) -> Column[np.ndarray]:
    return Column(columns.mant, columns.shift, columns.off)
