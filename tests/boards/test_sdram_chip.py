"""The chip model: for each rule, a sequence that just keeps it and one that breaks only it."""

from dataclasses import replace

import pytest
from amaranth.sim import Simulator

from systolith_boards.sdram.chip import ChipModel, Violation
from systolith_boards.sdram.timing import AS4C32M16, SdramTiming
from systolith_sim.testbench import SimulatorContext

CHIP = replace(AS4C32M16, row_bits=4, column_bits=5, startup_us=0.5, refresh_ms=16)
TIMING = SdramTiming.at(CHIP, 140e6)
"""tRCD 3, tRP 3, tRAS 6, tRC 9, tRFC 9, tRRD 2, tMRD 2, tWR 2, CAS latency 3."""

BURST = 4
MODE = TIMING.cas_latency << 4 | 2
A10 = 1 << 10

Step = tuple[int, str, dict[str, int]]
"""Cycles since the step before, a command, and pins other than the command's."""


def step(after: int, command: str, **pins: int) -> Step:
    return after, command, pins


START = [
    step(TIMING.startup + 1, "precharge", a=A10),
    step(TIMING.rp, "refresh"),
    *[step(TIMING.rfc, "refresh")] * 7,
    step(TIMING.rfc, "mode", a=MODE),
]

CODES = {
    "nop": (0, 0, 0),
    "stop": (0, 0, 1),
    "read": (0, 1, 0),
    "write": (0, 1, 1),
    "activate": (1, 0, 0),
    "precharge": (1, 0, 1),
    "refresh": (1, 1, 0),
    "mode": (1, 1, 1),
}


def play(
    steps: list[Step],
    *,
    idle: int = 12,
    round_trip: int = 0,
    timing: SdramTiming = TIMING,
) -> tuple[set[Violation], Violation, list[int]]:
    """Give commands, and drive DQ for each WRITE's words unless told otherwise.

    `words` of a WRITE are what it writes, `drive` how many cycles DQ is driven from it on; `oe` of
    any step drives DQ in that cycle.

    Returns:
        The violations, the first one, and DQ in each cycle from the last step on.
    """
    dut = ChipModel(timing, round_trip=round_trip)
    pins = dut.pins
    seen: list[int] = []
    broken: set[Violation] = set()
    first = Violation(0)

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal first
        words: list[tuple[int, int, int]] = []
        ctx.set(pins.cke, 1)

        async def cycle() -> None:
            driven = words.pop(0) if words else (0, 0, 0)
            ctx.set(pins.dq_oe, driven[0])
            ctx.set(pins.dq_o, driven[1])
            ctx.set(pins.dqm, driven[2])
            seen.append(ctx.get(pins.dq_i))
            await ctx.tick()
            ctx.set(pins.cs, 0)

        for after, command, given in steps:
            given = dict(given)
            for _ in range(after - 1):
                await cycle()
            values = given.pop("words", [0] * BURST)
            mask = given.pop("mask", 0)
            if "oe" in given:
                words[:1] = [(given.pop("oe"), 0, 0)]
            if command == "write":
                drive = given.pop("drive", BURST)
                words[:] = [(int(i < drive), v, mask) for i, v in enumerate(values)]
            for name, value in zip(("ras", "cas", "we"), CODES[command], strict=True):
                ctx.set(getattr(pins, name), value)
            for name in ("ba", "a"):
                ctx.set(getattr(pins, name), given.pop(name, 0))
            ctx.set(pins.cke, given.pop("cke", 1))
            ctx.set(pins.cs, 1)
            assert not given
            seen.clear()
            await cycle()
            ctx.set(pins.cke, 1)
        for _ in range(idle):
            await cycle()
        violations = ctx.get(dut.violations)
        broken.update(each for each in Violation if violations >> each & 1)
        first = Violation(ctx.get(dut.first))
        assert bool(ctx.get(dut.count)) == bool(broken)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return broken, first, seen


def opened(*steps: Step) -> list[Step]:
    """After start-up, row 1 of bank 0 open since as many cycles as the next step says."""
    return [*START, step(TIMING.mrd, "activate", a=1), *steps]


