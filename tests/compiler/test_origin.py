"""Which earlier tensor has the same elements in the same order."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.origin import origin

CASES = {
    "tokens first": ((1, 4, 4), [("Transpose", {"perm": [1, 0, 2]})], "x"),
    "there and back": ((4, 4), [("Unsqueeze", [0]), ("Squeeze", [0])], "x"),
    "reshaped": ((1, 4, 6), [("Reshape", [4, 1, 6]), ("Identity", None)], "x"),
    "transposed, of equal sides": ((1, 4, 4), [("Transpose", {"perm": [0, 2, 1]})], "v0"),
    "transposed by default": ((4, 4), [("Transpose", {})], "v0"),
    "other channels": ((1, 4, 6), [("Reshape", [1, 6, 4])], "v0"),
    "computed": ((1, 4, 6), [("Neg", None), ("Reshape", [4, 1, 6])], "v0"),
}


@pytest.mark.parametrize("name", CASES)
def test_origin(name: str) -> None:
    shape, steps, expected = CASES[name]
    nodes, constants, value = [], [], "x"
    for count, (operator, operand) in enumerate(steps):
        inputs = [value]
        if isinstance(operand, list):
            inputs.append(f"c{count}")
            constants.append(numpy_helper.from_array(np.array(operand), f"c{count}"))
        attributes = operand if isinstance(operand, dict) else {}
        value = f"v{count}"
        nodes.append(helper.make_node(operator, inputs, [value], **attributes))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    read = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    assert origin(read.graph.outputs[0]).name == expected
