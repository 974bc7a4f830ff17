"""`Pe`: products and sums in their cycles, shadow weights, and two INT4 weights in a multiplier."""

import random
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Fragment, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith_rtl.array.pe import (
    Pe,
    bus_weight,
    int4_partial_width,
    partial_width,
)
from systolith_sim.ecp5 import SimulatedEcp5
from systolith_sim.golden.gemm import pack_int4, unpack_products
from systolith_sim.testbench import SimulatorContext, simulate

Cycle = dict[str, int]
"""Inputs that are not 0 in a cycle."""

PORTABLE, ECP5 = None, SimulatedEcp5()
every_platform = pytest.mark.parametrize("platform", [PORTABLE, ECP5], ids=["portable", "ecp5"])


def run(dut: Any, cycles: list[Cycle], *outputs: str, platform: Any = None) -> list[Any]:
    """Return the outputs in each cycle; with one output, numbers, else tuples."""
    results: list[Any] = []

    async def testbench(ctx: SimulatorContext) -> None:
        shared = {"valid": 0, "int4_valid": 0}
        for cycle in cycles:
            for name, bits in shared.items():
                shared[name] = (bits << 1 | cycle.get(name, 0)) & (1 << Pe.LATENCY) - 1
            for name, port in vars(dut).items():
                if isinstance(port, Signal) and name not in outputs and not name.endswith("_o"):
                    ctx.set(port, shared[name] if name in shared else cycle.get(name, 0))
            sampled = (await ctx.tick().sample(*(getattr(dut, name) for name in outputs)))[2:]
            results.append(sampled[0] if len(outputs) == 1 else sampled)

    simulate(Fragment.get(dut, platform), testbench, max_cycles=len(cycles) + 1)
    return results


def signed_byte(value: int) -> int:
    return value - 256 if value > 127 else value


@every_platform
def test_product_meets_the_partial_sum(platform: Any) -> None:
    """`a` of cycle 2 and `partial_i` of cycle 5 give the sum of cycle 6."""
    cycles: list[Cycle] = [{"weight": 0x85, "capture": 1}, {}, {"a": 255, "valid": 1, "swap": 1}]
    cycles += [{}, {}, {"partial_i": 1000}, {}, {"partial_i": 7}]
    partials = run(Pe(rows=4), cycles, "partial_o", platform=platform)
    assert partials[6] == 1000 + 255 * -123
    if platform is None:
        assert partials[6 + 1] == partials[6], "it holds: nothing valid came after"


def test_capture_in_the_cycle_of_the_swap_is_for_the_next_one() -> None:
    weights = [3, -5, 7]
    cycles: list[Cycle] = [{"weight": weights[0], "capture": 1}]
    for weight in weights:
        # The bus already has the following weight; the last one captures itself again.
        following = weights[min(weights.index(weight) + 1, 2)]
        cycles.append({"a": 10, "valid": 1, "swap": 1, "weight": following & 255, "capture": 1})
        cycles.append({"a": 1, "valid": 1, "weight": 99})
    cycles += [{}] * Pe.LATENCY
    partials = run(Pe(rows=4), cycles, "partial_o")
    assert partials[1 + Pe.LATENCY :] == [30, 3, -50, -5, 70, 7][: len(partials) - 5]


@every_platform
def test_random_activity(platform: Any) -> None:
    """Captures, swaps and bubbles anywhere, against a model of two weights."""
    generator = random.Random(1)
    cycles: list[Cycle] = []
    expected: dict[int, int] = {}
    shadow = active = 0
    for t in range(600):
        valid = generator.random() < 0.7
        cycle = {
            "a": generator.choice([-128, 255, generator.randint(-128, 255)]),
            "valid": valid,
            "swap": valid and generator.random() < 0.2,
            "weight": generator.choice([0x80, 0x7F, generator.randint(0, 255)]),
            "capture": generator.random() < 0.3,
            "partial_i": generator.randint(-97920, 97920),
        }
        if cycle["swap"]:
            active = shadow
        if cycle["capture"]:
            shadow = signed_byte(cycle["weight"])
        if valid:
            expected[t + Pe.LATENCY] = cycle["a"] * active
        cycles.append(cycle)
    partials = run(Pe(rows=4), cycles, "partial_o", platform=platform)
    expected = {t: product for t, product in expected.items() if t < len(cycles)}
    assert len(expected) > 300
    for t, product in expected.items():
        assert partials[t] == cycles[t - 1]["partial_i"] + product, f"cycle {t}"


