"""`Affine` against its golden model: values, latency, throughput, back-pressure."""

from itertools import product
from typing import Any

import pytest
from amaranth.hdl import Fragment
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from systolith import numerics
from systolith.numerics import NO_ROW, Column, Format, Row, Source
from systolith_rtl.ecp5 import Ecp5Primitives
from systolith_rtl.vector.affine import Affine, AffineConfig
from systolith_sim import golden
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.strategies import affine_operands
from systolith_sim.testbench import (
    Payload,
    SimulatorContext,
    StreamMonitor,
    receive,
    send,
    simulate,
    stalls,
)

Operands = dict[str, Any]
"""Keyword arguments of `numerics.affine`."""

FULL = AffineConfig()
COLUMN_ONLY = AffineConfig(auxiliary=False)

SCRATCHPAD = {"source": Source.SCRATCHPAD, "column": Column(mant=128, shift=8, off=0)}
PRODUCT = {"source": Source.PRODUCT}
S8 = {"out_format": Format.S8}
U8 = {"out_format": Format.U8}

LOWEST = -(1 << 31)
HIGHEST = (1 << 31) - 1

# No shrinking: it would repeat the simulation for minutes, and the assertion names the culprit.
simulated = settings(max_examples=25, deadline=None, phases=set(Phase) - {Phase.shrink})

every_config = pytest.mark.parametrize("config", [FULL, COLUMN_ONLY], ids=str)


def neutral(config: AffineConfig, **changes: Any) -> Operands:
    """Return operands that pass an accumulator `x` through unchanged, with `changes`."""
    operands = {
        "x": 0,
        "r": 0,
        "source": Source.ACCUMULATOR,
        "column": Column(mant=128, shift=0, off=0),
        "out_format": Format.S16,
    }
    if config.auxiliary:
        operands["row"] = NO_ROW
    return operands | changes


def as_payload(operands: Operands) -> Payload:
    """Turn the records into mappings."""
    return {
        name: value._asdict() if isinstance(value, Column | Row) else value
        for name, value in operands.items()
    }


def run(
    config: AffineConfig,
    operands: list[Operands],
    *,
    stall: float = 0.0,
    seed: int = 0,
    platform: Ecp5Primitives | None = None,
) -> tuple[list[int], StreamMonitor, StreamMonitor]:
    """Stream `operands` through a lane, both ends stalling with probability `stall`.

    Returns:
        The results, and the monitors of the input and of the output.
    """
    dut = Affine(config)
    payloads = [as_payload(element) for element in operands]
    results: list[int] = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, payloads, stall=stalls(stall, seed=seed))

    async def receiver(ctx: SimulatorContext) -> None:
        results.extend(await receive(ctx, dut.o, len(payloads), stall=stalls(stall, seed=seed + 1)))

    monitors = StreamMonitor(dut.i), StreamMonitor(dut.o)
    cycles = 100 + 4 * int((len(payloads) + config.latency) / (1 - stall) ** 2)
    simulate(Fragment.get(dut, platform), sender, receiver, monitors=monitors, max_cycles=cycles)
    return results, *monitors


def assert_golden(operands: list[Operands], results: list[int]) -> None:
    """Compare `results` with the golden model; on failure, name the first that differs."""
    for position, (element, result) in enumerate(zip(operands, results, strict=True)):
        assert result == golden.affine(**element), f"payload {position}: {element}"


