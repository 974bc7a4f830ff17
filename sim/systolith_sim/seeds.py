"""Seeds of nextpnr's placer, tried side by side."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from systolith_sim.toolchain import Announce, ToolError

Result = TypeVar("Result")


def by_seed(
    seeds: Sequence[int], attempt: Callable[[int], Result], announce: Announce
) -> dict[int, Result]:
    """Return what each seed came to, without those that failed.

    Args:
        seeds: what to try, one on each processor.
        attempt: place and route with a seed.
        announce: told which ones failed, and why.

    Raises:
        ToolError: they all did; the first one's.
    """
    failures: list[ToolError] = []

    def tried(seed: int) -> Result | None:
        try:
            return attempt(seed)
        except ToolError as error:
            failures.append(error)
            announce(f"seed {seed} is left out: {error}")
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = zip(seeds, pool.map(tried, seeds), strict=True)
        good = {seed: result for seed, result in results if result is not None}
    if failures and not good:
        raise failures[0]
    return good
