"""Which weights get 4 bits: measured on samples, chosen under a budget.

The loss of a choice is how far the graph's output turns: one minus the cosine between what it is
and what it is in real numbers, token by token, on average. Each linear operator's loss is measured
with its weights alone rounded to 4 bits; those with the least loss per byte saved come first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from systolith.compiler.calibrate import Ranges, batches
from systolith.compiler.errors import CompileError
from systolith.compiler.execute import run_node
from systolith.compiler.fit import Progress, operand_steps
from systolith.compiler.gptq import gptq
from systolith.compiler.graph import Floats, Graph, Linear
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.qgraph import int4_bytes

SAMPLES = 48
"""Samples that a loss is measured on, at most."""

DEFAULT_SHARE = 0.7
"""Of the bytes of s8 weights, which a mixed choice may take if nothing else is said."""

QUICK_STEPS = (0.84,)
"""For GPTQ where it is only to tell how much a choice costs."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The format of one linear operator's weights.

    Attributes:
        layer: of the model.
        tensor: what the operator makes.
        bits: 4 or 8.
        bytes_int4, bytes_int8: of its weights.
        loss: with its weights alone in 4 bits; 0 if it was not measured.
    """

    layer: str
    tensor: str
    bits: int
    bytes_int4: int
    bytes_int8: int
    loss: float

    @property
    def bytes(self) -> int:
        """Of its weights, as chosen."""
        return self.bytes_int4 if self.bits == 4 else self.bytes_int8


def choose_all(graph: Graph, bits: int, *, block: int) -> tuple[Choice, ...]:
    """Give all weights the same format."""
    return tuple(_choice(node, bits, 0.0, block) for node in _linears(graph))


def choose_mixed(
    graph: Graph,
    inputs: Sequence[Floats],
    ranges: Ranges,
    options: QuantizeOptions,
    *,
    block: int,
    progress: Progress | None = None,
) -> tuple[Choice, ...]:
    """Choose under `options.max_bytes` and `options.max_loss`, and by default `DEFAULT_SHARE`.

    With a limit of bytes, as few operators get 4 bits as it takes; with a limit of the loss alone,
    as many as it allows.

    Raises:
        CompileError: both limits cannot be kept, or the one of bytes cannot.
    """
    nodes = _linears(graph)
    trial = _Trial(graph, inputs, ranges, options, block)
    losses = []
    for node in nodes:
        losses.append(trial.loss({node.out}))
        if progress is not None:
            progress(len(losses), len(nodes))
    choices = [_choice(node, 8, loss, block) for node, loss in zip(nodes, losses, strict=True)]
    order = sorted(
        range(len(nodes)),
        key=lambda n: choices[n].loss / (choices[n].bytes_int8 - choices[n].bytes_int4),
    )
    saved = [0, *accumulate(choices[n].bytes_int8 - choices[n].bytes_int4 for n in order)]
    whole = sum(choice.bytes_int8 for choice in choices)
    share = options.max_bytes
    if share is None and options.max_loss is None:
        share = DEFAULT_SHARE
    count = len(order)
    if share is not None:
        limit = share * whole if share <= 1 else share
        enough = [n for n in range(len(order) + 1) if whole - saved[n] <= limit]
        if not enough:
            raise CompileError(
                f"the weights take {whole - saved[-1]:,} bytes with 4 bits each",
                accepted=f"max_bytes of at least that; it is {limit:,.0f}",
            )
        count = enough[0]
    if options.max_loss is not None:
        # The loss grows with the count, so halving the interval finds where it is too much.
        allowed, refused = 0, len(order) + 1
        while refused - allowed > 1:
            middle = (allowed + refused) // 2
            if trial.loss({nodes[n].out for n in order[:middle]}) <= options.max_loss:
                allowed = middle
            else:
                refused = middle
        if share is not None and allowed < count:
            raise CompileError(
                f"within a loss of {options.max_loss:g}, weights take {whole - saved[allowed]:,} "
                f"bytes",
                accepted="a larger max_loss or a larger max_bytes",
            )
        count = count if share is not None else allowed
    narrow = set(order[:count])
    return tuple(
        replace(choice, bits=4) if n in narrow else choice for n, choice in enumerate(choices)
    )


def _linears(graph: Graph) -> list[Linear]:
    return [node for node in graph.nodes if isinstance(node, Linear)]


def _choice(node: Linear, bits: int, loss: float, block: int) -> Choice:
    n, k = node.weight.shape
    return Choice(
        layer=node.layer,
        tensor=node.out,
        bits=bits,
        bytes_int4=int4_bytes(n, k, block),
        bytes_int8=n * k,
        loss=loss,
    )


class _Trial:
    """Runs the graph on some samples with some weights rounded to 4 bits."""

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Floats],
        ranges: Ranges,
        options: QuantizeOptions,
        block: int,
    ) -> None:
        self._graph = graph
        every = max(1, len(inputs) // SAMPLES)
        self._stacks = batches(inputs[::every][:SAMPLES])
        self._exact = [self._run(stack, {}) for stack in self._stacks]
        everything: Mapping[str, int] = {node.out: 4 for node in _linears(graph)}
        self._rounded: dict[str, Linear] = {}
        for node in _linears(graph):
            step = operand_steps(graph, node.x, ranges, everything, options)
            x = np.concatenate([tensors[node.x].reshape(-1, len(step)) for tensors in self._exact])
            x = x.astype(np.float64) / step
            found = gptq(node.weight * step, x.T @ x / len(x), block=block, steps=QUICK_STEPS)
            weight = (found.values() / step).astype(np.float32)
            self._rounded[node.out] = replace(node, weight=weight)

    def loss(self, narrow: set[str]) -> float:
        """The loss with the weights of some operators in 4 bits."""
        angles = []
        for stack, exact in zip(self._stacks, self._exact, strict=True):
            y = self._run(stack, {name: self._rounded[name] for name in narrow}, exact)
            angles.append(turned(exact[self._graph.output], y[self._graph.output]).ravel())
        return float(np.concatenate(angles).mean())

    def _run(
        self,
        stack: Floats,
        changed: Mapping[str, Linear],
        exact: Mapping[str, Floats] | None = None,
    ) -> dict[str, Floats]:
        """All tensors; those before the first change are taken from `exact`."""
        tensors: dict[str, Floats] = {self._graph.input: stack.astype(np.float32)}
        touched = exact is None
        for node in self._graph.nodes:
            touched = touched or node.out in changed
            if not touched and exact is not None:
                tensors[node.out] = exact[node.out]
            else:
                tensors[node.out] = run_node(changed.get(node.out, node), tensors)
        return tensors


def turned(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """One minus the cosine between the tokens of two tensors, `[..., tokens, channels]`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return 1 - (a * b).sum(-1) / np.maximum(lengths, 1e-30)
