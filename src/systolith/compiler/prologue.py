"""The host's ONNX models: running them, and padding a model's inputs to the compiled length."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from systolith.compiler.errors import CompileError
from systolith.compiler.shapes import is_image

Arrays = dict[str, npt.NDArray]


class HostModel:
    """An ONNX model on the host."""

    def __init__(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]
        self.shapes = {value.name: tuple(value.shape) for value in self._session.get_inputs()}

    def run(self, feeds: Mapping[str, npt.ArrayLike]) -> Arrays:
        """Return all outputs; feeds that the model does not take are ignored."""
        used = {name: np.asarray(feeds[name]) for name in self.inputs}
        results = [np.asarray(result) for result in self._session.run(None, used)]
        return dict(zip(self.outputs, results, strict=True))


def pad_inputs(
    inputs: Mapping[str, npt.ArrayLike], seq_len: int, mask_input: str | None = None
) -> tuple[Arrays, int]:
    """Bring one sample to the compiled length.

    Args:
        inputs: for each of the model's inputs `[L, ...]` or `[1, L, ...]`. If the attention mask
            is left out, all L tokens are valid.
        seq_len: the compiled length.
        mask_input: name of the attention mask.

    Returns:
        Inputs `[1, seq_len, ...]`, padded with zeros, and the number of valid tokens.

    Raises:
        CompileError: too many tokens, inputs of different lengths, or a mask that is not a run
            of ones and then zeros.
    """
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    # A batch of one may be there or not; a length of one with more dimensions is taken as batch.
    arrays = {
        name: value[0] if value.ndim > 1 and len(value) == 1 else value
        for name, value in arrays.items()
    }
    lengths = {name: len(value) for name, value in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise CompileError(f"inputs have different lengths: {lengths}", accepted="equal lengths")
    given = next(iter(lengths.values()))
    length = given
    if mask_input is not None:
        mask = arrays.setdefault(mask_input, np.ones(given, np.int64)).astype(bool)
        length = int(mask.sum())
        if not mask[:length].all() or not length:
            raise CompileError(
                "the mask is not ones followed by zeros",
                node=mask_input,
                accepted="padding at the end, and at least one valid token",
            )
    if length > seq_len:
        raise CompileError(
            f"a sample has {length} tokens", accepted=f"at most {seq_len}, the compiled length"
        )
    padded = {}
    for name, value in arrays.items():
        fill = np.zeros((seq_len, *value.shape[1:]), value.dtype)
        fill[: min(given, seq_len)] = value[:seq_len]
        padded[name] = fill[None]
    return padded, length


def image_input(prologue: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Name and shape of the image that a model takes, if it takes one."""
    for value in onnx.load_from_string(prologue).graph.input:
        if is_image(value):
            return value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return None


def take_image(inputs: Mapping[str, npt.ArrayLike], name: str, shape: Sequence[int]) -> Arrays:
    """Bring one image to the shape of a model's input.

    Args:
        inputs: `[channels, height, width]` or `[1, channels, height, width]`, by name.
        name: of the input.
        shape: of the input, with a batch of 1.

    Raises:
        CompileError: it is not there, not alone, or has another size.
    """
    if set(inputs) != {name}:
        raise CompileError(f"inputs are {', '.join(inputs) or 'missing'}", accepted=f"'{name}'")
    array = np.asarray(inputs[name], np.float32)
    if array.shape not in (tuple(shape), tuple(shape[1:])):
        raise CompileError(
            f"the image has shape {list(array.shape)}", node=name, accepted=f"{list(shape[1:])}"
        )
    return {name: array.reshape(shape)}


def random_images(prologue: bytes, *, count: int, seed: int) -> list[Arrays]:
    """Make up images of a normal distribution; the last resort of calibration."""
    found = image_input(prologue)
    assert found is not None
    name, shape = found
    random = np.random.default_rng(seed)
    return [{name: random.normal(0, 1, shape).astype(np.float32)} for _ in range(count)]


def random_inputs(
    prologue: bytes, epilogue: bytes, seq_len: int, mask_input: str | None, *, count: int, seed: int
) -> list[Arrays]:
    """Make up samples: random tokens, zeros for other inputs; the last resort of calibration."""
    random = np.random.default_rng(seed)
    limits: dict[str, int] = {}
    kinds: dict[str, np.dtype] = {}
    for model in (onnx.load_from_string(part) for part in (prologue, epilogue) if part):
        weights = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
        sources = {out: node for node in model.graph.node for out in node.output}
        for value in model.graph.input:
            kind = value.type.tensor_type.elem_type
            kinds[value.name] = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
        for node in model.graph.node:
            if node.op_type == "Gather" and node.input[1] in kinds:
                rows = weights.get(_root(node.input[0], sources), 1)
                limits[node.input[1]] = min(rows, limits.get(node.input[1], rows))
    return [
        {
            name: np.ones(seq_len, kind)
            if name == mask_input
            else random.integers(0, max(1, limits.get(name, 1)), seq_len).astype(kind)
            for name, kind in kinds.items()
        }
        for _ in range(count)
    ]


def check_tables(prologue: onnx.ModelProto) -> None:
    """Refuse embeddings that are not finite.

    Raises:
        CompileError: a weight of the prologue has NaN or infinite elements.
    """
    readers = {name: node for node in prologue.graph.node for name in node.input}
    for tensor in prologue.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1 and array.dtype.kind == "f" and not np.isfinite(array).all():
            node = readers[tensor.name]
            raise CompileError(
                f"weight '{tensor.name}' has NaN or infinite elements",
                node=node.name,
                operator=node.op_type,
                accepted="finite weights",
            )


def _root(name: str, sources: Mapping[str, onnx.NodeProto]) -> str:
    """Follow a table back to its initializer, through the Cast and Mul of int8 files."""
    while name in sources and sources[name].input:
        name = sources[name].input[0]
    return name
