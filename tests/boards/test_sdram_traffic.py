"""The benchmark of the SDRAM, and what it must at least show."""

from dataclasses import replace

import pytest

from sdram_traffic import Traffic, bursts, measure, run_core, transfers
from systolith.config import preset
from systolith_boards.sdram.timing import AS4C32M16, SdramTiming

TIMING = SdramTiming.at(replace(AS4C32M16, startup_us=1), 125e6)


def test_bursts_are_those_of_the_dma() -> None:
    """Aligned to their size but for the first and the last one."""
    assert list(bursts(0, 512, 8)) == [(0, 32), (256, 32)]
    assert list(bursts(192, 384, 8)) == [(192, 8), (256, 32), (512, 8)]
    assert list(bursts(64, 20, 8)) == [(64, 3)]


def test_all_of_the_traffic_is_played() -> None:
    traffic = Traffic(name="", stream=4096, row=64, store=64, every=2)
    played = transfers(traffic, preset("ecp5-85k"))
    beats = {
        kind: sum(each.beats for each in played if kind == (each.id, each.data is None))
        for kind in ((1, True), (2, True), (0, False))
    }
    # 16 bursts of weights; as many rows, in turn with them; a store for every second one.
    assert beats == {(1, True): 512, (2, True): 16 * 8, (0, False): 8 * 8}


@pytest.mark.parametrize(
    ("traffic", "least"),
    [
        (Traffic(name="", stream=2048), 0.95),
        (Traffic(name="", stream=2048, row=64, store=64), 0.85),
    ],
)
def test_efficiency(traffic: Traffic, least: float) -> None:
    assert least < measure(traffic, TIMING, preset("ecp5-85k")) < 1


@pytest.mark.slow
def test_a_core_computes_the_same_on_the_sdram(capsys: pytest.CaptureFixture[str]) -> None:
    """In Verilator, with the chip model watching; `run_core` compares the results."""
    run_core(preset("tiny"), TIMING)
    lines = capsys.readouterr().out.splitlines()
    cycles = [int(line[40:50]) for line in lines]
    assert cycles[0] < 1.05 * cycles[1]
