"""Rules of matrix products: with weights, and the two of attention."""

from math import prod

import numpy as np
import onnx_ir as ir

from systolith.compiler.graph import Attention, Linear
from systolith.compiler.reading import Constant, Layout, Probabilities, Reading, Scores, out_name
from systolith.compiler.rules import rule


@rule("MatMul")
def _matmul(reading: Reading, node: ir.Node) -> None:
    """Activations times constant weights `[K, N]`; or in attention Q times K^T, and P times V.

    Q, K and V come from a MatMul with constant weights each, or are parts of the result of one;
    any number of heads of any width.
    """
    left = reading.value(node, 0)
    right = reading.value(node, 1)
    if isinstance(right, Constant):
        weight = reading.weights(node, 1, "weight")
        if weight.ndim != 2:
            reading.refuse(node, f"its weight has shape {list(weight.shape)}", "a matrix")
        _linear(reading, node, weight.T, np.zeros(weight.shape[1], np.float32))
    elif isinstance(left, Probabilities):
        reading.set(node, context(reading, node, left, reading.layout(node, 1)))
    elif isinstance(left, Constant):
        reading.refuse(node, "its first operand is constant", "activations times weights")
    else:
        q, k = reading.layout(node, 0), reading.layout(node, 1)
        keys = Layout(k.tensor, k.width, k.index.swapaxes(-1, -2))
        reading.set(node, scores(reading, node, q, keys))


@rule("Gemm")
def _gemm(reading: Reading, node: ir.Node) -> None:
    """Activations times constant weights plus a constant bias; alpha, beta and transB as they are.

    transA is 0.
    """
    attributes = node.attributes
    if attributes.get_int("transA", 0):
        reading.refuse(node, "transA is 1", "transA 0")
    weight = reading.weights(node, 1, "weight") * attributes.get_float("alpha", 1.0)
    weight = weight if attributes.get_int("transB", 0) else weight.T
    bias = np.zeros(len(weight), np.float32)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = reading.weights(node, 2, "bias").reshape(-1) * attributes.get_float("beta", 1.0)
    _linear(reading, node, weight, np.broadcast_to(bias, len(weight)))


def _linear(reading: Reading, node: ir.Node, weight: np.ndarray, bias: np.ndarray) -> None:
    x = reading.plain(node, 0)
    shape = (*reading.layout(node, 0).index.shape[:-1], len(weight))
    operator = Linear(
        out=out_name(node), onnx=(node.name or "",), x=x, weight=weight.copy(), bias=bias.copy()
    )
    reading.set(node, reading.add(operator, len(weight), shape))


def scores(reading: Reading, node: ir.Node, q: Layout, k: Layout) -> Scores:
    """The products of queries and keys, `[..., heads, T, width]` each."""
    name = out_name(node)
    q_name, heads = _heads(reading, node, q, f"{name}.q")
    k_name, k_heads = _heads(reading, node, k, f"{name}.k")
    if heads != k_heads:
        reading.refuse(node, f"Q has {heads} heads and K has {k_heads}", "as many of both")
    shape = (*q.index.shape[:-1], k.index.shape[-2])
    return Scores(q_name, k_name, heads, 1.0, shape, False, (node.name or "",))


def context(reading: Reading, node: ir.Node, p: Probabilities, v: Layout) -> Layout:
    """The products of probabilities and values `[..., heads, T, width]`: an attention."""
    scores, name = p.scores, out_name(node)
    v_name, heads = _heads(reading, node, v, f"{name}.v")
    if heads != scores.heads:
        reading.refuse(node, f"V has {heads} heads and Q has {scores.heads}", "as many of both")
    width = reading.widths[v_name]
    operator = Attention(
        out=name,
        onnx=tuple(dict.fromkeys((*scores.nodes, node.name or ""))),
        q=scores.q,
        k=scores.k,
        v=v_name,
        heads=heads,
        scale=scores.scale,
        masked=scores.masked,
        bias=scores.bias,
    )
    layout = reading.add(operator, width, (reading.seq_len, heads, width // heads))
    shape = (*scores.shape[:-1], width // heads)
    return Layout(name, width, layout.index.transpose(1, 0, 2).reshape(shape))


def _heads(reading: Reading, node: ir.Node, layout: Layout, out: str) -> tuple[str, int]:
    """Find the tensor whose heads `[..., heads, T, width]` are, side by side."""
    accepted = f"[1, heads, {reading.seq_len}, width] of one tensor"
    index = layout.index
    *lead, tokens, width = index.shape if index.ndim > 1 else (0, 0)
    token, channel = np.divmod(index.reshape(-1, tokens, width), layout.width)
    if tokens != reading.seq_len or (token != np.arange(tokens)[:, None]).any():
        reading.refuse(node, f"an operand of shape {list(index.shape)} is not heads", accepted)
    if (channel != channel[:, :1]).any():
        reading.refuse(node, "the channels of a head differ between tokens", accepted)
    channels = channel[:, 0].reshape(-1)
    if np.array_equal(channels, np.arange(layout.width)):
        return layout.tensor, prod(lead)
    return reading.derive(node, layout.tensor, out, columns=channels), prod(lead)
