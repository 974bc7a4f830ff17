"""Several inputs on several devices at the same time: the same results, and one clear end."""

import numpy as np
import pytest

from systolith.cli.parallel import Run, run_all
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.device import DeviceError, DeviceTimeoutError, Progress
from systolith.program import Program
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.iss import IssDevice
from systolith_sim.verilator import VerilatorDevice

CONFIG = PRESETS["tiny"]
GRAPH = encoder(16)
SEEDS = range(5)


@pytest.fixture(scope="module")
def program() -> Program:
    return schedule(GRAPH, CONFIG, name="small", seq_len=16)


def make_runs(lengths: range = range(3, 8)) -> list[Run]:
    return [
        Run(padded={}, length=length, codes=inputs_for(GRAPH, seed))
        for seed, length in zip(SEEDS, lengths, strict=True)
    ]


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_run_gets_its_own_results(program: Program, count: int, watch: bool) -> None:
    runs = make_runs()
    run_all(program, [IssDevice(CONFIG) for _ in range(count)], runs, watch=watch, quiet=True)
    for run in runs:
        golden = run_qgraph(GRAPH, run.codes, run.length)
        for name, codes in {**run.raw, **run.captured}.items():
            np.testing.assert_array_equal(codes, golden[name], err_msg=name)
        assert len(run.raw) == 1
        assert set(run.captured) == ({each.name for each in program.watch} if watch else set())


def test_cores_do_not_disturb_each_other(program: Program) -> None:
    """Two Verilated cores in two threads take the cycles of one."""
    alone, together = make_runs(), make_runs()
    for runs, count in ((alone, 1), (together, 2)):
        devices = [VerilatorDevice(CONFIG) for _ in range(count)]
        run_all(program, devices, runs, watch=False, quiet=True)
        for device in devices:
            device.close()
    for one, other in zip(alone, together, strict=True):
        assert one.counters.cycles > 1000
        # A run may begin while the memory still counts the beats of the one before it.
        assert abs(one.counters.cycles - other.counters.cycles) <= 2
        for name, codes in one.raw.items():
            np.testing.assert_array_equal(codes, other.raw[name])


class Broken(IssDevice):
    """A device that never ends."""

    def wait_interrupt(self, *, max_cycles: int, progress: Progress | None = None) -> None:
        """Wait in vain."""
        raise DeviceTimeoutError("it never ends")


class Endless(IssDevice):
    """A device that goes on until its progress is refused."""

    def wait_interrupt(self, *, max_cycles: int, progress: Progress | None = None) -> None:
        """Wait in vain."""
        assert progress is not None
        while True:
            progress(1)


@pytest.mark.parametrize("devices", [[Broken], [Endless, Broken], [Broken, Endless]])
def test_one_failure_ends_all(program: Program, devices: list[type[IssDevice]]) -> None:
    with pytest.raises(DeviceError, match="never ends"):
        run_all(program, [make(CONFIG) for make in devices], make_runs(), watch=False, quiet=True)
