"""Where a value of the host's comes from, before its dimensions of 1 were moved about.

PyTorch's own encoder, for one, has the tokens first: the host would hand `[1, T, channels]` to the
residual and `[T, 1, channels]` to the projections, the same numbers in the same order.
"""

import onnx_ir as ir

_KEEP = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators that never change the order of elements."""


def origin(value: ir.Value) -> ir.Value:
    """The earliest value with the same elements in the same order and as many in the last axis."""
    while (node := value.producer()) is not None:
        before = node.inputs[0] if node.inputs else None
        if before is None or not _keeps_order(node, before, value):
            return value
        value = before
    return value


def _keeps_order(node: ir.Node, before: ir.Value, after: ir.Value) -> bool:
    old, new = before.shape, after.shape
    if old is None or new is None or not old.is_static() or not new.is_static():
        return False
    if not len(old) or not len(new) or old[-1] != new[-1]:
        return False
    if node.op_type != "Transpose":
        return node.op_type in _KEEP
    moved = [axis for axis in node.attributes.get_ints("perm", ()) if old[axis] != 1]
    return bool(moved) and moved == sorted(moved)