ACT, PRE = "activate", "precharge"
RULES: dict[Violation, list[tuple[list[Step], list[Step]]]] = {
    Violation.PAUSE: [
        ([step(TIMING.startup + 1, PRE, a=A10)], [step(TIMING.startup, PRE, a=A10)]),
    ],
    Violation.SEQUENCE: [
        (START, [*START[:8], step(9, "mode", a=MODE)]),
        (START, [step(TIMING.startup + 1, "refresh"), *[step(9, "refresh")] * 7, START[-1]]),
        (opened(), [*START[:-1], step(9, ACT)]),
    ],
    Violation.MODE: [
        ([*START[:-1], step(9, "mode", a=3 << 4 | 3)], [*START[:-1], step(9, "mode", a=2 << 4)]),
        (START, [*START[:-1], step(9, "mode", a=MODE | 8)]),
        (START, [*START[:-1], step(9, "mode", a=3 << 4 | 7)]),
        (START, [*START[:-1], step(9, "mode", a=MODE | 1 << 9)]),
        (START, [*START[:-1], step(9, "mode", a=MODE, ba=1)]),
    ],
    Violation.COMMAND: [
        (opened(step(3, "read")), opened(step(3, "read", a=A10))),
        (opened(step(3, "nop")), opened(step(3, "stop"))),
        (opened(step(3, "read")), opened(step(3, "read", cke=0))),
    ],
    Violation.OPEN_BANK: [(opened(step(9, ACT, ba=1)), opened(step(9, ACT)))],
    Violation.CLOSED_BANK: [
        (opened(step(3, "read")), opened(step(3, "read", ba=2))),
        (opened(step(3, "write")), opened(step(3, "write", ba=2))),
        (opened(step(6, PRE, ba=1), step(1, "read")), opened(step(6, PRE), step(1, "read"))),
    ],
    Violation.BANKS_OPEN: [
        (
            opened(step(6, PRE), step(3, "refresh")),
            opened(step(6, PRE, ba=1), step(3, "refresh")),
        ),
        (
            opened(step(6, PRE, a=A10), step(3, "mode", a=MODE)),
            opened(step(6, "mode", a=MODE)),
        ),
    ],
    Violation.RCD: [
        (opened(step(3, "read")), opened(step(2, "read"))),
        (opened(step(3, "write")), opened(step(2, "write"))),
    ],
    Violation.RP: [
        (opened(step(6, PRE), step(3, ACT)), opened(step(7, PRE), step(2, ACT))),
        (opened(step(6, PRE), step(3, "refresh")), opened(step(7, PRE), step(2, "refresh"))),
    ],
    Violation.RAS: [
        (opened(step(6, PRE)), opened(step(5, PRE))),
        (opened(step(6, PRE, a=A10)), opened(step(5, PRE, a=A10))),
    ],
    Violation.RRD: [(opened(step(2, ACT, ba=3)), opened(step(1, ACT, ba=3)))],
    Violation.RFC: [
        (
            opened(step(6, PRE), step(3, "refresh"), step(9, ACT)),
            opened(step(6, PRE), step(3, "refresh"), step(8, ACT)),
        ),
        (
            opened(step(6, PRE), step(3, "refresh"), step(9, "refresh")),
            opened(step(6, PRE), step(3, "refresh"), step(8, "refresh")),
        ),
    ],
    Violation.MRD: [(opened(), [*START, step(TIMING.mrd - 1, ACT)])],
    Violation.WR: [
        (opened(step(3, "write"), step(5, PRE)), opened(step(3, "write"), step(4, PRE))),
    ],
    Violation.CUT: [
        (opened(step(3, "read"), step(4, "read")), opened(step(3, "read"), step(3, "read"))),
        (opened(step(3, "read"), step(4, PRE)), opened(step(4, "read"), step(3, PRE))),
        (opened(step(3, "write"), step(4, "write")), opened(step(3, "write"), step(3, "write"))),
    ],
    Violation.CONTENTION: [
        # Words 3 to 6 cycles after READ, and one cycle for the chip to let go.
        (opened(step(3, "read"), step(8, "write")), opened(step(3, "read"), step(7, "write"))),
        (
            opened(step(3, "read"), step(2, "nop", oe=1)),
            opened(step(3, "read"), step(3, "nop", oe=1)),
        ),
    ],
    Violation.FLOATING: [
        (opened(step(3, "write", drive=4)), opened(step(3, "write", drive=3))),
        (opened(step(3, "write", drive=0, mask=3)), opened(step(3, "write", drive=0, mask=2))),
    ],
}
"""Pairs of a sequence that keeps a rule and one that breaks it, and nothing else."""

