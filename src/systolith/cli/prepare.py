"""From what a user names to a compiled program: calibration, buckets, the program cache."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import systolith.compiler
from systolith.cli.exits import UsageError
from systolith.cli.inputs import Sample, load_samples, load_tokenizer, tokenize
from systolith.cli.sentences import CALIBRATION
from systolith.cli.weights import fitting, weight_options
from systolith.compiler import compile_model
from systolith.compiler.options import QuantizeOptions
from systolith.config import PRESETS, CoreConfig
from systolith.program import Program, ProgramError
from systolith_sim.toolchain import cache_folder

PROGRAM_SUFFIX = ".systolith"
"""Of compiled programs."""

RANDOM_CALIBRATION_INPUTS = 32
"""Random inputs, if nothing better is there to calibrate on."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What quantization is calibrated on.

    Attributes:
        samples: inputs; None for random tokens.
        source: where they come from, for notes.
    """

    samples: list[Sample] | None
    source: str


def calibration(path: Path | None, tokenizer: Tokenizer | None) -> Calibration:
    """The user's calibration inputs, else our sentences, else random tokens.

    Raises:
        UsageError: the user's file cannot be used.
    """
    if path is not None:
        return Calibration(samples=load_samples(path, tokenizer), source=str(path))
    if tokenizer is not None:
        return Calibration(
            samples=tokenize(tokenizer, CALIBRATION),
            source=f"{len(CALIBRATION)} built-in sentences",
        )
    return Calibration(samples=None, source="random tokens")


def preset_config(name: str) -> CoreConfig:
    """The configuration of a preset.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def parse_buckets(text: str) -> list[int]:
    """Sequence lengths from `32` or `16,32,64`, ascending.

    Raises:
        UsageError: not positive numbers.
    """
    try:
        buckets = sorted({int(word) for word in text.split(",")})
    except ValueError:
        buckets = []
    if not buckets or buckets[0] < 1:
        raise UsageError(f"--seq-len takes a length or several, such as 32 or 16,32,64: {text!r}")
    return buckets


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds a length.

    Raises:
        UsageError: none does.
    """
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise UsageError(
        f"an input has {length} tokens, and --seq-len allows up to {buckets[-1]}: give a larger one"
    )


def prepare(
    model: Path,
    *,
    config: CoreConfig,
    seq_len: int,
    calibrated: Calibration,
    quantization: QuantizeOptions,
    quiet: bool,
    use_cache: bool = True,
) -> Program:
    """Load a compiled program, or compile a model, or find what was compiled before.

    Raises:
        UsageError: there is no such file, or the program is for another core or length.
        CompileError: the model is not supported.
        ProgramError: the program cannot be used.
    """
    if not model.is_file():
        raise UsageError(f"there is no model {model}")
    if model.suffix == PROGRAM_SUFFIX:
        program = Program.load(model)
        if program.config != config:
            raise UsageError(
                f"{model} was compiled for another core than this preset; compile it again, or "
                f"give the preset that it was compiled for"
            )
        return program

    key = _key(model, config, seq_len, calibrated, quantization)
    cached = cache_folder() / "programs" / f"{key}{PROGRAM_SUFFIX}"
    if use_cache and cached.is_file():
        try:
            return Program.load(cached)
        except ProgramError:
            cached.unlink(missing_ok=True)
    if not quiet:
        print(
            f"systolith: compiling {model.name} for {seq_len} tokens, calibrated on "
            f"{calibrated.source}",
            file=sys.stderr,
        )
    with fitting(quiet=quiet or quantization.weights == "int8") as progress:
        program = compile_model(
            model,
            config=config,
            seq_len=seq_len,
            calibration=calibrated.samples,
            options=quantization,
            progress=progress,
        )
    if use_cache:
        cached.parent.mkdir(parents=True, exist_ok=True)
        program.save(cached)
    return program


def prepare_one(options: argparse.Namespace, why: str) -> Program:
    """Prepare what the options of `add_model_options` say, for one length.

    Args:
        options: parsed.
        why: that there must be one length, for the message.

    Raises:
        UsageError, CompileError, ProgramError: as `prepare` does; or there are several lengths.
    """
    buckets = parse_buckets(options.seq_len)
    if len(buckets) != 1:
        raise UsageError(f"{why}: give one --seq-len")
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
    return prepare(
        options.model,
        config=preset_config(options.preset),
        seq_len=buckets[0],
        calibrated=calibration(options.calibration, tokenizer),
        quantization=weight_options(options),
        quiet=options.json,
    )


def _key(
    model: Path,
    config: CoreConfig,
    seq_len: int,
    calibrated: Calibration,
    quantization: QuantizeOptions,
) -> str:
    """Name a compilation by all that it depends on, the compiler's own source included."""
    digest = hashlib.sha256()
    digest.update(model.name.encode())
    with model.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    for data in sorted(model.parent.iterdir()):
        # External weights lie beside the model; their names are inside it.
        if data.is_file() and data.suffix != ".onnx":
            status = data.stat()
            digest.update(f"{data.name} {status.st_size} {status.st_mtime_ns}".encode())
    digest.update(f"{config.hash} {seq_len} {quantization}".encode())
    for sample in calibrated.samples or []:
        for name, value in sorted(sample.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    package = files(systolith.compiler)
    for source in sorted(package.iterdir(), key=lambda each: each.name):
        if source.name.endswith(".py"):
            digest.update(source.read_bytes())
    for name in ("isa.py", "numerics.py", "program.py", "bindings.py", "config.py"):
        digest.update(files("systolith").joinpath(name).read_bytes())
    return digest.hexdigest()[:32]
