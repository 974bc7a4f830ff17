"""What goes with a row of activations through the array, and how often a row may come again."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from systolith.config import CoreConfig

MIN_PERIOD = 5
"""Cycles after which the same row of an accumulator half may come again."""


def row_control(config: CoreConfig) -> data.StructLayout:
    """What the accumulators must know of a row of activations to add its sums.

    `valid`: there is one. `start`: row 0 of its tile. `first`: its tile is the first one of a tile
    column, so old sums do not count. `half`: where the sums belong. `last`: the tile column is
    complete with it. `end`: so is the GEMM. Only with INT4, `int4`: its tile has such weights, and
    `pair`: so the tile column has channels for all of its high sums to be drained.
    """
    names = ("valid", "start", "first", "half", "last", "end")
    more = ("int4", "pair") if config.int4 else ()
    return data.StructLayout(dict.fromkeys((*names, *more), unsigned(1)))
