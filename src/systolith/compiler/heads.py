"""Quantized attention: every head is projections, scores, exponentials and context of its own."""

import numpy as np

from systolith.compiler.errors import CompileError
from systolith.compiler.execute import LOG2_E, hidden_name, scores_name
from systolith.compiler.formats import check_product, encode_columns
from systolith.compiler.forms import Forms
from systolith.compiler.graph import MASKED_BELOW, Attention, Linear
from systolith.compiler.qgraph import Constant, Epilogue, Exp, Matmul, RowRecords, View
from systolith.compiler.steps import channel_steps, head_steps
from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format

SCORE_FRACTION = 8
"""Scores count in `2**-8` of an octave, or with `unit` 1 in `2**-7`."""

SCORE_LIMIT = 128.0
"""Octaves that scores can reach in units of `2**-8`."""

HIDDEN_BELOW = 9.0
"""Octaves below a row's largest score from which on a numerator is 0."""

SCORE_MARGIN = 1.15
"""How far scores may go beyond calibration before they saturate; more takes the coarser unit."""


def emit_attention(forms: Forms, node: Attention) -> None:
    """Emit all heads of an attention.

    Raises:
        CompileError: an operand is not a linear operator's, or scores are too large for any unit.
    """
    projections = [_projection(forms, node, name) for name in node.inputs]
    heads, width = node.heads, forms.graph.widths[node.v] // node.heads
    if forms.needs_wide(node.out):
        raise _refused(node, "its result is not only read by MatMul", "a projection behind it")
    unit = _unit(forms, node)
    ranges, layer = forms.ranges, node.layer
    q_steps, k_steps = (head_steps(ranges.absmax(name), heads) for name in (node.q, node.k))
    v_steps = channel_steps(ranges.absmax(node.v))
    step = forms.narrow_step(node.out)
    context = forms.tensor(
        f"{layer}.context",
        heads * width,
        Format.S8,
        layer=layer,
        source=node.out,
        step=float(step[0]),
    )
    forms.set_narrow(node.out, context)
    for head in range(heads):
        _emit_head(forms, node, head, projections, context, unit, q_steps, k_steps, v_steps)


def _emit_head(
    forms: Forms,
    node: Attention,
    head: int,
    projections: list[Linear],
    context: View,
    unit: int,
    q_steps: np.ndarray,
    k_steps: np.ndarray,
    v_steps: np.ndarray,
) -> None:
    layer, tokens = node.layer, forms.seq_len
    width = context.columns // node.heads
    channels = slice(head * width, (head + 1) * width)
    name = f"{layer}.head.{head}"
    views: dict[str, View] = {}
    for part, linear, step in zip(
        "qkv", projections, (q_steps[head], k_steps[head], v_steps[channels]), strict=True
    ):
        transpose = part == "v"
        own = len(linear.bias) // node.heads
        rows = slice(head * own, (head + 1) * own)
        source = f"{linear.out}[{rows.start}:{rows.stop}]"
        views[part] = forms.tensor(
            f"{name}.{part}",
            tokens if transpose else own,
            Format.S8,
            layer=layer,
            source=f"{source}.T" if transpose else source,
            step=np.asarray(step)[:, None] if transpose else float(step),
            rows=own if transpose else None,
        )
        forms.matmul(
            views[part],
            linear,
            step,
            lambda columns: Epilogue(columns=columns),
            rows=rows,
            transpose=transpose,
            head=head,
            part=part,
        )
    octave = 2.0 ** -(SCORE_FRACTION - unit)
    scores = forms.tensor(
        f"{name}.scores",
        tokens,
        Format.S16,
        layer=layer,
        # Hidden scores stand for nothing that an error could be measured against.
        source="" if _hides(node) else f"{scores_name(node)}[{head}]",
        step=octave,
    )
    check_product(views["q"].columns, Format.S8, scores.tensor)
    bias = None
    if node.bias is not None:
        bias = _bias(forms, node, node.bias[head % len(node.bias)], head, octave)
    scale = q_steps[head] * k_steps[head] * node.scale * LOG2_E / octave
    forms.operators.append(
        Matmul(
            out=scores,
            a=views["q"],
            b=views["k"],
            epilogue=Epilogue(
                columns=encode_columns(scale, name=scores.tensor),
                residual=bias,
                mask_length=node.masked,
                statistic=Statistic.MAX,
                statistic_name=f"{name}.maximum",
            ),
            layer=layer,
            head=head,
            part="scores",
            macs=tokens * (width - node.padding) if node.padding else None,
        )
    )
    numerators = forms.tensor(f"{name}.exp", tokens, Format.U8, layer=layer)
    forms.operators += [
        Exp(
            out=numerators,
            x=scores,
            maximum=f"{name}.maximum",
            total=f"{name}.total",
            unit=unit,
            layer=layer,
            head=head,
            part="exp",
        ),
        RowRecords(
            out=f"{name}.reciprocal",
            source=f"{name}.total",
            operation=RowOperation.RECIPROCAL,
            rows=tokens,
            layer=layer,
            head=head,
            part="softmax_rows",
        ),
    ]
    check_product(tokens, Format.U8, context.tensor)
    step = forms.tensors[context.tensor].step
    forms.operators.append(
        Matmul(
            out=View(tensor=context.tensor, first=head * width, columns=width),
            a=numerators,
            b=views["v"],
            epilogue=Epilogue(
                columns=encode_columns(v_steps[channels] / step, rows=True, name=context.tensor),
                rows=f"{name}.reciprocal",
            ),
            layer=layer,
            head=head,
            part="context",
            macs=tokens * (width - node.padding) if node.padding else None,
        )
    )


