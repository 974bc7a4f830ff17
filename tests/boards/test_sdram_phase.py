"""The phase of the memory chip's clock, judged by when each edge reaches each pin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systolith_boards.boards import BOARDS
from systolith_boards.sdram.phase import chip_clock
from systolith_boards.sdram.timing import CHIPS, SdramTiming


def spare(timing: SdramTiming, degrees: float) -> float:
    """Nanoseconds left where least are, for the same cycle in slow and fast FPGAs.

    Edge 100 of `sync` sends something; what its neighbours send must not be seen, either.
    """
    period = 1e9 / timing.frequency
    behind = degrees / 360 * period
    sent, overwritten = 100 * period, 101 * period
    access = {2: 6.0, 3: 5.4}[timing.cas_latency]
    ways: list[float] = []
    answers: list[list[float]] = []
    for to_pin in (1.5, 4.1):
        chip_looks = sent + behind + to_pin
        ways += [
            chip_looks - (sent + to_pin + 0.5) - 1.5,
            (overwritten + to_pin - 0.5) - chip_looks - 0.8,
        ]
        appears, vanishes = chip_looks + access, chip_looks + period + 2.5
        looks = [(100 + cycles) * period for cycles in range(8)]
        answers.append([min(look - 0.9 - appears, vanishes - look - 1.0) for look in looks])
    return min(*ways, max(map(min, *answers)))


@given(st.sampled_from(sorted(CHIPS)), st.floats(20e6, 143e6), st.integers(0, 359))
def test_no_phase_is_better(name: str, frequency: float, other: int) -> None:
    timing = SdramTiming.at(CHIPS[name], frequency)
    found = chip_clock(timing)
    assert 0 < found.degrees < 360
    assert spare(timing, found.degrees) == pytest.approx(found.margin)
    assert spare(timing, other) <= found.margin + 1e-9


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize(
    ("megahertz", "least"), [(50, 3.0), (60, 1.5), (80, 0.8), (100, 0.8), (120, 0.4), (130, 0.1)]
)
def test_something_is_left_at_every_clock(name: str, megahertz: int, least: float) -> None:
    assert chip_clock(SdramTiming.at(CHIPS[name], megahertz * 1e6)).margin > least


def test_half_a_cycle_is_no_phase_for_60_mhz() -> None:
    """Which boards had: a word comes 2 ns late for one edge, and ends before the next."""
    assert spare(SdramTiming.at(CHIPS["IS42S16160-7"], 60e6), 180) < -2


@pytest.mark.parametrize("name", BOARDS)
def test_boards_have_time_to_spare(name: str) -> None:
    board = BOARDS[name]
    assert chip_clock(SdramTiming.at(board.chip, board.frequency)).margin > 0.8
