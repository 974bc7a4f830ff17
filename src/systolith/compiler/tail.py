"""The head of a model: what follows its last layer norm, if that concerns the first token alone."""

from collections.abc import Iterator

import onnx_ir as ir

from systolith.compiler.patterns import DOMAIN

_HEAD = {"MatMul", "Gemm", "Add", "Mul", "Relu", "Gelu", "Sigmoid", "Tanh"}
"""Operators that a head may end with."""

_HEAD_MOVES = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Others that it may have on the way."""


def last_of_head(norm: ir.Node) -> ir.Node | None:
    """The last operator of a head: matrix products of the first token, and what belongs to them.

    Nothing else may read what the last layer norm makes, or anything on the way.
    """
    shape = norm.outputs[0].shape
    last, chosen = None, shape is not None and all(size == 1 for size in shape[:-1])
    for node in _chain(norm):
        if node.op_type in ("Gather", "Slice"):
            chosen = True
        elif chosen and (node.op_type in _HEAD or node.domain == DOMAIN):
            last = node
        elif node.op_type not in _HEAD_MOVES:
            break
    return last


def _chain(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes behind a node, as long as each has but one reader and needs nothing else."""
    while True:
        (out, *others) = node.outputs
        readers = {use.node for use in out.uses()}
        if len(readers) != 1 or out.is_graph_output() or any(each.uses() for each in others):
            return
        (node,) = readers
        constant = [each is None or each.const_value is not None for each in node.inputs]
        if constant.count(False) != 1:
            return
        yield node
