"""Data-sheet times in cycles."""

from dataclasses import astuple, replace

import pytest

from systolith_boards.sdram.timing import AS4C32M16, CHIPS, IS42S16160, W9825G6KH, SdramTiming


def test_times_of_a_7_ns_clock() -> None:
    """63 ns are 9 cycles of 7 ns exactly, and 143 MHz is what data sheets call 7 ns."""
    for frequency in (1e9 / 7, 143e6):
        timing = SdramTiming.at(AS4C32M16, frequency)
        cycles = astuple(timing)[2:]
        assert cycles[:9] == (3, 3, 3, 6, 9, 9, 2, 2, 2)
        # 7812.5 ns / 7 ns = 1116.07, 200 us / 7 ns = 28571.4
        assert timing.refresh in (1116, 1117)
        assert timing.startup in (28572, 28600)


def test_times_of_a_50_mhz_clock() -> None:
    """21 ns are 2 cycles of 20 ns; CAS latency 2 will do; two cycles are the least of three."""
    timing = SdramTiming.at(AS4C32M16, 50e6)
    assert astuple(timing)[2:] == (2, 2, 2, 3, 4, 4, 2, 2, 2, 390, 10_000)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("mhz", [40, 100, 133, 143])
def test_no_time_is_cut_short(chip, mhz: int) -> None:
    timing = SdramTiming.at(chip, mhz * 1e6)
    for name in ("rcd", "rp", "ras", "rc", "rfc", "wr", "rrd", "mrd"):
        assert getattr(timing, name) >= getattr(chip, name) * mhz / 1000 - 0.01
        assert getattr(timing, name) <= max(2, getattr(chip, name) * mhz / 1000 + 1)
    assert timing.refresh * 8192 <= 64e-3 * mhz * 1e6
    assert chip.clock[timing.cas_latency] * mhz / 1000 <= 1.01


def test_sizes() -> None:
    assert AS4C32M16.bytes == 64 << 20
    assert IS42S16160.bytes == W9825G6KH.bytes == 32 << 20


def test_too_fast_a_clock_is_refused() -> None:
    message = r"AS4C32M16SB-7 takes a clock of at most 143 MHz \(7 ns\), not 150 MHz"
    with pytest.raises(ValueError, match=message):
        SdramTiming.at(AS4C32M16, 150e6)
    assert SdramTiming.at(W9825G6KH, 166e6).cas_latency == 3


def test_too_slow_a_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a refresh of 1 cycles every 3 cycles"):
        SdramTiming.at(AS4C32M16, 0.5e6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_bits": 14}, "row_bits must be from 2 to 13, but is 14"),
        ({"column_bits": 11}, "column_bits must be from 5 to 10, but is 11"),
        ({"clock": {4: 5}}, "CAS latencies must be 2 and 3"),
        ({"clock": {}}, "CAS latencies must be 2 and 3"),
    ],
)
def test_impossible_chips_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(AS4C32M16, **change)
