"""Writing TFLite files of INT8 graphs, as far as an encoder needs them.

A file is a FlatBuffer after TensorFlow's `schema.fbs` (version 3); the numbers here are that
schema's: positions of fields in their tables, codes of operators, types and unions. All
activations have one scale, since cycles do not depend on it, and no zero point.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import flatbuffers
import numpy as np
from flatbuffers import number_types

IDENTIFIER = b"TFL3"
SCALE = 1 / 16
"""Of activations, in units of a code."""

TENSOR_TYPES = {np.dtype(np.int32): 2, np.dtype(np.int8): 9}

Field = Callable[[flatbuffers.Builder, int], None]
"""Adds a scalar at a position of the open table."""


class Op(Enum):
    """An operator: its code, and the number of its options in their union."""

    ADD = (0, 11)
    FULLY_CONNECTED = (9, 8)
    MUL = (18, 21)
    RESHAPE = (22, 17)
    SOFTMAX = (25, 9)
    TRANSPOSE = (39, 26)
    MEAN = (40, 27)
    SUB = (41, 28)
    RSQRT = (76, 0)
    BATCH_MATMUL = (126, 101)
    GELU = (150, 116)


def flag(value: bool) -> Field:
    """A field of type bool."""
    return lambda builder, slot: builder.PrependBoolSlot(slot, value, False)


def real(value: float) -> Field:
    """A field of type float."""
    return lambda builder, slot: builder.PrependFloat32Slot(slot, value, 0.0)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of the graph; `index` is its number there."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    data: np.ndarray | None
    """Of a constant."""
    scale: float | None
    """None for what is no quantity, such as a shape."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """An operator in the graph; `options` are the fields of its options, by position."""

    op: Op
    inputs: tuple[Tensor, ...]
    output: Tensor
    options: dict[int, Field]


class Graph:
    """A graph under construction, in the order of execution."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []

    def activation(self, name: str, shape: Sequence[int], scale: float = SCALE) -> Tensor:
        """Add an INT8 tensor without contents."""
        return self._tensor(name, tuple(shape), np.dtype(np.int8), None, scale)

    def constant(self, name: str, data: np.ndarray, scale: float | None = None) -> Tensor:
        """Add a tensor with contents, int8 or int32."""
        return self._tensor(name, data.shape, data.dtype, data, scale)

    def add(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        name: str,
        shape: Sequence[int],
        options: dict[int, Field] | None = None,
    ) -> Tensor:
        """Add an operator, and return its INT8 output."""
        output = self.activation(name, shape)
        self.nodes.append(
            Node(op=op, inputs=tuple(inputs), output=output, options=dict(options or {}))
        )
        return output

    def serialize(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
        """Return the contents of the file."""
        return _Writer(self).model(inputs, outputs)

    def _tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        data: np.ndarray | None,
        scale: float | None,
    ) -> Tensor:
        tensor = Tensor(
            index=len(self.tensors), name=name, shape=shape, dtype=dtype, data=data, scale=scale
        )
        self.tensors.append(tensor)
        return tensor


class _Writer:
    """A FlatBuffer is written from its leaves to its root: what is pointed at comes first."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = flatbuffers.Builder(1 << 20)

    def model(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
        ops = sorted({node.op for node in self.graph.nodes}, key=lambda op: op.value)
        codes = self._offsets([self._code(op) for op in ops])
        # Buffer 0 is the empty one, by definition; constants have one each after it.
        constants = [each for each in self.graph.tensors if each.data is not None]
        buffers = self._offsets([self._table({}), *(self._buffer(each) for each in constants)])
        buffer_of = {each.index: n for n, each in enumerate(constants, 1)}
        subgraph = self._table(
            {
                0: self._pointer(
                    self._offsets(
                        [self._tensor(t, buffer_of.get(t.index, 0)) for t in self.graph.tensors]
                    )
                ),
                1: self._pointer(self._indices(inputs)),
                2: self._pointer(self._indices(outputs)),
                3: self._pointer(self._offsets([self._node(n, ops) for n in self.graph.nodes])),
            }
        )
        root = self._table(
            {
                0: lambda b, slot: b.PrependUint32Slot(slot, 3, 0),
                1: self._pointer(codes),
                2: self._pointer(self._offsets([subgraph])),
                4: self._pointer(buffers),
            }
        )
        self.builder.Finish(root, IDENTIFIER)
        return bytes(self.builder.Output())

    def _code(self, op: Op) -> int:
        code = op.value[0]
        return self._table(
            {
                # Readers from before there were more than 127 operators look here.
                0: lambda b, slot: b.PrependInt8Slot(slot, min(code, 127), 0),
                3: lambda b, slot: b.PrependInt32Slot(slot, code, 0),
            }
        )

    def _buffer(self, tensor: Tensor) -> int:
        assert tensor.data is not None
        raw = np.frombuffer(tensor.data.astype(tensor.dtype.newbyteorder("<")).tobytes(), np.uint8)
        # The schema wants data aligned to 16 bytes, more than a vector of bytes has by itself.
        self.builder.StartVector(1, len(raw), 16)
        self.builder.head -= len(raw)
        self.builder.Bytes[self.builder.head : self.builder.head + len(raw)] = raw.tobytes()
        return self._table({0: self._pointer(self.builder.EndVector())})

    def _tensor(self, tensor: Tensor, buffer: int) -> int:
        fields: dict[int, Field] = {
            0: self._pointer(self.builder.CreateNumpyVector(np.array(tensor.shape, np.int32))),
            1: lambda b, slot: b.PrependInt8Slot(slot, TENSOR_TYPES[tensor.dtype], 0),
            2: lambda b, slot: b.PrependUint32Slot(slot, buffer, 0),
            3: self._pointer(self.builder.CreateString(tensor.name)),
        }
        if tensor.scale is not None:
            scale = self.builder.CreateNumpyVector(np.array([tensor.scale], np.float32))
            zero_point = self.builder.CreateNumpyVector(np.zeros(1, np.int64))
            quantization = {2: self._pointer(scale), 3: self._pointer(zero_point)}
            fields[4] = self._pointer(self._table(quantization))
        return self._table(fields)

    def _node(self, node: Node, ops: Sequence[Op]) -> int:
        union = node.op.value[1]
        fields: dict[int, Field] = {
            0: lambda b, slot: b.PrependUint32Slot(slot, ops.index(node.op), 0),
            1: self._pointer(self._indices(node.inputs)),
            2: self._pointer(self._indices([node.output])),
        }
        if union:
            fields[3] = lambda b, slot: b.PrependUint8Slot(slot, union, 0)
            fields[4] = self._pointer(self._table(node.options))
        return self._table(fields)

    def _indices(self, tensors: Sequence[Tensor]) -> int:
        return self.builder.CreateNumpyVector(np.array([t.index for t in tensors], np.int32))

    def _table(self, fields: dict[int, Field]) -> int:
        self.builder.StartObject(max(fields, default=-1) + 1)
        for slot, put in fields.items():
            put(self.builder, slot)
        return self.builder.EndObject()

    def _pointer(self, offset: int) -> Field:
        # The offset is made now, before the table that holds it is open.
        kind = number_types.UOffsetTFlags.py_type
        return lambda b, slot: b.PrependUOffsetTRelativeSlot(slot, kind(offset), 0)

    def _offsets(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()
