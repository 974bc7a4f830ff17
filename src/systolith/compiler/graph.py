"""The operator graph: a model as the compiler thinks of it, in real numbers.

It stands between the front end, which reads it out of an ONNX file, and the quantizer. A tensor
is a matrix `[tokens, channels]` and has the name of the ONNX value it came from, or a name made
from it. Every tensor is written by one node.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

MASKED_BELOW = -1e4
"""A number added to a score masks it from here on; float16 files use -65504."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """An operator.

    Attributes:
        out: the tensor it writes.
        onnx: names of the ONNX nodes that it stands for.
        layer: the layer of the model that it belongs to, for reports.
    """

    out: str
    onnx: tuple[str, ...] = ()
    layer: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        raise NotImplementedError

    def renamed(self, names: dict[str, str]) -> "Node":
        """The same node, reading other tensors: new names by old ones."""
        changes = {
            key: names.get(value, value)
            for key, value in vars(self).items()
            if key in _TENSOR_FIELDS and isinstance(value, str)
        }
        return replace(self, **changes)


_TENSOR_FIELDS = {"x", "a", "b", "q", "k", "v"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Node):
    """`x . weight^T + bias`.

    Attributes:
        x: `[T, K]`.
        weight: `[N, K]`.
        bias: `[N]`.
    """

    x: str
    weight: Floats
    bias: Floats

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchEmbedding(Node):
    """`x . weight^T + table`: patches of an image to tokens, with what is added to each of them.

    Attributes:
        x: patches `[T, K]`; rows of 0 in front for tokens that are in `table` alone.
        weight: `[N, K]`.
        table: `[T, N]`: bias, positions, and the tokens in front.
        channels: of the image; K is a multiple.
    """

    x: str
    weight: Floats
    table: Floats
    channels: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding(Node):
    """The sum of rows of tables, one of each, looked up by `x`.

    Attributes:
        x: `[T, tables]`, numbers of rows.
        tables: `[rows, channels]` each.
        added: `[T, channels]`, added to the sum.
    """

    x: str
    tables: tuple[Floats, ...]
    added: Floats

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class First(Node):
    """The first rows of `x`, as of the token that stands for the whole input."""

    x: str
    rows: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Node):
    """The mean of the rows of `x`, one row.

    Attributes:
        x: `[T, channels]`.
        masked: whether rows from the run-time length on do not count.
    """

    x: str
    masked: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalize(Node):
    """Rows of `x`, each divided by its length; a row of 0 stays as it is."""

    x: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerNorm(Node):
    """Rows of `x` less their mean, divided by `sqrt(variance + eps)`, times gamma, plus beta."""

    x: str
    gamma: Floats
    beta: Floats
    eps: float

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention(Node):
    """`softmax(scale * q . k^T + bias) . v`, head by head; heads are neighbouring channels.

    Attributes:
        q, k, v: `[T, heads * width]`.
        heads: how many.
        padding: channels at the end of each head that are 0 in Q, K, V and the result.
        scale: of the scores.
        masked: whether keys from the run-time length on do not count.
        bias: `[heads, T, T]`, or `[1, T, T]` for all heads the same, or None; at most
            `MASKED_BELOW` where a key does not count for a query.
    """

    q: str
    k: str
    v: str
    heads: int
    scale: float
    masked: bool
    padding: int = 0
    bias: Floats | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.q, self.k, self.v)


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """`a + b`."""

    a: str
    b: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.a, self.b)


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Node):
    """A function of each element, by its name in `activations`."""

    x: str
    function: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it reads."""
        return (self.x,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A model from the first operator of the core to the last.

    Attributes:
        input: the tensor that the host provides.
        output: the tensor that the host gets.
        others: further ones that it gets, which come before that one.
        widths: channels of each tensor.
        nodes: in an order in which they may be carried out.
    """

    input: str
    output: str
    widths: dict[str, int]
    nodes: tuple[Node, ...] = field(default_factory=tuple)
    others: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """All tensors that the host gets."""
        return (*self.others, self.output)

    @cached_property
    def producers(self) -> dict[str, Node]:
        """Who writes a tensor; nobody writes the input."""
        return {node.out: node for node in self.nodes}

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """Who reads a tensor; a node that reads it twice is there twice."""
        readers: dict[str, list[Node]] = {name: [] for name in self.widths}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows of the tensors that have fewer than there are tokens."""
        rows: dict[str, int] = {}
        for node in self.nodes:
            if isinstance(node, First):
                rows[node.out] = node.rows
            elif isinstance(node, Mean):
                rows[node.out] = 1
            elif node.inputs[0] in rows:
                rows[node.out] = rows[node.inputs[0]]
        return rows

    def changed(self, nodes: Iterable[Node], widths: dict[str, int] | None = None) -> "Graph":
        """The graph with other nodes, less those whose results nobody needs."""
        wanted = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(list(nodes)):
            if node.out in wanted:
                kept.append(node)
                wanted.update(node.inputs)
        widths = self.widths | (widths or {})
        return replace(
            self,
            nodes=tuple(reversed(kept)),
            widths={name: width for name, width in widths.items() if name in wanted | {self.input}},
        )
