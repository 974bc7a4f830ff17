"""Quantized pooling: the mean of rows as a product, and rows of unit length.

The mean over tokens is attention's last product with one query that sees all keys alike: scores
are 0, or masked from the run-time length on; their exponentials, 255 or 0, are the operand; the
reciprocal of the exponentials' sum scales the drain. The other operand is the tensor with its
tokens side by side, s8 with a step for each channel, which the pass that makes it stores so.
"""

import numpy as np

from systolith.compiler.formats import check_product, encode_columns
from systolith.compiler.forms import Forms
from systolith.compiler.graph import Mean, Normalize
from systolith.compiler.qgraph import Constant, Epilogue, Exp, Map, Matmul, RowRecords, View
from systolith.compiler.steps import channel_steps
from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format

LAYER = "pooling"
"""What reports call it."""


def needs_across(forms: Forms, name: str) -> bool:
    """Whether somebody takes the mean of a tensor's rows."""
    return any(isinstance(node, Mean) for node in forms.graph.consumers[name])


def make_across(forms: Forms, name: str, label: str, layer: str) -> tuple[View, np.ndarray]:
    """Make the form of a tensor that its mean is taken from, transposed; return all and steps."""
    steps = channel_steps(forms.ranges.absmax(name))
    view = forms.tensor(
        label,
        forms.seq_len,
        Format.S8,
        layer=layer,
        source=f"{name}.T",
        step=steps[:, None],
        rows=len(steps),
    )
    forms.across[name] = view
    return view, steps


def emit_mean(forms: Forms, node: Mean) -> None:
    """Emit the mean of all rows, or of the valid ones."""
    if node.x not in forms.across:
        x = forms.wide(node.x)
        view, steps = make_across(forms, node.x, f"{x.tensor}.across", node.layer)
        epilogue = Epilogue(
            columns=encode_columns(forms.wide_steps[node.x] / steps, scratchpad=True)
        )
        # Of the layer before, since it is done row by row, and what follows is not.
        layer = forms.tensors[x.tensor].layer
        forms.operators.append(
            Map(out=view, x=x, epilogue=epilogue, transpose=True, layer=layer, part="across")
        )
    across = forms.across[node.x]
    tensor = forms.tensors[across.tensor]
    ones = _ones(forms, node)
    out = forms.make_wide(node.out, f"{node.layer}.mean", node.layer)
    check_product(forms.seq_len, Format.U8, out.tensor)
    scale = np.asarray(tensor.step)[:, 0] / forms.wide_steps[node.out]
    forms.operators.append(
        Matmul(
            out=out,
            a=ones,
            b=across,
            epilogue=Epilogue(
                columns=encode_columns(scale, rows=True, name=out.tensor),
                rows=f"{node.layer}.reciprocal",
            ),
            layer=node.layer,
            part="mean",
        )
    )
    take_moments(forms, node.out, out, node.layer)


def _ones(forms: Forms, node: Mean) -> View:
    """Emit the row of exponentials, one for each token, and the reciprocal of its sum."""
    name, tokens = node.layer, forms.seq_len
    zeros = forms.tensor(f"{name}.zeros", tokens, Format.S16, layer=name, rows=1)
    scores = forms.tensor(f"{name}.scores", tokens, Format.S16, layer=name, rows=1)
    ones = forms.tensor(f"{name}.exp", tokens, Format.U8, layer=name, rows=1)
    epilogue = Epilogue(
        columns=encode_columns(1.0, scratchpad=True),
        mask_length=node.masked,
        statistic=Statistic.MAX,
        statistic_name=f"{name}.maximum",
    )
    codes = np.zeros((1, tokens), np.int16)
    forms.operators += [
        Constant(out=zeros.tensor, values=codes, layer=name, part="zeros"),
        Map(out=scores, x=zeros, epilogue=epilogue, layer=name, part="scores"),
        Exp(
            out=ones,
            x=scores,
            maximum=f"{name}.maximum",
            total=f"{name}.total",
            layer=name,
            part="exp",
        ),
        RowRecords(
            out=f"{name}.reciprocal",
            source=f"{name}.total",
            operation=RowOperation.RECIPROCAL,
            rows=1,
            layer=name,
            part="rows",
        ),
    ]
    return ones


def emit_normalize(forms: Forms, node: Normalize) -> None:
    """Emit rows of unit length: a norm by the root of the mean square, less the mean."""
    x, n = forms.wide(node.x), forms.graph.widths[node.x]
    out = forms.make_wide(node.out, f"{node.layer}.unit", node.layer)
    rows = f"{node.layer}.lengths"
    forms.operators.append(
        RowRecords(
            out=rows,
            source=forms.moments(node.x),
            operation=RowOperation.RMS_NORM,
            rows=forms.rows(node.out),
            n=n,
            layer=node.layer,
            part="rows",
        )
    )
    # A row's factor is 1 / (sqrt(n) * length), in steps of x, which cancel.
    scale = np.sqrt(n) / forms.wide_steps[node.out]
    columns = encode_columns(scale, scratchpad=True, rows=True, name=out.tensor)
    forms.map(out, x, Epilogue(columns=columns, rows=rows), layer=node.layer, part="unit")


def take_moments(forms: Forms, name: str, view: View, layer: str) -> None:
    """Emit a pass that changes nothing, for the statistics that nobody could take before.

    Codes of the host have none, and a drain that scales by rows cannot take squares.
    """
    kept = forms.keep(name, view)
    if not kept.name:
        return
    copy = forms.tensor(
        f"{name}.copy",
        view.columns,
        Format.S16,
        layer=layer,
        source=name,
        step=forms.wide_steps[name],
    )
    forms.replace_wide(name, copy)
    epilogue = Epilogue(
        columns=encode_columns(1.0, scratchpad=True),
        statistic=kept.statistic,
        statistic_name=kept.name,
    )
    forms.map(copy, view, epilogue, layer=layer, part="stats")
