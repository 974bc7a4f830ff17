"""Vector clocks: what has certainly ended when an instruction begins.

A clock has, for each engine, how many of its instructions have certainly done their last access.
Edges are the order within an engine, waits, and the two couplings of a step: weights that come
through the ring, and sums that come through the accumulators. A coupling orders only what must be:
the first write of a drain comes after the first half that its GEMM fills, but its second operand
and its records may be read ahead of it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systolith.isa import Engine, Opcode
from systolith_sim.checker.listing import Listing, halves_filled
from systolith_sim.iss.order import waits

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Clocks of all instructions, `[instructions, engines]`.

    Attributes:
        reads: before the first read.
        writes: before the first write.
        ends: when whoever waits for the instruction goes on.
    """

    reads: Counts
    writes: Counts
    ends: Counts


def clock_program(listing: Listing) -> Clocks:
    """Compute the clocks in one pass: every edge points forward."""
    shape = len(listing.instructions), len(Engine)
    reads, writes, ends = (np.zeros(shape, np.int64) for _ in range(3))
    progress = np.zeros(shape, np.int64)
    latest: dict[Engine, int] = {}
    for index, instruction in enumerate(listing.instructions):
        engine = instruction.engine
        before = [ends[listing.of_engine[other][count - 1]] for other, count in waits(instruction)]
        if engine is None:
            before += [ends[last] for last in latest.values()]
        elif engine in latest:
            before.append(ends[latest[engine]])
        if before:
            reads[index] = np.maximum.reduce(before)
        feeder = listing.feeder[index]
        progress[index] = reads[index]
        if feeder is not None:
            np.maximum(progress[index], progress[feeder], out=progress[index])
        writes[index] = progress[index]
        ends[index] = progress[index]
        if feeder is not None:
            np.maximum(ends[index], ends[feeder], out=ends[index])
            if instruction.opcode == Opcode.VECTOR and halves_filled(listing, feeder) == 1:
                # The only half is full when all of A and B has been read.
                writes[index] = ends[index]
        if engine is not None:
            ends[index, engine] = listing.counts[index]
            latest[engine] = index
    return Clocks(reads=reads, writes=writes, ends=ends)
