"""Quantized patch embedding: an image's channels in groups, each a product that adds to the sum.

The sum begins with a table that comes with the program: positions, bias, and the tokens in front
of the patches. Groups keep the operand small, and the DMA brings one while the array uses another.
"""

import numpy as np

from systolith.compiler.errors import CompileError
from systolith.compiler.formats import (
    SMALLEST_STEP,
    check_accumulator,
    encode_columns,
    quantize_weight,
)
from systolith.compiler.forms import Forms, Kept
from systolith.compiler.graph import PatchEmbedding
from systolith.compiler.patches import PatchGrid
from systolith.compiler.qgraph import Constant, Epilogue, Input, Matmul, Patches, View
from systolith.numerics import Format

MOST_COLUMNS = 256
"""Of an operand, as long as it has more than one channel: patches of 16 by 16 come one by one."""


def emit_patches(forms: Forms, grid: PatchGrid, run: int) -> None:
    """Emit a graph's patch embedding, but for the s8 form of its result.

    Args:
        forms: of the graph.
        grid: how the image falls into patches.
        run: columns that runs of an image begin at a multiple of.

    Raises:
        CompileError: something else reads the image.
    """
    (node, *others) = forms.graph.consumers[forms.graph.input]
    if others or not isinstance(node, PatchEmbedding):
        raise CompileError("the image is not only read by its patch embedding")
    layer, step = node.layer, forms.wide_steps[node.out]
    patch = grid.patch[0] * grid.patch[1]
    limits = forms.ranges.absmax(node.x).reshape(grid.channels, patch).max(1)
    steps = np.maximum(limits / Format.S8.limits[1], SMALLEST_STEP)
    size = min(grid.channels, max(1, MOST_COLUMNS // patch))
    count = -(-grid.channels // size)
    groups = [part.tolist() for part in np.array_split(np.arange(grid.channels), count)]
    operands = [_operand(forms, node, grid, steps, group, run) for group in groups]
    table = _table(forms, node, step)
    # The table and the second group come while nothing, or the first, is multiplied.
    forms.operators.append(operands[0])
    forms.operators.append(table)
    total = View(tensor=table.out, first=0, columns=len(node.weight))
    for number, (group, operand) in enumerate(zip(groups, operands, strict=True)):
        if number + 1 < len(operands):
            forms.operators.append(operands[number + 1])
        last = number + 1 == len(groups)
        if last:
            out = forms.make_wide(node.out, f"{layer}.patches", layer)
        else:
            name = f"{layer}.patches.{number}"
            out = forms.tensor(name, total.columns, Format.S16, layer=layer, step=step)
        _product(forms, node, grid, steps, group, operand, out, total, last=last)
        total = out


def _operand(
    forms: Forms,
    node: PatchEmbedding,
    grid: PatchGrid,
    steps: np.ndarray,
    group: list[int],
    run: int,
) -> Input:
    high, wide = grid.patch
    pitch = -(-wide // run) * run
    area = high * wide
    view = forms.tensor(
        f"{node.x}.{group[0]}",
        len(group) * high * pitch,
        Format.S8,
        layer=node.layer,
        source=f"{node.x}[{group[0] * area}:{(group[-1] + 1) * area}]" if pitch == wide else "",
        step=np.repeat(steps[group], high * pitch),
    )
    patches = Patches(
        image=node.x,
        channels=grid.channels,
        height=grid.height,
        width=grid.width,
        patch=grid.patch,
        first=group[0],
        count=len(group),
        pitch=pitch,
        lead=grid.lead,
        step=steps,
    )
    return Input(out=view.tensor, patches=patches, layer=node.layer)


def _table(forms: Forms, node: PatchEmbedding, step: float) -> Constant:
    view = forms.tensor(
        f"{node.layer}.positions", len(node.weight), Format.S16, layer=node.layer, step=step
    )
    codes = np.clip(np.rint(node.table / step), *Format.S16.limits).astype(np.int16)
    return Constant(out=view.tensor, values=codes, layer=node.layer, part="positions")


def _product(
    forms: Forms,
    node: PatchEmbedding,
    grid: PatchGrid,
    steps: np.ndarray,
    group: list[int],
    operand: Input,
    out: View,
    total: View,
    *,
    last: bool,
) -> None:
    """Emit the product of one group of channels, and its sum with those before it."""
    assert operand.patches is not None
    high, wide = grid.patch
    more = operand.patches.pitch - wide
    weight = node.weight.reshape(len(node.weight), grid.channels, high, wide)[:, group]
    weight = weight * steps[group][:, None, None]
    padded = np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, more))).reshape(len(weight), -1)
    codes, weight_step = quantize_weight(padded)
    check_accumulator(codes, Format.S8, out.tensor)
    kept = forms.keep(node.out, out) if last else Kept()
    columns = encode_columns(weight_step / forms.wide_steps[node.out], name=out.tensor)
    forms.operators.append(
        Matmul(
            out=out,
            a=View(tensor=operand.out, first=0, columns=padded.shape[1]),
            b=codes,
            epilogue=Epilogue(
                columns=columns,
                residual=total,
                statistic=kept.statistic,
                statistic_name=kept.name,
            ),
            layer=node.layer,
            part="patches",
            # Rows in front of the patches and columns behind their runs are no work.
            macs=weight.size * (grid.rows - grid.lead) // grid.rows,
        )
    )