CASES = [
    pytest.param(violation, kept, broken, id=f"{violation.name}-{index}")
    for violation, pairs in RULES.items()
    for index, (kept, broken) in enumerate(pairs)
]


@pytest.mark.parametrize(("violation", "kept", "broken"), CASES)
def test_rule(violation: Violation, kept: list[Step], broken: list[Step]) -> None:
    found, _, _ = play(kept)
    assert not found
    found, first, _ = play(broken)
    assert found == {violation}
    assert first == violation


def test_row_cycle_has_a_rule_of_its_own() -> None:
    """Where tRC is longer than tRAS and tRP together."""
    timing = replace(TIMING, rc=TIMING.ras + TIMING.rp + 2)
    assert not play(opened(step(8, PRE), step(3, ACT)), timing=timing)[0]
    assert play(opened(step(7, PRE), step(3, ACT)), timing=timing)[0] == {Violation.RC}


def test_every_rule_is_tested() -> None:
    assert set(Violation) - RULES.keys() == {Violation.RC, Violation.LATE_REFRESH}


@pytest.mark.parametrize(("intervals", "found"), [(8.9, set()), (9.1, {Violation.LATE_REFRESH})])
def test_eight_refreshes_may_be_late(intervals: float, found: set[Violation]) -> None:
    assert play(START, idle=round(intervals * TIMING.refresh))[0] == found


def test_refreshes_may_be_early_but_only_eight() -> None:
    early = [step(TIMING.rfc, "refresh")] * 12
    assert not play([*START, *early], idle=round(16.5 * TIMING.refresh))[0]
    late = play([*START, *early], idle=round(17.2 * TIMING.refresh))[0]
    assert late == {Violation.LATE_REFRESH}


def written(*steps: Step, mask: int = 0) -> list[Step]:
    return opened(
        step(3, "write", a=4, words=[0x1111, 0x2222, 0x3333, 0x4444]),
        step(6, "write", a=8, words=[0xAAAA, 0xBBBB, 0xCCCC, 0xDDDD], mask=mask),
        *steps,
    )


@pytest.mark.parametrize("round_trip", [0, 2])
def test_words_come_a_cas_latency_after_read(round_trip: int) -> None:
    _, _, seen = play(written(step(6, "read", a=4)), round_trip=round_trip)
    first = 3 + round_trip
    assert seen[first : first + 4] == [0x1111, 0x2222, 0x3333, 0x4444]
    assert seen[first - 1] != 0x1111
    assert seen[first + 4] != 0x4444


def test_bursts_wrap_at_their_length() -> None:
    _, _, seen = play(written(step(6, "read", a=6)))
    assert seen[3:7] == [0x3333, 0x4444, 0x1111, 0x2222]


def test_masked_bytes_are_not_written() -> None:
    steps = written(step(6, "write", a=4, words=[0x5555] * 4, mask=0b10), step(6, "read", a=4))
    _, _, seen = play(steps)
    assert seen[3:7] == [0x1155, 0x2255, 0x3355, 0x4455]


def test_rows_and_banks_are_apart() -> None:
    steps = opened(
        step(3, "write", a=4, words=[1, 2, 3, 4]),
        step(5, PRE),
        step(3, ACT, a=2),
        step(3, "write", a=4, words=[5, 6, 7, 8]),
        step(5, PRE),
        step(3, ACT, a=1, ba=1),
        step(3, "write", a=4, ba=1, words=[9, 10, 11, 12]),
        step(3, ACT, a=1),
        step(3, "read", a=4),
    )
    broken, _, seen = play(steps)
    assert not broken
    assert seen[3:7] == [1, 2, 3, 4]
