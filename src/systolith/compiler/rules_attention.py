"""The rule of attention as one operator, as exporters write it from opset 23 on."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from systolith.compiler.reading import Constant, Layout, Probabilities, Reading
from systolith.compiler.rules import rule
from systolith.compiler.rules_elements import MaskKind, mask
from systolith.compiler.rules_matmul import context, scores

_MASK, _FIRST_EXTRA = 3, 4
"""Positions of inputs."""

_TOKENS_BY_CHANNELS = 3
"""Dimensions of an operand whose heads are side by side; with heads apart, there are four."""


@rule("Attention")
def _attention(reading: Reading, node: ir.Node) -> None:
    """Softmax of Q times K^T, times V, as many heads of each; heads apart or side by side.

    A mask as for Add and Where; causal or not; no softcap, no past, its first output only.
    """
    attributes = node.attributes
    if attributes.get_float("softcap", 0.0):
        reading.refuse(node, "it has a softcap", "softcap 0")
    if any(each is not None for each in node.inputs[_FIRST_EXTRA:]):
        reading.refuse(node, "it has a past, or lengths", "Q, K, V and a mask")
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        reading.refuse(node, "more than its first output is used", "its first output only")
    names = ("q_num_heads", "kv_num_heads", "kv_num_heads")
    q, k, v = (_heads(reading, node, position, name) for position, name in enumerate(names))
    made = scores(reading, node, q, k)
    scale = attributes.get_float("scale", 0.0) or q.index.shape[-1] ** -0.5
    made = replace(made, scale=scale)
    if attributes.get_int("is_causal", 0):
        earlier = Constant(np.tril(np.ones(made.shape[-2:], np.bool_)))
        made = mask(reading, node, made, earlier, "keep")
    given = node.inputs[_MASK] if len(node.inputs) > _MASK else None
    if given is not None:
        kind: MaskKind = "keep" if given.dtype == ir.DataType.BOOL else "add"
        made = mask(reading, node, made, reading.value(node, _MASK), kind)
    result = context(reading, node, Probabilities(made), v)
    if reading.layout(node, 0).index.ndim == _TOKENS_BY_CHANNELS:
        heads_last = result.index.swapaxes(1, 2)
        joined = heads_last.reshape(*heads_last.shape[:2], -1)
        result = Layout(result.tensor, result.width, joined)
    reading.set(node, result)


def _heads(reading: Reading, node: ir.Node, position: int, name: str) -> Layout:
    """An operand as `[1, heads, T, width]`, which it is, or is made from `[1, T, channels]`."""
    layout = reading.layout(node, position)
    if layout.index.ndim != _TOKENS_BY_CHANNELS:
        return layout
    heads = node.attributes.get_int(name, 1)
    index = layout.index.reshape(*layout.index.shape[:2], heads, -1).swapaxes(1, 2)
    return Layout(layout.tensor, layout.width, index)
