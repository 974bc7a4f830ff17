"""What is varied, and the cores that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from systolith.compiler.options import WeightFormat
from systolith.config import CoreConfig

RING_TILES = 128
"""Weight ring, in weights of a tile: what the presets have."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A core and what it is asked to do.

    Attributes:
        config: the core.
        seq_len: tokens.
        bandwidth: bytes per cycle.
        latency: cycles.
        weights: "int8", "int4" or "mixed".
    """

    config: CoreConfig
    seq_len: int
    bandwidth: float
    latency: int
    weights: WeightFormat = "int8"

    @property
    def key(self) -> str:
        """Names the point in results."""
        memory = f"{self.bandwidth:g} {self.latency}"
        return f"{self.config.hash:016x} {self.seq_len} {memory} {self.weights}"


def expand(
    base: CoreConfig,
    *,
    shapes: Sequence[tuple[int, int]],
    scratchpads: Sequence[int],
    seq_lens: Sequence[int],
    bandwidths: Sequence[float],
    latency: int,
    weights: Sequence[WeightFormat] = ("int8",),
) -> tuple[list[Point], list[str]]:
    """Return every combination that can be built, and why the others cannot.

    Args:
        base: what is not varied.
        shapes: rows and columns of the array; none for those of the base.
        scratchpads: bytes; none for those of the base.
        seq_lens: tokens.
        bandwidths: bytes per cycle.
        latency: cycles.
        weights: formats.
    """
    points, refused = list[Point](), list[str]()
    shapes = shapes or [(base.rows, base.columns)]
    for (rows, columns), scratchpad in product(shapes, scratchpads or [base.scratchpad_bytes]):
        try:
            config = replace(
                base,
                rows=rows,
                columns=columns,
                scratchpad_bytes=scratchpad,
                ring_bytes=RING_TILES * rows * columns,
                axi_data_bits=min(base.axi_data_bits, 8 * rows),
            )
        except ValueError as error:
            refused.append(f"{rows}x{columns}, {scratchpad >> 10} KiB: {error}")
            continue
        points += [
            Point(
                config=config,
                seq_len=seq_len,
                bandwidth=bandwidth,
                latency=latency,
                weights=format_,
            )
            for seq_len, format_, bandwidth in product(seq_lens, weights, bandwidths)
        ]
    return points, refused
