"""Rules of what is done element by element or row by row: sums, masks, norms, activations."""

from dataclasses import replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from systolith.compiler.biases import as_bias, join_biases
from systolith.compiler.graph import MASKED_BELOW, Activation, Add, LayerNorm, PatchEmbedding
from systolith.compiler.patterns import DOMAIN
from systolith.compiler.reading import (
    Constant,
    Host,
    Layout,
    Mask,
    Probabilities,
    Reading,
    Scores,
    Value,
    out_name,
)
from systolith.compiler.rules import rule
from systolith.compiler.rules_patches import add_table
from systolith.numerics import MAX_NORM_LENGTH

MaskKind = Literal["add", "keep", "drop"]


@rule("Add")
def _add(reading: Reading, node: ir.Node) -> None:
    """Two activation tensors of equal shape (a residual); or a constant bias after a MatMul.

    To patches of an image, any constant: positions.

    On attention scores, a mask or a bias of positions: constant, or made from the attention mask;
    at most -10000 for keys that are hidden. Of what depends on the length, only keys beyond it
    may, and all of those are hidden.
    """
    values = [reading.value(node, position) for position in (0, 1)]
    for position, value in enumerate(values):
        other = values[1 - position]
        if isinstance(value, Scores):
            reading.set(node, mask(reading, node, value, other, "add"))
            return
        if isinstance(other, Constant):
            layout = reading.layout(node, position)
            if isinstance(reading.nodes.get(layout.tensor), PatchEmbedding):
                add_table(reading, node, 1 - position, layout)
                return
            bias = _per_channel(reading, node, 1 - position, layout)
            reading.derive(node, layout.tensor, out_name(node), bias=bias)
            reading.set(node, Layout(out_name(node), layout.width, layout.index))
            return
    a, b = reading.plain(node, 0), reading.plain(node, 1)
    if (reading.widths[a], reading.rows(a)) != (reading.widths[b], reading.rows(b)):
        reading.refuse(node, "its operands differ in shape", "activations of equal shape")
    operator = Add(out=out_name(node), onnx=(node.name or "",), a=a, b=b)
    shape = reading.layout(node, 0).index.shape
    reading.set(node, reading.add(operator, reading.widths[a], shape))


@rule("Mul", "Div")
def _scale(reading: Reading, node: ir.Node) -> None:
    """By constants: attention scores by a number, activations after a MatMul by number or channel.

    A MatMul's weights take the factor over. The product of two activations is not supported.
    """
    values = [reading.value(node, position) for position in (0, 1)]
    constant = next((n for n, value in enumerate(values) if isinstance(value, Constant)), None)
    if constant is None or (node.op_type == "Div" and constant == 0):
        reading.refuse(node, "no operand is a constant factor", "a product with a constant")
    x = values[1 - constant]
    factor = reading.weights(node, constant, "factor")
    factor = 1 / factor if node.op_type == "Div" else factor
    if isinstance(x, Scores):
        if factor.size != 1:
            reading.refuse(node, "scores are scaled element by element", "one factor")
        scale = x.scale * float(factor.item())
        if x.masked:
            reading.refuse(node, "scores are scaled after the mask", "the mask after scaling")
        bias = x.bias
        if bias is not None:
            # What is hidden stays so.
            bias = np.where(bias <= MASKED_BELOW, bias, bias * factor.item())
        nodes = (*x.nodes, node.name or "")
        reading.set(node, replace(x, scale=scale, bias=bias, nodes=nodes))
        return
    layout = reading.layout(node, 1 - constant)
    if factor.size != 1:
        factor = _per_channel(reading, node, constant, layout)
        factor = 1 / factor if node.op_type == "Div" else factor
    reading.derive(node, layout.tensor, out_name(node), factor=factor.reshape(-1))
    reading.set(node, Layout(out_name(node), layout.width, layout.index))


def _per_channel(reading: Reading, node: ir.Node, position: int, layout: Layout) -> np.ndarray:
    """A constant operand that is one number, or one for each channel of a plain tensor."""
    array = reading.weights(node, position, "constant")
    if array.size != 1 and (array.size != layout.width or array.shape[-1] != layout.width):
        reading.refuse(
            node, f"its constant has shape {list(array.shape)}", f"[{layout.width}], or one number"
        )
    if array.size != 1 and not layout.plain:
        reading.refuse(node, "channels have been moved before", "tokens by channels")
    return array.reshape(-1)


@rule("Where")
def _where(reading: Reading, node: ir.Node) -> None:
    """A boolean attention mask: scores where it holds, a number of at most -10000 elsewhere.

    Or the other way round. It is constant (as of causal attention), or made from the attention
    mask: then all keys beyond the length are hidden, and no others depend on it.
    """
    kinds: dict[int, MaskKind] = {1: "keep", 2: "drop"}
    for position, kind in kinds.items():
        scores = reading.value(node, position)
        if isinstance(scores, Scores):
            low = reading.constant(node, 3 - position, "value for masked scores")
            if low.size != 1 or low.item() > MASKED_BELOW:
                reading.refuse(
                    node, "masked scores do not become very low", f"at most {MASKED_BELOW:.0f}"
                )
            reading.set(node, mask(reading, node, scores, reading.value(node, 0), kind))
            return
    reading.refuse(node, "it does not choose between scores and a mask", "a mask of scores")


