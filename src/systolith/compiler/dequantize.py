"""Quantized files, read as real numbers: what rounds activations is taken out, weights stay.

Two forms are taken. In *QDQ* files every activation goes through QuantizeLinear and
DequantizeLinear, and weights through DequantizeLinear alone. *Dynamic* files quantize an activation
by what it is (DynamicQuantizeLinear), and multiply integers (MatMulInteger). Both are rewritten in
place, with all names kept; DequantizeLinear of constants is left to constant folding, so that what
the host needs keeps its weights in integers.
"""

from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.errors import CompileError

ACCEPTED = (
    "QuantizeLinear and DequantizeLinear around float operators (QuantFormat.QDQ of "
    "onnxruntime.quantization), the result of its quantize_dynamic, or the model as it was "
    "before quantization"
)
"""The way out for files that are quantized in any other form."""

_MOVES = {
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators that do the same to codes as to the real numbers that these stand for."""

_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}

_OTHER_FORMS = {
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
}
"""Of ONNX Runtime alone; so are most of those that begin with QLinear."""

_LINEAR = {"Conv", "Gemm", "MatMul"}
"""Behind these, and the bias added to them, quantizers leave a Relu out: codes begin at zero."""


def dequantize(model: onnx.ModelProto) -> tuple[str, ...]:
    """Rewrite a model in place; return what the user should know about it.

    Raises:
        CompileError: integers are used in a way that the two forms do not have.
    """
    file = _File(model.graph)
    pairs = products = 0
    for node in list(model.graph.node):
        if node.op_type.startswith("QLinear") or node.op_type in _OTHER_FORMS:
            _refuse(node, "it computes with the integers of another form of quantization")
        if node.op_type == "QuantizeLinear" and node.input[0] not in file.folded:
            file.drop_pair(node)
            pairs += 1
        elif node.op_type == "DynamicQuantizeLinear":
            file.drop_dynamic(node)
        elif node.op_type in _PRODUCTS:
            file.make_float(node)
            products += 1
    if not pairs and not products:
        return ()
    where = [f"{pairs} places"] * bool(pairs) + [f"{products} products"] * bool(products)
    return (
        f"the file rounds activations in {' and in '.join(where)}: that is dropped, ranges come "
        "from calibration; its quantized weights are taken exactly",
    )


class _Scale(NamedTuple):
    """What a node quantizes by."""

    scale: npt.NDArray
    zero: npt.NDArray

    def equals(self, other: "_Scale") -> bool:
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)


class _File:
    """A graph, and who makes and reads its values.

    Attributes:
        folded: names of what follows from constants alone.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._arrays = {tensor.name: tensor for tensor in graph.initializer}
        self.folded = set(self._arrays)
        self._producers: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._floats: set[str] = set()
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._arrays[node.output[0]] = node.attribute[0].t
            self._producers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
            if all(not name or name in self.folded for name in node.input):
                self.folded.update(node.output)
        self._outputs = {value.name for value in graph.output}

    def drop_pair(self, node: onnx.NodeProto) -> None:
        """Make QuantizeLinear, and DequantizeLinear behind it, hand the numbers through."""
        scale = self._scale(node)
        relu = self._rectifies(node, scale)
        for reader in self._follow(node.output[0], node):
            if reader.op_type != "DequantizeLinear":
                _refuse(reader, "it computes with the integers of a QuantizeLinear")
            if not self._scale(reader).equals(scale):
                _refuse(reader, f"its scale or zero point is not that of '{node.name}'")
            _replace(reader, "Relu" if relu else "Identity", reader.input[:1])
        _replace(node, "Identity", node.input[:1])

    def drop_dynamic(self, node: onnx.NodeProto) -> None:
        """Let the codes of a DynamicQuantizeLinear be the numbers themselves, and its scale 1."""
        codes, scale, zero = node.output
        for reader in self._follow(codes, node):
            if reader.op_type not in _PRODUCTS:
                _refuse(reader, "it computes with the integers of a DynamicQuantizeLinear")
        self._floats.update((codes, zero))
        self._graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), scale))
        _replace(node, "Identity", node.input[:1])
        del node.output[1:]

    def make_float(self, node: onnx.NodeProto) -> None:
        """Turn a product of integers into one of real numbers, less their scales."""
        operands = [self._operand(node, position) for position in (0, 1)]
        for reader in self._readers.get(node.output[0], ()):
            if reader.op_type != "Cast":
                _refuse(reader, f"it computes with the integers of a {node.op_type}")
        attributes = list(node.attribute)
        _replace(node, _PRODUCTS[node.op_type], operands)
        node.attribute.extend(attributes)

    def _operand(self, node: onnx.NodeProto, position: int) -> str:
        """An operand in real numbers, that of a DynamicQuantizeLinear or a constant."""
        name = node.input[position]
        zero = node.input[position + 2] if len(node.input) > position + 2 else ""
        if self._is_float(name):
            return name
        if name not in self._arrays or (zero and zero not in self._arrays):
            _refuse(node, f"its operand '{name}' is neither constant nor a DynamicQuantizeLinear's")
        array = numpy_helper.to_array(self._arrays[name]).astype(np.float32)
        if zero:
            offset = numpy_helper.to_array(self._arrays[zero]).astype(np.float32)
            # Of a convolution's weights, the first axis is the outputs', else the last.
            array -= offset.reshape(-1, 1, 1, 1) if array.ndim == 4 and offset.size > 1 else offset
        made = f"{node.name or node.output[0]}.operand.{position}"
        self._graph.initializer.append(numpy_helper.from_array(array, made))
        return made

    def _is_float(self, name: str) -> bool:
        """Whether a value is what a DynamicQuantizeLinear was, moved about at most."""
        while name not in self._floats:
            producer = self._producers.get(name)
            if producer is None or producer.op_type not in _MOVES:
                return False
            name = producer.input[0]
        return True

    def _follow(self, name: str, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Who reads the codes that a node makes, where they have been moved included."""
        found: list[onnx.NodeProto] = []
        stack = [name]
        while stack:
            current = stack.pop()
            if current in self._outputs:
                _refuse(node, f"its integers are the model's output '{current}'")
            for reader in self._readers.get(current, ()):
                if reader.op_type in _MOVES:
                    stack.extend(reader.output)
                else:
                    found.append(reader)
        return found

    def _scale(self, node: onnx.NodeProto) -> _Scale:
        scale, *rest = (name for name in node.input[1:] if name)
        for name in (scale, *rest):
            if name not in self._arrays:
                _refuse(node, f"its '{name}' is computed at run time")
        array = numpy_helper.to_array(self._arrays[scale])
        if rest:
            return _Scale(array, numpy_helper.to_array(self._arrays[rest[0]]))
        attributes = {each.name: each.i for each in node.attribute}
        kind = attributes.get("output_dtype", 0) or TensorProto.UINT8
        return _Scale(array, np.zeros(array.shape, helper.tensor_dtype_to_np_dtype(kind)))

    def _rectifies(self, node: onnx.NodeProto, scale: _Scale) -> bool:
        """Whether the codes are a Relu: the least stands for zero, behind a product and its bias.

        Behind anything else (softmax, a sum with the error function), nothing is negative anyway.
        """
        if scale.zero.dtype.kind not in "iu" or scale.zero.size == 0:
            return False
        if (scale.zero != np.iinfo(scale.zero.dtype).min).any():
            return False
        name = node.input[0]
        while (producer := self._producers.get(name)) is not None:
            others = [each for each in producer.input if each not in self.folded]
            if producer.op_type in _LINEAR:
                return True
            if producer.op_type not in (*_MOVES, "Add", "QuantizeLinear", "DequantizeLinear"):
                return False
            if len(others) != 1:
                return False
            name = others[0]
        return False


def _replace(node: onnx.NodeProto, operator: str, inputs: list[str]) -> None:
    """Make a node another operator of the same name and output."""
    given = list(inputs)
    node.op_type, node.domain = operator, ""
    del node.input[:], node.attribute[:]
    node.input.extend(given)


def _refuse(node: onnx.NodeProto, reason: str) -> NoReturn:
    raise CompileError(reason, node=node.name, operator=node.op_type, accepted=ACCEPTED)
