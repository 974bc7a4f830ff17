"""The shapes of a model's inputs, fixed for one batch and one length, or one image."""

from math import isqrt

import onnx
from onnx import TensorProto

from systolith.compiler.errors import CompileError

IMAGE_DIMENSIONS = 4
"""Of an input that is an image: batch, channels, height, width."""

POSITION_DIMENSIONS = 3
"""Of a table of positions: 1, tokens, channels."""

MOST_FRONT_TOKENS = 2
"""In front of the patches: one for the class, and perhaps one for distillation."""


def is_image(value: onnx.ValueInfoProto) -> bool:
    """Whether an input is an image."""
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) == IMAGE_DIMENSIONS and tensor.elem_type == TensorProto.FLOAT


def fix_shapes(model: onnx.ModelProto, seq_len: int | None) -> int | None:
    """Make every input `[1, T, ...]`, in place, and forget all other shapes; return T.

    The first dimension is the batch, the second the sequence. An image, `[1, channels, height,
    width]`, has no length of its own: then return None.

    Raises:
        CompileError: a dynamic shape without a length, a length that the model does not have, or
            a dimension that neither batch nor sequence explains.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    found: int | None = None
    images = [value for value in inputs if is_image(value)]
    if images:
        _fix_image(inputs, model.graph)
        inputs = []
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if len(dims) < 2:
            raise CompileError(
                f"input has {len(dims)} dimensions",
                node=value.name,
                accepted="inputs of shape [batch, sequence, ...]",
            )
        _fix(value.name, dims[0], 1, "batch")
        if not dims[1].HasField("dim_value") and seq_len is None:
            raise CompileError(
                "its sequence dimension is dynamic and no length is given",
                node=value.name,
                accepted="a length, as in --seq-len 32",
            )
        _fix(value.name, dims[1], seq_len, "sequence")
        if found is not None and dims[1].dim_value != found:
            raise CompileError(
                f"its sequence length is {dims[1].dim_value}, another input's is {found}",
                node=value.name,
                accepted="inputs of one length",
            )
        found = dims[1].dim_value
        for position, dim in enumerate(dims[2:], 2):
            if not dim.HasField("dim_value"):
                raise CompileError(
                    f"dimension {position} is dynamic",
                    node=value.name,
                    accepted="dynamic batch and sequence dimensions only",
                )
    if found is None and not images:
        raise CompileError("the model has no inputs", accepted="a model of token inputs")
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.ClearField("dim_param")
    del model.graph.value_info[:]
    return found


def _fix_image(inputs: list[onnx.ValueInfoProto], graph: onnx.GraphProto) -> None:
    """Make the only input one image, in place; of dynamic size, the one that its positions suit."""
    if len(inputs) != 1:
        raise CompileError(
            f"the model has an image and {len(inputs) - 1} more inputs", accepted="one image"
        )
    (value,) = inputs
    batch, *rest = value.type.tensor_type.shape.dim
    _fix(value.name, batch, 1, "batch")
    sizes = None
    for index, (name, dim) in enumerate(zip(("channels", "height", "width"), rest, strict=True)):
        if dim.HasField("dim_value"):
            continue
        sizes = sizes or _image_size(graph)
        if sizes is None:
            raise CompileError(
                f"the image's {name} dimension is dynamic",
                node=value.name,
                accepted="a dynamic batch dimension, or positions for a square image behind its "
                "patches: else export the model for one image size",
            )
        dim.dim_value = sizes[index]


def _image_size(graph: onnx.GraphProto) -> tuple[int, int, int] | None:
    """Channels, height and width of the square image that a model has positions for."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        weight = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
        if len(weight) != IMAGE_DIMENSIONS:
            continue
        width, channels, *patch = weight
        for shape in shapes.values():
            if len(shape) != POSITION_DIMENSIONS or shape[0] != 1 or shape[2] != width:
                continue
            for tokens in range(MOST_FRONT_TOKENS + 1):
                side = isqrt(max(0, shape[1] - tokens))
                if side > 1 and side * side == shape[1] - tokens:
                    return channels, side * patch[0], side * patch[1]
    return None


def _fix(name: str, dim: onnx.TensorShapeProto.Dimension, size: int | None, what: str) -> None:
    if not dim.HasField("dim_value"):
        assert size is not None
        dim.dim_value = size
    elif size is not None and dim.dim_value != size:
        raise CompileError(
            f"its {what} dimension is fixed to {dim.dim_value}, not {size}",
            node=name,
            accepted=f"{what} {dim.dim_value}, or a model with a dynamic {what} dimension",
        )