def assert_everywhere(config: AffineConfig, operands: Operands, result: int) -> None:
    """Hold definition, golden model and RTL to the same number."""
    assert numerics.affine(**operands) == result
    assert golden.affine(**operands) == result
    results, _, _ = run(config, [operands])
    assert results == [result]


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        # Ties go up, whatever the sign; their neighbours go to the nearest.
        ({"x": 10, "column": Column(128, 2, 0)}, 3),
        ({"x": -10, "column": Column(128, 2, 0)}, -2),
        ({"x": 9, "column": Column(128, 2, 0)}, 2),
        ({"x": -11, "column": Column(128, 2, 0)}, -3),
        # The offset comes before rounding: 1.5 - 1/256 is 1, and -1.5 + 255/256 is -1.
        ({"x": 3, "column": Column(128, 1, -1)}, 1),
        ({"x": -3, "column": Column(128, 1, 255)}, -1),
        ({"x": -3, "column": Column(128, 1, 256)}, 0),
        ({"x": -3, "column": Column(128, 1, -1)}, -2),
        ({"column": Column(0, 0, 127)}, 0),
        ({"column": Column(0, 0, 128)}, 1),
        # What the shift drops still counts: 1/2 - 1/512 is 0.
        ({"x": -1, "column": Column(1, 2, 128)}, 0),
        # The residual comes after rounding and before saturation.
        ({"x": 1, "r": -7, "column": Column(128, 1, 0)}, -6),
        ({"x": 40000, "r": -20000}, 20000),
        ({"x": -60000, "r": 32767}, -27233),
        # The largest offset and accumulator cancel before saturation.
        ({"x": 1 << 23, "column": Column(128, 0, LOWEST)}, 0),
        ({"x": 1, "r": 32767, "column": Column(128, 0, HIGHEST)}, 32767),
        ({"x": -(1 << 23), "r": 3, "column": Column(128, 0, HIGHEST)}, 3),
        # Saturation, to each format.
        ({"x": 32768}, 32767),
        ({"x": -32769}, -32768),
        ({"x": 127} | S8, 127),
        ({"x": 128} | S8, 127),
        ({"x": -128} | S8, -128),
        ({"x": -129} | S8, -128),
        ({"x": 32768} | S8, 127),
        ({"x": 255} | U8, 255),
        ({"x": 256} | U8, 255),
        ({"x": 128} | U8, 128),
        ({"x": -1} | U8, 0),
        ({"x": -32769} | U8, 0),
        ({"x": 65536} | U8, 255),
        # The largest products survive the datapath: 2**47 at shift 33 and 8 is 2**6.
        ({"x": LOWEST, "column": Column(-(1 << 15), 33, 0)}, 64),
        ({"x": LOWEST, "column": Column((1 << 15) - 1, 33, 0)}, -64),
        ({"x": LOWEST, "column": Column(-(1 << 15), 0, 0)}, 32767),
        ({"x": LOWEST, "column": Column((1 << 15) - 1, 0, 0)}, -32768),
        # Just too far right to matter; 64 is clamped to 63, and a negative shift to 0.
        ({"x": LOWEST, "column": Column(-(1 << 15), 40, 0)}, 1),
        ({"x": HIGHEST, "column": Column((1 << 15) - 1, 40, 0)}, 0),
        ({"x": LOWEST, "column": Column((1 << 15) - 1, 64, -128)}, -1),
        ({"x": 100, "column": Column(128, -1, 0)}, 100),
        # Scratchpad elements have 8 fraction bits.
        (SCRATCHPAD | {"x": -32768}, -32768),
        (SCRATCHPAD | {"x": 5, "r": 2, "column": Column(128, 9, 0)}, 5),
    ],
    ids=str,
)
@every_config
def test_hand_computed(config: AffineConfig, changes: Operands, result: int) -> None:
    assert_everywhere(config, neutral(config, **changes), result)


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        # A row of 1.5 and a row of 0.
        ({"x": 100, "row": Row(0, 3 << 14, 0)}, 150),
        ({"x": 1000, "r": 5, "row": Row(0, 0, 0)}, 5),
        # A scale of half a unit rounds up, as every tie does: 3 * 1.25 * 2 and -3 * 1.25 * 2.
        ({"x": 256, "column": Column(3, 0, 0), "row": Row(0, 5 << 13, 0)}, 8),
        ({"x": 256, "column": Column(-3, 0, 0), "row": Row(0, 5 << 13, 0)}, -7),
        # The largest scale, 131070 or just below 2**17, does not overflow.
        ({"x": 256, "column": Column(-32768, 3, 0), "row": Row(0, 65535, 0)}, -16384),
        ({"x": 256, "column": Column(-32768, 2, 0), "row": Row(0, 65535, 0)}, -32767),
        # The largest product and the largest offset of the same sign.
        ({"x": LOWEST, "column": Column(-32768, 0, HIGHEST), "row": Row(0, 65535, 0)}, 32767),
        ({"x": LOWEST, "column": Column(32767, 0, LOWEST), "row": Row(0, 65535, 0)}, -32768),
        # Exponents move the shift, a negative one too, and the difference stops at 0 and at 63.
        ({"x": 100, "column": Column(128, 3, 0), "row": Row(0, 1 << 15, 1)}, 25),
        ({"x": 100, "column": Column(128, 3, 0), "row": Row(0, 1 << 15, -1)}, 6),
        ({"x": 100, "column": Column(128, -3, 0), "row": Row(0, 1 << 15, -5)}, 25),
        ({"x": 100, "column": Column(128, -3, 0), "row": Row(0, 1 << 15, -2)}, 100),
        ({"x": 100, "column": Column(128, -128, 0), "row": Row(0, 1 << 15, 127)}, 100),
        ({"x": 100, "column": Column(128, 1, 0), "row": Row(0, 1 << 15, -63)}, 0),
        ({"x": -100, "column": Column(128, 127, -128), "row": Row(0, 1 << 15, -128)}, -1),
        # A mean with a fraction: 10 - 2.5, doubled; the extremes of centring.
        (SCRATCHPAD | {"x": 10, "column": Column(128, -2, 0), "row": Row(640, 1 << 15, -9)}, 15),
        (SCRATCHPAD | {"x": 32767, "row": Row(-(1 << 23), 1 << 15, -2)}, 16384),
        (SCRATCHPAD | {"x": -32768, "row": Row((1 << 23) - 1, 1 << 15, -2)}, -16384),
        # A product has no residual; its extremes.
        (PRODUCT | {"x": 20, "r": -3}, -60),
        (PRODUCT | {"x": -32768, "r": -32768, "column": Column(128, 16, 0)}, 16384),
        (PRODUCT | {"x": -32768, "r": 32767, "column": Column(128, 16, 0)}, -16383),
        (PRODUCT | {"x": 3, "r": 5, "column": Column(-32768, 8, 0)}, -15),
    ],
    ids=str,
)
def test_rows_and_products_hand_computed(changes: Operands, result: int) -> None:
    assert_everywhere(FULL, neutral(FULL, **changes), result)


