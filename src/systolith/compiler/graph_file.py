"""Quantized graphs as bytes: JSON for the structure, NumPy's format for arrays."""

import io
import json
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from systolith.compiler import qgraph
from systolith.compiler.qgraph import QGraph
from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format

_CLASSES: dict[str, Any] = {
    each.__name__: each
    for each in (
        qgraph.Tensor,
        qgraph.View,
        qgraph.Columns,
        qgraph.Epilogue,
        qgraph.Patches,
        qgraph.Indices,
        qgraph.Input,
        qgraph.Lookup,
        qgraph.Constant,
        qgraph.Output,
        qgraph.Int4Weights,
        qgraph.Matmul,
        qgraph.Map,
        qgraph.Exp,
        qgraph.RowRecords,
        QGraph,
    )
}
_ENUMS: dict[str, type[IntEnum]] = {
    each.__name__: each for each in (Format, Statistic, RowOperation)
}


def to_bytes(graph: QGraph) -> bytes:
    """Serialize a graph."""
    arrays: dict[str, np.ndarray] = {}
    seen: dict[int, str] = {}

    def pack(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            # Weights that several operators share are stored once.
            key = seen.setdefault(id(value), f"a{len(seen)}")
            arrays[key] = value
            return {"array": key}
        if is_dataclass(value):
            members = {item.name: pack(getattr(value, item.name)) for item in fields(value)}
            return {"class": type(value).__name__, "members": members}
        if isinstance(value, IntEnum):
            return {"enum": type(value).__name__, "value": int(value)}
        if isinstance(value, dict):
            return {"dict": {name: pack(member) for name, member in value.items()}}
        if isinstance(value, list | tuple):
            return {"tuple": [pack(member) for member in value]}
        if isinstance(value, np.generic):
            return value.item()
        return value

    arrays["structure"] = np.frombuffer(json.dumps(pack(graph)).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> QGraph:
    """Read a graph back.

    Raises:
        ValueError: these are no bytes of `to_bytes`.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        structure = json.loads(arrays["structure"].tobytes())
    except (OSError, KeyError, ValueError) as error:
        raise ValueError("these bytes hold no quantized graph") from error

    def unpack(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "array" in value:
            return arrays[value["array"]]
        if "class" in value:
            members = {name: unpack(member) for name, member in value["members"].items()}
            return _CLASSES[value["class"]](**members)
        if "enum" in value:
            return _ENUMS[value["enum"]](value["value"])
        if "dict" in value:
            return {name: unpack(member) for name, member in value["dict"].items()}
        return tuple(unpack(member) for member in value["tuple"])

    return unpack(structure)
