"""Bank clashes that a schedule makes possible: operands that may want a port at the same time."""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np

from systolith.config import BANKS
from systolith.isa import Engine
from systolith_sim.checker.accesses import Access
from systolith_sim.checker.clocks import Clocks
from systolith_sim.checker.listing import Listing


def count_clashes(
    listing: Listing, clocks: Clocks, all_accesses: Sequence[Sequence[Access]]
) -> Mapping[tuple[str, str], int]:
    """Count pairs of scratchpad accesses that may be under way together in the same bank.

    Each bank has one read port and one write port, so only two reads, or two writes, can clash.

    Returns:
        pairs by the names of both operands, most first.
    """
    bank_granules = listing.config.granules // BANKS
    users: dict[tuple[bool, str], list[tuple[int, int]]] = {}
    for index, some in enumerate(all_accesses):
        for access in some:
            if access.memory == "scratchpad":
                cells = access.cells
                banks = range(cells.first // bank_granules, (cells.end - 1) // bank_granules + 1)
                name = f"{listing.instructions[index].opcode.name} {access.operand}"
                mask = sum(1 << bank for bank in banks)
                users.setdefault((access.write, name), []).append((index, mask))
    engines = np.array([-1 if i.engine is None else i.engine for i in listing.instructions])
    counts = np.array(listing.counts)
    found: dict[tuple[str, str], int] = {}
    for one, two in combinations_with_replacement(sorted(users), 2):
        if one[0] != two[0] or one == two:
            continue
        (first, first_banks), (second, second_banks) = (
            np.array(users[each]).T for each in (one, two)
        )
        same_engine = engines[first[0]] == engines[second[0]]
        shared = (first_banks[:, None] & second_banks) != 0
        if same_engine:
            together = first[:, None] == second
        else:
            together = ~_before(clocks, counts, engines, first, second)
            together &= ~_before(clocks, counts, engines, second, first).T
        pairs = int(np.count_nonzero(shared & together))
        if pairs:
            found[one[1], two[1]] = pairs
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _before(
    clocks: Clocks, counts: np.ndarray, engines: np.ndarray, one: np.ndarray, two: np.ndarray
) -> np.ndarray:
    """Whether each of `one`, all of one engine, has ended before each of `two` begins."""
    engine = Engine(engines[one[0]])
    return counts[one][:, None] <= clocks.reads[two, engine]
