"""From an ONNX file to a graph of few, plain operators with fixed shapes.

The recipe: fix the shapes, convert to opset 20 (which has LayerNormalization and Gelu), let ONNX
Runtime fold constants and shape arithmetic at its basic level, less the optimizers that fuse what
the front end wants to see, then rewrite GELU, SiLU and PyTorch's softmax guard with onnxscript.
"""

import tempfile
import warnings
from math import isqrt
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from systolith.compiler.errors import CompileError

OPSET = 20
"""The first that has LayerNormalization and Gelu."""

DOMAIN = "systolith"
"""Of operators that ONNX lacks: `Silu`, `QuickGelu`."""

_KEEP_PLAIN = ["MatMulAddFusion", "TransposeOptimizer"]
"""Optimizers that make Gemm and move transposes: the front end reads MatMul, Add, Transpose."""

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def load(source: Path | bytes) -> onnx.ModelProto:
    """Read a model, its external data included, and widen half precision to float32.

    Raises:
        CompileError: no such file, not ONNX, or external data is missing.
    """
    try:
        if isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        else:
            model = onnx.load(source)
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise CompileError(f"there is no file {error.filename or source}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        lines = str(error).strip().splitlines()
        raise CompileError(
            f"not a valid ONNX model: {lines[0] if lines else type(error).__name__}",
            accepted="an ONNX file as an exporter wrote it, beside it its external data, if any",
        ) from error
    if not model.graph.node:
        raise CompileError("the model has no nodes", accepted="a transformer encoder")
    if model.ByteSize() >= 2**31:
        raise CompileError("the model is larger than 2 GiB", accepted="models below 2 GiB")
    _widen(model)
    return model


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


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model at `OPSET`, or as it is if it is newer."""
    version = next((each.version for each in model.opset_import if not each.domain), 1)
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # The converter raises RuntimeError and its own classes.
        raise CompileError(
            f"cannot convert opset {version} to {OPSET}: {str(error).splitlines()[0]}",
            accepted=f"models of opset 11 to {OPSET} with standard operators",
        ) from error


def clean(model: onnx.ModelProto) -> ir.Model:
    """Fold and rewrite a model with fixed shapes.

    Raises:
        CompileError: ONNX Runtime does not accept the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basic.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        try:
            ort.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_KEEP_PLAIN,
            )
        except Exception as error:  # ONNX Runtime's classes have no common base.
            raise CompileError(
                f"ONNX Runtime does not accept the model: {str(error).splitlines()[0]}",
                accepted="models that ONNX Runtime can run",
            ) from error
        folded = ir.from_proto(onnx.load(path))
    with warnings.catch_warnings():
        # onnx-ir warns of opset imports it does not know.
        warnings.simplefilter("ignore")
        _RULES.apply_to_model(folded)
    return folded


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


def _widen(model: onnx.ModelProto) -> None:
    """Turn half precision into float32, in place: weights, casts, constants, declared types."""

    def tensor(each: onnx.TensorProto) -> None:
        if each.data_type in _HALVES:
            array = numpy_helper.to_array(each).astype(np.float32)
            each.CopyFrom(numpy_helper.from_array(array, each.name))

    def value(each: onnx.ValueInfoProto) -> None:
        if each.type.tensor_type.elem_type in _HALVES:
            each.type.tensor_type.elem_type = TensorProto.FLOAT

    def graph(each: onnx.GraphProto) -> None:
        for item in each.initializer:
            tensor(item)
        for item in (*each.input, *each.output, *each.value_info):
            value(item)
        for node in each.node:
            for attribute in node.attribute:
                tensor(attribute.t)
                for inner in (attribute.g, *attribute.graphs):
                    graph(inner)
                if attribute.name in ("to", "dtype") and attribute.i in _HALVES:
                    attribute.CopyFrom(helper.make_attribute(attribute.name, TensorProto.FLOAT))

    graph(model.graph)


# --- rewrite rules; operands of Add and Mul may be swapped --------------------------------------


def _gelu_of_product(op, x, root, one, half):
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)


def _gelu_of_half(op, x, root, one, half):
    return op.Mul(x, op.Mul(op.Add(op.Erf(op.Div(x, root)), one), half))


def _gelu_of_half_x(op, x, root, one, half):
    return op.Mul(op.Mul(x, half), op.Add(op.Erf(op.Div(x, root)), one))


def _gelu(op, x, **_):
    return op.Gelu(x)


def _is_gelu(_context, root, one, half, **_rest) -> bool:
    return _is(root, 2**0.5) and _is(one, 1) and _is(half, 0.5)


def _gelu_multiplied(op, x, root, one, half):
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Mul(x, root)), one)), half)


def _is_gelu_multiplied(_context, root, one, half, **_rest) -> bool:
    return _is(root, 0.5**0.5) and _is(one, 1) and _is(half, 0.5)


def _gelu_tanh_pattern(op, x, three, cubic, scale, one, half):
    inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, three), cubic)), scale)
    return op.Mul(op.Mul(x, op.Add(op.Tanh(inner), one)), half)


def _gelu_tanh_half_x(op, x, three, cubic, scale, one, half):
    inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, three), cubic)), scale)
    return op.Mul(op.Mul(x, half), op.Add(op.Tanh(inner), one))


def _gelu_tanh(op, x, **_):
    return op.Gelu(x, approximate="tanh")


def _is_gelu_tanh(_context, three, cubic, scale, one, half, **_rest) -> bool:
    numbers = {three: 3, cubic: 0.044715, scale: (2 / np.pi) ** 0.5, one: 1, half: 0.5}
    return all(_is(value, number) for value, number in numbers.items())


def _silu_pattern(op, x):
    return op.Mul(x, op.Sigmoid(x))


def _silu(op, x):
    return op.Silu(x, _domain=DOMAIN)


def _quick_gelu_pattern(op, x, slope):
    return op.Mul(x, op.Sigmoid(op.Mul(x, slope)))


def _quick_gelu(op, x, **_):
    return op.QuickGelu(x, _domain=DOMAIN)


def _is_quick_gelu(_context, slope, **_rest) -> bool:
    return _is(slope, 1.702)


def _guard_pattern(op, scores, zero):
    # PyTorch guards rows in which everything is masked; a valid length is at least 1.
    p = op.Softmax(scores, _outputs=["p"])
    return op.Where(op.IsNaN(p), zero, p)


def _guard(op, scores, p, **_):
    return op.Softmax(scores, axis=p.producer().attributes.get_int("axis", -1))


def _is_guard(_context, zero, **_rest) -> bool:
    return _is(zero, 0)


def _is(value: ir.Value, number: float) -> bool:
    """Whether a value is a constant of one element that is nearly a number (fp16 files too)."""
    tensor = value.const_value
    return (
        tensor is not None
        and tensor.size == 1
        and abs(float(tensor.numpy().item()) - number) < 2e-3
    )


_RULES = RewriteRuleSet(
    [
        *(
            RewriteRule(pattern, _gelu, _is_gelu)
            for pattern in (_gelu_of_product, _gelu_of_half, _gelu_of_half_x)
        ),
        RewriteRule(_gelu_multiplied, _gelu, _is_gelu_multiplied),
        *(
            RewriteRule(pattern, _gelu_tanh, _is_gelu_tanh)
            for pattern in (_gelu_tanh_pattern, _gelu_tanh_half_x)
        ),
        RewriteRule(_silu_pattern, _silu),
        RewriteRule(_quick_gelu_pattern, _quick_gelu, _is_quick_gelu),
        RewriteRule(_guard_pattern, _guard, _is_guard),
    ],
    commute=True,
)