@every_config
def test_every_shift(config: AffineConfig) -> None:
    """Each of the 256 shifts, for elements with a one and a zero next to each other."""
    elements = (0x5555_5555, -0x5555_5556, HIGHEST, LOWEST, 0x5555, -1)
    operands = [
        neutral(config, x=x, column=Column(mant, shift, 0))
        for x, shift, mant in product(elements, range(-128, 128), (1, -(1 << 15)))
    ]
    results, _, _ = run(config, operands)
    assert_golden(operands, results)


def test_every_exponent() -> None:
    """Each of the 256 exponents, with shifts that take the difference beyond both ends."""
    operands = [
        neutral(FULL, x=x, column=Column(-(1 << 15), shift, 0), row=Row(0, 0xAAAA, exp))
        for x, shift, exp in product((0x5555_5555, -5), (-128, -30, 30, 127), range(-128, 128))
    ]
    results, _, _ = run(FULL, operands)
    assert_golden(operands, results)


@every_config
@given(data=st.data())
@simulated
def test_matches_golden_model(config: AffineConfig, data: st.DataObject) -> None:
    """Any operands under any stalls: same values, same order, none lost, none repeated."""
    # One simulation streams several payloads, to share the cost of elaboration.
    elements = st.lists(affine_operands(auxiliary=config.auxiliary), min_size=1, max_size=40)
    operands = data.draw(elements)
    stall = data.draw(st.sampled_from([0.0, 0.3, 0.8]))
    seed = data.draw(st.integers(0, 999))
    results, _, _ = run(config, operands, stall=stall, seed=seed)
    assert_golden(operands, results)


@given(data=st.data())
@simulated
def test_ecp5_lane_matches_golden_model(data: st.DataObject) -> None:
    """The lane as it is built from DSP blocks."""
    operands = data.draw(st.lists(affine_operands(), min_size=1, max_size=40))
    results, _, _ = run(FULL, operands, stall=0.3, platform=SimulatedEcp5())
    assert_golden(operands, results)


@every_config
def test_latency_and_throughput(config: AffineConfig) -> None:
    """Unstalled, it accepts one payload per cycle and answers each `latency` cycles later."""
    operands = [neutral(config, x=x) for x in range(3 * config.latency)]
    _, accepted, sent = run(config, operands)
    assert accepted.cycles == list(range(len(operands)))
    assert sent.cycles == [cycle + config.latency for cycle in accepted.cycles]


def test_stalled_lane_fills_up_and_holds() -> None:
    """With nobody receiving, it accepts `latency` payloads, then holds them until somebody is."""
    dut = Affine(FULL)
    accepted = StreamMonitor(dut.i)
    payloads = [as_payload(neutral(FULL, x=x)) for x in range(20)]
    results: list[int] = []

    async def sender(ctx: SimulatorContext) -> None:
        await send(ctx, dut.i, payloads)

    async def late_receiver(ctx: SimulatorContext) -> None:
        await ctx.tick().repeat(50)
        assert len(accepted.cycles) == FULL.latency
        results.extend(await receive(ctx, dut.o, len(payloads)))

    simulate(dut, sender, late_receiver, monitors=[accepted], max_cycles=200)
    assert results == list(range(20))


def test_idle_lane_sends_nothing() -> None:
    dut = Affine(FULL)
    sent = StreamMonitor(dut.o)

    async def ready(ctx: SimulatorContext) -> None:
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(50)

    simulate(dut, ready, monitors=[sent], max_cycles=100)
    assert sent.cycles == []


@pytest.mark.parametrize("auxiliary", [1, "yes", None])
def test_config_rejects_an_auxiliary_that_is_no_bool(auxiliary: object) -> None:
    with pytest.raises(TypeError, match=f"auxiliary must be a bool, not {auxiliary!r}"):
        AffineConfig(auxiliary=auxiliary)  # pyright: ignore[reportArgumentType]
