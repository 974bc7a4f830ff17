"""What host and core exchange: tensors in memory."""

from dataclasses import dataclass

import numpy as np

from systolith.numerics import Format

DTYPES = {
    Format.S8: np.dtype("i1"),
    Format.U8: np.dtype("u1"),
    Format.S16: np.dtype("<i2"),
}
"""Elements in memory, by format."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A tensor in DRAM that host and core exchange, row by row without gaps.

    Attributes:
        name: of the tensor.
        base: base register.
        offset: bytes from it.
        rows: its rows.
        columns: its columns.
        format: of its elements.
        step: real value of one step: a number, or `[columns]`.
        limits: if each row is a list of numbers of a table's rows, u32 whatever the format: how
            many rows the tables have. Else empty.
    """

    name: str
    base: int
    offset: int
    rows: int
    columns: int
    format: Format
    step: float | np.ndarray
    limits: tuple[int, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """Of the elements in memory."""
        return np.dtype("<u4") if self.limits else DTYPES[self.format]

    @property
    def range(self) -> tuple[int, int | np.ndarray]:
        """The smallest and the largest element: of lists, one for each row."""
        if self.limits:
            return 0, np.array(self.limits)[:, None] - 1
        return self.format.limits

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.rows * self.columns * self.dtype.itemsize
