"""What writers of synthetic ONNX models share: nodes, weights and linear layers of exporters."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

IR_VERSION = 8
"""Of ONNX at opset 17, so that old runtimes read the files."""


class OnnxWriter:
    """Collects nodes and weights of one model.

    Args:
        seed: of the random weights.
        dtype: of all that is no integer.
    """

    def __init__(self, seed: int, dtype: type[np.floating] = np.float32) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.dtype = dtype

    def export(
        self, inputs: list[onnx.ValueInfoProto], output: onnx.ValueInfoProto, *, opset: int = 17
    ) -> onnx.ModelProto:
        """Return the model, checked."""
        graph = helper.make_graph(self.nodes, "main_graph", inputs, [output], self.weights)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=IR_VERSION,
            producer_name="pytorch",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def weight(self, name: str, array: npt.ArrayLike) -> str:
        """Add a floating-point initializer."""
        self.weights.append(numpy_helper.from_array(np.asarray(array).astype(self.dtype), name))
        return name

    def node(
        self, kind: str, inputs: list[str], name: str, *, output: str | None = None, **attributes
    ) -> str:
        """Append a node with one output and return the output's name."""
        path = "/" + name.replace(".", "/") + "/" + kind
        taken = sum(node.name.split("#")[0] == path for node in self.nodes)
        path = f"{path}#{taken}" if taken else path
        output = output or f"{path}_output_0"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=path, **attributes))
        return output

    def constant(self, value: npt.ArrayLike, name: str) -> str:
        """Add a Constant node; integers stay integers."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else self.dtype)
        return self.node("Constant", [], name, value=numpy_helper.from_array(array))

    def linear(self, name: str, x: str, inputs: int, outputs: int, *, gain: float = 1.0) -> str:
        """Append a MatMul and an Add, as exporters write a layer for many tokens."""
        array = self.random.normal(0, gain * inputs**-0.5, (inputs, outputs))
        array[:, :: max(1, outputs // 4)] *= 2  # A few channels are wide, as in trained models.
        weight = self.weight(f"{name}.weight", array)
        bias = self.weight(f"{name}.bias", self.random.normal(0, 0.1, outputs))
        return self.node("Add", [bias, self.node("MatMul", [x, weight], name)], name)

    def gemm(self, name: str, x: str, inputs: int, outputs: int) -> str:
        """Append a Gemm, as exporters write a layer for one vector."""
        weight = self.random.normal(0, inputs**-0.5, (outputs, inputs))
        bias = self.weight(f"{name}.bias", self.random.normal(0, 0.1, outputs))
        return self.node("Gemm", [x, self.weight(f"{name}.weight", weight), bias], name, transB=1)