def _hides(node: Attention) -> bool:
    """Whether there are keys that do not count for some query, at whatever length."""
    return node.bias is not None and bool((node.bias <= MASKED_BELOW).any())


def _bias(forms: Forms, node: Attention, bias: np.ndarray, head: int, octave: float) -> View:
    """Emit what is added to a head's scores, in their steps; hidden keys get the lowest code.

    A hidden score is then the lowest code too, unless the product alone is above 0, which lifts
    it by as much; `_unit` sees to it that its numerator is 0 all the same.
    """
    tokens, low = forms.seq_len, Format.S16.limits[0]
    bias = bias[:tokens, :tokens]
    codes = np.clip(np.rint(bias * (LOG2_E / octave)), *Format.S16.limits)
    codes = np.where(bias <= MASKED_BELOW, low, codes).astype(np.int16)
    name = f"{node.layer}.head.{head}.bias"
    view = forms.tensor(name, tokens, Format.S16, layer=node.layer, step=octave)
    constant = Constant(out=view.tensor, values=codes, layer=node.layer, head=head, part="bias")
    forms.operators.append(constant)
    return view


def _projection(forms: Forms, node: Attention, name: str) -> Linear:
    producer = forms.graph.producers.get(name)
    if not isinstance(producer, Linear) or len(forms.graph.consumers[name]) != 1:
        raise _refused(
            node, f"'{name}' is not a projection of its own", "Q, K and V from one MatMul each"
        )
    return producer


def _unit(forms: Forms, node: Attention) -> int:
    """The finest unit that the calibrated scores fit."""
    largest = float(forms.ranges.absmax(scores_name(node)).max()) * SCORE_MARGIN
    if _hides(node):
        # From the smallest score that counts to the largest one that is hidden.
        lifted = float(forms.ranges.absmax(hidden_name(node)).max()) * SCORE_MARGIN
        largest += lifted + HIDDEN_BELOW
    if largest < SCORE_LIMIT:
        return 0
    if largest < 2 * SCORE_LIMIT:
        what = "scores with those that are hidden span" if _hides(node) else "scores reach"
        forms.notes.append(
            f"{node.layer}: {what} {largest / SCORE_MARGIN:.0f} octaves, so they count in "
            "2**-7 instead of 2**-8"
        )
        return 1
    raise _refused(
        node,
        f"its scores reach {largest / SCORE_MARGIN:.0f} octaves in calibration",
        f"at most {2 * SCORE_LIMIT / SCORE_MARGIN:.0f}",
    )


def _refused(node: Attention, reason: str, accepted: str) -> CompileError:
    return CompileError(reason, node=node.onnx[-1], operator="Attention", accepted=accepted)
