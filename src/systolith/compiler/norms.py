"""Quantized layer norms: records for the rows, then a pass for each form that is needed."""

from systolith.compiler.formats import Floats, encode_columns, encode_epsilon
from systolith.compiler.forms import Forms, Kept
from systolith.compiler.graph import LayerNorm
from systolith.compiler.pooled import make_across, needs_across
from systolith.compiler.qgraph import Epilogue, Map, RowRecords, View
from systolith.isa import RowOperation


def emit_norm(forms: Forms, node: LayerNorm) -> None:
    """Emit a layer norm.

    Raises:
        CompileError: its epsilon is too large.
    """
    x, n = forms.wide(node.x), forms.graph.widths[node.x]
    label = f"{node.layer}.{_label(forms, node)}"
    wide = forms.needs_wide(node.out)
    mantissa, shift = encode_epsilon(node.eps, n=n, step=forms.wide_steps[node.x], name=label)
    rows = f"{label}.rows"
    forms.operators.append(
        RowRecords(
            out=rows,
            source=forms.moments(node.x),
            operation=RowOperation.LAYER_NORM,
            rows=forms.rows(node.out),
            n=n,
            eps_mantissa=mantissa,
            eps_shift=shift,
            layer=node.layer,
            part="norm_rows",
        )
    )
    # The s8 form comes first: a matmul waits for it, and nobody yet for the other.
    if forms.needs_narrow(node.out):
        narrow = f"{label}.s8" if wide else label
        out, step = forms.make_narrow(node.out, narrow, node.layer)
        _pass(forms, node, out, x, step, rows, Kept(), "norm_copy")
    if wide:
        out = forms.make_wide(node.out, label, node.layer)
        kept = forms.keep(node.out, out)
        _pass(forms, node, out, x, forms.wide_steps[node.out], rows, kept, "norm")
    if needs_across(forms, node.out):
        out, step = make_across(forms, node.out, f"{label}.across", node.layer)
        _pass(forms, node, out, x, step, rows, Kept(), "across", transpose=True)


def _pass(
    forms: Forms,
    node: LayerNorm,
    out: View,
    x: View,
    step: float | Floats,
    rows: str,
    kept: Kept,
    part: str,
    *,
    transpose: bool = False,
) -> None:
    # A row's factor is 1 / (n * deviation), in steps of x, which cancel.
    n = forms.graph.widths[node.x]
    columns = encode_columns(
        node.gamma * n / step, node.beta / step, scratchpad=True, rows=True, name=out.tensor
    )
    epilogue = Epilogue(
        columns=columns, rows=rows, statistic=kept.statistic, statistic_name=kept.name
    )
    forms.operators.append(
        Map(out=out, x=x, epilogue=epilogue, transpose=transpose, layer=node.layer, part=part)
    )


def _label(forms: Forms, node: LayerNorm) -> str:
    """Which norm of its layer it is, by the sum that it reads."""
    before = forms.graph.producers.get(node.x)
    part = forms.part(before) if before is not None else ""
    return {"attention_output": "attention_norm", "ffn_down": "ffn_norm"}.get(part, "norm")
