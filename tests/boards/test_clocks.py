"""The PLL's dividers, by the rules of its data sheet."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systolith_boards.boards import BOARDS
from systolith_boards.clocks import PllSettings, pll


def check(settings: PllSettings, source: float, frequency: float, degrees: float) -> None:
    phase_comparator = source / settings.input_divider
    output = phase_comparator * settings.feedback_divider
    oscillator = output * settings.output_divider
    assert 3.125e6 <= phase_comparator <= 400e6
    assert 400e6 <= oscillator <= 800e6
    for divider in (settings.input_divider, settings.feedback_divider, settings.output_divider):
        assert 1 <= divider <= 128
    assert output == pytest.approx(frequency, rel=1e-3)
    assert settings.frequency == pytest.approx(output)
    assert settings.output_divider - 1 + settings.shift // 8 < 128
    step = 360 / (8 * settings.output_divider)
    shifted = settings.shift * step
    assert min(abs(shifted - degrees), 360 - abs(shifted - degrees)) <= step / 2 + 1e-9


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_gets_its_clock(name: str) -> None:
    board = BOARDS[name]
    check(pll(board.source_hz, board.frequency, 180), board.source_hz, board.frequency, 180)


@given(
    source=st.sampled_from([12e6, 25e6, 48e6, 50e6, 100e6]),
    frequency=st.integers(10, 200),
    degrees=st.floats(0, 359.9),
)
def test_what_is_made_keeps_the_rules(source: float, frequency: int, degrees: float) -> None:
    settings = None
    refusal = ""
    try:
        settings = pll(source, frequency * 1e6, degrees)
    except ValueError as error:
        refusal = str(error)
    if settings is not None:
        check(settings, source, frequency * 1e6, degrees)
        return
    # What is said to be near is not near enough, and can be made.
    near = re.search(r"near it is ([\d.]+) MHz", refusal)
    assert near, refusal
    assert abs(float(near[1]) - frequency) > 0.999e-3 * frequency
    check(pll(source, float(near[1]) * 1e6, degrees), source, float(near[1]) * 1e6, degrees)


def test_a_clock_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot make 48 MHz of 25 MHz; near it is 46\.875 MHz"):
        pll(25e6, 48e6, 0)
