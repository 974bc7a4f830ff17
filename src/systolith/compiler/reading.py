"""What the front end knows while it reads a graph: what each ONNX value means.

A value on the core is either a tensor `[tokens, channels]` whose elements have been moved about
(`Layout`), or a step of attention (`Scores`, `Probabilities`). Following elements instead of
matching patterns lets reshapes, transposes and splits come in any order and number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from systolith.compiler.errors import CompileError
from systolith.compiler.graph import First, Linear, Node
from systolith.compiler.origin import origin
from systolith.compiler.patches import PatchGrid


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that is in the file."""

    array: npt.NDArray


@dataclass(frozen=True, eq=False)
class Host:
    """A value that the host computes, of known shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """Elements of a tensor, moved about.

    Attributes:
        tensor: its name in the operator graph.
        width: its channels.
        index: for each element of the value, `token * width + channel`.
    """

    tensor: str
    width: int
    index: npt.NDArray[np.int64]

    @cached_property
    def plain(self) -> bool:
        """Whether the value is the tensor's rows from the first on, but for dimensions of 1."""
        flat = self.index.reshape(-1)
        return (
            self.index.ndim > 0
            and self.index.shape[-1] == self.width
            and bool((flat == np.arange(flat.size)).all())
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """`scale * q . k^T` of all heads, on the way to softmax.

    Attributes:
        q, k: tensors, heads side by side.
        heads: how many.
        scale: so far.
        shape: of the value: `[..., heads, T, T]`.
        masked: whether a mask of the host's has been applied.
        nodes: ONNX nodes so far.
        bias: what has been added, `[heads or 1, T, T]`, or None.
    """

    q: str
    k: str
    heads: int
    scale: float
    shape: tuple[int, ...]
    masked: bool
    nodes: tuple[str, ...]
    bias: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Softmax of scores."""

    scores: Scores


Value = Constant | Host | Layout | Scores | Probabilities


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask that the host would compute: a length, and what does not depend on it.

    Attributes:
        name: the ONNX value.
        kind: "add" for what is added to scores, "keep" and "drop" for booleans.
        shape: of the scores.
        node: who applies it.
        q: the scores' first operand, by which attentions are known.
    """

    name: str
    kind: Literal["add", "keep", "drop"]
    shape: tuple[int, ...]
    node: ir.Node
    q: str


class Reading:
    """The state of reading a graph.

    Attributes:
        seq_len: tokens.
        nodes: the operator graph so far, by tensor.
        widths: channels of its tensors.
        values: what the ONNX values of the core mean, by name.
        masks: masks seen.
        input: the host's tensor that the core starts from, once known.
        patches: how it falls into patches, if it is an image.
    """

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.nodes: dict[str, Node] = {}
        self.widths: dict[str, int] = {}
        self.values: dict[str, Value] = {}
        self.masks: list[Mask] = []
        self.input: Host | None = None
        self.patches: PatchGrid | None = None

    def refuse(self, node: ir.Node, reason: str, accepted: str = "") -> NoReturn:
        """Raise a CompileError about a node."""
        raise CompileError(reason, node=node.name or "", operator=node.op_type, accepted=accepted)

    def value(self, node: ir.Node, position: int) -> Value:
        """What an input of a node means."""
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is None:
            self.refuse(node, f"input {position} is missing")
        if value.const_value is not None:
            return Constant(value.const_value.numpy())
        name = value.name or ""
        if name in self.values:
            return self.values[name]
        shape = value.shape
        if shape is None or not shape.is_static():
            self.refuse(
                node,
                f"the shape of its input '{name}' depends on run-time values",
                "shapes that follow from the input's",
            )
        return Host(name, tuple(int(size) for size in shape.numpy()))

    def constant(self, node: ir.Node, position: int, what: str) -> npt.NDArray:
        """A constant input of a node."""
        value = self.value(node, position)
        if not isinstance(value, Constant):
            self.refuse(node, f"its {what} is computed at run time", f"a constant {what}")
        return value.array

    def weights(self, node: ir.Node, position: int, what: str) -> npt.NDArray[np.float32]:
        """A constant input of finite numbers."""
        array = self.constant(node, position, what).astype(np.float32)
        if not np.isfinite(array).all():
            value = node.inputs[position]
            raise CompileError(
                f"{what} '{value.name if value else ''}' has NaN or infinite elements",
                node=node.name or "",
                operator=node.op_type,
                accepted="finite weights",
            )
        return array

    def layout(self, node: ir.Node, position: int) -> Layout:
        """A tensor among the inputs of a node, in whatever order its elements are."""
        value = self.value(node, position)
        if isinstance(value, Host):
            given = node.inputs[position]
            assert given is not None
            return self._from_host(node, value, origin(given).name or "")
        if not isinstance(value, Layout):
            self.refuse(
                node,
                f"its input {position} is a {type(value).__name__.lower()}",
                "a tensor of activations",
            )
        return value

    def plain(self, node: ir.Node, position: int) -> str:
        """A tensor `[tokens, channels]` among the inputs of a node, or the first rows of one."""
        layout = self.layout(node, position)
        if not layout.plain:
            self.refuse(
                node,
                f"its input {position} has shape {list(layout.index.shape)} and is not "
                "tokens by channels",
                f"shape [1, {self.seq_len}, channels], or the first token's [1, channels]",
            )
        rows = layout.index.size // layout.width
        if rows == self.rows(layout.tensor):
            return layout.tensor
        out = f"{layout.tensor}.first.{rows}"
        self.nodes[out] = First(out=out, onnx=(node.name or "",), x=layout.tensor, rows=rows)
        self.widths[out] = layout.width
        return out

    def rows(self, tensor: str) -> int:
        """Rows of a tensor: tokens, or fewer behind the choice of the first ones."""
        node = self.nodes.get(tensor)
        while node is not None and not isinstance(node, First):
            node = self.nodes.get(node.inputs[0])
        return self.seq_len if node is None else node.rows

    def add(self, operator: Node, width: int, shape: Sequence[int]) -> Layout:
        """Append an operator; its result is tokens by channels."""
        self.nodes[operator.out] = operator
        self.widths[operator.out] = width
        index = np.arange(self.rows(operator.out) * width).reshape(shape)
        return Layout(operator.out, width, index)

    def set(self, node: ir.Node, value: Value, position: int = 0) -> None:
        """Say what an output of a node means."""
        self.values[out_name(node, position)] = value

    def derive(
        self,
        node: ir.Node,
        tensor: str,
        out: str,
        *,
        columns: npt.NDArray[np.int64] | None = None,
        factor: npt.NDArray | float = 1.0,
        bias: npt.NDArray | float = 0.0,
    ) -> str:
        """Append a Linear that makes `out = tensor[:, columns] * factor + bias`; return `out`.

        A linear operator takes that over; the one it came from is dropped if nobody else needs it.
        """
        linear = self.nodes.get(tensor)
        if not isinstance(linear, Linear):
            self.refuse(
                node,
                f"it changes '{tensor}', which no MatMul with constant weights makes",
                "constants that a MatMul before them can take over",
            )
        columns = np.arange(len(linear.bias)) if columns is None else columns
        factor = np.broadcast_to(np.asarray(factor, np.float32), columns.shape)
        self.nodes[out] = Linear(
            out=out,
            onnx=(*linear.onnx, node.name or ""),
            x=linear.x,
            weight=linear.weight[columns] * factor[:, None],
            bias=linear.bias[columns] * factor + np.asarray(bias, np.float32),
        )
        self.widths[out] = len(columns)
        return out

    def _from_host(self, node: ir.Node, value: Host, name: str) -> Layout:
        """A host's value; `name` is what it was before dimensions of 1 were moved about."""
        if self.input is not None and self.input.name != name:
            self.refuse(
                node,
                f"it needs '{value.name}', which the host computes, besides '{self.input.name}'",
                "one tensor from the host, and attention masks",
            )
        *lead, width = value.shape if len(value.shape) > 1 else (0, 0)
        if self.patches is not None or self.seq_len not in lead or prod(lead) != self.seq_len:
            self.refuse(
                node,
                f"the host's '{value.name}' has shape {list(value.shape)}",
                f"shape [1, {self.seq_len}, channels]",
            )
        self.input = Host(name, (1, self.seq_len, width))
        self.widths[name] = width
        index = np.arange(self.seq_len * width).reshape(value.shape)
        self.values[value.name] = Layout(name, width, index)
        return Layout(name, width, index)


def out_name(node: ir.Node, position: int = 0) -> str:
    """Name of an output of a node."""
    return node.outputs[position].name or ""
