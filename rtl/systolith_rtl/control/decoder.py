"""The instruction decoder: legal or not, by the tables in `systolith.isa`."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import (
    INSTRUCTION_BYTES,
    OPERANDS,
    RULES,
    Aligned,
    Engine,
    Field,
    Fits,
    Forbid,
    Opcode,
    Rule,
    fields_of,
    limit_of,
    unit_of,
)
from systolith.regs import FaultCause

WORD_WIDTH = 8 * INSTRUCTION_BYTES
"""Bits of an instruction."""

HEADER_WIDTH = 8 * min(field.offset for fields in OPERANDS.values() for field in fields)
"""Bits of an instruction in front of the operands."""

TAG_WIDTH = 16
"""Bits of a tag."""

FETCHED_LAYOUT = data.StructLayout({"word": WORD_WIDTH, "cause": FaultCause})
"""An instruction as fetched; with a cause, it is the fault that comes in its place."""

DECODED_LAYOUT = data.StructLayout(
    {"word": WORD_WIDTH, "operators": len(Opcode), "cause": FaultCause, "tag": TAG_WIDTH}
)
"""An instruction with a bit for each opcode, in order; none is set if there is a cause for which it
must not be carried out. Then `tag` is 0 if nothing was fetched."""

_FIELDS = {opcode: {field.name: field for field in fields_of(opcode)} for opcode in Opcode}


def field_of(word: Value, field: Field) -> Value:
    """Return the bits of a field of an instruction, signed if it is."""
    bits = word[8 * field.offset : 8 * field.offset + field.width]
    return bits.as_signed() if field.signed else bits


def opcode_of(word: Value) -> Value:
    """Return the opcode of an instruction."""
    return word[:8]


def waits_of(word: Value) -> list[Value]:
    """Return the wait counts of an instruction, by engine."""
    header = _FIELDS[Opcode.HALT]
    return [field_of(word, header[f"wait_{engine.name.lower()}"]) for engine in Engine]


def packed_layout(opcode: Opcode, config: CoreConfig) -> data.StructLayout:
    """Return the operands of an instruction, each as wide as its largest legal value."""
    members = {}
    for field in OPERANDS[opcode]:
        _, highest = field.limits(config)
        width = field.width if field.signed else highest.bit_length()
        members[field.name] = Shape(width, field.signed)
    return data.StructLayout(members)


def used_bits(config: CoreConfig) -> list[tuple[int, int]]:
    """Return the bits that may not be 0 in a legal instruction other than HALT, as half-open runs.

    Opcode and tag are left out.
    """
    used = set[int]()
    for opcode in Opcode:
        if opcode is Opcode.HALT:
            continue
        for field in fields_of(opcode):
            if field.name in ("opcode", "tag"):
                continue
            _, highest = field.limits(config)
            width = field.width if field.signed else highest.bit_length()
            used.update(range(8 * field.offset, 8 * field.offset + width))
    firsts = sorted(bit for bit in used if bit - 1 not in used)
    ends = sorted(bit + 1 for bit in used if bit + 1 not in used)
    return list(zip(firsts, ends, strict=True))


def packed_operands(word: Value, opcode: Opcode, config: CoreConfig) -> Value:
    """Return the operands of a legal instruction, in bits of `packed_layout`."""
    layout = packed_layout(opcode, config)
    return Cat(
        field_of(word, field)[: Shape.cast(layout.members[field.name]).width]
        for field in OPERANDS[opcode]
    )


class Decoder(wiring.Component):
    """Check an instruction exactly as `isa.decode` does.

    ::

        word -> tests of single fields -> ranges and rules -> verdict

    A verdict takes `LATENCY` cycles, and there is one instruction at a time, so that its 64 bytes
    are held once: they arrive no faster than the memory port delivers them.

    Members:
        i: instructions, or faults in their place, which pass unchanged.
        o: the same with the verdict: `ILLEGAL_INSTRUCTION` if `isa.decode` raises.
    """

    LATENCY = 4

    i: stream.Interface
    o: stream.Interface

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(FETCHED_LAYOUT)),
                "o": Out(stream.Signature(DECODED_LAYOUT)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Hold the word, and let the checks of `isa` follow it in three stages."""
        m = Module()
        word = Signal(WORD_WIDTH, reset_less=True)
        cause = Signal(FaultCause, reset_less=True)
        busy = Signal()
        stage = Signal(self.LATENCY - 1)
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq(~busy),
            taken.eq(self.i.valid & ~busy),
        ]
        m.d.sync += stage.eq(Cat(taken, stage))
        # Whatever is there until an instruction comes, which then stays.
        with m.If(~busy):
            m.d.sync += [word.eq(self.i.p.word), cause.eq(self.i.p.cause)]
        with m.If(taken):
            m.d.sync += busy.eq(1)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += busy.eq(0)

        tests = _Tests(m, word, stage[0])
        chosen = [
            tests.equals(Field(name="opcode", offset=0, width=8, doc=""), (opcode,))
            for opcode in Opcode
        ]
        fetched = cause == FaultCause.NONE
        meant = Signal(len(Opcode), reset_less=True)
        operators = Signal(len(Opcode), reset_less=True)
        valid = Signal()
        with m.If(stage[1]):
            m.d.sync += meant.eq(Cat(chosen) & fetched.replicate(len(chosen)))
        for index, opcode in enumerate(Opcode):
            failures = self._failures(tests, opcode)
            bits = Signal(len(failures), name=f"{opcode.name.lower()}_failures", reset_less=True)
            with m.If(stage[1]):
                m.d.sync += bits.eq(Cat(failures))
            # They stay after the instruction has left, as nobody looks at them then.
            m.d.sync += operators[index].eq(meant[index] & ~bits.any())

        result = self.o.payload
        m.d.sync += valid.eq(stage[2] | (valid & ~self.o.ready))
        with m.If(stage[2]):
            m.d.sync += result.tag.eq(Mux(fetched, word[16:32], 0))
        m.d.comb += [
            self.o.valid.eq(valid),
            result.word.eq(word),
            result.operators.eq(operators),
            result.cause.eq(Mux(fetched & ~operators.any(), FaultCause.ILLEGAL_INSTRUCTION, cause)),
        ]
        return m

    def _failures(self, tests: "_Tests", opcode: Opcode) -> list[Value]:
        """Return what may be wrong with an instruction of this opcode, one bit each."""
        failures = [
            test
            for field in fields_of(opcode)
            if field.name != "opcode"
            for test in tests.range(field, self.config)
        ]
        covered = {
            byte
            for field in fields_of(opcode)
            for byte in range(field.offset, field.offset + field.width // 8)
        }
        reserved = [byte for byte in range(INSTRUCTION_BYTES) if byte not in covered]
        failures += [
            Cat(tests.not_zero(byte) for byte in reserved[first : first + 16]).any()
            for first in range(0, len(reserved), 16)
        ]
        for rule in RULES[opcode]:
            broken = self._broken(tests, opcode, rule)
            if broken is not None:
                applies = [
                    tests.equals(_FIELDS[opcode][name], values)
                    for name, values in rule.when.items()
                ]
                failures.append(Cat(broken, *applies).all() if applies else broken)
        return failures

    def _broken(self, tests: "_Tests", opcode: Opcode, rule: Rule) -> Value | None:
        """Return whether a rule is broken where it applies; None if it cannot be."""
        fields = _FIELDS[opcode]
        match rule:
            case Forbid():
                legal = rule.unless is not None and getattr(self.config, rule.unless)
                return None if legal else Value.cast(1)
            case Fits():
                count = fields[rule.count] if rule.count else None
                return _exceeds(tests.sum(fields[rule.first], count), limit_of(rule, self.config))
            case Aligned():
                return tests.misaligned(fields[rule.name], unit_of(rule, self.config))


def _exceeds(value: Value, limit: int) -> Value:
    """Return whether an unsigned value is above a constant.

    It is if it has a one where the limit has a zero, and all ones of the limit above that. Limits
    are powers of two or one less, so this is a few gates instead of a carry chain.
    """
    assert not value.shape().signed
    assert limit >= 0
    ways = [
        Cat(
            value[bit],
            *(value[above] for above in range(bit + 1, len(value)) if limit >> above & 1),
        ).all()
        for bit in range(len(value))
        if not limit >> bit & 1
    ]
    return Cat(ways).any()


class _Tests:
    """Tests of single fields, registered, each made once however many rules ask for it."""

    def __init__(self, m: Module, word: Signal, enable: Value) -> None:
        self._m = m
        self._word = word
        self._enable = enable
        self._made: dict[object, Signal] = {}

    def range(self, field: Field, config: CoreConfig) -> list[Value]:
        """Return the ways in which a field may be out of range; none if it cannot be."""
        value = field_of(self._word, field)
        lowest, highest = field.limits(config)
        shape = value.shape()
        span = 1 << field.width
        smallest = -(span >> 1) if shape.signed else 0
        tests = []
        if highest < smallest + span - 1:
            key = ("above", field.offset, field.width, highest)
            tests.append(self._register(key, _exceeds(value, highest)))
        if lowest > smallest:
            key = ("below", field.offset, field.width, lowest)
            tests.append(self._register(key, ~_exceeds(value, lowest - 1)))
        if field.multiple(config) > 1:
            tests.append(self.misaligned(field, field.multiple(config)))
        return tests

    def equals(self, field: Field, values: Sequence[int]) -> Value:
        """Return whether a field has one of some values."""
        value = field_of(self._word, field)
        key = ("equals", field.offset, field.width, tuple(sorted(map(int, values))))
        return self._register(key, Cat(value == each for each in key[3]).any())

    def misaligned(self, field: Field, unit: int) -> Value:
        """Return whether a field is no multiple of a power of two."""
        assert unit & (unit - 1) == 0
        bits = unit.bit_length() - 1
        value = field_of(self._word, field)
        return self._register(("misaligned", field.offset, bits), value[:bits].any())

    def not_zero(self, byte: int) -> Value:
        """Return whether a byte is not 0."""
        return self._register(("byte", byte), self._word[8 * byte : 8 * byte + 8].any())

    def sum(self, first: Field, second: Field | None) -> Value:
        """Return the sum of a field and perhaps another."""
        total = field_of(self._word, first)
        if second is not None:
            total = total + field_of(self._word, second)
        return self._register(("sum", first.offset, second and second.offset), total)

    def _register(self, key: object, value: Value) -> Signal:
        if key not in self._made:
            signal = Signal(value.shape(), name=f"test{len(self._made)}", reset_less=True)
            with self._m.If(self._enable):
                self._m.d.sync += signal.eq(value)
            self._made[key] = signal
        return self._made[key]
