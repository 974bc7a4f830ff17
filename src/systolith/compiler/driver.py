"""Compiles a model for a core: front end, quantization, back end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from systolith.compiler.allocate import CapacityError
from systolith.compiler.errors import CompileError
from systolith.compiler.fit import Progress
from systolith.compiler.model import HEAD_UNIT, CompiledModel, PreparedModel, prepare_model
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.schedule import schedule
from systolith.config import CoreConfig
from systolith.program import Program

SMALLEST_CHUNK = 64
"""Feed-forward channels below which chunks are not cut any further."""


def compile_model(
    source: Path | str | bytes,
    *,
    config: CoreConfig,
    seq_len: int | None = None,
    calibration: Sequence[Mapping[str, np.ndarray]] | None = None,
    options: QuantizeOptions | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Program:
    """Quantize a model and compile it into a program.

    Args:
        source: an ONNX file, or its contents.
        config: the core it is for.
        seq_len: tokens; may be left out if the model's inputs have a fixed length.
        calibration: sample inputs, each a mapping of the model's inputs to arrays `[tokens]`, of
            which the first `seq_len` count; None for random tokens, which cost accuracy.
        options: of quantization.
        name: of the model; by default the file's.
        progress: told how far the fit of INT4 weights is.

    Raises:
        CompileError: the model is not supported, or does not fit the core.
    """
    program, _ = compile_with_model(
        source,
        config=config,
        seq_len=seq_len,
        calibration=calibration,
        options=options,
        name=name,
        progress=progress,
    )
    return program


def compile_with_model(
    source: Path | str | bytes,
    *,
    config: CoreConfig,
    seq_len: int | None = None,
    calibration: Sequence[Mapping[str, np.ndarray]] | None = None,
    options: QuantizeOptions | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> tuple[Program, CompiledModel]:
    """Do what `compile_model` does, and return the quantized model beside the program."""
    options = options or QuantizeOptions()
    if options.weights != "int8" and not config.int4:
        raise CompileError(
            f"weights cannot be {options.weights}: the core's array has no INT4",
            accepted="int8, or a core with int4",
        )
    samples = None
    if calibration is not None:
        samples = [
            {key: _cut(np.asarray(value), seq_len) for key, value in sample.items()}
            for sample in calibration
        ]
    unit = max(HEAD_UNIT, config.columns)
    prepared = prepare_model(source, seq_len, samples, name=name, unit=unit)
    while True:
        # Whether it fits does not depend on the weights, so they are fitted once it does.
        try:
            program, model = _compile(prepared, options.with_weights("int8"), config)
        except CapacityError:
            # Smaller feed-forward chunks cost nothing but table loads, and free memory.
            if options.max_chunk // 2 < SMALLEST_CHUNK:
                raise
            options = replace(options, max_chunk=options.max_chunk // 2)
        else:
            break
    if options.weights != "int8":
        program, model = _compile(prepared, options, config, progress)
    return program, model


def _cut(value: np.ndarray, seq_len: int | None) -> np.ndarray:
    """The tokens of a sample that count; an image has more dimensions, and stays as it is."""
    return value[..., :seq_len] if value.ndim < 3 else value


def _compile(
    prepared: PreparedModel,
    options: QuantizeOptions,
    config: CoreConfig,
    progress: Progress | None = None,
) -> tuple[Program, CompiledModel]:
    model = prepared.compile(options, block=config.rows, progress=progress)
    program = schedule(
        model.qgraph,
        config,
        name=model.name,
        seq_len=model.seq_len,
        prologue=model.prologue,
        epilogue=model.epilogue,
        host=model.host,
        notes=model.notes,
        precision=tuple(
            {
                "layer": choice.layer,
                "tensor": choice.tensor,
                "bits": choice.bits,
                "bytes": choice.bytes,
                "bytes_int8": choice.bytes_int8,
                "loss": choice.loss,
            }
            for choice in model.choices
        ),
    )
    return program, model
