"""Compiles a model for a core: front end, quantization, back end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from systolith.compiler.allocate import CapacityError
from systolith.compiler.errors import CompileError
from systolith.compiler.fit import Progress
from systolith.compiler.layout import comfortable_rows
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
    prepared = prepare_model(source, seq_len, samples, name=name, unit=unit, options=options)
    # Whether it fits does not depend on the weights, so they are fitted once it does.
    program, model, options, fitting = _fit(prepared, options, config)
    if options.weights != "int8":
        model = prepared.compile(options, block=config.rows, progress=progress)
        program = _schedule(model, config, fitting)
    return program, model


def _cut(value: np.ndarray, seq_len: int | None) -> np.ndarray:
    """The tokens of a sample that count; an image has more dimensions, and stays as it is."""
    return value[..., :seq_len] if value.ndim < 3 else value


@dataclass(frozen=True)
class _Fitting:
    """How a model fits: whether cut into blocks of rows, and of how many at least."""

    spill: bool = False
    least_rows: int = 0


def _fit(
    prepared: PreparedModel, options: QuantizeOptions, config: CoreConfig
) -> tuple[Program, CompiledModel, QuantizeOptions, _Fitting]:
    """Find what makes a model fit, the cheapest first; weights are of 8 bits.

    Smaller feed-forward chunks cost nothing but table loads. Blocks of rows cost DRAM bytes, and
    small ones more than the array can wait for, so then chunks are halved again before them.
    """
    chunks = [options.max_chunk]
    while chunks[-1] // 2 >= SMALLEST_CHUNK:
        chunks.append(chunks[-1] // 2)
    fittings = [_Fitting()]
    rows = comfortable_rows(config)
    while rows >= config.rows:
        fittings.append(_Fitting(True, rows))
        rows //= 2
    fittings.append(_Fitting(True))
    models: dict[int, CompiledModel] = {}
    refusal: CapacityError | None = None
    for fitting in fittings:
        for chunk in chunks:
            smaller = replace(options, max_chunk=chunk)
            if chunk not in models:
                models[chunk] = prepared.compile(smaller.with_weights("int8"), block=config.rows)
            try:
                program = _schedule(models[chunk], config, fitting)
            except CapacityError as error:
                refusal = error
                if not error.chunks_help and not fitting.spill:
                    break
            else:
                return program, models[chunk], smaller, fitting
    assert refusal is not None
    raise refusal


def _schedule(model: CompiledModel, config: CoreConfig, fitting: _Fitting) -> Program:
    return schedule(
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
        pooling=model.pooling,
        spill=fitting.spill,
        least_rows=fitting.least_rows,
    )
