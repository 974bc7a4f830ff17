"""The DRAM image of a program: weight tiles in streaming order, column records, tables."""

import hashlib

import numpy as np
import numpy.typing as npt

from systolith.compiler.qgraph import Columns, Int4Weights
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


def pack_int4(weights: Int4Weights, config: CoreConfig) -> bytes:
    """Tile weights of 4 bits: twice as many columns in a tile, and words of exponents between.

    A byte holds the weights of two columns, C apart, the first in its low half. A word of
    exponents comes before the tiles that it is for: as many as fill it, of one tile column.

    Raises:
        ValueError: the blocks of an exponent are not the core's tiles.
    """
    rows, columns = config.rows, config.columns
    if weights.block != rows:
        raise ValueError(f"blocks of {weights.block} weights do not suit tiles of {rows} rows")
    n, k = weights.codes.shape
    n_tiles, k_tiles = -(-n // (2 * columns)), -(-k // rows)
    covered = 2 * rows // columns
    words = -(-k_tiles // covered)
    codes = np.zeros((n_tiles * 2 * columns, k_tiles * rows), np.uint8)
    codes[:n, :k] = weights.codes & 15
    exponents = np.zeros((n_tiles * 2 * columns, words * covered), np.uint8)
    exponents[:n, :k_tiles] = weights.exponents
    halves = codes.reshape(n_tiles, 2, columns, k_tiles, rows).transpose(0, 3, 1, 2, 4)
    tiles = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(n_tiles, k_tiles, columns * rows)
    # Four exponents in a byte, the first in its lowest bits.
    fours = exponents.reshape(n_tiles, 2 * columns, words, covered).transpose(0, 2, 3, 1)
    fours = fours.reshape(n_tiles, words, rows, 4).astype(np.uint16)
    packed = (fours << np.array([0, 2, 4, 6], np.uint16)).sum(-1).astype(np.uint8)
    pieces = []
    for group in range(n_tiles):
        for word in range(words):
            pieces.append(packed[group, word].tobytes())
            pieces.append(tiles[group, word * covered : (word + 1) * covered].tobytes())
    return b"".join(pieces)


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
