"""The steps of all tensors: what one unit of each stored code is worth."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from systolith.compiler.activations import EXACT
from systolith.compiler.calibrate import Ranges
from systolith.compiler.execute import partial_name
from systolith.compiler.formats import SMALLEST_STEP, Floats
from systolith.compiler.graph import (
    Activation,
    Add,
    Attention,
    Graph,
    LayerNorm,
    Linear,
    Mean,
    Node,
    Normalize,
    PatchEmbedding,
)
from systolith.numerics import Format

NEGLIGIBLE = 0.1
"""In steps of the result: how far a function may be from its limit where its table ends."""


def fused_linear(graph: Graph, add: Add) -> Linear | None:
    """The operand of an addition whose drain can add the other one, if there is one."""
    for name in (add.a, add.b):
        producer = graph.producers.get(name)
        only = len(graph.consumers[name]) == 1 and name not in graph.outputs
        if isinstance(producer, Linear) and only:
            return producer
    return None


def residual_of(graph: Graph, add: Add) -> str:
    """The operand that is added after rounding, and so has the steps of the sum."""
    linear = fused_linear(graph, add)
    return add.a if linear is not None and linear.out == add.b else add.b


def wide_steps(graph: Graph, ranges: Ranges, headroom: float) -> dict[str, float]:
    """Steps of s16 tensors: a residual and the sums that it takes part in share one.

    Every tensor has an entry, whether it is ever stored so or not.
    """
    group: dict[str, str] = {name: name for name in graph.widths}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for node in graph.nodes:
        if isinstance(node, Add):
            group[root(residual_of(graph, node))] = root(node.out)
    largest: dict[str, float] = {}
    for name in graph.widths:
        value = float(ranges.absmax(name).max())
        match graph.producers.get(name):
            case PatchEmbedding() as producer:
                value = max(value, float(ranges.absmax(partial_name(producer)).max()))
            case Mean(x=x):
                # That of a few tokens goes farther than that of the many in a sample.
                value = float(ranges.absmax(x).max())
            case Normalize():
                value = 1 / headroom
            case _:
                pass
        largest[root(name)] = max(value, largest.get(root(name), 0.0))
    high = Format.S16.limits[1]
    return {
        name: max(headroom * largest[root(name)] / high, SMALLEST_STEP) for name in graph.widths
    }


def smooth_steps(absmax: Floats, readers: Iterable[Linear], alpha: float) -> Floats:
    """Steps of an s8 tensor by channel, for the matmuls that read it (SmoothQuant).

    A channel's step is what balances its range against its weights: `absmax**alpha /
    weights**(1 - alpha)`, scaled so that no channel saturates.
    """
    weights = np.max([np.abs(reader.weight).max(0) for reader in readers], axis=0)
    x, w = (np.maximum(each.astype(np.float64), 1e-5) for each in (absmax, weights))
    balance = x**alpha / w ** (1 - alpha)
    return (absmax / balance).max().clip(1e-5) / Format.S8.limits[1] * balance


@dataclass(frozen=True)
class Table:
    """A function as 256 entries: what its u8 index and its u8 result are worth.

    Attributes:
        low: real value of index 0.
        index_step: of the index.
        step: of the result.
        zero: code of the result 0.
        entries: the result's codes.
    """

    low: float
    index_step: float
    step: float
    zero: int
    entries: tuple[int, ...]


def make_table(function: str, low: float, high: float, *, step: float | None = None) -> Table:
    """Fill a table over a calibrated range.

    The range is cut where the function has reached a limit, as GELU has far below 0, so that no
    entries are wasted on it: the index saturates there.

    Args:
        function: its name in `activations`.
        low: smallest operand.
        high: largest operand.
        step: of an s16 result; None for a u8 result over the function's whole range.
    """
    exact = EXACT[function]
    if high - low < 1e-6:
        low, high = low - 0.5e-6, high + 0.5e-6
    points = np.linspace(low, high, 4097)
    values = exact(points)
    bottom, top = min(values.min(), 0.0), max(values.max(), 0.0)
    # An s16 result holds 0 as code 0, a u8 result anywhere.
    result = max((top - bottom) / 255, SMALLEST_STEP) if step is None else step
    tolerance = NEGLIGIBLE * max((top - bottom) / 255, result)
    moving = np.abs(values - values[0]) > tolerance
    low = points[max(int(moving.argmax()) - 1, 0)] if moving.any() else low
    moving = np.abs(values - values[-1]) > tolerance
    high = points[min(len(points) - int(moving[::-1].argmax()), 4096)] if moving.any() else high
    index_step = (high - low) / 255
    zero = round(-bottom / result) if step is None else 0
    format_ = Format.U8 if step is None else Format.S16
    codes = np.rint(exact(low + index_step * np.arange(256)) / result) + zero
    entries = tuple(int(code) for code in np.clip(codes, *format_.limits))
    return Table(float(low), float(index_step), float(result), zero, entries)


def head_steps(absmax: Floats, heads: int) -> Floats:
    """Steps of Q or K, one for each head."""
    return np.maximum(absmax.reshape(heads, -1).max(1) / Format.S8.limits[1], SMALLEST_STEP)


def channel_steps(absmax: Floats) -> Floats:
    """Steps of V, one for each channel."""
    return np.maximum(absmax / Format.S8.limits[1], SMALLEST_STEP)


def needs_wide(graph: Graph, name: str) -> bool:
    """Whether somebody but linear operators reads a tensor, or the host does.

    The mean of a norm's rows is taken from a form of its own, see `Forms.across`.
    """
    kinds: tuple[type[Node], ...] = (Linear,)
    if isinstance(graph.producers.get(name), LayerNorm):
        kinds = (Linear, Mean)
    readers = graph.consumers[name]
    return name in graph.outputs or any(not isinstance(node, kinds) for node in readers)


def read_as_table(graph: Graph, name: str) -> bool:
    """Whether linear operators read a tensor as the u8 that a table made."""
    return isinstance(graph.producers.get(name), Activation) and not needs_wide(graph, name)


def narrow_steps(
    graph: Graph, node: Node | None, name: str, ranges: Ranges, alpha: float
) -> Floats:
    """Steps of a tensor's s8 form, by channel; an attention's result has one for all.

    Smoothing the context was measured and changes nothing.
    """
    absmax = ranges.absmax(name)
    if isinstance(node, Attention):
        return np.full(len(absmax), max(absmax.max() / Format.S8.limits[1], SMALLEST_STEP))
    readers = [each for each in graph.consumers[name] if isinstance(each, Linear)]
    return smooth_steps(absmax, readers, alpha)
