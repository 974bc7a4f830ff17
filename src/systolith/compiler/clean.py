"""From an ONNX file to a graph of few, plain operators with fixed shapes.

The recipe: fix the shapes, convert to opset 20 (which has LayerNormalization and Gelu), let ONNX
Runtime fold constants and shape arithmetic at its basic level, less the optimizers that fuse what
the front end wants to see, then rewrite GELU, SiLU and PyTorch's softmax guard with onnxscript.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx_ir.passes.common import RemoveUnusedNodesPass

from systolith.compiler.errors import CompileError
from systolith.compiler.patterns import PATTERNS

OPSET = 20
"""The first that has LayerNormalization and Gelu."""

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
        # Weights in integers are constants like any other.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
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
        folded = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(path)))
    with warnings.catch_warnings():
        # onnx-ir warns of opset imports it does not know.
        warnings.simplefilter("ignore")
        PATTERNS.apply_to_model(folded)
        RemoveUnusedNodesPass()(folded)
    return folded


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
