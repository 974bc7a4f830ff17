"""From a model's inputs to its outputs: host prologue, core, host epilogue.

The prologue makes the core's inputs from the model's (token lookup), the epilogue makes the
model's outputs from the core's (pooling); both are ONNX models that the compiler cut out, and
onnxruntime runs them. What crosses the border is quantized and dequantized here, nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from systolith.host.device import Device, Progress
from systolith.host.session import Counters, Session
from systolith.program import Program

IMAGE_DIMENSIONS = 4
"""Of an input that is an image: a batch of 1, channels, height, width."""

MASK_INPUT = "attention_mask"
"""The model input that marks valid tokens, if the model has one."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """One run.

    Attributes:
        outputs: the model's outputs by name, cut to the input's length.
        length: valid tokens.
        counters: what it cost.
    """

    outputs: dict[str, np.ndarray]
    length: int
    counters: Counters


class InputError(ValueError):
    """Inputs that the model cannot take; the message names the input and what it should be."""


class Model:
    """A compiled model on a device.

    Args:
        device: where to run it.
        program: the compiled model.
    """

    def __init__(self, device: Device, program: Program) -> None:
        self.program = program
        self.session = Session(device, program)
        self._host = HostParts(program)

    def run(
        self, inputs: Mapping[str, np.ndarray], *, progress: Progress | None = None
    ) -> Inference:
        """Run one input, of batch size 1 or without a batch dimension.

        Raises:
            InputError: an input is missing, unknown, too long, or of another shape.
            DeviceError: the device faulted or did not answer.
        """
        padded, length = self._host.pad(inputs)
        codes = self._host.prologue(padded)
        results = self.session.run(codes, length=length, progress=progress)
        outputs = self._host.epilogue(results, padded, length)
        return Inference(outputs=outputs, length=length, counters=self.session.counters())


class HostParts:
    """The parts of a compiled model that run on the host."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._prologue = _session(program.prologue)
        self._epilogue = _session(program.epilogue) if program.epilogue else None
        self.input_names = [each.name for each in self._prologue.get_inputs()]

    def pad(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
        """Pad token inputs to `[1, seq_len]` and return them with their length.

        An image, `[channels, height, width]` or with a batch of 1 in front, has all of its tokens.

        Raises:
            InputError: see `Model.run`.
        """
        image = self._image()
        if image is not None:
            return {image.name: _take_image(inputs, image.name, image.shape)}, self.program.seq_len
        given = {name: np.atleast_2d(np.asarray(value)) for name, value in inputs.items()}
        for name, value in given.items():
            if value.ndim != 2 or value.shape[0] != 1:
                raise InputError(
                    f"input {name} must have shape [tokens] or [1, tokens], but has "
                    f"{list(np.shape(inputs[name]))}; run batches one input at a time"
                )
        wanted = {each.name: each for each in self._prologue.get_inputs()}
        known = set(wanted) | {MASK_INPUT, "token_type_ids", "position_ids"}
        for name in given:
            if name not in known:
                raise InputError(
                    f"the model has no input {name!r}; it has {', '.join(sorted(wanted))}"
                )
        lengths = {value.shape[1] for value in given.values()}
        if len(lengths) != 1:
            raise InputError(f"the inputs have different lengths: {sorted(lengths)}")
        total = lengths.pop()
        mask = given.get(MASK_INPUT)
        length = total if mask is None else int(mask.sum())
        if mask is not None and not (mask[0] == (np.arange(total) < length)).all():
            raise InputError(
                f"{MASK_INPUT} must be ones followed by zeros: other masks are not supported"
            )
        if not 1 <= length <= self.program.seq_len:
            raise InputError(
                f"the input has {length} tokens, and the program is compiled for 1 to "
                f"{self.program.seq_len}. Compile it with a larger --seq-len."
            )
        given.setdefault(MASK_INPUT, np.ones((1, total), np.int64))
        padded: dict[str, np.ndarray] = {}
        for name, info in wanted.items():
            value = given.get(name)
            if value is None:
                if name == "token_type_ids":
                    value = np.zeros((1, total), np.int64)
                else:
                    raise InputError(f"the input {name!r} is missing")
            full = np.zeros((1, self.program.seq_len), _dtype(info.type))
            full[:, :length] = value[:, :length]
            padded[name] = full
        return padded, length

    def _image(self) -> Any:
        """What the prologue says of the image that it takes, None if it takes none."""
        (first, *_) = self._prologue.get_inputs()
        return first if len(first.shape) == IMAGE_DIMENSIONS else None

    def embed(self, padded: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run the prologue: real numbers `[rows, columns]`, in the order of the NPU's inputs."""
        results = self._prologue.run(None, {name: padded[name] for name in self.input_names})
        return [
            np.asarray(value, np.float64).reshape(binding.rows, binding.columns)
            for binding, value in zip(self.program.inputs, results, strict=True)
        ]

    def tokens(self, padded: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the core starts from in real numbers, `[tokens, channels]`: lists side by side."""
        (real, *_), (binding, *_) = self.embed(padded), self.program.inputs
        return real.T if binding.limits else real

    def prologue(self, padded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the prologue and quantize its results: codes `[rows, columns]` by NPU input."""
        codes = {}
        for binding, real in zip(self.program.inputs, self.embed(padded), strict=True):
            low, high = binding.range
            if binding.limits and ((real < low) | (real > high)).any():
                raise InputError(
                    f"the input has tokens from {real.min():.0f} to {real.max():.0f}, and the "
                    f"model's tables have {' and '.join(map(str, binding.limits))} rows"
                )
            codes[binding.name] = np.clip(np.rint(real / binding.step), low, high).astype(
                binding.dtype
            )
        return codes

    def epilogue(
        self, results: Mapping[str, np.ndarray], padded: Mapping[str, np.ndarray], length: int
    ) -> dict[str, np.ndarray]:
        """Dequantize the core's results and run the epilogue."""
        real = [
            (results[binding.name] * np.asarray(binding.step)).astype(np.float32)[None]
            for binding in self.program.outputs
        ]
        if self._epilogue is None:
            return {
                binding.name: value[:, :length]
                for binding, value in zip(self.program.outputs, real, strict=True)
            }
        feeds: dict[str, np.ndarray] = {}
        remaining = iter(real)
        for info in self._epilogue.get_inputs():
            if info.name in padded:
                value = padded[info.name]
            else:
                # The first token's row may have fewer dimensions than all tokens have.
                value = next(remaining).reshape(info.shape)
            feeds[info.name] = value.astype(_dtype(info.type))
        names = [each.name for each in self._epilogue.get_outputs()]
        outputs = dict(zip(names, self._epilogue.run(names, feeds), strict=True))
        return {name: self._cut(np.asarray(value), length) for name, value in outputs.items()}

    def _cut(self, value: np.ndarray, length: int) -> np.ndarray:
        """Drop the padding of an output by token: `[1, seq_len, channels]`, or integers."""
        by_token = value.ndim > 2 or (value.ndim == 2 and value.dtype.kind != "f")
        if by_token and value.shape[1] == self.program.seq_len:
            return value[:, :length]
        return value


def _take_image(inputs: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> np.ndarray:
    if set(inputs) != {name}:
        raise InputError(f"the model takes one image, {name!r}, and not {', '.join(inputs)}")
    image = np.asarray(inputs[name], np.float32)
    if image.shape not in (tuple(shape), tuple(shape[1:])):
        raise InputError(
            f"the image {name} must have shape {list(shape[1:])}, but has {list(image.shape)}"
        )
    return image.reshape(shape)


def _session(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def _dtype(name: str) -> type[np.generic]:
    if name not in _DTYPES:
        raise InputError(f"inputs of type {name} are not supported; {', '.join(_DTYPES)} are")
    return _DTYPES[name]
