"""The operators that run on the core: one rule each, whose docstring is the user's documentation.

A rule says what an ONNX node means (`reading`), or refuses it and says what would be accepted.
`supported_operators` lists them; there is no other list.
"""

from collections.abc import Callable
from inspect import cleandoc
from math import prod

import numpy as np
import onnx_ir as ir

from systolith.compiler.clean import DOMAIN
from systolith.compiler.graph import Activation, Add, Attention, LayerNorm, Linear
from systolith.compiler.reading import (
    Constant,
    Host,
    Layout,
    Mask,
    Probabilities,
    Reading,
    Scores,
    out_name,
)
from systolith.numerics import MAX_NORM_LENGTH

Rule = Callable[[Reading, ir.Node], None]

RULES: dict[tuple[str, str], Rule] = {}
"""What each operator means, by domain and name."""

MASKED_BELOW = -1e4
"""A number added to a score masks it from here on; float16 files use -65504."""


def supported_operators() -> dict[str, list[str]]:
    """All operators that run on the core and the conditions for each, made from the rules.

    Operators that are recognized from several nodes have `systolith::` in front of their name.
    """
    return {
        f"{domain}::{name}" if domain else name: [
            " ".join(paragraph.split())
            for paragraph in cleandoc(function.__doc__ or "").split("\n\n")
        ]
        for (domain, name), function in sorted(RULES.items(), key=lambda item: item[0][1])
    }


def apply(reading: Reading, node: ir.Node) -> None:
    """Apply a node's rule.

    Raises:
        CompileError: there is none, or it refuses the node.
    """
    found = RULES.get((node.domain, node.op_type))
    if found is None:
        names = ", ".join(supported_operators())
        reading.refuse(node, "the core has no such operator", names)
    found(reading, node)


