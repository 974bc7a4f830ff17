"""The DRAM image of a program: weight tiles in streaming order, column records, tables."""

import hashlib

import numpy as np
import numpy.typing as npt

from systolith.compiler.qgraph import Columns
from systolith.config import CoreConfig
from systolith.isa import BASE_ALIGNMENT


class Image:
    """Pieces of the image, each aligned to 64 bytes; equal pieces are stored once."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._offsets: dict[bytes, int] = {}
        self._size = 0

    def add(self, piece: bytes) -> int:
        """Store a piece and return its offset."""
        key = hashlib.sha256(piece).digest()
        if key not in self._offsets:
            self._offsets[key] = self._size
            padded = piece + bytes(-len(piece) % BASE_ALIGNMENT)
            self._pieces.append(padded)
            self._size += len(padded)
        return self._offsets[key]

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    def to_bytes(self) -> bytes:
        """All pieces."""
        return b"".join(self._pieces)


def pack_weights(weights: npt.NDArray[np.int8], config: CoreConfig) -> bytes:
    """Tile weights `[N, K]` as the ring wants them: n tiles, k tiles, columns, R rows.

    Edge tiles are filled with zeros.
    """
    n, k = weights.shape
    n_tiles, k_tiles = -(-n // config.columns), -(-k // config.rows)
    padded = np.zeros((n_tiles * config.columns, k_tiles * config.rows), np.int8)
    padded[:n, :k] = weights
    tiles = padded.reshape(n_tiles, config.columns, k_tiles, config.rows)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3)).tobytes()


_RECORD = np.dtype([("mant", "<i2"), ("shift", "i1"), ("reserved", "u1"), ("off", "<i4")])


def pack_columns(columns: Columns) -> bytes:
    """Column records as bytes, 8 each.

    Raises:
        ValueError: a member does not fit its field.
    """
    records = np.zeros(len(columns.mant), _RECORD)
    for name in ("mant", "shift", "off"):
        values = getattr(columns, name)
        limits = np.iinfo(_RECORD[name])
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError(f"{name} must be from {limits.min} to {limits.max}")
        records[name] = values
    return records.tobytes()


def pack_table(table: tuple[int, ...]) -> bytes:
    """A function table as bytes, 256 s16."""
    return np.array(table, "<i2").tobytes()
