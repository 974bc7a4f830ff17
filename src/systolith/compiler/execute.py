"""The operator graph in floating point, by NumPy: for calibration, and as a reference."""

from collections.abc import Callable, Mapping
from math import log2

import numpy as np
import numpy.typing as npt

from systolith.compiler.activations import FAST
from systolith.compiler.graph import (
    MASKED_BELOW,
    Activation,
    Add,
    Attention,
    Embedding,
    First,
    Floats,
    Graph,
    LayerNorm,
    Linear,
    Mean,
    Node,
    Normalize,
    PatchEmbedding,
)

Observer = Callable[[str, Floats], None]

LOG2_E = log2(np.e)

SHORTEST = np.float32(1e-12)
"""Length below which a row is not brought to unit length."""


def scores_name(attention: Attention) -> str:
    """What an observer sees an attention's scores as."""
    return f"{attention.out}.scores"


def hidden_name(attention: Attention) -> str:
    """What an observer sees those of an attention's scores as that do not count."""
    return f"{attention.out}.hidden"


def partial_name(node: PatchEmbedding) -> str:
    """What an observer sees sums over some of an image's channels as, the table included."""
    return f"{node.out}.partial"


def run_float(graph: Graph, x: npt.ArrayLike, observe: Observer | None = None) -> Floats:
    """Run a graph on samples of equal length, without padding, so without masks.

    Args:
        graph: what to run.
        x: `[samples, tokens, channels]`, the input tensor.
        observe: called with the name and the elements of every tensor as it is computed,
            `[samples, tokens, channels]`, of scores before softmax, base-2 logarithms
            `[samples, heads, tokens, tokens]`, those that count and those that a bias hides, and
            of a patch embedding's partial sums.

    Returns:
        `[samples, tokens, channels]`, the output tensor, float32.
    """
    last_use = {name: node for node in graph.nodes for name in node.inputs}
    tensors = {graph.input: np.asarray(x, np.float32)}
    if observe:
        observe(graph.input, tensors[graph.input])
    for node in graph.nodes:
        y = run_node(node, tensors, observe)
        tensors[node.out] = y
        if observe:
            observe(node.out, y)
        for name in set(node.inputs):
            if last_use[name] is node and name not in graph.outputs:
                del tensors[name]
    return tensors[graph.output]


def run_node(node: Node, tensors: Mapping[str, Floats], observe: Observer | None = None) -> Floats:
    """Run one node on the tensors that it reads; `observe` sees what lies inside it alone."""
    match node:
        case Linear():
            x = tensors[node.x]
            # One product of matrices: stacks of small ones are several times slower.
            y = x.reshape(-1, x.shape[-1]) @ node.weight.T
            return y.reshape(*x.shape[:-1], -1) + node.bias
        case PatchEmbedding():
            shape = (*tensors[node.x].shape[:-1], len(node.weight))
            y = np.broadcast_to(node.table, shape)
            parts = (np.split(each, node.channels, -1) for each in (tensors[node.x], node.weight))
            for x, weight in zip(*parts, strict=True):
                if observe:
                    observe(partial_name(node), y)
                y = y + x @ weight.T
            return y
        case Embedding():
            rows = tensors[node.x].astype(np.int64)
            y = node.added[: rows.shape[-2]]
            for number, table in enumerate(node.tables):
                y = y + table[rows[..., number]]
            return y
        case First():
            return tensors[node.x][..., : node.rows, :]
        case Mean():
            return tensors[node.x].mean(-2, keepdims=True)
        case Normalize():
            x = tensors[node.x]
            return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), SHORTEST)
        case LayerNorm():
            x = tensors[node.x]
            centred = x - x.mean(-1, keepdims=True)
            variance = np.mean(centred * centred, -1, keepdims=True)
            return centred / np.sqrt(variance + np.float32(node.eps)) * node.gamma + node.beta
        case Add():
            return tensors[node.a] + tensors[node.b]
        case Activation():
            return FAST[node.function](tensors[node.x])
        case Attention():
            return _attention(node, tensors, observe)
    raise TypeError(f"a {type(node).__name__} has no meaning")


def _attention(node: Attention, tensors: Mapping[str, Floats], observe: Observer | None) -> Floats:
    q, k, v = (
        tensors[name].reshape(*tensors[name].shape[:2], node.heads, -1).transpose(0, 2, 1, 3)
        for name in node.inputs
    )
    scores = q @ k.swapaxes(-1, -2) * np.float32(node.scale * LOG2_E)
    if node.bias is not None:
        bias = node.bias[:, : scores.shape[-2], : scores.shape[-1]]
        counts = bias > MASKED_BELOW
        if observe:
            observe(hidden_name(node), np.where(counts, 0, scores))
        scores = scores + bias * np.float32(LOG2_E)
        if observe:
            observe(scores_name(node), np.where(counts, scores, 0))
    elif observe:
        observe(scores_name(node), scores)
    p = np.exp2(scores - scores.max(-1, keepdims=True))
    context = (p / p.sum(-1, keepdims=True)) @ v
    return context.transpose(0, 2, 1, 3).reshape(*q.transpose(0, 2, 1, 3).shape[:2], -1)
