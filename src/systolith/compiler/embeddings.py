"""Quantized token lookup: rows of tables, gathered by the DMA, and their sum in s16.

The largest table, that of words, is s8 with a step for each channel. The others are small, and
become one in s16 with the sum's step: a row for each token and each choice among them. If there
is nothing to choose, it is loaded as it is.
"""

import numpy as np

from systolith.compiler.formats import SMALLEST_STEP, encode_columns
from systolith.compiler.forms import Forms
from systolith.compiler.graph import Embedding, Floats
from systolith.compiler.qgraph import Constant, Epilogue, Indices, Input, Lookup, View
from systolith.isa import INDEX_BYTES
from systolith.numerics import Format


def emit_lookup(forms: Forms, node: Embedding) -> None:
    """Emit a graph's lookup, but for the s8 form of its result."""
    layer, step = node.layer, forms.wide_steps[node.out]
    words, *rest = node.tables
    lists = [_list(forms, node, number) for number in range(len(node.tables))]
    steps = np.maximum(np.abs(words).max(0) / Format.S8.limits[1], SMALLEST_STEP)
    codes = forms.tensor(
        f"{layer}.words", words.shape[1], Format.S8, layer=layer, step=steps.astype(np.float64)
    )
    table = np.rint(words / steps).astype(np.int8)
    forms.operators.append(Lookup(out=codes, table=table, indices=lists[0], layer=layer))
    added = forms.tensor(f"{layer}.positions", words.shape[1], Format.S16, layer=layer, step=step)
    if rest:
        (small,) = rest
        forms.operators.append(
            Lookup(out=added, table=_words(small, step), indices=lists[1], layer=layer)
        )
    else:
        values = _words(node.added[: forms.seq_len], step)
        forms.operators.append(
            Constant(out=added.tensor, values=values, layer=layer, part="positions")
        )
    out = forms.make_wide(node.out, f"{layer}.sum", layer)
    kept = forms.keep(node.out, out)
    epilogue = Epilogue(
        columns=encode_columns(steps / step, scratchpad=True, name=out.tensor),
        residual=added,
        statistic=kept.statistic,
        statistic_name=kept.name,
    )
    forms.map(out, codes, epilogue, layer=layer, part="sum")


def _words(values: Floats, step: float) -> np.ndarray:
    return np.clip(np.rint(values / step), *Format.S16.limits).astype(np.int16)


def _list(forms: Forms, node: Embedding, number: int) -> View:
    """Emit what brings a list in; return its bytes."""
    view = forms.tensor(
        f"{node.x}.{number}",
        INDEX_BYTES * forms.seq_len,
        Format.U8,
        layer=node.layer,
        rows=1,
    )
    limits = tuple(len(table) for table in node.tables)
    indices = Indices(name=node.x, limits=limits, number=number)
    forms.operators.append(Input(out=view.tensor, indices=indices, layer=node.layer))
    return view
