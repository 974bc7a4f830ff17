"""Which instructions an instruction must wait for, from the bytes both of them touch.

Every resource is an array of cells: granules of the scratchpad, column slots, tables, row-file
slots by field. For each cell and engine it keeps how many instructions the engine had when it
last wrote, and when it last read, the cell. Engines are in order, so those counts are all that a
wait needs.
"""

from dataclasses import dataclass

import numpy as np

from systolith.config import CoreConfig
from systolith.isa import Engine


@dataclass(frozen=True, kw_only=True)
class Region:
    """Cells of a resource: `rows` runs of `width` cells, `stride` apart.

    Attributes:
        resource: `scratchpad`, `columns`, `tables`, `maximum`, `sum`, `record`, or
            `scratch`: rows of tensors in DRAM that the core writes.
        start: first cell.
        width: cells of a run.
        rows: runs.
        stride: cells from run to run.
    """

    resource: str
    start: int
    width: int
    rows: int = 1
    stride: int = 0

    def cells(self) -> np.ndarray:
        """Indices of all cells, `[rows, width]`."""
        return (
            self.start + np.arange(self.rows)[:, None] * self.stride + np.arange(self.width)[None]
        )


class Hazards:
    """Progress counts by cell. Ask `waits`, then `note` what the instruction does."""

    def __init__(self, config: CoreConfig, scratch_rows: int = 0) -> None:
        sizes = {
            "scratchpad": config.granules,
            "columns": config.column_slots,
            "tables": config.table_slots,
            "maximum": config.row_slots,
            "sum": config.row_slots,
            "record": config.row_slots,
            "scratch": scratch_rows,
        }
        engines = len(Engine)
        self._written = {name: np.zeros((engines, n), np.int64) for name, n in sizes.items()}
        self._read = {name: np.zeros((engines, n), np.int64) for name, n in sizes.items()}

    def waits(self, reads: list[Region], writes: list[Region]) -> dict[Engine, int]:
        """Counts to wait for: earlier writes of what is read, earlier use of what is written."""
        counts = np.zeros(len(Engine), np.int64)
        for region in reads:
            cells = region.cells()
            np.maximum(counts, self._written[region.resource][:, cells].max((1, 2)), out=counts)
        for region in writes:
            cells = region.cells()
            np.maximum(counts, self._written[region.resource][:, cells].max((1, 2)), out=counts)
            np.maximum(counts, self._read[region.resource][:, cells].max((1, 2)), out=counts)
        return {engine: int(counts[engine]) for engine in Engine if counts[engine]}

    def note(self, engine: Engine, count: int, reads: list[Region], writes: list[Region]) -> None:
        """Remember what the instruction that makes `engine`'s count `count` touches."""
        for region in reads:
            self._read[region.resource][engine, region.cells()] = count
        for region in writes:
            self._written[region.resource][engine, region.cells()] = count
