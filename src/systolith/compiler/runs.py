"""Operands of LOADs: constants, zeros, and the patches of an image."""

from collections.abc import Iterator

from systolith.compiler.allocate import Place, element_bytes
from systolith.compiler.hazards import Region
from systolith.compiler.qgraph import Patches, Tensor
from systolith.config import CoreConfig
from systolith.numerics import Format
from systolith.program import INPUT_BASE, Binding

Fields = dict[str, int]
"""Operands of an instruction."""


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
    patches: Patches, place: Place, config: CoreConfig
) -> Iterator[tuple[Fields, list[Region]]]:
    """LOADs that bring patches to their rows: operands, and what each writes.

    A run's place follows from its channel, its row of the patch, and the patch's row and column
    in the grid. A LOAD counts two of them, those with most values; each value of the others takes
    a LOAD of its own. Offsets in DRAM are from the image's first byte.
    """
    (down, right), (high, wide) = patches.grid, patches.patch
    run = patches.pitch // config.columns
    # Number of values, bytes in DRAM and granules in the scratchpad from one to the next.
    channel = (patches.count, patches.height * patches.width, high * run)
    line = (high, patches.width, run)
    column = (right, wide, place.row)
    row = (down, high * patches.width, right * place.row)
    *outer, (n2, dram2, stride2), (n1, dram1, stride1) = sorted((channel, line, column, row))
    first = patches.first * patches.height * patches.width
    base = place.address + patches.lead * place.row
    for n in range(outer[0][0]):
        for m in range(outer[1][0]):
            address = base + n * outer[0][2] + m * outer[1][2]
            fields = {
                "dram_offset": first + n * outer[0][1] + m * outer[1][1],
                "address": address,
                "n0": wide,
                "n1": n1,
                "n2": n2,
                "dram_stride1": dram1,
                "dram_stride2": dram2,
                "stride1": stride1,
                "stride2": stride2,
            }
            yield (
                fields,
                [
                    Region(
                        resource="scratchpad",
                        start=address + block * stride2,
                        width=run,
                        rows=n1,
                        stride=stride1,
                    )
                    for block in range(n2)
                ],
            )
