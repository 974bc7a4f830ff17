"""Runs inputs on several devices at the same time."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np
from tqdm import tqdm

from systolith.host.device import Device
from systolith.host.session import Counters, Session
from systolith.program import Program

INSTRUCTION_DEVICES = ("iss",)
"""Devices whose progress counts instructions."""


@dataclass(kw_only=True)
class Run:
    """One input's run; `run_all` fills in what comes after the codes.

    Attributes:
        padded: the model's inputs, `[1, seq_len]` each.
        length: valid tokens.
        codes: the core's inputs, `[rows, columns]` each.
        raw: codes of the core's outputs, `[rows, columns]` each.
        captured: all tensors, if they were watched.
        counters: what the core counted.
    """

    padded: Mapping[str, np.ndarray]
    length: int
    codes: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray] = field(default_factory=dict)
    captured: Mapping[str, np.ndarray] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)


class _StoppedError(Exception):
    """Another run failed, or the user had enough."""


def run_all(
    program: Program, devices: Sequence[Device], runs: Sequence[Run], *, watch: bool, quiet: bool
) -> None:
    """Run each input on the next device that is free.

    A simulator in C++ lets other threads of Python work while it runs.

    Args:
        program: the compiled model.
        devices: devices of a kind.
        runs: inputs, and where results go.
        watch: whether to capture every tensor.
        quiet: no progress.

    Raises:
        DeviceError: a device faulted or did not answer; the other runs end too.
    """
    waiting: SimpleQueue[Run] = SimpleQueue()
    for run in runs:
        waiting.put(run)
    stop = threading.Event()
    lock = threading.Lock()
    unit = "instructions" if devices[0].name in INSTRUCTION_DEVICES else "cycles"
    with tqdm(
        desc=f"{devices[0].name}, inputs done 0/{len(runs)}",
        unit=f" {unit}",
        unit_scale=True,
        disable=quiet or None,
        leave=False,
    ) as bar:
        finished = 0

        def work(device: Device) -> None:
            nonlocal finished
            session = Session(device, program)
            if watch:
                device.watch(program.watch)
            while not stop.is_set():
                try:
                    run = waiting.get_nowait()
                except Empty:
                    return
                seen = 0

                def advance(done: int) -> None:
                    nonlocal seen
                    if stop.is_set():
                        raise _StoppedError
                    with lock:
                        bar.update(done - seen)
                    seen = done

                run.raw = session.run(run.codes, length=run.length, progress=advance)
                run.counters = session.counters()
                if watch:
                    run.captured = {name: codes.copy() for name, codes in device.captured.items()}
                with lock:
                    finished += 1
                    bar.set_description(f"{devices[0].name}, inputs done {finished}/{len(runs)}")

        def guarded(device: Device) -> None:
            try:
                work(device)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(len(devices)) as pool:
            workers = [pool.submit(guarded, device) for device in devices]
            try:
                wait(workers)
            except BaseException:  # the user had enough
                stop.set()
                raise
        for worker in workers:
            with suppress(_StoppedError):
                worker.result()
