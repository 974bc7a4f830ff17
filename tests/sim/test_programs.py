"""Random programs: legal, free of races, rich, and reproducible."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from systolith import isa
from systolith.config import PRESETS, CoreConfig, preset
from systolith.isa import INSTRUCTION_BYTES, Opcode, WeightSource, XFormat
from systolith_sim.checker import check_program
from systolith_sim.iss import IssDevice
from systolith_sim.programs import RandomProgram, random_program

NEVER = {("STREAM", "codec", 1)}
"""What no core takes."""

TINY = replace(preset("tiny"), int4=True)

CONFIGS = PRESETS | {
    f"{name} with int4 {not config.int4}": replace(config, int4=not config.int4)
    for name, config in PRESETS.items()
}
"""The presets, and what they would be with or without INT4."""


def instructions(program: RandomProgram) -> list[isa.Instruction]:
    code, config = program.code, program.config
    return [
        isa.decode(code[at : at + INSTRUCTION_BYTES], config)
        for at in range(0, len(code), INSTRUCTION_BYTES)
    ]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(10))
def test_checker_and_every_interleaving_agree(name: str, seed: int) -> None:
    """The checker finds no fault, and no order of the engines nor noise changes DRAM."""
    program = random_program(CONFIGS[name], seed)
    check_program(
        program.code,
        program.config,
        limits=dict(enumerate(program.limits)),
        scalars=dict(enumerate(program.scalars)),
    )
    for order in (None, 1, 2, 3):
        device = IssDevice(
            program.config, memory_bytes=program.memory_bytes, seed=order, poison=order
        )
        assert program.run(device) == program.expected, order


@pytest.mark.parametrize(("steps", "largest"), [(3, 4), (30, 10), (6, 64)])
def test_sizes(steps: int, largest: int) -> None:
    program = random_program(preset("ecp5-85k"), 1, steps=steps, largest=largest)
    device = IssDevice(program.config, memory_bytes=program.memory_bytes)
    assert program.run(device) == program.expected
    for each in instructions(program):
        if each.opcode == Opcode.GEMM:
            assert max(each.m, each.n, each.k) <= -(-largest // 8) * 8


def test_a_seed_gives_one_program() -> None:
    assert random_program(TINY, 5) == random_program(TINY, 5)
    assert random_program(TINY, 5).code != random_program(TINY, 6).code


@pytest.fixture(scope="module")
def many() -> list[isa.Instruction]:
    return [each for seed in range(120) for each in instructions(random_program(TINY, seed))]


def test_every_field_takes_every_kind_of_value(many: list[isa.Instruction]) -> None:
    """All values of small fields, and zero as well as not in all others."""
    seen = Counter(
        (each.opcode.name, name, value) for each in many for name, value in each.fields.items()
    )
    for opcode in Opcode:
        for item in isa.fields_of(opcode):
            if item.name == "opcode":
                continue
            lowest, highest = item.limits(TINY)
            values = {value for op, name, value in seen if (op, name) == (opcode.name, item.name)}
            if highest - lowest < 8:
                wanted = {(opcode.name, item.name, each) for each in range(lowest, highest + 1)}
                if item.name == "base":
                    continue
                missing = wanted - NEVER - set(seen)
                assert not missing, missing
            elif opcode != Opcode.HALT and not item.name.startswith("wait_"):
                assert len(values) >= 4, (opcode, item.name)
            if item.signed:
                assert min(values) < 0 < max(values)


def test_every_engine_waits_for_every_other_that_it_can_depend_on(
    many: list[isa.Instruction],
) -> None:
    pairs = Counter(
        f"{each.engine.name} {other.name}" for each in many if each.engine for other in each.waits
    )
    for pair in ("LOAD GEMM", "LOAD VECTOR", "STORE LOAD", "STORE VECTOR", "GEMM LOAD"):
        assert pairs[pair] > 20, pair
    for pair in ("GEMM VECTOR", "VECTOR LOAD", "VECTOR ROW", "ROW VECTOR"):
        assert pairs[pair] > 20, pair
    # An overwritten buffer is seldom one that was stored.
    assert pairs["LOAD STORE"] > 5
    assert pairs["VECTOR STORE"] > 5


def test_every_combination_that_matters(many: list[isa.Instruction]) -> None:
    vectors = [each for each in many if each.opcode == Opcode.VECTOR]
    combinations = Counter(
        (each.x_format, each.second, each.function, each.use_row, each.statistic)
        for each in vectors
    )
    legal = [
        (x, second, function, use_row, statistic)
        for x in range(4)
        for second in range(3)
        for function in range(3)
        for use_row in range(2)
        for statistic in range(4)
        if _legal(x, second, function, use_row, statistic)
    ]
    found = sum(1 for each in legal if each in combinations)
    assert found > 0.85 * len(legal), f"{found} of {len(legal)}"

    def count(condition: object) -> int:
        return sum(1 for each in vectors if condition(each))  # pyright: ignore[reportCallIssue]

    drains = XFormat.ACCUMULATOR
    assert count(lambda i: i.x_format != drains and i.x_address == i.y_address) > 20
    assert count(lambda i: i.second and i.r_address == i.y_address) > 10
    assert count(lambda i: i.x_format == 2 and i.x_address == i.y_address and i.y_format < 2) > 5
    assert count(lambda i: i.second and i.r_address == i.x_address and i.x_format == 2) > 3
    assert count(lambda i: i.transpose and i.x_format == drains) > 20
    assert count(lambda i: i.transpose and i.x_format != drains) > 20
    assert count(lambda i: i.transpose and i.m % 4 and i.n % 4) > 20
    assert count(lambda i: i.mask and i.statistic) > 20
    assert count(lambda i: i.n > 8 and i.x_format == drains) > 20


def test_int4_comes_with_and_without_a_high_half(many: list[isa.Instruction]) -> None:
    """The last group of 2 C = 8 channels may have at most C of them."""
    gemms = [each for each in many if each.opcode == Opcode.GEMM]
    wide = [each for each in gemms if each.b_source == WeightSource.RING_S4]
    assert 0.3 < len(wide) / sum(each.b_source != WeightSource.SCRATCHPAD for each in gemms) < 0.7
    for groups in (1, 2):
        tails = Counter(-(-each.n // 4) % 2 for each in wide if -(-each.n // 8) == groups)
        assert min(tails[0], tails[1]) > 5
    assert sum(-(-each.k // 4) > TINY.exponent_tiles for each in wide) > 10
    plain = [instructions(random_program(replace(TINY, int4=False), seed)) for seed in range(5)]
    assert all(
        each.opcode != Opcode.GEMM or each.b_source != WeightSource.RING_S4
        for some in plain
        for each in some
    )


def _legal(x: int, second: int, function: int, use_row: int, statistic: int) -> bool:
    values: dict[str, Any] = {
        "x_format": x,
        "y_format": 1 if function == 2 else 2,
        "second": second,
        "function": function,
        "use_row": use_row,
        "statistic": statistic,
        "m": 1,
        "n": 1,
    }
    try:
        isa.make(Opcode.VECTOR, preset("tiny"), **values)
    except isa.IllegalInstructionError:
        return False
    return True


def test_a_core_that_is_too_small_is_refused() -> None:
    small = CoreConfig(rows=4, columns=4, scratchpad_bytes=4096, ring_bytes=256, axi_data_bits=32)
    with pytest.raises(ValueError, match="8 tensors of 64 x 64 words do not fit the core"):
        random_program(small, 1, largest=64)