def rule(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the rule of operators."""

    def register(function: Rule) -> Rule:
        RULES.update({(domain, name): function for name in names})
        return function

    return register


@rule("MatMul")
def _matmul(reading: Reading, node: ir.Node) -> None:
    """Activations times constant weights `[K, N]`; or in attention Q times K^T, and P times V.

    K and N are at least 1; Q, K and V come from one MatMul with constant weights each, or from
    parts of one.
    """
    left = reading.value(node, 0)
    right = reading.value(node, 1)
    if isinstance(right, Constant):
        weight = reading.weights(node, 1, "weight")
        if weight.ndim != 2:
            reading.refuse(node, f"its weight has shape {list(weight.shape)}", "a matrix")
        _linear(reading, node, weight.T, np.zeros(weight.shape[1], np.float32))
    elif isinstance(left, Probabilities):
        _context(reading, node, left)
    elif isinstance(left, Constant):
        reading.refuse(node, "its first operand is constant", "activations times weights")
    else:
        _scores(reading, node)


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


def _scores(reading: Reading, node: ir.Node) -> None:
    q, k = reading.layout(node, 0), reading.layout(node, 1)
    name = out_name(node)
    q_name, heads = _heads(reading, node, q, q.index, f"{name}.q")
    k_name, k_heads = _heads(reading, node, k, k.index.swapaxes(-1, -2), f"{name}.k")
    if heads != k_heads:
        reading.refuse(node, f"Q has {heads} heads and K has {k_heads}", "as many of both")
    shape = (*q.index.shape[:-1], k.index.shape[-1])
    scores = Scores(q_name, k_name, heads, 1.0, shape, False, (node.name or "",))
    reading.set(node, scores)


def _context(reading: Reading, node: ir.Node, p: Probabilities) -> None:
    scores, v = p.scores, reading.layout(node, 1)
    name = out_name(node)
    v_name, heads = _heads(reading, node, v, v.index, f"{name}.v")
    if heads != scores.heads:
        reading.refuse(node, f"V has {heads} heads and Q has {scores.heads}", "as many of both")
    width = reading.widths[v_name]
    operator = Attention(
        out=name,
        onnx=(*scores.nodes, node.name or ""),
        q=scores.q,
        k=scores.k,
        v=v_name,
        heads=heads,
        scale=scores.scale,
        masked=scores.masked,
    )
    layout = reading.add(operator, width, (reading.seq_len, heads, width // heads))
    shape = (*scores.shape[:-1], width // heads)
    reading.set(node, Layout(name, width, layout.index.transpose(1, 0, 2).reshape(shape)))


def _heads(
    reading: Reading, node: ir.Node, layout: Layout, index: np.ndarray, out: str
) -> tuple[str, int]:
    """Find the tensor whose heads `[..., heads, T, width]` are, side by side."""
    accepted = f"[1, heads, {reading.seq_len}, width] of one tensor"
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


@rule("Add")
def _add(reading: Reading, node: ir.Node) -> None:
    """Two activation tensors of equal shape (a residual); or a constant bias after a MatMul.

    On attention scores, the mask: what is added must, for every length, be 0 for valid keys and
    at most -10000 for the others.
    """
    values = [reading.value(node, position) for position in (0, 1)]
    for position, value in enumerate(values):
        other = values[1 - position]
        if isinstance(value, Scores):
            _mask(reading, node, value, other, "add")
            return
        if isinstance(other, Constant):
            layout = reading.layout(node, position)
            bias = _per_channel(reading, node, 1 - position, layout)
            reading.derive(node, layout.tensor, out_name(node), bias=bias)
            reading.set(node, Layout(out_name(node), layout.width, layout.index))
            return
    a, b = reading.plain(node, 0), reading.plain(node, 1)
    if reading.widths[a] != reading.widths[b]:
        reading.refuse(node, "its operands differ in width", "activations of equal shape")
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
        nodes = (*x.nodes, node.name or "")
        reading.set(node, Scores(x.q, x.k, x.heads, scale, x.shape, x.masked, nodes))
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

    Or the other way round. For every length, exactly the keys beyond it must be masked.
    """
    for position, kind in ((1, "keep"), (2, "drop")):
        scores = reading.value(node, position)
        if isinstance(scores, Scores):
            low = reading.constant(node, 3 - position, "value for masked scores")
            if low.size != 1 or low.item() > MASKED_BELOW:
                reading.refuse(
                    node, "masked scores do not become very low", f"at most {MASKED_BELOW:.0f}"
                )
            _mask(reading, node, scores, reading.value(node, 0), kind)
            return
    reading.refuse(node, "it does not choose between scores and a mask", "a mask of scores")


def _mask(reading: Reading, node: ir.Node, scores: Scores, mask: object, kind: str) -> None:
    if isinstance(mask, Constant):
        if kind != "add" or mask.array.any():
            reading.refuse(
                node, "the mask is a constant", "masks of padding, made from an attention mask"
            )
    elif not isinstance(mask, Host):
        reading.refuse(
            node, "what is added to scores is not a mask", "masks that come from model inputs"
        )
    else:
        if scores.masked:
            reading.refuse(node, "the scores are masked twice", "one mask")
        reading.masks.append(Mask(mask.name, kind, scores.shape, node))  # pyright: ignore[reportArgumentType]
    nodes = (*scores.nodes, node.name or "")
    masked = scores.masked or isinstance(mask, Host)
    reading.set(
        node, Scores(scores.q, scores.k, scores.heads, scores.scale, scores.shape, masked, nodes)
    )


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
    done = Scores(
        scores.q, scores.k, scores.heads, scores.scale, scores.shape, scores.masked, nodes
    )
    reading.set(node, Probabilities(done))


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


@rule("Relu", "Sigmoid", "Tanh", "Softplus", "Mish", "HardSwish")
def _plain_activation(reading: Reading, node: ir.Node) -> None:
    """A function of each element, from a table of 256 entries."""
    names = {"HardSwish": "hard_swish"}
    _activation(reading, node, names.get(node.op_type, node.op_type.lower()))
