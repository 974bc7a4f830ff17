"""`RowEngine` against `numerics`: records, their slots, the cycles of reads, writes and retires."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from systolith import numerics
from systolith.config import preset
from systolith.isa import RowOperation
from systolith.numerics import MAX_NORM_LENGTH, SQUARES_WIDTH, STATISTIC_WIDTH, Row
from systolith_rtl.interfaces import ROW_READ_LATENCY
from systolith_rtl.vector.row import PERIOD, RowEngine
from systolith_sim.strategies import integers_near_edges
from systolith_sim.testbench import SimulatorContext, simulate, stalls

CONFIG = preset("tiny")

LAYER_NORM, RMS_NORM, RECIPROCAL = RowOperation

Statistics = dict[int, tuple[int, int]]
"""By slot: total and sum of squares."""

# No shrinking: it would repeat the simulation for minutes, and the assertion names the culprit.
simulated = settings(max_examples=25, deadline=None, phases=set(Phase) - {Phase.shrink})


def command(operation: RowOperation, **changes: int) -> dict[str, int]:
    """Return an instruction's operands: one row from slot 0 to slot 0, with `changes`."""
    operands = {
        "operation": int(operation),
        "source": 0,
        "destination": 0,
        "rows": 1,
        "n": 1,
        "eps_mantissa": 0,
        "eps_shift": 0,
    }
    return operands | changes


def record(operands: dict[str, int], total: int, squares: int) -> Row[int]:
    """Return what the definition makes of a row."""
    n = operands["n"]
    eps = operands["eps_mantissa"] << operands["eps_shift"]
    match RowOperation(operands["operation"]):
        case RowOperation.LAYER_NORM:
            return numerics.layer_norm_row(total, squares, n=n, eps=eps)
        case RowOperation.RMS_NORM:
            return numerics.rms_norm_row(squares, n=n, eps=eps)
        case RowOperation.RECIPROCAL:
            return numerics.recip(total)


@dataclass
class Trace:
    """What an engine did, in cycles from reset."""

    taken: list[int] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    writes: list[tuple[int, int, Row[int]]] = field(default_factory=list)
    retired: list[int] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)


def run(
    commands: list[dict[str, int]],
    statistics: Statistics,
    *,
    stall: float = 0.0,
    halt_at: int | None = None,
) -> Trace:
    """Offer `commands`, each after a pause of probability `stall`, to an engine and a row file.

    The row file answers `ROW_READ_LATENCY` cycles after a read, with noise in all other cycles.
    Runs until all have retired, or for 200 cycles with `halt` high.
    """
    dut = RowEngine(CONFIG)
    trace = Trace()
    rows = sum(operands["rows"] for operands in commands)
    last = 300 + int(2 * PERIOD * rows / (1 - stall)) if halt_at is None else halt_at + 200

    async def testbench(ctx: SimulatorContext) -> None:
        asked: list[int | None] = [None] * ROW_READ_LATENCY
        stalled = stalls(stall, seed=1)
        queue = list(commands)
        offered = False
        for cycle in range(last):
            ctx.set(dut.engine.halt, halt_at is not None and cycle >= halt_at)
            offered = bool(queue) and (offered or not next(stalled))
            ctx.set(dut.engine.command.valid, offered)
            if offered:
                ctx.set(dut.engine.command.payload, queue[0])
            slot = asked.pop(0)
            total, squares = (-12345, 67890) if slot is None else statistics[slot]
            ctx.set(
                dut.rows.statistics,
                {"maximum": -1, "absmax": 1, "total": total, "squares": squares},
            )

            asked.append(ctx.get(dut.rows.read_slot) if ctx.get(dut.rows.read) else None)
            if asked[-1] is not None:
                trace.reads.append((cycle, asked[-1]))
            if ctx.get(dut.rows.write):
                written: Any = ctx.get(dut.rows.record)
                row = Row(written.off, written.mant, written.exp)
                trace.writes.append((cycle, ctx.get(dut.rows.write_slot), row))
            if ctx.get(dut.engine.retire):
                trace.retired.append(cycle)
            if offered and ctx.get(dut.engine.command.ready):
                trace.taken.append(cycle)
                queue.pop(0)
                offered = False
            trace.busy.append(ctx.get(dut.engine.busy))
            trace.idle.append(ctx.get(dut.engine.idle))
            assert not ctx.get(dut.engine.stall.as_value())
            assert not ctx.get(dut.engine.fault)
            await ctx.tick()
            if len(trace.retired) == len(commands):
                return

    simulate(dut, testbench, max_cycles=last + 1)
    return trace


