"""What a core remembers: scratchpad, ring, accumulators, columns, tables, row file and DRAM."""

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from systolith.config import TABLE_ENTRIES, CoreConfig
from systolith.isa import BASES, SCALARS
from systolith.numerics import Column, Format, Row, Statistics
from systolith.regs import FaultCause

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

COLUMN_DTYPE = np.dtype([("mant", "<i2"), ("shift", "i1"), ("zero", "u1"), ("off", "<i4")])
"""A column record as it lies in memory."""

ELEMENT_DTYPES = {Format.S8: "i1", Format.U8: "u1", Format.S16: "<i2"}
"""Elements as they lie in the scratchpad."""

HALVES = 2
"""Accumulator halves."""


class FaultError(Exception):
    """An instruction does what the core refuses.

    Attributes:
        cause: as in the CSR.
        address: the first byte address in DRAM, or granule or slot, that is out of bounds, in the
            order in which the core looks at them.
    """

    def __init__(self, cause: FaultCause, address: int) -> None:
        super().__init__(f"{cause.name} at {address:#x}")
        self.cause = cause
        self.address = address


class ExecutionError(Exception):
    """A program relies on what no core promises, such as a score above its row's maximum."""


class Accumulators:
    """Sums on their way from GEMM to VECTOR: halves of M rows, drained C columns at a time.

    A half has C columns of INT8 weights, and up to 2 C of INT4 weights.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._sums = deque[Ints]()
        self._left = deque[int]()

    @property
    def full(self) -> int:
        """Groups of C columns that wait to be drained."""
        return sum(self._left) // self._columns

    @property
    def halves(self) -> int:
        """Halves that are not drained to their end."""
        return len(self._left)

    def push(self, sums: Ints, half: int) -> None:
        """Fill halves of `half` columns with [M, columns] sums, columns being a multiple of C."""
        columns = sums.shape[1]
        self._sums.append(sums)
        self._left.extend(min(half, columns - first) for first in range(0, columns, half))

    def pop(self, groups: int, m: int) -> Ints:
        """Drain groups of C columns and m rows; there must be so many.

        Raises:
            ExecutionError: they have another number of rows.
        """
        wanted = left = groups * self._columns
        while left:
            drained = min(left, self._left[0])
            left -= drained
            self._left[0] -= drained
            if not self._left[0]:
                self._left.popleft()
        parts = list[Ints]()
        while wanted:
            sums = self._sums.popleft()
            if sums.shape[0] != m:
                raise ExecutionError(
                    f"VECTOR drains {m} rows, but GEMM filled {sums.shape[0]} rows"
                )
            if sums.shape[1] > wanted:
                self._sums.appendleft(sums[:, wanted:])
                sums = sums[:, :wanted]
            wanted -= sums.shape[1]
            parts.append(sums)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class Ring:
    """Weights on their way from STREAM to GEMM, a byte queue."""

    def __init__(self) -> None:
        self._parts = deque[Bytes]()
        self.size = 0

    def push(self, data: Bytes) -> None:
        """Append bytes."""
        self._parts.append(data)
        self.size += data.size

    def pop(self, size: int) -> Bytes:
        """Take the first bytes; there must be so many."""
        parts = list[Bytes]()
        self.size -= size
        while size:
            data = self._parts.popleft()
            if data.size > size:
                self._parts.appendleft(data[size:])
                data = data[:size]
            size -= data.size
            parts.append(data)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Machine:
    """A core's memories, and the accesses that instructions make to them.

    Attributes:
        config: what is built in.
        dram: all of it, by AXI address.
        scratchpad: bytes.
        columns: column records, `COLUMN_DTYPE`.
        tables: entries of all function tables.
        statistics: [row_slots] arrays, by name as in `numerics.Statistics`.
        records: [row_slots] arrays.
        ring, accumulators: what is under way between engines.
        bases, limits, scalars: as in the CSRs, steady while a program runs.
    """

    def __init__(self, config: CoreConfig, dram: Bytes) -> None:
        self.config = config
        self.dram = dram
        self.scratchpad = np.zeros(config.scratchpad_bytes, np.uint8)
        self.columns = np.zeros(config.column_slots, COLUMN_DTYPE)
        self.tables = np.zeros(config.table_slots * TABLE_ENTRIES, "<i2")
        self.statistics = {
            name: np.zeros(config.row_slots, np.int64) for name in Statistics._fields
        }
        self.records = Row(*(np.zeros(config.row_slots, np.int64) for _ in range(3)))
        self.bases = [0] * BASES
        self.limits = [0] * BASES
        self.scalars = [0] * SCALARS
        self.clear()

    def clear(self) -> None:
        """Empty what is under way between engines."""
        self.ring = Ring()
        self.accumulators = Accumulators(self.config.columns)

    def poison(self, seed: int) -> None:
        """Fill all memories but DRAM with noise, so that a read of what was never written shows."""
        random = np.random.default_rng(seed)
        for memory in (self.scratchpad, self.columns, self.tables):
            raw = memory.view(np.uint8)
            raw[:] = random.integers(0, 256, raw.size)
        for member in (*self.statistics.values(), *self.records):
            member[:] = random.integers(0, 1 << 15, member.size)

    def tensor(
        self,
        address: int,
        row: int,
        shape: tuple[int, int],
        element: Format | None = None,
        *,
        walk: Iterable[int] = (),
    ) -> np.ndarray:
        """View rows of the scratchpad.

        Args:
            address: first granule.
            row: granules from row to row.
            shape: rows, and elements of a row.
            element: their format; None for raw bytes.
            walk: the granules that the core looks at, in its order, if it does not go through the
                rows from the first one on.

        Raises:
            FaultError: some of it lies outside.
        """
        dtype = np.dtype("u1" if element is None else ELEMENT_DTYPES[element])
        c = self.config.columns
        rows, columns = shape
        used = -(-columns * dtype.itemsize // c)
        granules = self.config.granules
        if address + (rows - 1) * row + used > granules:
            outside = (granule for granule in walk if granule >= granules)
            raise FaultError(FaultCause.SCRATCHPAD_BOUND, next(outside, max(address, granules)))
        offset, strides = address * c, (row * c, dtype.itemsize)
        return np.ndarray(shape, dtype, self.scratchpad, offset, strides)

    def run(self, byte: int, size: int) -> Bytes:
        """View bytes of the scratchpad, by the address of the first one in bytes.

        Raises:
            FaultError: some of them lie outside.
        """
        c = self.config.columns
        self._bound(-(-(byte + size) // c), byte // c, self.config.granules)
        return self.scratchpad[byte : byte + size]

    def slots(self, memory: np.ndarray, first: int, count: int) -> np.ndarray:
        """View slots of a memory.

        Raises:
            FaultError: some of them do not exist.
        """
        self._bound(first + count, first, memory.size)
        return memory[first : first + count]

    def dram_run(self, base: int, offset: int, size: int) -> Bytes:
        """View bytes of DRAM, from `offset` below `2**32` on.

        Raises:
            FaultError: some of them are beyond the base's limit, or beyond the memory.
        """
        start = self.bases[base] + offset
        if offset + size > self.limits[base]:
            outside = self.bases[base] + max(offset, self.limits[base])
            # As it would be on the bus.
            address = outside % (1 << self.config.axi_address_bits)
            raise FaultError(FaultCause.DRAM_LIMIT, address)
        if start + size > self.dram.size:
            raise FaultError(FaultCause.AXI_ERROR, max(start, self.dram.size))
        return self.dram[start : start + size]

    def column_records(self, first: int, count: int) -> Column[Ints]:
        """Column records as int64 arrays."""
        records = self.slots(self.columns, first, count)
        return Column(*(records[name].astype(np.int64) for name in Column._fields))

    @staticmethod
    def _bound(end: int, first: int, limit: int) -> None:
        if end > limit:
            raise FaultError(FaultCause.SCRATCHPAD_BOUND, max(first, limit))
