"""The instruction set: layout, ranges, rules, encoding. The tables are held to themselves."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from systolith import isa
from systolith.config import PRESETS, CoreConfig, preset
from systolith.isa import (
    INSTRUCTION_BYTES,
    OPERANDS,
    RULES,
    Aligned,
    Engine,
    Field,
    Fits,
    Forbid,
    IllegalInstructionError,
    Instruction,
    Opcode,
    Rule,
    decode,
    encode,
    fields_of,
    make,
)

TINY = preset("tiny")

every_preset = pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
every_opcode = pytest.mark.parametrize("opcode", Opcode)


def smallest(opcode: Opcode, config: CoreConfig) -> dict[str, Any]:
    """The smallest legal value of every field."""
    values = {}
    for item in fields_of(opcode):
        lowest, _ = item.limits(config)
        multiple = item.multiple(config)
        if item.name != "opcode":
            values[item.name] = -(-max(lowest, 0) // multiple) * multiple
    return values


def build(opcode: Opcode, config: CoreConfig, values: dict[str, Any]) -> Instruction:
    return make(opcode, config, **values)


def conditions(rule: Rule, opcode: Opcode) -> list[dict[str, int]]:
    """Values at which a rule applies."""
    combinations: list[dict[str, int]] = [{}]
    for name, values in rule.when.items():
        combinations = [each | {name: value} for each in combinations for value in values]
    return combinations


@every_opcode
def test_fields_lie_side_by_side(opcode: Opcode) -> None:
    taken: dict[int, str] = {}
    for item in fields_of(opcode):
        assert item.width in (8, 16, 32)
        assert item.offset % (item.width // 8) == 0, f"{item.name} is not aligned to its size"
        for byte in range(item.offset, item.offset + item.width // 8):
            assert byte < INSTRUCTION_BYTES
            assert byte not in taken, f"{item.name} and {taken.get(byte)}"
            taken[byte] = item.name
        assert item.doc.endswith(".")
    names = [item.name for item in fields_of(opcode)]
    assert len(names) == len(set(names))


@every_opcode
def test_rules_name_fields_and_configuration(opcode: Opcode) -> None:
    names = {item.name for item in fields_of(opcode)}
    for rule in RULES[opcode]:
        assert set(rule.when) <= names
        match rule:
            case Forbid():
                assert rule.unless is None or isinstance(getattr(TINY, rule.unless), bool)
            case Fits():
                assert {rule.first, rule.count or rule.first} <= names
                assert isa.limit_of(rule, TINY) > 0
            case Aligned():
                assert rule.name in names
                assert isa.unit_of(rule, TINY) > 1


@every_preset
@every_opcode
def test_the_smallest_values_are_legal(opcode: Opcode, config: CoreConfig) -> None:
    instruction = build(opcode, config, smallest(opcode, config))
    assert decode(encode(instruction), config) == instruction


@every_preset
@every_opcode
def test_every_field_has_its_range(opcode: Opcode, config: CoreConfig) -> None:
    """Both ends are encoded and come back, or break a rule; one beyond is refused by name."""
    values = smallest(opcode, config)
    for item in fields_of(opcode):
        if item.name == "opcode":
            continue
        lowest, highest = item.limits(config)
        multiple = item.multiple(config)
        for end in (-(-lowest // multiple) * multiple, highest // multiple * multiple):
            changed = values | {item.name: end}
            full = changed | {"opcode": int(opcode)}
            if any(isa.violates(rule, full, config) for rule in RULES[opcode]):
                with pytest.raises(IllegalInstructionError):
                    build(opcode, config, changed)
                continue
            instruction = build(opcode, config, changed)
            image = encode(instruction)
            span = image[item.offset : item.offset + item.width // 8]
            assert int.from_bytes(span, "little", signed=item.signed) == end
            assert decode(image, config) == instruction
        for beyond in (lowest - 1, highest + 1):
            message = f"{item.name} must be from {lowest} to {highest}, but is {beyond}"
            with pytest.raises(IllegalInstructionError, match=message):
                build(opcode, config, values | {item.name: beyond})
        if multiple > 1:
            with pytest.raises(IllegalInstructionError, match=f"be a multiple of {multiple}"):
                build(opcode, config, values | {item.name: multiple * 3 - 1})


@every_preset
@every_opcode
def test_every_rule_is_kept(opcode: Opcode, config: CoreConfig) -> None:
    """Each rule refuses what breaks it, with its reason, and nothing one step before."""
    for rule in RULES[opcode]:
        for chosen in conditions(rule, opcode):
            values = smallest(opcode, config) | chosen
            good, bad = around(rule, values, config)
            if bad is not None:
                with pytest.raises(IllegalInstructionError) as error:
                    build(opcode, config, values | bad)
                reasons = [each.reason for each in RULES[opcode]]
                assert any(reason in str(error.value) for reason in reasons), error.value
                full = values | bad | {"opcode": int(opcode)}
                assert isa.violates(rule, full, config)
            full = values | good | {"opcode": int(opcode)}
            assert not isa.violates(rule, full, config) or isinstance(rule, Forbid)


def around(
    rule: Rule, values: dict[str, int], config: CoreConfig
) -> tuple[dict[str, int], dict[str, int] | None]:
    """Changes that just keep a rule, and that just break it, if a field can hold that."""
    match rule:
        case Forbid():
            return {}, None if rule.unless and getattr(config, rule.unless) else {}
        case Fits():
            count = values[rule.count] if rule.count else 0
            limit = isa.limit_of(rule, config)
            if rule.first == "m" and config.accumulator_rows >= config.row_slots:
                return {}, None
            return {rule.first: limit - count}, {rule.first: limit - count + 1}
        case Aligned():
            unit = isa.unit_of(rule, config)
            return {rule.name: 3 * unit}, {rule.name: 3 * unit + 1}


@every_preset
def test_random_instructions_come_back(config: CoreConfig) -> None:
    random = Random(config.hash)
    kept = dict.fromkeys(Opcode, 0)
    while min(kept.values()) < 50:
        opcode = min(kept, key=lambda each: kept[each])
        values: dict[str, Any] = {}
        for item in fields_of(opcode):
            if item.name != "opcode":
                values[item.name] = _draw(item, config, random)
        try:
            instruction = build(opcode, config, values)
        except IllegalInstructionError:
            continue
        assert instruction.fields == values
        assert decode(encode(instruction), config) == instruction
        kept[opcode] += 1


def _draw(item: Field, config: CoreConfig, random: Random) -> int:
    lowest, highest = item.limits(config)
    multiple = 2 * item.multiple(config) if "address" in item.name else item.multiple(config)
    highest = min(highest, random.choice([lowest + 7, 99, highest]))
    value = random.randint(lowest, max(lowest, highest)) // multiple * multiple
    return value if value >= lowest else value + multiple


@every_opcode
def test_bytes_without_a_field_must_be_zero(opcode: Opcode) -> None:
    image = encode(build(opcode, TINY, smallest(opcode, TINY)))
    covered = {
        byte
        for item in fields_of(opcode)
        for byte in range(item.offset, item.offset + item.width // 8)
    }
    for position in range(INSTRUCTION_BYTES):
        if position not in covered:
            broken = bytearray(image)
            broken[position] = 0x80
            message = f"byte {position} is reserved and must be 0, but is 128"
            with pytest.raises(IllegalInstructionError, match=message):
                decode(bytes(broken), TINY)


def test_opcodes_and_sizes() -> None:
    for opcode in set(range(256)) - set(Opcode):
        with pytest.raises(IllegalInstructionError, match=f"there is no opcode {opcode}$"):
            decode(bytes([opcode]) + bytes(63), TINY)
    for size in (0, 63, 65):
        with pytest.raises(IllegalInstructionError, match=f"has 64 bytes, not {size}"):
            decode(bytes(size), TINY)


def test_int4_weights_need_their_chain() -> None:
    values = smallest(Opcode.GEMM, TINY) | {"b_source": isa.WeightSource.RING_S4}
    with pytest.raises(IllegalInstructionError, match="no INT4 chain"):
        build(Opcode.GEMM, replace(TINY, int4=False), values)
    assert build(Opcode.GEMM, replace(TINY, int4=True), values).b_source == 1


def test_instructions_know_their_engine_and_waits() -> None:
    i = make(Opcode.ROW, TINY, waits={Engine.LOAD: 3, Engine.ROW: 1}, rows=2, n=5, tag=9)
    assert (i.engine, i.rows, i.n, i.tag, i.wait_load) == (Engine.ROW, 2, 5, 9, 3)
    assert i.waits == {Engine.LOAD: 3, Engine.ROW: 1}
    assert make(Opcode.HALT, TINY).engine is None
    with pytest.raises(AttributeError, match="ROW has no field 'size'"):
        _ = i.size
    with pytest.raises(IllegalInstructionError, match="ROW has no field 'size'"):
        make(Opcode.ROW, TINY, size=1)


def test_each_engine_has_one_operator() -> None:
    engines = [opcode.engine for opcode in Opcode if opcode.engine is not None]
    assert sorted(engines) == list(Engine)
    assert set(OPERANDS) == set(RULES) == set(Opcode)


def test_instructions_cannot_be_changed() -> None:
    i = make(Opcode.HALT, TINY, code=3)
    with pytest.raises(AttributeError):
        i.code = 4  # pyright: ignore[reportAttributeAccessIssue]
    assert Instruction(Opcode.HALT, dict(i.fields)) == i


def test_tables_begin_at_multiples_of_their_size() -> None:
    assert [isa.table_address(table) for table in range(3)] == [0, 256, 512]