def assert_records(commands: list[dict[str, int]], statistics: Statistics, trace: Trace) -> None:
    """Compare every record, and the order in which they were written, with the definition."""
    expected = [
        (operands["destination"] + row, record(operands, *statistics[operands["source"] + row]))
        for operands in commands
        for row in range(operands["rows"])
    ]
    assert [(slot, row) for _, slot, row in trace.writes] == expected
    assert len(trace.retired) == len(commands)


@pytest.mark.parametrize(
    ("changes", "total", "squares", "result"),
    [
        # The elements 1, 2, 3, 4: the mean is 2.5, and n**2 times the variance is 20, whose root
        # is 4.47: 32768 / 18317 of 2**-2. 18317 is the root of 20 * 2**24, floored.
        ({"n": 4}, 10, 30, Row(640, (1 << 31) // 36635, -3)),
        # A mean of 1/3, 85.33 of 2**-8; of -1/3; of 1/512, a tie, which goes up; of -1/512.
        ({"n": 3}, 1, 1, Row(85, (1 << 31) // 46340, -1)),
        ({"n": 3}, -1, 1, Row(-85, (1 << 31) // 46340, -1)),
        ({"n": 512}, 1, 1, Row(1, (1 << 31) // 46295, -5)),
        ({"n": 512}, -1, 1, Row(0, (1 << 31) // 46295, -5)),
        # Equal elements have no deviation, so the factor is 0; with an epsilon of 1, it is 1.
        ({"n": 2}, 14, 98, Row(7 << 8, 0, 0)),
        ({"n": 2, "eps_mantissa": 1}, 14, 98, Row(7 << 8, 1 << 15, 0)),
        # An epsilon of 4**19 or twice that, and the largest.
        ({"eps_mantissa": 1, "eps_shift": 38}, 0, 0, Row(0, 1 << 15, -19)),
        ({"eps_mantissa": 1, "eps_shift": 39}, 0, 0, Row(0, 46341, -20)),
        ({"eps_mantissa": 65535, "eps_shift": 39}, 0, 0, Row(0, 46341, -28)),
        # The extremes of the mean.
        ({"n": 4096}, -(1 << 27), 1 << 42, Row(-(1 << 23), 0, 0)),
        ({"n": 4096}, 32767 << 12, 32767**2 << 12, Row(32767 << 8, 0, 0)),
    ],
    ids=str,
)
def test_layer_norm_hand_computed(
    changes: dict[str, int], total: int, squares: int, result: Row[int]
) -> None:
    operands = command(LAYER_NORM, **changes)
    assert record(operands, total, squares) == result
    trace = run([operands], {0: (total, squares)})
    assert [row for _, _, row in trace.writes] == [result]


@pytest.mark.parametrize(
    ("operation", "changes", "total", "squares", "result"),
    [
        # The total does not matter, nor do its sign and its mean: 1 / sqrt(4 * 4).
        (RMS_NORM, {"n": 4}, -(1 << 27), 4, Row(0, 1 << 15, -2)),
        (RMS_NORM, {"n": 4096}, 5, 1 << 42, Row(0, 1 << 15, -27)),
        (RMS_NORM, {"n": 3, "eps_mantissa": 1}, 5, 1, Row(0, 1 << 15, -1)),
        (RMS_NORM, {"n": 7}, 5, 0, Row(0, 0, 0)),
        # The largest operand there is.
        (RMS_NORM, {"n": 4096}, 0, (1 << 43) - 1, Row(0, 46341, -28)),
        # Neither n nor epsilon nor the squares matter.
        (RECIPROCAL, {"n": 77, "eps_mantissa": 9, "eps_shift": 3}, 1, 99, Row(0, 1 << 15, 0)),
        (RECIPROCAL, {}, 3, 0, Row(0, 43690, -2)),
        (RECIPROCAL, {}, 255, 0, Row(0, 32896, -8)),
        (RECIPROCAL, {}, 256, 0, Row(0, 1 << 15, -8)),
        (RECIPROCAL, {}, (1 << 27) - 1, 0, Row(0, 32768, -27)),
        (RECIPROCAL, {}, 0, 5, Row(0, 0, 0)),
    ],
    ids=str,
)
def test_others_hand_computed(
    operation: RowOperation, changes: dict[str, int], total: int, squares: int, result: Row[int]
) -> None:
    operands = command(operation, **changes)
    assert record(operands, total, squares) == result
    trace = run([operands], {0: (total, squares)})
    assert [row for _, _, row in trace.writes] == [result]


def test_every_length_of_reciprocals() -> None:
    """Each power of two and its neighbours: all normalising shifts."""
    totals = sorted({(1 << bit) + step for bit in range(27) for step in (-1, 0, 1)})
    statistics = {slot: (total, 0) for slot, total in enumerate(totals)}
    operands = [command(RECIPROCAL, rows=len(totals), destination=3)]
    assert_records(operands, statistics, run(operands, statistics))


def test_every_length_of_roots() -> None:
    """Likewise of what is rooted, with both parities, up to its 56 bits."""
    values = sorted({(1 << bit) + step for bit in range(43) for step in (-1, 0, 1)})
    statistics = {slot: (0, value) for slot, value in enumerate(values[:64])}
    statistics |= {slot + 64: (0, value) for slot, value in enumerate(values[64:])}
    operands = [
        command(RMS_NORM, rows=min(len(values), 128), n=1),
        command(RMS_NORM, rows=min(len(values), 128), n=4095),
    ]
    assert_records(operands, statistics, run(operands, statistics))


def test_every_length_of_totals() -> None:
    """Of both signs, up to the lowest of all: their squares are signed multiplications."""
    n = 4096
    powers = [1 << bit for bit in range(5, 28)]
    totals = [-(1 << 27), *(sign * power + 1 for power in powers[:-1] for sign in (-1, 1))]
    statistics = {slot: (total, -(-total * total // n) + 1) for slot, total in enumerate(totals)}
    operands = [command(LAYER_NORM, rows=len(totals), n=n)]
    assert_records(operands, statistics, run(operands, statistics))


@st.composite
def rows(draw: st.DrawFn, operation: RowOperation) -> tuple[dict[str, int], int, int]:
    """Draw an instruction's n and epsilon, and statistics that n words can have.

    The sum of squares is at least what equal elements have, often just that or little more.
    """
    if operation == RECIPROCAL:
        return {}, draw(integers_near_edges(27, signed=False)), draw(st.integers(0, 99))
    n = draw(st.sampled_from([1, 2, 3, 384, 4095, 4096]) | st.integers(1, MAX_NORM_LENGTH))
    changes = {
        "n": n,
        "eps_mantissa": draw(st.just(0) | integers_near_edges(16, signed=False)),
        "eps_shift": draw(st.integers(0, 39)),
    }
    if operation == RMS_NORM:
        squares = draw(integers_near_edges(SQUARES_WIDTH, signed=False))
        return changes, draw(integers_near_edges(28, signed=True)), min(squares, n << 30)
    total = draw(st.integers(-32768 * n, 32767 * n) | integers_near_edges(14, signed=True))
    total = max(-32768 * n, min(total, 32767 * n))
    least = -(-total * total // n)
    more = draw(st.just(0) | integers_near_edges(SQUARES_WIDTH, signed=False))
    return changes, total, min(least + more, n << 30)


@given(data=st.data())
@simulated
def test_matches_the_definition(data: st.DataObject) -> None:
    """Any commands, one after the other, in step or not: every record, in order."""
    commands = []
    statistics: Statistics = {}
    for index in range(data.draw(st.integers(1, 6))):
        operation = data.draw(st.sampled_from(RowOperation))
        changes, total, squares = data.draw(rows(operation))
        source = 16 * index
        count = data.draw(st.integers(1, 3))
        destination = data.draw(st.integers(0, CONFIG.row_slots - count))
        statistics[source] = total, squares
        for row in range(1, count):
            # Further rows of the same instruction share n and epsilon.
            factor = data.draw(st.integers(0, 16))
            statistics[source + row] = total * factor // 16, squares
        commands.append(
            command(operation, source=source, destination=destination, rows=count, **changes)
        )
    trace = run(commands, statistics, stall=data.draw(st.sampled_from([0.0, 0.9, 0.99])))
    assert_records(commands, statistics, trace)


def test_operand_has_room_for_every_row() -> None:
    """The largest n times squares plus the largest epsilon."""
    operands = command(RMS_NORM, n=4096, eps_mantissa=65535, eps_shift=39)
    squares = MAX_NORM_LENGTH << 30
    assert (4096 * squares + (65535 << 39)).bit_length() == STATISTIC_WIDTH
    assert_records([operands], {0: (0, squares)}, run([operands], {0: (0, squares)}))


def test_latency_and_throughput() -> None:
    """Commands that wait are worked on without a gap; retired a cycle after their last write."""
    statistics = {slot: (slot + 1, 0) for slot in range(10)}
    commands = [
        command(RECIPROCAL, rows=3, source=0, destination=20),
        command(RECIPROCAL, rows=1, source=3, destination=30),
        command(RECIPROCAL, rows=4, source=4, destination=40),
    ]
    trace = run(commands, statistics)
    assert_records(commands, statistics, trace)
    written = [cycle for cycle, _, _ in trace.writes]
    assert trace.taken[0] == 0
    assert written == [RowEngine.FIRST_LATENCY + PERIOD * row for row in range(8)]
    assert trace.reads == [(2 + PERIOD * row, row) for row in range(8)]
    assert trace.retired == [written[2] + 1, written[3] + 1, written[7] + 1]
    assert (PERIOD, RowEngine.FIRST_LATENCY) == (30, 85)
    # Busy from the cycle after the first command is taken until the last one is retired.
    assert trace.busy == [0] + [1] * trace.retired[-1]


def test_idle_engine_starts_at_once() -> None:
    """However long it has been idle; and it is not busy meanwhile."""
    statistics = {0: (5, 0)}
    for stall in (0.9, 0.97, 0.99):
        commands = [command(RECIPROCAL)] * 4
        trace = run(commands, statistics, stall=stall)
        after_idle = [taken for taken in trace.taken if not trace.busy[taken]]
        written = {cycle for cycle, _, _ in trace.writes}
        assert after_idle
        assert {taken + RowEngine.FIRST_LATENCY for taken in after_idle} <= written


@pytest.mark.parametrize("halt_at", [0, 1, 2, 40, *range(80, 90), 130])
def test_halt_stops_every_access(halt_at: int) -> None:
    """No command is taken and, from the next cycle on, nothing read or written."""
    statistics = {slot: (slot + 1, 0) for slot in range(4)}
    trace = run([command(RECIPROCAL, rows=4)] * 2, statistics, halt_at=halt_at)
    assert all(cycle < halt_at for cycle in trace.taken)
    accesses = [cycle for cycle, *_ in trace.reads + trace.writes]
    assert all(cycle <= halt_at for cycle in accesses)
    assert [bool(idle) for idle in trace.idle] == [
        cycle >= halt_at and cycle not in accesses for cycle in range(len(trace.idle))
    ]
    assert trace.idle[halt_at + 1 :] == [1] * 199
