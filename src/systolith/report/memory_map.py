"""What lies where in the scratchpad, and when, from what instructions read and write."""

from dataclasses import dataclass

import numpy as np

from systolith.isa import BASES, SCALARS
from systolith.report.profile import Profile
from systolith_sim.checker.accesses import Cells, accesses
from systolith_sim.checker.memory import run_starts

FREE = -1
"""Nothing is there that will be read."""


@dataclass(frozen=True, kw_only=True)
class MemoryMap:
    """The scratchpad over time.

    Attributes:
        owner: `[places, times]`: index of the layer, in `Profile.layers`, that wrote what lies
            there, or `FREE`. A place that holds several things in a time shows one of them.
        live: `[times]`: bytes that are in use, at most, in each time.
    """

    owner: np.ndarray
    live: np.ndarray


def memory_map(profile: Profile, *, places: int = 64, times: int = 256) -> MemoryMap:
    """Follow every granule from its writing to its last reading.

    Args:
        profile: of a program.
        places: into how many parts addresses are divided.
        times: into how many parts the cycles are.
    """
    config = profile.program.config
    layers = {layer.name: index for index, layer in enumerate(profile.layers)}
    result = MemoryMap(
        owner=np.full((places, times), FREE, np.int16), live=np.zeros(times, np.int64)
    )
    owner = np.full(config.granules, FREE, np.int32)
    since = np.zeros(config.granules, np.int64)
    until = np.zeros(config.granules, np.int64)

    def retire(cells: np.ndarray, now: int) -> None:
        """Draw what lies in these granules: something else comes there."""
        used = cells[owner[cells] != FREE]
        if not len(used):
            return
        # A result may overwrite what it is made from; it is there from its first write on.
        facts = np.stack([owner[used], since[used], np.minimum(until[used], now)])
        kinds, which = np.unique(facts, axis=1, return_inverse=True)
        for index, (layer, begin, end) in enumerate(kinds.T):
            group = used[which.reshape(-1) == index]
            first = int(begin) * times // profile.cycles
            last = -(-int(end) * times // profile.cycles)
            rows = np.unique(group * places // config.granules)
            result.owner[rows, first:last] = layer
            result.live[first:last] += len(group) * config.columns

    limits = dict.fromkeys(range(BASES), 1 << 40)
    scalars = dict.fromkeys(range(SCALARS), 0)
    for span in profile.spans:
        touched = [
            access
            for access in accesses(span.instruction, config, limits, scalars)
            if access.memory == "scratchpad"
        ]
        for access in touched:
            if not access.write:
                cells = _granules(access.cells)
                until[cells] = np.maximum(until[cells], span.end)
        for access in touched:
            if access.write:
                cells = _granules(access.cells)
                retire(cells, span.begin)
                owner[cells] = layers[span.layer]
                since[cells], until[cells] = span.begin, span.end
    retire(np.arange(config.granules), profile.cycles)
    return result


def _granules(cells: Cells) -> np.ndarray:
    return np.unique(run_starts(cells)[:, None] + np.arange(cells.width))
