"""Changes of the operator graph that keep its function and suit the core."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from systolith.compiler.calibrate import Ranges
from systolith.compiler.graph import Activation, Add, Attention, Floats, Graph, Linear, Node


def move_biases(graph: Graph) -> Graph:
    """Drop K's bias, which softmax cancels, and fold V's into the projection behind attention.

    Each row of softmax sums to 1, so V's bias adds the same to every token's context. Both make
    ranges smaller. Where somebody else reads K or V, or the context, nothing is changed.
    """
    changes: dict[str, Linear] = {}

    def linear(name: str) -> Linear | None:
        node = changes.get(name) or graph.producers.get(name)
        only = len(graph.consumers[name]) == 1 and name not in graph.outputs
        return node if isinstance(node, Linear) and only else None

    for node in graph.nodes:
        if not isinstance(node, Attention):
            continue
        k, v = linear(node.k), linear(node.v)
        if k is not None:
            changes[k.out] = replace(k, bias=np.zeros_like(k.bias))
        readers = [each for each in graph.consumers[node.out] if isinstance(each, Linear)]
        if v is None or len(readers) != len(graph.consumers[node.out]):
            continue
        for reader in readers:
            reader = changes.get(reader.out, reader)
            changes[reader.out] = replace(reader, bias=reader.bias + reader.weight @ v.bias)
        changes[v.out] = replace(v, bias=np.zeros_like(v.bias))
    return graph.changed(changes.get(node.out, node) for node in graph.nodes)


def split_feed_forward(graph: Graph, ranges: Ranges, sizes: Callable[[int], list[int]]) -> Graph:
    """Cut each feed-forward part along its width, channels sorted by range.

    A chunk has its own table and steps, and adds to the residual on its own; the channels of
    largest range come last, so that a small last chunk keeps them from coarsening the others.

    Args:
        graph: what to change.
        ranges: of the activations' results.
        sizes: the chunks of a width.
    """
    nodes: list[Node] = []
    widths: dict[str, int] = {}
    replaced: set[str] = set()
    for node in graph.nodes:
        parts = _feed_forward(graph, node)
        if parts is None:
            nodes.append(node)
            continue
        up, activation, down, residual = parts
        order = np.argsort(ranges.absmax(activation.out), kind="stable")
        chunks = np.split(order, np.cumsum(sizes(len(order)))[:-1])
        if len(chunks) == 1:
            nodes.append(node)
            continue
        replaced.update((up.out, activation.out, down.out))
        total = residual
        for number, chunk in enumerate(chunks):
            suffix = f"[{number}]"
            names = [f"{each.out}{suffix}" for each in (up, activation, down)]
            last = number == len(chunks) - 1
            out = node.out if last else f"{node.out}{suffix}"
            bias = down.bias if number == 0 else np.zeros_like(down.bias)
            nodes += [
                replace(up, out=names[0], weight=up.weight[chunk], bias=up.bias[chunk]),
                replace(activation, out=names[1], x=names[0]),
                replace(down, out=names[2], x=names[1], weight=down.weight[:, chunk], bias=bias),
                Add(out=out, onnx=node.onnx, layer=node.layer, a=names[2], b=total),
            ]
            width = graph.widths[node.out]
            widths |= dict(zip(names, (len(chunk), len(chunk), width), strict=True))
            widths[out] = width
            total = out
    return graph.changed([node for node in nodes if node.out not in replaced], widths)


def pad_heads(graph: Graph, unit: int) -> Graph:
    """Widen the heads of attentions to multiples of `unit` channels, which are 0.

    Rows of 0 are added to the projections, and columns to what reads the result. Where somebody
    else reads them, nothing is changed.
    """
    changes: dict[str, Node] = {}
    widths = dict(graph.widths)
    for node in graph.nodes:
        if not isinstance(node, Attention):
            continue
        (width, *others) = {graph.widths[name] // node.heads for name in node.inputs}
        more = -width % unit
        parts = [_only(graph, name) for name in node.inputs]
        neighbours = [*parts, *graph.consumers[node.out]]
        if others or not more or not all(isinstance(each, Linear) for each in neighbours):
            continue
        for linear in neighbours:
            assert isinstance(linear, Linear)
            if linear in parts:
                weight = _padded(linear.weight, node.heads, more)
                bias = _padded(linear.bias[:, None], node.heads, more)[:, 0]
                changes[linear.out] = replace(linear, weight=weight, bias=bias)
                widths[linear.out] = len(weight)
            else:
                weight = _padded(linear.weight.T, node.heads, more).T
                changes[linear.out] = replace(linear, weight=weight)
        changes[node.out] = replace(node, padding=more)
        widths[node.out] += more * node.heads
    return graph.changed([changes.get(node.out, node) for node in graph.nodes], widths)


def _padded(rows: Floats, heads: int, more: int) -> Floats:
    """Add rows of 0 at the end of each head's."""
    parts = rows.reshape(heads, -1, rows.shape[1])
    return np.pad(parts, ((0, 0), (0, more), (0, 0))).reshape(-1, rows.shape[1])


def _feed_forward(graph: Graph, node: Node) -> tuple[Linear, Activation, Linear, str] | None:
    """The feed-forward part that ends in a residual addition, if it is one."""
    if not isinstance(node, Add):
        return None
    for down_name, residual in ((node.a, node.b), (node.b, node.a)):
        down = _only(graph, down_name)
        if not isinstance(down, Linear):
            continue
        activation = _only(graph, down.x)
        up = _only(graph, activation.x) if isinstance(activation, Activation) else None
        if isinstance(activation, Activation) and isinstance(up, Linear):
            return up, activation, down, residual
    return None


def _only(graph: Graph, name: str) -> Node | None:
    """Who makes a tensor that one node reads and nobody else."""
    alone = len(graph.consumers[name]) == 1 and name not in graph.outputs
    return graph.producers.get(name) if alone else None
