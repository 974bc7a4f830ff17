"""Golden GEMM: words of the ring as a person lays them out, and sums with block exponents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systolith.config import CoreConfig
from systolith.isa import Opcode, WeightSource, make
from systolith_sim.golden.gemm import gemm, int4_gemm, int4_ring_words, ring_words
from systolith_sim.iss.machine import Ring
from systolith_sim.iss.weights import RingTiles, stream_bytes, tile_channels


def test_int8_words_by_hand() -> None:
    """Two rows of a 4 x 2 array, two tiles along K, the second one with a tail of one."""
    b = [[1, 2, 3, 4, 5], [6, 7, 8, 9, -1]]
    words = ring_words(b, rows=4, columns=2)
    assert words.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9], [5, 0, 0, 0], [-1, 0, 0, 0]]


def test_int4_words_by_hand() -> None:
    """Five rows of B on a 4 x 2 array: a group of four, and one of one row.

    A word of exponents covers 2 * 4 / 2 = 4 tiles of 4 channels, a byte each, so the fifth tile
    of K = 17 brings another one.
    """
    b = np.zeros((5, 17), np.int64)
    b[0, :4] = 1, 2, 3, 4
    b[2, :4] = -8, 7, -1, 0
    b[1, 16], b[3, 16] = 5, 6
    b[4, 4:6] = -2, 3
    exponents = np.zeros((5, 5), np.int64)
    exponents[:4, 0] = 0, 1, 2, 3
    exponents[2, 3] = 1
    exponents[3, 4] = 2
    exponents[4, 1] = 3
    nothing = [0, 0, 0, 0]
    assert int4_ring_words(b, exponents, rows=4, columns=2).tolist() == [
        [0b11_10_01_00, 0, 0, 0b00_01_00_00],
        [0x81, 0x72, 0xF3, 0x04],
        *[nothing] * 7,
        [0b10_00_00_00, 0, 0, 0],
        nothing,
        [0x65, 0, 0, 0],
        # The second group.
        [0, 0b00_00_00_11, 0, 0],
        *[nothing] * 2,
        [0x0E, 0x03, 0, 0],
        *[nothing] * 5,
        nothing,
        *[nothing] * 2,
    ]


def test_int4_sums_by_hand() -> None:
    """Blocks of two weights, one of which counts eightfold."""
    a = np.array([[1, 255, 3, 4, 5], [-128, 0, 0, 0, 1]])
    b = np.array([[-8, 7, 1, 1, 2]])
    assert int4_gemm(a, b, np.array([[0, 3, 1]]), rows=2).tolist() == [
        [(-8 + 255 * 7) + 8 * (3 + 4) + 2 * (5 * 2)],
        [-128 * -8 + 2 * 2],
    ]


def test_extremes() -> None:
    """The largest sum of a block on 64 rows, at the largest exponent, in every block of K."""
    a = np.full((1, 1024), 255)
    exponents = np.full((1, 16), 3)
    assert int4_gemm(a, np.full((1, 1024), -8), exponents, rows=64)[0, 0] == 1024 * 255 * -64
    assert int4_gemm(a, np.full((1, 1024), 7), exponents, rows=64)[0, 0] == 1024 * 255 * 56


@given(
    shape=st.sampled_from([(4, 4), (4, 2), (8, 2), (16, 8), (64, 2)]),
    n=st.integers(1, 40),
    k=st.integers(1, 200),
    seed=st.integers(0, 1 << 30),
)
def test_what_is_packed_is_what_the_simulator_unpacks(
    shape: tuple[int, int], n: int, k: int, seed: int
) -> None:
    """Tile by tile and all at once; the length is the one of the instruction manual."""
    rows, columns = shape
    config = CoreConfig(
        rows=rows,
        columns=columns,
        scratchpad_bytes=1 << 14,
        ring_bytes=1 << 12,
        axi_data_bits=32,
        int4=True,
    )
    random = np.random.default_rng(seed)
    tiles, groups = -(-k // rows), -(-n // (2 * columns))
    b = random.integers(-8, 8, (n, k))
    exponents = random.integers(0, 4, (n, tiles))
    words = int4_ring_words(b, exponents, rows=rows, columns=columns)
    i = make(Opcode.GEMM, config, m=1, n=n, k=k, b_source=WeightSource.RING_S4)
    length = groups * (tiles * columns + -(-tiles // (2 * rows // columns))) * rows
    assert words.size == length == stream_bytes(config, i)

    wanted = np.zeros((groups * 2 * columns, tiles * rows), np.int64)
    wanted[:n, :k] = b << exponents.repeat(rows, axis=1)[:, :k]
    ring = Ring()
    ring.push(words.reshape(-1))
    ring.push(words.reshape(-1))
    source = RingTiles(config, WeightSource.RING_S4, tiles)
    np.testing.assert_array_equal(source.take_groups(ring, groups), wanted)
    one_by_one = np.block(
        [[source.take(ring, tile) for tile in range(tiles)] for _ in range(groups)]
    )
    np.testing.assert_array_equal(one_by_one, wanted)
    assert ring.size == 0
    assert tile_channels(config, WeightSource.RING_S4) == 2 * columns

    a = random.integers(0, 256, (3, k))
    sums = int4_gemm(a, b, exponents, rows=rows)
    np.testing.assert_array_equal(sums, gemm(a, wanted[:n, :k]))


@pytest.mark.parametrize("value", [-9, 8])
def test_the_words_hold_no_more_than_four_bits(value: int) -> None:
    """What does not fit is a mistake of the caller."""
    with pytest.raises(ValueError, match="weights of INT4 are from -8 to 7"):
        int4_ring_words([[value]], [[0]], rows=4, columns=4)
    with pytest.raises(ValueError, match="exponents are from 0 to 3"):
        int4_ring_words([[0]], [[value]], rows=4, columns=4)
