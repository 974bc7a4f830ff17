"""Weights as they come through the ring: how many bytes a GEMM takes, and what they say."""

import numpy as np
import numpy.typing as npt

from systolith.config import CoreConfig
from systolith.isa import Instruction, WeightSource
from systolith_sim.iss.machine import Bytes, Ring

Weights = npt.NDArray[np.int8]


def tile_channels(config: CoreConfig, source: int) -> int:
    """Rows of B that a tile has, which are the sums of a row of an accumulator half."""
    return config.columns * (2 if source == WeightSource.RING_S4 else 1)


def accumulator_halves(config: CoreConfig, i: Instruction) -> int:
    """Accumulator halves that a GEMM fills."""
    return -(-i.n // tile_channels(config, i.b_source))


def stream_bytes(config: CoreConfig, i: Instruction) -> int:
    """Bytes that a GEMM takes from the ring."""
    tiles = -(-i.k // config.rows)
    words = tiles * config.columns
    if i.b_source == WeightSource.RING_S4:
        words += -(-tiles // config.exponent_tiles)
    return accumulator_halves(config, i) * words * config.rows


class RingTiles:
    """The tiles of a GEMM's weights, taken out of the ring in their order.

    INT4 weights come out as what they count for, shifted by their exponents: s8.

    Args:
        config: the core.
        source: `WeightSource` of the GEMM.
        tiles: tiles of a group.
    """

    def __init__(self, config: CoreConfig, source: int, tiles: int) -> None:
        self._config = config
        self._int4 = source == WeightSource.RING_S4
        self._tiles = tiles
        self._exponents = np.zeros((config.exponent_tiles, 2 * config.columns), np.int8)

    def tile_bytes(self, tile: int) -> int:
        """Bytes of a tile, and of the exponents that come before it."""
        config = self._config
        words = config.columns + (self._int4 and tile % config.exponent_tiles == 0)
        return words * config.rows

    def take(self, ring: Ring, tile: int) -> Weights:
        """Take one tile, [channels, R]."""
        words = ring.pop(self.tile_bytes(tile)).reshape(-1, self._config.rows)
        if not self._int4:
            return words.view(np.int8)
        place = tile % self._config.exponent_tiles
        if place == 0:
            self._exponents = self._unpack_exponents(words[:1])[0]
            words = words[1:]
        return _nibbles(words) << self._exponents[place, :, None]

    def take_groups(self, ring: Ring, groups: int) -> Weights:
        """Take all tiles of some groups, [groups * channels, tiles * R]."""
        r, c, covered = self._config.rows, self._config.columns, self._config.exponent_tiles
        size = sum(self.tile_bytes(tile) for tile in range(self._tiles))
        words = ring.pop(groups * size).reshape(groups, -1, r)
        if self._int4:
            places = np.arange(0, words.shape[1], covered * c + 1)
            exponents = self._unpack_exponents(words[:, places])
            exponents = exponents.reshape(groups, -1, 2 * c)[:, : self._tiles]
            body = np.delete(words, places, axis=1).reshape(groups, self._tiles, c, r)
            tiles = _nibbles(body) << exponents[..., None]
        else:
            tiles = words.view(np.int8).reshape(groups, self._tiles, c, r)
        return tiles.swapaxes(1, 2).reshape(-1, self._tiles * r)

    def _unpack_exponents(self, words: Bytes) -> Weights:
        """Exponents of each word, [..., tile, channel]."""
        bits = np.unpackbits(words, axis=-1, bitorder="little")
        shape = (*words.shape[:-1], self._config.exponent_tiles, 2 * self._config.columns, 2)
        low, high = np.moveaxis(bits.reshape(shape), -1, 0)
        return (low | high << 1).view(np.int8)


def _nibbles(words: Bytes) -> Weights:
    """The weights of words [..., C, R]: those of the low nibbles, then those of the high ones."""
    signed = words.view(np.int8)
    return np.concatenate([signed << 4 >> 4, signed >> 4], axis=-2)
