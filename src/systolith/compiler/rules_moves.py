"""Rules of operators that move elements and compute nothing: they cost no time on the core."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from systolith.compiler.reading import Layout, Probabilities, Reading, Scores
from systolith.compiler.rules import rule

Index = npt.NDArray[np.int64]


def _move(reading: Reading, node: ir.Node, change: Callable[[Index], Index]) -> None:
    layout = reading.layout(node, 0)
    reading.set(node, Layout(layout.tensor, layout.width, change(layout.index)))


@rule("Identity", "Dropout")
def _identity(reading: Reading, node: ir.Node) -> None:
    """Anywhere; Dropout does nothing at inference."""
    reading.set(node, reading.value(node, 0))


@rule("Cast")
def _cast(reading: Reading, node: ir.Node) -> None:
    """Between floating-point types; the core computes in integers either way."""
    kind = ir.DataType(node.attributes.get_int("to", 0))
    if not kind.is_floating_point():
        reading.refuse(node, f"it makes {kind.name}", "a floating-point type")
    reading.set(node, reading.value(node, 0))


@rule("Reshape")
def _reshape(reading: Reading, node: ir.Node) -> None:
    """Of activations, to a constant shape; of scores, if it only adds or drops dimensions of 1."""
    target = [int(size) for size in reading.constant(node, 1, "shape")]
    value = reading.value(node, 0)
    if isinstance(value, Scores | Probabilities):
        scores = value if isinstance(value, Scores) else value.scores
        shape = np.empty(scores.shape, np.bool_).reshape(target).shape
        if [n for n in shape if n != 1] != [n for n in scores.shape if n != 1]:
            reading.refuse(node, f"it reshapes scores to {target}", "dimensions of 1 only")
        done = replace(scores, shape=shape)
        reading.set(node, done if isinstance(value, Scores) else Probabilities(done))
        return
    layout = reading.layout(node, 0)
    if not node.attributes.get_int("allowzero", 0):
        sizes = layout.index.shape
        target = [sizes[n] if size == 0 else size for n, size in enumerate(target)]
    _move(reading, node, lambda index: index.reshape(target))


@rule("Transpose")
def _transpose(reading: Reading, node: ir.Node) -> None:
    """Of activations, in any order of axes."""
    order = node.attributes.get_ints("perm", ())
    _move(reading, node, lambda index: index.transpose(tuple(order) or None))


@rule("Squeeze")
def _squeeze(reading: Reading, node: ir.Node) -> None:
    """Of activations."""
    axes = None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = tuple(int(axis) for axis in reading.constant(node, 1, "axes"))
    _move(reading, node, lambda index: np.squeeze(index, axes))


@rule("Unsqueeze")
def _unsqueeze(reading: Reading, node: ir.Node) -> None:
    """Of activations."""
    axes = tuple(int(axis) for axis in reading.constant(node, 1, "axes"))
    _move(reading, node, lambda index: np.expand_dims(index, axes))


@rule("Flatten")
def _flatten(reading: Reading, node: ir.Node) -> None:
    """Of activations."""
    axis = node.attributes.get_int("axis", 1)

    def change(index: Index) -> Index:
        rows = int(np.prod(index.shape[:axis], dtype=np.int64))
        return index.reshape(rows, -1)

    _move(reading, node, change)


@rule("Split")
def _split(reading: Reading, node: ir.Node) -> None:
    """Of activations, as of a joint projection of Q, K and V."""
    layout = reading.layout(node, 0)
    axis, count = node.attributes.get_int("axis", 0), len(node.outputs)
    size = layout.index.shape[axis]
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = [int(each) for each in reading.constant(node, 1, "split")]
    else:
        part = -(-size // count)
        sizes = [min(part, size - part * n) for n in range(count)]
    for position, part in enumerate(np.split(layout.index, np.cumsum(sizes)[:-1], axis)):
        reading.set(node, Layout(layout.tensor, layout.width, part), position)


@rule("Slice")
def _slice(reading: Reading, node: ir.Node) -> None:
    """Of activations, at constant positions."""
    starts, ends = (
        [int(each) for each in reading.constant(node, position, what)]
        for position, what in ((1, "starts"), (2, "ends"))
    )
    axes, steps = list(range(len(starts))), [1] * len(starts)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = [int(each) for each in reading.constant(node, 3, "axes")]
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        steps = [int(each) for each in reading.constant(node, 4, "steps")]

    def change(index: Index) -> Index:
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            end = None if step < 0 and end < -index.shape[axis] else end
            where = [slice(None)] * index.ndim
            where[axis] = slice(start, end, step)
            index = index[tuple(where)]
        return index

    _move(reading, node, change)


@rule("Gather")
def _gather(reading: Reading, node: ir.Node) -> None:
    """Of activations, at constant positions; token lookup is the host's."""
    indices = reading.constant(node, 1, "indices").astype(np.int64)
    axis = node.attributes.get_int("axis", 0)
    _move(reading, node, lambda index: np.take(index, indices, axis))
