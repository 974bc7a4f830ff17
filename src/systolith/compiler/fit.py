"""Fits weights to what a quantized model computes before them, operator by operator.

Two streams go through the graph side by side: real numbers, and what the core makes of them so
far. Before the weights of a linear operator are rounded, they are moved so that on the second
stream it comes as close as it can to what it makes of the first one, and mends errors of the
residual that it is added to. Then GPTQ rounds them for what they will meet, the second stream.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from systolith.compiler import graph as float_graph
from systolith.compiler.calibrate import Ranges, batches
from systolith.compiler.execute import run_float, run_node
from systolith.compiler.formats import Floats, quantize_weight
from systolith.compiler.gptq import Int4Fit, gptq
from systolith.compiler.graph import Add, Graph, LayerNorm, Linear, Node
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.steps import SMALLEST_STEP, fused_linear, narrow_steps, read_as_table
from systolith.numerics import Format

RIDGE = 1.0
"""Of a Hessian's mean diagonal: how dear it is to move weights, against what that mends."""

Store = Callable[[float_graph.Floats], Floats]
"""What storing a tensor makes of its elements."""

Progress = Callable[[int, int], None]
"""Called with how many operators are done, and how many there are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """What a fit found, for the quantizer.

    Attributes:
        steps: of tensors in s8, by channel, for which the weights that read them were fitted.
        weights: by the tensor that the linear operator makes: rounded to 4 bits, for operands in
            their steps; or real numbers `[N, K]`, to be rounded to s8.
    """

    steps: dict[str, Floats] = field(default_factory=dict)
    weights: dict[str, Int4Fit | Floats] = field(default_factory=dict)


def fit(
    graph: Graph,
    inputs: Sequence[float_graph.Floats],
    ranges: Ranges,
    bits: Mapping[str, int],
    options: QuantizeOptions,
    *,
    block: int,
    progress: Progress | None = None,
) -> Fitted:
    """Fit the weights of all linear operators.

    Args:
        graph: legalized.
        inputs: the graph's input for each sample, `[tokens, channels]`.
        ranges: of all its tensors.
        bits: 4 or 8, by the tensor that the operator makes.
        options: the user's choices.
        block: weights along K that share an exponent.
        progress: told of each operator.
    """
    result = Fitted()
    exact, actual = _Stream(graph, inputs), _Stream(graph, inputs)
    importance = _importance(graph, inputs)
    for node in graph.nodes:
        if not isinstance(node, Linear):
            exact.run(node)
            actual.run(node)
            continue
        step = operand_steps(graph, node.x, ranges, bits, options)
        if not read_as_table(graph, node.x):
            result.steps[node.x] = step
        stored = _storing(graph, node.x, ranges, step)
        x = stored(actual.flat(node.x)) / step
        target = exact.flat(node.x) @ node.weight.T.astype(np.float64)
        target += _residual_error(graph, node, exact, actual)
        share = importance.get(node.out, np.ones(len(x)))
        weighted = x * (share / share.sum())[:, None]
        hessian = weighted.T @ x
        weight = node.weight * step
        # Least squares, with the weights as they are for a prior.
        slope = (target - x @ weight.T).T @ weighted
        ridge = RIDGE * max(float(np.mean(np.diag(hessian))), SMALLEST_STEP)
        weight += np.linalg.solve(hessian + ridge * np.eye(len(hessian)), slope.T).T
        if bits[node.out] == 4:
            found = gptq(weight, hessian, block=block)
            result.weights[node.out], rounded = found, found.values()
        else:
            codes, unit = quantize_weight(weight)
            result.weights[node.out], rounded = weight / step, codes * unit[:, None]
        exact.run(node)
        actual.run(replace(node, weight=(rounded / step).astype(np.float32)), stored)
        if progress is not None:
            progress(len(result.weights), len(bits))
    return result


def part_of(progress: Progress | None, part: int, parts: int) -> Progress | None:
    """Tell somebody of a round's progress who hears of all rounds as one."""
    if progress is None:
        return None
    return lambda done, total: progress(part * total + done, parts * total)


