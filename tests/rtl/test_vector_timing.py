"""How long a VECTOR takes, to the cycle, and that it takes no longer than promised."""

from typing import Any

import pytest

from systolith.config import CoreConfig
from systolith.isa import Function, Opcode, Second, Statistic, XFormat, make
from systolith.numerics import Column, Format, Row
from systolith_sim.vector_bench import assert_as_defined
from systolith_sim.vector_reference import VectorState
from systolith_sim.vector_surroundings import POLITE, Manners, Run

FAR = 128 << 10
"""Bytes of a scratchpad whose words come a cycle later."""


def core(shape: tuple[int, int], scratchpad_bytes: int = 8192) -> CoreConfig:
    """The same small core as in the engine's other tests, so that they share its elaboration."""
    rows, columns = shape
    return CoreConfig(
        rows=rows,
        columns=columns,
        scratchpad_bytes=scratchpad_bytes,
        ring_bytes=1024,
        accumulator_rows=32,
        column_slots=32,
        row_slots=32,
        table_slots=1,
        axi_data_bits=32,
    )


def run(
    shape: tuple[int, int],
    manners: Manners = POLITE,
    *,
    scratchpad_bytes: int = 8192,
    **fields: Any,
) -> Run:
    """Run one instruction on 4 columns' groups with undemanding contents."""
    config = core(shape, scratchpad_bytes)
    state = VectorState(
        memory=bytearray(config.scratchpad_bytes),
        columns=[Column(128, 8, 0)] * 32,
        tables=[0] * 256,
        records=[Row(0, 1 << 15, 0)] * 32,
        statistics=[],
        scalars=[0] * 4,
    )
    op = make(
        Opcode.VECTOR,
        config,
        **({"x_row": 8, "r_row": 8, "y_row": 8, "r_address": 512, "y_address": 1024} | fields),
    )
    drained = op.x_format == XFormat.ACCUMULATOR
    groups = -(-op.n // config.columns) if drained else 0
    sums = [[[1] * config.columns] * op.m] * groups
    (seen,) = assert_as_defined(config, state, [(op, sums)], manners)
    return seen


WORDS = {"x_format": XFormat.S16, "y_format": Format.S16}
DRAIN = {"x_format": XFormat.ACCUMULATOR}


@pytest.mark.parametrize(
    ("fields", "first", "end"),
    [
        # A drain waits for the C column records; bytes and words alike.
        (DRAIN, 23, 3),
        (DRAIN | {"y_format": Format.S16, "second": Second.ADD}, 26, 3),
        # From the scratchpad, the first group takes 8 cycles.
        ({}, 26, 3),
        (WORDS, 26, 3),
        # Tables and the exponential take five cycles more, and rows' statistics land later.
        ({"function": Function.TABLE}, 31, 3),
        (
            {"x_format": XFormat.S16, "y_format": Format.U8, "function": Function.EXP},
            31,
            3,
        ),
        (WORDS | {"statistic": Statistic.MOMENTS}, 26, 6),
        # Blocks leave when they are complete.
        (DRAIN | {"transpose": 1}, 28, 3),
    ],
    ids=str,
)
def test_a_group_per_cycle(fields: dict[str, Any], first: int, end: int) -> None:
    """On the 8x4 core: the cycle of the first write, one per cycle, and the retirement."""
    seen = run((8, 4), m=8, n=16, **fields)
    assert seen.writes == list(range(first, first + 32))
    assert seen.retired == seen.writes[-1] + end - 1
    assert seen.stalls == {}


@pytest.mark.parametrize(
    ("fields", "first"),
    [(DRAIN, 23), ({}, 27), (WORDS, 27), (DRAIN | {"second": Second.ADD}, 27)],
    ids=str,
)
def test_a_large_scratchpad_takes_a_cycle_more(fields: dict[str, Any], first: int) -> None:
    """Before the first operand, and none between operands."""
    seen = run((8, 4), scratchpad_bytes=FAR, m=32, n=16, **fields)
    assert seen.writes == list(range(first, first + 128))
    assert seen.retired == seen.writes[-1] + 2
    assert seen.stalls == {}


@pytest.mark.parametrize(("fields", "first"), [(WORDS, 27), (DRAIN | {"y_format": 2}, 23)])
def test_words_take_two_cycles_where_a_word_is_a_granule(
    fields: dict[str, Any], first: int
) -> None:
    seen = run((4, 4), m=8, n=8, **fields)
    assert seen.writes == list(range(first, first + 32))
    assert seen.retired == seen.writes[-1] + 2


def test_words_in_and_bytes_out_read_for_two_cycles() -> None:
    seen = run((4, 4), m=8, n=8, x_format=XFormat.S16)
    assert seen.writes == list(range(27, 27 + 32, 2))


def test_short_groups_wait_for_their_column_records() -> None:
    """Four records, one per cycle, for groups of one row."""
    seen = run((8, 4), m=1, n=16, **DRAIN)
    assert seen.issues == [5, 9, 13, 17]


def test_short_groups_that_share_a_record_wait_for_nothing() -> None:
    seen = run((8, 4), m=1, n=16, broadcast=1, **DRAIN)
    assert seen.issues == [5, 6, 7, 8]


@pytest.mark.parametrize(("m", "period"), [(1, 5), (2, 5), (4, 5), (5, 5), (6, 6)])
def test_rows_with_statistics_come_again_after_five_cycles(m: int, period: int) -> None:
    seen = run((8, 4), m=m, n=16, broadcast=1, statistic=Statistic.MAX, **DRAIN)
    assert seen.issues[::m] == [5 + group * period for group in range(4)]


def test_a_transposed_tail_is_filled_up() -> None:
    """Groups of five rows take the eight cycles of the granules that they become."""
    seen = run((8, 4), m=5, n=8, transpose=1, **DRAIN)
    assert seen.issues == [5, 6, 7, 8, 9, 13, 14, 15, 16, 17]
    assert seen.writes == list(range(28, 28 + 16))


def test_late_accumulators_count_as_stalls() -> None:
    """All cycles without an issue that are not start or end."""
    seen = run((8, 4), Manners(seed=3, late=0.9), m=8, n=16, **DRAIN)
    waited = seen.issues[-1] - 5 - 31
    assert waited > 0
    assert seen.stalls == {"input": waited}
    assert seen.writes == [cycle + 18 for cycle in seen.issues]


def test_refused_reads_count_as_stalls() -> None:
    polite = run((8, 4), m=8, n=16)
    seen = run((8, 4), Manners(seed=3, refuse=0.8), m=8, n=16)
    assert polite.stalls == {}
    assert seen.stalls == {"bank": seen.retired - polite.retired}
    assert seen.stalls["bank"] > 32


@pytest.mark.parametrize("fields", [{}, WORDS, WORDS | {"second": Second.ADD}], ids=str)
@pytest.mark.parametrize("shape", [(8, 4), (4, 4)], ids=str)
def test_a_refusal_counts_when_its_group_is_missing(
    shape: tuple[int, int], fields: dict[str, Any]
) -> None:
    """Whenever it comes: as many cycles as the end is late, and none if nothing is late."""
    polite = run(shape, m=8, n=8, **fields)
    late = set()
    for cycle in range(1, 34, 3):
        for length in (1, 7):
            refused = range(cycle, cycle + length)
            seen = run(shape, Manners(refused=refused), m=8, n=8, **fields)
            late.add(seen.retired - polite.retired)
            assert seen.stalls.get("bank", 0) == seen.retired - polite.retired, refused
            assert set(seen.stalls) <= {"bank"}
    assert 0 in late
    assert 7 in late


def test_a_refusal_of_the_second_operand_counts_too() -> None:
    fields = {"m": 8, "n": 8, "second": Second.ADD, **WORDS}
    polite = run((8, 4), **fields)
    seen = run((8, 4), Manners(refused_r=range(12, 23)), **fields)
    assert seen.stalls == {"bank": seen.retired - polite.retired}
    assert seen.stalls["bank"] > 5


def test_an_accumulator_counts_from_when_everything_else_is_there() -> None:
    """Column records take until cycle 5; a half that is complete until then costs nothing."""
    for opens in (0, 5, 6, 25):
        seen = run((8, 4), Manners(drain_opens=opens), m=8, n=4, **DRAIN)
        late = max(0, opens - 5)
        assert seen.issues == list(range(5 + late, 13 + late))
        assert seen.stalls == ({"input": late} if late else {})


def test_the_row_file_costs_no_cycle() -> None:
    """Not even if ROW reads and writes all the time."""
    fields = WORDS | {"m": 8, "n": 16, "statistic": Statistic.MOMENTS}
    assert run((8, 4), Manners(seed=1, rows=0.9), **fields) == run((8, 4), **fields)
