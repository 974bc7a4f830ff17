"""Who measures: processes of this machine, or a Dask cluster."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

LOCAL = "processes"
"""Name of the executor of this machine."""

DASK = "dask://"
"""How the address of a Dask scheduler begins."""

CONNECTION_TIMEOUT_S = 15
"""Seconds after which a scheduler that does not answer is given up."""


class ExecutorError(ValueError):
    """There is no such executor; the message says why and what to do."""


@contextmanager
def open_executor(address: str, jobs: int) -> Iterator[Executor]:
    """Open an executor for the time of a sweep.

    Args:
        address: `LOCAL`, or `dask://host:port` of a scheduler. Its workers need Systolith, and
            the model's file at the same path.
        jobs: processes, if they are of this machine.

    Raises:
        ExecutorError: the address makes no sense, Dask is not installed, or nobody answers.
    """
    if address == LOCAL:
        # Not by fork: other threads, as of onnxruntime, would not be forked with it.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as executor:
            yield executor
        return
    host, _, port = address.removeprefix(DASK).rpartition(":")
    if not address.startswith(DASK) or not host or not port.isdecimal():
        raise ExecutorError(
            f"an executor is {LOCAL}, or {DASK}host:port of a Dask scheduler, not {address!r}"
        )
    try:
        from distributed import Client
    except ImportError:
        raise ExecutorError(
            "Dask is not installed: pip install 'systolith[cluster]', on every worker too"
        ) from None
    try:
        client = Client(f"tcp://{host}:{port}", timeout=CONNECTION_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        raise ExecutorError(
            f"no Dask scheduler answers at {host}:{port}: start one by 'dask scheduler', and "
            f"workers by 'dask worker {host}:{port}'"
        ) from error
    with client, client.get_executor(pure=False) as executor:
        yield executor
