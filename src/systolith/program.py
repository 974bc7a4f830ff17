"""A compiled model: instructions, weights, and what a host must know to run it."""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from systolith.bindings import DTYPES, Binding
from systolith.config import CoreConfig
from systolith.isa import Engine
from systolith.numerics import Format

__all__ = [
    "CODE_BASE",
    "DTYPES",
    "FORMAT_VERSION",
    "IMAGE_BASE",
    "INPUT_BASE",
    "LENGTH_SCALAR",
    "OUTPUT_BASE",
    "SCRATCH_BASE",
    "Binding",
    "Program",
    "ProgramError",
    "WatchPoint",
]

FORMAT_VERSION = 4
"""Version of the file; another one is refused."""

CODE_BASE, IMAGE_BASE, INPUT_BASE, OUTPUT_BASE, SCRATCH_BASE = range(5)
"""Which base register points to what."""

LENGTH_SCALAR = 0
"""The scalar that holds the number of valid tokens."""


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
        tensor: the graph's tensor that it is, or a part of; empty for the one of its name.
        top, first: row and column of that tensor with which it begins.
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
    tensor: str = ""
    top: int = 0
    first: int = 0

    def part_of(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The elements of this point, from whole tensors.

        Raises:
            KeyError: its tensor is not among them.
        """
        whole = tensors[self.tensor or self.name]
        return whole[self.top : self.top + self.rows, self.first : self.first + self.columns]


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
        macs_int4: those of them with weights of 4 bits, of which the array does twice as many.
        dram_bytes: bytes that must cross the memory port at least: program, image, inputs, outputs.
        layers: name of the model's layer for each instruction tag.
        host: what runs on the host, in words, for every report.
        prologue: ONNX model from the model's inputs to the first NPU tensor.
        epilogue: ONNX model from the last NPU tensor to the model's outputs; empty for none.
        notes: what the compiler wants the user to know.
        graph: the quantized graph, for the golden model; empty if left out.
        precision: for each linear operator's weights `layer`, `tensor` (that it makes), `bits`,
            `bytes`, `bytes_int8` and `loss` (with these weights alone in 4 bits; 0 if nobody
            measured it).
        pooling: "mean" or "cls" if that was made of the model's tokens in place of its own
            outputs, else "model".
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
    macs_int4: int = 0
    layers: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    prologue: bytes = b""
    epilogue: bytes = b""
    notes: tuple[str, ...] = ()
    graph: bytes = b""
    precision: tuple[Mapping[str, Any], ...] = ()
    pooling: str = "model"

    @property
    def base_bytes(self) -> dict[int, int]:
        """How much memory lies behind each base."""
        return {
            CODE_BASE: len(self.code),
            IMAGE_BASE: len(self.image),
            INPUT_BASE: max((each.offset + each.size for each in self.inputs), default=0),
            OUTPUT_BASE: max((each.offset + each.size for each in self.outputs), default=0),
            SCRATCH_BASE: self.scratch_bytes,
        }

    @property
    def array_cycles(self) -> float:
        """Cycles in which an array that is always full does all MACs, each at its format's rate."""
        return (self.macs - self.macs_int4 / 2) / self.config.macs_per_cycle

    @property
    def macs_per_cycle(self) -> float:
        """MACs a cycle of an array that is always full, with this program's mix of formats."""
        return self.macs / self.array_cycles if self.macs else self.config.macs_per_cycle

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program to a file, which appears complete or not at all."""
        target = Path(path)
        arrays: dict[str, np.ndarray] = {
            name: np.frombuffer(getattr(self, name), np.uint8) for name in _BLOBS
        }
        header: dict[str, Any] = {"format": FORMAT_VERSION, "hash": f"{self.config.hash:016x}"}
        for name in _PLAIN:
            header[name] = getattr(self, name)
        for name in _LISTS:
            header[name] = list(getattr(self, name))
        header["config"] = asdict(self.config)
        header["watch"] = [asdict(point) for point in self.watch]
        for side in ("inputs", "outputs"):
            header[side] = []
            for index, binding in enumerate(getattr(self, side)):
                entry = asdict(binding)
                arrays[f"{side}.{index}.step"] = np.asarray(entry.pop("step"), np.float64)
                header[side].append(entry)
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Program":
        """Read a program back.

        Raises:
            ProgramError: it is no program, damaged, or of another version.
        """
        try:
            # NumPy leaves a file open that it cannot read.
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays["header"].tobytes())
            version = header["format"]
        except FileNotFoundError as error:
            raise ProgramError(f"{path}: there is no such file") from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ProgramError(f"{path} is not a Systolith program, or is damaged") from error
        if version != FORMAT_VERSION:
            raise ProgramError(
                f"{path} has program format {version}, and this is Systolith with format "
                f"{FORMAT_VERSION}. Compile the model again."
            )
        try:
            program = _from_header(header, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"{path} is damaged: {error}") from error
        if f"{program.config.hash:016x}" != header["hash"]:
            raise ProgramError(
                f"{path} was compiled for configuration {header['hash']}, and this Systolith "
                f"builds {program.config.hash:016x} of the same parameters, with another "
                f"instruction set or arithmetic. Compile the model again."
            )
        return program


_PLAIN = (
    "name",
    "seq_len",
    "weights",
    "scratch_bytes",
    "macs",
    "macs_int4",
    "dram_bytes",
    "pooling",
)

_LISTS = ("layers", "host", "notes", "precision")

_BLOBS = ("code", "image", "prologue", "epilogue", "graph")


class ProgramError(ValueError):
    """A program file that cannot be used; the message says why and what to do."""


def _from_header(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Program:
    bindings: dict[str, Any] = {}
    for side in ("inputs", "outputs"):
        made = []
        for index, entry in enumerate(header[side]):
            step = arrays[f"{side}.{index}.step"]
            made.append(
                Binding(
                    **{
                        **entry,
                        "format": Format(entry["format"]),
                        "limits": tuple(entry["limits"]),
                    },
                    step=step if step.ndim else float(step),
                )
            )
        bindings[side] = tuple(made)
    return Program(
        **{name: header[name] for name in _PLAIN},
        **{name: tuple(header[name]) for name in _LISTS},
        **{name: arrays[name].tobytes() for name in _BLOBS},  # pyright: ignore[reportArgumentType]
        **bindings,
        config=CoreConfig(**header["config"]),
        watch=tuple(
            WatchPoint(
                **{
                    **point,
                    "engine": Engine(point["engine"]),
                    "format": Format(point["format"]),
                }
            )
            for point in header["watch"]
        ),
    )