def operand_steps(
    graph: Graph, name: str, ranges: Ranges, bits: Mapping[str, int], options: QuantizeOptions
) -> Floats:
    """Steps of a tensor as linear operators read it; 1 if it is a table's u8.

    What smooths activations roughens weights, so those of 4 bits take less of it.
    """
    if read_as_table(graph, name):
        return np.ones(graph.widths[name])
    readers = [node.out for node in graph.consumers[name] if isinstance(node, Linear)]
    narrow = any(bits[reader] == 4 for reader in readers)
    alpha = options.alpha_int4 if narrow else options.alpha
    return narrow_steps(graph, graph.producers.get(name), name, ranges, alpha)


def _storing(graph: Graph, name: str, ranges: Ranges, step: Floats) -> Store:
    """What storing a tensor in 8 bits makes of its elements."""
    if read_as_table(graph, name):
        low, high = float(ranges.low[name].min()), float(ranges.high[name].max())
        unit = max((max(high, 0.0) - min(low, 0.0)) / 255, SMALLEST_STEP)
        return lambda x: np.rint(x / unit) * unit
    return lambda x: np.clip(np.rint(x / step), *Format.S8.limits) * step


def _residual_error(graph: Graph, node: Linear, exact: "_Stream", actual: "_Stream") -> Floats:
    """What is missing from the tensor that a linear operator's drain adds, if it adds one."""
    readers = graph.consumers[node.out]
    if len(readers) == 1 and isinstance(readers[0], Add):
        add = readers[0]
        if fused_linear(graph, add) is node:
            other = add.b if add.a == node.out else add.a
            if exact.has(other):
                return exact.flat(other) - actual.flat(other)
    return np.zeros(1)


def _importance(graph: Graph, inputs: Sequence[float_graph.Floats]) -> dict[str, Floats]:
    """How much the tokens of a linear operator's result count, by its name: `[tokens]`.

    A layer norm divides each token by its deviation, and with it the token's errors. A few tokens
    have huge elements, and would be all that counts.
    """
    variances: dict[str, list[Floats]] = {}

    def see(name: str, x: float_graph.Floats) -> None:
        if any(isinstance(reader, LayerNorm) for reader in graph.consumers.get(name, ())):
            variances.setdefault(name, []).append(x.astype(np.float64).var(-1).ravel())

    for stack in batches(inputs):
        run_float(graph, stack, see)
    result = {}
    for node in graph.nodes:
        total = _normalized(graph, node.out) if isinstance(node, Linear) else None
        if total is not None:
            variance = np.concatenate(variances[total])
            result[node.out] = 1 / np.maximum(variance, 1e-6 * variance.max() + SMALLEST_STEP)
    return result


def _normalized(graph: Graph, name: str) -> str | None:
    """The sum that a tensor goes into and a layer norm reads, if there is one."""
    while True:
        readers = graph.consumers[name]
        if any(isinstance(reader, LayerNorm) for reader in readers):
            return name
        sums = [reader.out for reader in readers if isinstance(reader, Add)]
        if not sums:
            return None
        name = sums[0]


class _Stream:
    """Tensors of all samples, for as long as somebody reads them."""

    def __init__(self, graph: Graph, inputs: Sequence[float_graph.Floats]) -> None:
        self._graph = graph
        self._last = {name: node.out for node in graph.nodes for name in node.inputs}
        self._stacks = [{graph.input: stack.astype(np.float32)} for stack in batches(inputs)]

    def has(self, name: str) -> bool:
        return all(name in stack for stack in self._stacks)

    def flat(self, name: str) -> Floats:
        """All tokens of a tensor, `[tokens, channels]`."""
        parts = [stack[name].reshape(-1, stack[name].shape[-1]) for stack in self._stacks]
        return np.concatenate(parts).astype(np.float64)

    def run(self, node: Node, stored: Store | None = None) -> None:
        """Run a node, on operands as they are stored."""
        for stack in self._stacks:
            operands = {name: stack[name] for name in node.inputs}
            if stored is not None:
                operands = {name: stored(x).astype(np.float32) for name, x in operands.items()}
            stack[node.out] = run_node(node, operands)
            for name in set(node.inputs):
                if self._last[name] == node.out:
                    del stack[name]
