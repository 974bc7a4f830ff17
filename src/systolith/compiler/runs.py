"""Operands of LOADs: constants, zeros, rows of tables, and the patches of an image."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from systolith.compiler.allocate import Place, element_bytes
from systolith.compiler.hazards import Region
from systolith.compiler.qgraph import Indices, Patches, Tensor
from systolith.config import CoreConfig
from systolith.numerics import Format
from systolith.program import INPUT_BASE, Binding

Fields = dict[str, int]
"""Operands of an instruction."""

RUN_BYTES = 8
"""Rows of a table begin at a multiple of it, as beats of the memory port do."""


def image_binding(patches: Patches) -> Binding:
    """Where an image lies: rows of all its channels, in s8."""
    return Binding(
        name=patches.image,
        base=INPUT_BASE,
        offset=0,
        rows=patches.channels * patches.height,
        columns=patches.width,
        format=Format.S8,
        # A step for each row: they are the channels'.
        step=patches.step.repeat(patches.height)[:, None],
    )


def index_binding(indices: Indices, rows: int) -> Binding:
    """Where lists of row numbers lie, one after the other."""
    return Binding(
        name=indices.name,
        base=INPUT_BASE,
        offset=0,
        rows=len(indices.limits),
        columns=rows,
        format=Format.U8,
        step=1.0,
        limits=indices.limits,
    )


def gather_rows(table: npt.NDArray[np.generic], rows: int, place: Place) -> tuple[Fields, bytes]:
    """Runs of a LOAD that gathers rows of a table, and the table as it lies in DRAM."""
    size = table.shape[1] * table.itemsize
    padded = np.zeros((len(table), -(-size // RUN_BYTES) * RUN_BYTES), np.uint8)
    padded[:, :size] = np.ascontiguousarray(table).view(np.uint8).reshape(len(table), size)
    fields = {
        "address": place.address,
        "n0": size,
        "n1": rows,
        "n2": 1,
        "dram_stride1": padded.shape[1],
        "stride1": place.row,
    }
    return fields, padded.tobytes()


def constant_rows(tensor: Tensor, place: Place) -> Fields:
    """Runs of a tensor whose rows lie without gaps in DRAM."""
    size = tensor.columns * element_bytes(tensor.format)
    return {
        "address": place.address,
        "n0": size,
        "n1": tensor.rows,
        "n2": 1,
        "dram_stride1": size,
        "stride1": place.row,
    }


def zero_rows(region: Region, config: CoreConfig) -> Fields:
    """Runs of a LOAD that fills a region of the scratchpad with zeros."""
    return {
        "address": region.start,
        "n0": region.width * config.columns,
        "n1": region.rows,
        "n2": 1,
        "stride1": region.stride,
    }


def patch_loads(
    patches: Patches, rows: range, place: Place, config: CoreConfig
) -> Iterator[tuple[Fields, list[Region]]]:
    """LOADs that bring patches to their rows: operands, and what each writes.

    A run's place follows from its channel, its row of the patch, and the patch's row and column
    in the grid. A LOAD counts two of them, those with most values; each value of the others takes
    a LOAD of its own. Offsets in DRAM are from the image's first byte.

    Args:
        patches: which.
        rows: those of the operand that are wanted; the first one lies at `place`.
        place: where they lie.
        config: the core.
    """
    (high, wide), (_, right) = patches.patch, patches.grid
    run = patches.pitch // config.columns
    first = patches.first * patches.height * patches.width
    for number, down, across in _rectangles(patches, rows):
        # Number of values, bytes in DRAM and granules in the scratchpad from one to the next.
        loops = [
            (patches.count, patches.height * patches.width, high * run),
            (high, patches.width, run),
            (across, wide, place.row),
            (down, high * patches.width, right * place.row),
        ]
        outer, other, (n2, dram2, stride2), (n1, dram1, stride1) = sorted(loops)
        offset = first + number // right * high * patches.width + number % right * wide
        base = place.address + (patches.lead + number - rows.start) * place.row
        for n, m in product(range(outer[0]), range(other[0])):
            address = base + n * outer[2] + m * other[2]
            fields = {
                "dram_offset": offset + n * outer[1] + m * other[1],
                "address": address,
                "n0": wide,
                "n1": n1,
                "n2": n2,
                "dram_stride1": dram1,
                "dram_stride2": dram2,
                "stride1": stride1,
                "stride2": stride2,
            }
            regions = [
                Region(
                    resource="scratchpad",
                    start=address + block * stride2,
                    width=run,
                    rows=n1,
                    stride=stride1,
                )
                for block in range(n2)
            ]
            yield fields, regions


def _rectangles(patches: Patches, rows: range) -> Iterator[tuple[int, int, int]]:
    """Cut rows of patches into rectangles of the grid: first patch, patches down and across."""
    _, right = patches.grid
    number, end = max(0, rows.start - patches.lead), rows.stop - patches.lead
    while number < end:
        across = min(right - number % right, end - number)
        down = (end - number) // right if across == right else 1
        yield number, down, across
        number += down * across