def mask(reading: Reading, node: ir.Node, scores: Scores, mask: Value, kind: MaskKind) -> Scores:
    """Scores with a mask or a bias of positions, constant or the host's."""
    bias = scores.bias
    if isinstance(mask, Constant):
        added = as_bias(mask.array, kind, scores.shape)
        if added is None:
            reading.refuse(
                node,
                f"its constant has shape {list(mask.array.shape)}, and the scores "
                f"{list(scores.shape)}",
                "what fits them, and hides no query's last key",
            )
        bias = join_biases(bias, added)
    elif not isinstance(mask, Host):
        reading.refuse(
            node, "what is added to scores is not a mask", "masks that come from model inputs"
        )
    else:
        if scores.masked:
            reading.refuse(node, "the scores are masked twice", "one mask")
        reading.masks.append(Mask(mask.name, kind, scores.shape, node, scores.q))
    nodes = (*scores.nodes, node.name or "")
    masked = scores.masked or isinstance(mask, Host)
    return replace(scores, masked=masked, bias=bias, nodes=nodes)


@rule("Softmax")
def _softmax(reading: Reading, node: ir.Node) -> None:
    """Of attention scores, over the keys, which are the last axis."""
    scores = reading.value(node, 0)
    if not isinstance(scores, Scores):
        reading.refuse(node, "its input is not attention scores", "softmax of Q times K^T")
    axis = node.attributes.get_int("axis", -1)
    if axis not in (-1, len(scores.shape) - 1):
        reading.refuse(node, f"its axis is {axis}", "the last axis")
    nodes = (*scores.nodes, node.name or "")
    reading.set(node, Probabilities(replace(scores, nodes=nodes)))


@rule("LayerNormalization")
def _layer_norm(reading: Reading, node: ir.Node) -> None:
    """Over the channels, which are the last axis, of at most 4096; scale and bias are constant."""
    x = reading.plain(node, 0)
    rank, width = reading.layout(node, 0).index.ndim, reading.widths[x]
    axis = node.attributes.get_int("axis", -1)
    if axis not in (-1, rank - 1):
        reading.refuse(node, f"its axis is {axis}", "the last axis")
    if width > MAX_NORM_LENGTH:
        reading.refuse(node, f"it has {width} channels", f"at most {MAX_NORM_LENGTH}")
    if any(out.uses() for out in node.outputs[1:]):
        reading.refuse(node, "its mean or deviation is used", "its first output only")
    gamma = reading.weights(node, 1, "scale").reshape(-1)
    beta = np.zeros(width, np.float32)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        beta = reading.weights(node, 2, "bias").reshape(-1)
    operator = LayerNorm(
        out=out_name(node),
        onnx=(node.name or "",),
        x=x,
        gamma=np.broadcast_to(gamma, width),
        beta=np.broadcast_to(beta, width),
        eps=node.attributes.get_float("epsilon", 1e-5),
    )
    reading.set(node, reading.add(operator, width, reading.layout(node, 0).index.shape))


def _activation(reading: Reading, node: ir.Node, function: str) -> None:
    x = reading.plain(node, 0)
    operator = Activation(out=out_name(node), onnx=(node.name or "",), x=x, function=function)
    shape = reading.layout(node, 0).index.shape
    reading.set(node, reading.add(operator, reading.widths[x], shape))


@rule("Gelu")
def _gelu(reading: Reading, node: ir.Node) -> None:
    """Exact or by the hyperbolic tangent; also recognized from its parts (Erf, Tanh)."""
    approximate = node.attributes.get_string("approximate", "none")
    _activation(reading, node, "gelu_tanh" if approximate == "tanh" else "gelu")


@rule("Silu", domain=DOMAIN)
def _silu(reading: Reading, node: ir.Node) -> None:
    """`x` times its Sigmoid."""
    _activation(reading, node, "silu")


@rule("QuickGelu", domain=DOMAIN)
def _quick_gelu(reading: Reading, node: ir.Node) -> None:
    """`x` times the Sigmoid of 1.702 `x`."""
    _activation(reading, node, "quick_gelu")


@rule("Relu", "Sigmoid", "Tanh", "Softplus", "Mish", "HardSwish")
def _plain_activation(reading: Reading, node: ir.Node) -> None:
    """A function of each element, from a table of 256 entries."""
    names = {"HardSwish": "hard_swish"}
    _activation(reading, node, names.get(node.op_type, node.op_type.lower()))