def test_partial_widths_are_just_enough() -> None:
    for rows in (4, 8, 16, 32, 64):
        assert (
            -(1 << partial_width(rows) - 1) <= -128 * 255 * rows < -(1 << partial_width(rows) - 2)
        )
        most = 255 * 8 * rows
        assert 1 << int4_partial_width(rows) - 2 <= most < 1 << int4_partial_width(rows) - 1
    assert partial_width(16) == 20
    assert int4_partial_width(16) == 16


def test_packing_is_exact_for_every_operand() -> None:
    """384 activations times 16 x 16 weights: both products come out of the one."""
    a, low, high = np.meshgrid(np.arange(-128, 256), np.arange(-8, 8), np.arange(-8, 8))
    products = unpack_products(a * pack_int4(low, high))
    np.testing.assert_array_equal(products, (a * low, a * high))


class Packed(wiring.Component):
    """A PE with INT4 behind the edge of its row."""

    weight: Signal
    int4_weight: Signal

    def __init__(self, rows: int) -> None:
        self._pe = Pe(rows=rows, int4=True)
        members = dict(self._pe.signature.members)
        members["weight"] = In(8)
        members["int4_weight"] = In(1)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Pack the weight; all else is the PE's."""
        m = Module()
        m.submodules.pe = pe = self._pe
        for name, member in pe.signature.members.items():
            if name == "weight":
                m.d.comb += pe.weight.eq(bus_weight(self.weight, self.int4_weight))
            elif member.flow == Out:
                m.d.comb += getattr(self, name).eq(getattr(pe, name))
            else:
                m.d.comb += getattr(pe, name).eq(getattr(self, name))
        return m


def test_int4_gives_two_sums() -> None:
    """All 256 weight bytes, each with the extremes and some activations between them."""
    generator = random.Random(2)
    cycles: list[Cycle] = []
    expected = {}
    for byte in range(256):
        cycles.append({"weight": byte, "capture": 1, "int4_weight": 1})
        for i, a in enumerate([-128, -1, 0, 1, 127, 128, 255, generator.randint(-128, 255)]):
            low, high = (nibble - 16 if nibble > 7 else nibble for nibble in (byte & 15, byte >> 4))
            expected[len(cycles) + Pe.LATENCY] = a * low, a * high
            cycles.append({"a": a, "valid": 1, "swap": i == 0, "int4_valid": 1})
        for cycle in cycles[-9:]:
            cycle |= {name: generator.randint(-6000, 6000) for name in ("partial_i", "high_i")}
    cycles += [{}] * (Pe.LATENCY + 1)
    results = run(Packed(4), cycles, "partial_o", "high_o")
    assert len(expected) == 256 * 8
    for t, (low, high) in expected.items():
        above = cycles[t - 1]
        sums = above.get("partial_i", 0) + low, above.get("high_i", 0) + high
        assert results[t] == sums, f"cycle {t}"


@every_platform
def test_pe_with_int4_multiplies_int8_too(platform: Any) -> None:
    """INT8 and INT4 rows may follow each other without a gap."""
    cycles: list[Cycle] = [{"weight": 0x80, "capture": 1}]
    cycles.append({"a": 255, "valid": 1, "swap": 1, "weight": 0x80, "capture": 1, "int4_weight": 1})
    cycles.append({"a": 255, "valid": 1, "swap": 1, "int4_valid": 1, "weight": 0x7F, "capture": 1})
    cycles.append({"a": -128, "valid": 1, "swap": 1})
    cycles += [{}] * Pe.LATENCY
    results = run(Packed(4), cycles, "partial_o", "high_o", platform=platform)[1 + Pe.LATENCY :]
    assert results[0][0] == 255 * -128
    assert results[1] == (0, 255 * -8)
    assert results[2][0] == -128 * 127
