"""Seeds of nextpnr's placer, tried side by side."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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


def file_of_seed(path: Path, seed: int) -> Path:
    """Where a seed's own version of a file goes, until `keep_best` knows which one it is to be."""
    return path.with_name(f"{path.name}.{seed}")


def keep_best(path: Path, seeds: Iterable[int], best: int) -> None:
    """Make the best seed's version of a file the file, and remove those of the other seeds."""
    for seed in seeds:
        if seed == best:
            file_of_seed(path, seed).replace(path)
        else:
            file_of_seed(path, seed).unlink()
