"""A compiled model: instructions, weights, and what a host must know to run it."""

from dataclasses import dataclass, field

import numpy as np

from systolith.config import CoreConfig
from systolith.isa import Engine
from systolith.numerics import Format

FORMAT_VERSION = 1
"""Version of the file; another one is refused."""

CODE_BASE, IMAGE_BASE, INPUT_BASE, OUTPUT_BASE, SCRATCH_BASE = range(5)
"""Which base register points to what."""

LENGTH_SCALAR = 0
"""The scalar that holds the number of valid tokens."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A tensor in DRAM that host and core exchange, row by row without gaps.

    Attributes:
        name: of the tensor.
        base: base register.
        offset: bytes from it.
        rows: its rows.
        columns: its columns.
        format: of its elements.
        step: real value of one step: a number, or `[columns]`.
    """

    name: str
    base: int
    offset: int
    rows: int
    columns: int
    format: Format
    step: float | np.ndarray


@dataclass(frozen=True, kw_only=True)
class WatchPoint:
    """A tensor in the scratchpad, complete when an engine has retired a number of instructions.

    Attributes:
        name: of the tensor.
        layer: for reports.
        instruction: index of the instruction that completes it.
        engine: whose instruction that is.
        count: the engine's retired instructions, that one included.
        address: first granule.
        row: granules from row to row.
        rows: its rows.
        columns: its valid columns.
        format: of its elements.
    """

    name: str
    layer: str
    instruction: int
    engine: Engine
    count: int
    address: int
    row: int
    rows: int
    columns: int
    format: Format


@dataclass(frozen=True, kw_only=True)
class Program:
    """Everything that `Session` needs, and that a file holds.

    Attributes:
        name: of the model.
        config: the core it is compiled for.
        seq_len: tokens of its bucket.
        weights: "int8", "int4" or "mixed".
        code: instructions, 64 bytes each; at `CODE_BASE`.
        image: weights, column records and tables; at `IMAGE_BASE`.
        scratch_bytes: DRAM that the program writes for itself; at `SCRATCH_BASE`.
        inputs: what the host writes before a run.
        outputs: what the host reads after it.
        watch: tensors that a checker can compare.
        macs: unpadded multiply-accumulates.
        dram_bytes: bytes that must cross the memory port at least: program, image, inputs, outputs.
        layers: name of the model's layer for each instruction tag.
        host: what runs on the host, in words, for every report.
        prologue: ONNX model from the model's inputs to the first NPU tensor.
        epilogue: ONNX model from the last NPU tensor to the model's outputs; empty for none.
        notes: what the compiler wants the user to know.
    """

    name: str
    config: CoreConfig
    seq_len: int
    weights: str
    code: bytes
    image: bytes
    scratch_bytes: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    watch: tuple[WatchPoint, ...]
    macs: int
    dram_bytes: int
    layers: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    prologue: bytes = b""
    epilogue: bytes = b""
    notes: tuple[str, ...] = field(default_factory=tuple)
