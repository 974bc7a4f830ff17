"""The instruction set: fields, ranges and rules, and nothing about how they are carried out.

This is the one source. The RTL decoder, the simulators, the assembler and disassembler, the C
header and the manual are made from the tables below. An instruction is 64 bytes, little endian,
every field on a byte boundary; bytes that no field covers must be zero. One instruction is one
operator on whole tensors, and there is no configuration state between them.

Scratchpad addresses and strides count granules of C bytes, DRAM offsets count bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from systolith.config import TABLE_ENTRIES, CoreConfig
from systolith.numerics import Format

INSTRUCTION_BYTES = 64
"""Bytes of every instruction."""

WAIT_WIDTH = 16
"""Bits of a progress count and of a wait count."""

MAX_PER_ENGINE = (1 << WAIT_WIDTH - 1) - 1
"""Instructions of one engine in a program: counts then compare without wrapping."""

OFFSET_WIDTH = 32
"""Bits of a DRAM offset: what it is made of is added up modulo `2**32`."""

SCALARS = 4
"""Run-time scalars in CSRs."""

BASES = 8
"""Base registers of DRAM addresses."""

BASE_ALIGNMENT = 64
"""Bytes that a base register's address is a multiple of."""


class Engine(IntEnum):
    """The six in-order engines, in the order of an instruction's wait counts."""

    STREAM = 0
    LOAD = 1
    STORE = 2
    GEMM = 3
    VECTOR = 4
    ROW = 5


class Opcode(IntEnum):
    """Operators. Zero is none, so that running into cleared memory is noticed."""

    HALT = 1
    STREAM = 2
    LOAD = 3
    STORE = 4
    GEMM = 5
    VECTOR = 6
    ROW = 7

    @property
    def engine(self) -> Engine | None:
        """Who carries it out; None for HALT, which control does itself."""
        return None if self is Opcode.HALT else Engine[self.name]


class Space(IntEnum):
    """Where a LOAD writes."""

    SCRATCHPAD = 0
    COLUMNS = 1
    TABLES = 2


class Fill(IntEnum):
    """What a LOAD writes."""

    MEMORY = 0
    ZERO = 1
    GATHER = 2


INDEX_BYTES = 4
"""Bytes of an entry of an index list: a u32."""


class WeightSource(IntEnum):
    """Where a GEMM takes its B operand from."""

    RING_S8 = 0
    RING_S4 = 1
    SCRATCHPAD = 2


class XFormat(IntEnum):
    """Elements a VECTOR reads; the first three are `numerics.Format`."""

    S8 = 0
    U8 = 1
    S16 = 2
    ACCUMULATOR = 3


class Second(IntEnum):
    """What a VECTOR does with its second operand."""

    NONE = 0
    ADD = 1
    MULTIPLY = 2


class Function(IntEnum):
    """What a VECTOR computes."""

    AFFINE = 0
    TABLE = 1
    EXP = 2


class Statistic(IntEnum):
    """Which row statistics a VECTOR takes of what it stores."""

    NONE = 0
    MAX = 1
    SUM = 2
    MOMENTS = 3


class Mask(IntEnum):
    """Which columns a VECTOR stores as the masked score."""

    NONE = 0
    LENGTH = 1


class RowOperation(IntEnum):
    """What a ROW computes."""

    LAYER_NORM = 0
    RMS_NORM = 1
    RECIPROCAL = 2


class Flag(IntEnum):
    """A field of one bit, one byte wide."""

    OFF = 0
    ON = 1


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of an instruction.

    Attributes:
        name: as in `Instruction.fields`, in the RTL's layout and in assembly.
        offset: its first byte.
        width: its bits, a multiple of 8.
        doc: its meaning, one sentence.
        signed: whether it is two's complement.
        lowest: smallest legal value.
        highest: largest legal value: a number, or a `CoreConfig` attribute's name, or None for
            what the width holds.
        enum: its values' names.
        unit: multiple of which it must be: 1, or a `CoreConfig` attribute's name.
    """

    name: str
    offset: int
    width: int
    doc: str
    signed: bool = False
    lowest: int | None = None
    highest: int | str | None = None
    enum: type[IntEnum] | None = None
    unit: int | str = 1

    def limits(self, config: CoreConfig) -> tuple[int, int]:
        """The smallest and the largest legal value on a core."""
        lowest = -(1 << self.width - 1) if self.signed else 0
        highest = lowest + (1 << self.width) - 1
        if self.enum is not None:
            return min(self.enum), max(self.enum)
        if self.lowest is not None:
            lowest = self.lowest
        if isinstance(self.highest, str):
            highest = min(highest, getattr(config, self.highest))
        elif self.highest is not None:
            highest = self.highest
        return lowest, highest

    def multiple(self, config: CoreConfig) -> int:
        """Of which power of two a legal value is a multiple."""
        return getattr(config, self.unit) if isinstance(self.unit, str) else self.unit


When = Mapping[str, tuple[int, ...]]
"""Fields, and for each the values at which a rule applies; all must hold."""


@dataclass(frozen=True, kw_only=True)
class Forbid:
    """A combination of values that is illegal.

    Attributes:
        when: the combination.
        reason: what the manual and the error say.
        unless: a `CoreConfig` attribute that makes it legal, if any.
    """

    when: When
    reason: str
    unless: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fits:
    """`first + count` must not exceed a limit of the core.

    Attributes:
        first: a field.
        count: a field that is added to it, or None.
        limit: a `CoreConfig` attribute.
        reason: what the manual and the error say.
        when: where the rule applies.
    """

    first: str
    count: str | None
    limit: str
    reason: str
    when: When = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """A field must be a multiple of a power of two where the rule applies.

    Attributes:
        name: the field.
        unit: a number, or a `CoreConfig` attribute.
        reason: what the manual and the error say.
        when: where the rule applies.
    """

    name: str
    unit: int | str
    reason: str
    when: When = field(default_factory=dict)


Rule = Forbid | Fits | Aligned


def _u8(name: str, offset: int, doc: str, **options: object) -> Field:
    return Field(name=name, offset=offset, width=8, doc=doc, **options)  # pyright: ignore[reportArgumentType]


def _u16(name: str, offset: int, doc: str, **options: object) -> Field:
    return Field(name=name, offset=offset, width=16, doc=doc, **options)  # pyright: ignore[reportArgumentType]


def _u32(name: str, offset: int, doc: str, **options: object) -> Field:
    return Field(name=name, offset=offset, width=32, doc=doc, **options)  # pyright: ignore[reportArgumentType]


HEADER: tuple[Field, ...] = (
    _u8("opcode", 0, "The operator.", enum=Opcode),
    _u16("tag", 2, "Copied into traces and fault reports; no effect."),
    *(
        _u16(
            f"wait_{engine.name.lower()}",
            4 + 2 * engine,
            f"Start only when {engine.name} has retired this many instructions.",
            highest=MAX_PER_ENGINE,
        )
        for engine in Engine
    ),
)
"""Fields that every instruction has."""

_TRANSFER: tuple[Field, ...] = (
    _u8("base", 16, "Base register of the DRAM address.", highest=BASES - 1),
    _u8(
        "scalar",
        17,
        "0, or one more than the scalar that `scalar_stride` is multiplied by.",
        highest=SCALARS,
    ),
    _u32("dram_offset", 20, "Bytes from the base."),
    _u32("address", 24, "First granule in the scratchpad, column slot, or table entry."),
    _u32("n0", 28, "Bytes of a run, contiguous on both sides.", lowest=1),
    _u16("n1", 32, "Runs of a block.", lowest=1),
    _u16("n2", 34, "Blocks.", lowest=1),
    _u32("dram_stride1", 36, "Bytes from run to run in DRAM.", signed=True),
    _u32("dram_stride2", 40, "Bytes from block to block in DRAM.", signed=True),
    _u16("stride1", 44, "Granules from run to run in the scratchpad."),
    _u16("stride2", 46, "Granules from block to block in the scratchpad."),
    _u32("scalar_stride", 52, "Bytes by which the scalar moves the DRAM address.", signed=True),
)

_ONE_RUN = "column records and tables are loaded in one run from memory"

OPERANDS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.HALT: (_u32("code", 16, "What the host reads in the CSR `halt_code`."),),
    Opcode.STREAM: (
        _u8("base", 16, "Base register of the DRAM address.", highest=BASES - 1),
        _u8("codec", 17, "Weight codec; 0 is none.", highest=0),
        _u32("dram_offset", 20, "Bytes from the base.", unit="axi_bytes"),
        _u32("size", 24, "Bytes to push into the ring.", lowest=1, unit="rows"),
    ),
    Opcode.LOAD: (
        *_TRANSFER,
        _u8("space", 18, "Where to.", enum=Space),
        _u8("fill", 19, "What with: memory, zeros, or memory by index list.", enum=Fill),
        _u32(
            "index",
            48,
            "First granule of the index list, u32 each: run `i1` then starts `index[i1] * "
            "dram_stride1` bytes on, instead of `i1 * dram_stride1`.",
        ),
    ),
    Opcode.STORE: _TRANSFER,
    Opcode.GEMM: (
        _u32("a_address", 16, "First granule of A.", unit="word_granules"),
        _u32(
            "b_address",
            20,
            "First granule of B, if it comes from the scratchpad.",
            unit="word_granules",
        ),
        _u16("a_row", 24, "Granules from row to row of A.", unit="word_granules"),
        _u16("b_row", 26, "Granules from row to row of B.", unit="word_granules"),
        _u16("m", 28, "Rows of A.", lowest=1, highest="accumulator_rows"),
        _u16("n", 30, "Rows of B, which are columns of the result.", lowest=1),
        _u16("k", 32, "Columns of A and of B.", lowest=1),
        _u8("a_format", 34, "Elements of A: s8 or u8.", highest=int(Format.U8)),
        _u8("b_source", 35, "Where B comes from.", enum=WeightSource),
    ),
    Opcode.VECTOR: (
        _u32("x_address", 16, "First granule of x, unless x is an accumulator."),
        _u32("y_address", 20, "First granule of y."),
        _u32("r_address", 24, "First granule of r, s16, if there is one."),
        _u16("x_row", 28, "Granules from row to row of x."),
        _u16("y_row", 30, "Granules from row to row of y, as it is stored."),
        _u16("r_row", 32, "Granules from row to row of r."),
        _u16("m", 34, "Rows.", lowest=1, highest="row_slots"),
        _u16("n", 36, "Columns.", lowest=1),
        _u16("column", 38, "Slot of the first column record.", highest="column_slots"),
        _u16("row_in", 40, "Slot of the first row record, or for EXP of the first maximum."),
        _u16("stat_out", 42, "Slot of the first row's statistics."),
        _u8("x_format", 44, "Elements of x.", enum=XFormat),
        _u8("y_format", 45, "Elements of y.", enum=Format),
        _u8("transpose", 46, "Store y transposed: row n of the tensor holds column n.", enum=Flag),
        _u8("second", 47, "What r is for.", enum=Second),
        _u8("function", 48, "What to compute.", enum=Function),
        _u8("table", 49, "Which table, for TABLE.", highest=2),
        _u8("statistic", 50, "What to take of the rows of y.", enum=Statistic),
        _u8("use_row", 51, "Scale by row records.", enum=Flag),
        _u8("mask", 52, "Which columns of y become -32768.", enum=Mask),
        _u8("length", 53, "Scalar that holds the valid columns, for LENGTH.", highest=SCALARS - 1),
        _u8("broadcast", 54, "One column record for all columns.", enum=Flag),
        _u8("unit", 55, "Scores count in 2**-8 (0) or 2**-7 (1), for EXP.", highest=1),
    ),
    Opcode.ROW: (
        _u8("operation", 16, "What to compute.", enum=RowOperation),
        _u16("source", 18, "Slot of the first row's statistics."),
        _u16("destination", 20, "Slot of the first row record."),
        _u16("rows", 22, "Rows.", lowest=1, highest="row_slots"),
        _u16("n", 24, "Elements of a row, for norms.", lowest=1, highest=4096),
        _u16(
            "eps_mantissa",
            26,
            "Epsilon is `eps_mantissa << eps_shift`, in squared steps times n**2 (RMS: times n).",
        ),
        _u8("eps_shift", 28, "See `eps_mantissa`.", highest=39),
    ),
}
"""Fields by operator, beyond the header's."""

RULES: dict[Opcode, tuple[Rule, ...]] = {
    Opcode.HALT: (),
    Opcode.STREAM: (),
    Opcode.LOAD: (
        Forbid(when={"space": (1, 2), "fill": (1, 2)}, reason=_ONE_RUN),
        Fits(first="n1", count=None, limit="one", when={"space": (1, 2)}, reason=_ONE_RUN),
        Fits(first="n2", count=None, limit="one", when={"space": (1, 2)}, reason=_ONE_RUN),
        Forbid(
            when={"space": (1, 2), "scalar": (1, 2, 3, 4)},
            reason="column records and tables have a fixed place in memory",
        ),
        Aligned(name="n0", unit=8, when={"space": (1, 2)}, reason="records are whole"),
        Aligned(
            name="dram_offset",
            unit=BASE_ALIGNMENT,
            when={"space": (1, 2)},
            reason="column records and tables are aligned to 64 bytes in memory",
        ),
        Aligned(
            name="address", unit=4, when={"space": (2,)}, reason="entries are written in fours"
        ),
    ),
    Opcode.STORE: (),
    Opcode.GEMM: (
        Forbid(
            when={"b_source": (WeightSource.RING_S4,)},
            unless="int4",
            reason="the array has no INT4 chain",
        ),
    ),
    Opcode.VECTOR: (
        Fits(
            first="m",
            count=None,
            limit="accumulator_rows",
            when={"x_format": (XFormat.ACCUMULATOR,)},
            reason="an accumulator half has that many rows",
        ),
        Forbid(
            when={"function": (Function.EXP,), "x_format": (0, 1, 3)},
            reason="EXP reads s16 scores",
        ),
        Forbid(
            when={"function": (Function.EXP,), "y_format": (0, 2)},
            reason="EXP stores u8 numerators",
        ),
        Forbid(
            when={"function": (Function.EXP,), "statistic": (1, 3)},
            reason="EXP takes no statistic but the sum",
        ),
        Forbid(
            when={"function": (Function.EXP, Function.TABLE), "second": (1, 2)},
            reason="tables and EXP have one operand",
        ),
        Forbid(
            when={"function": (Function.EXP,), "use_row": (1,)},
            reason="EXP has the row's maximum instead of a row record",
        ),
        Forbid(
            when={"function": (Function.EXP, Function.TABLE), "mask": (1,)},
            reason="only AFFINE masks",
        ),
        Forbid(
            when={"mask": (Mask.LENGTH,), "y_format": (0, 1)}, reason="a masked score is an s16"
        ),
        Forbid(
            when={"second": (Second.MULTIPLY,), "x_format": (XFormat.ACCUMULATOR,)},
            reason="a product takes both operands from the scratchpad",
        ),
        Forbid(
            when={"second": (Second.MULTIPLY,), "use_row": (1,)},
            reason="the auxiliary multiplier does one of row scale, product and square",
        ),
        Forbid(
            when={"second": (Second.MULTIPLY,), "statistic": (Statistic.MOMENTS,)},
            reason="the auxiliary multiplier does one of row scale, product and square",
        ),
        Forbid(
            when={"use_row": (1,), "statistic": (Statistic.MOMENTS,)},
            reason="the auxiliary multiplier does one of row scale, product and square",
        ),
        Forbid(
            when={"transpose": (1,), "y_format": (2,)}, reason="only bytes are stored transposed"
        ),
        *(
            Aligned(name=name, unit=2, when=when, reason="s16 tensors lie on even granules")
            for names, when in (
                (("x_address", "x_row"), {"x_format": (2,)}),
                (("y_address", "y_row"), {"y_format": (2,)}),
                (("r_address", "r_row"), {"second": (1, 2)}),
            )
            for name in names
        ),
        Fits(
            first="column",
            count="n",
            limit="column_slots",
            when={"function": (0, 1), "broadcast": (0,)},
            reason="column records must lie in the column memory",
        ),
        Fits(
            first="column",
            count="broadcast",
            limit="column_slots",
            when={"function": (0, 1), "broadcast": (1,)},
            reason="the shared column record must lie in the column memory",
        ),
        Fits(
            first="row_in",
            count="m",
            limit="row_slots",
            when={"use_row": (1,)},
            reason="row records must lie in the row file",
        ),
        Fits(
            first="row_in",
            count="m",
            limit="row_slots",
            when={"function": (Function.EXP,)},
            reason="maxima must lie in the row file",
        ),
        Fits(
            first="stat_out",
            count="m",
            limit="row_slots",
            when={"statistic": (1, 2, 3)},
            reason="statistics must lie in the row file",
        ),
    ),
    Opcode.ROW: (
        Fits(
            first="source",
            count="rows",
            limit="row_slots",
            reason="statistics must lie in the row file",
        ),
        Fits(
            first="destination",
            count="rows",
            limit="row_slots",
            reason="row records must lie in the row file",
        ),
    ),
}
"""What is illegal beyond single ranges. Hardware checks the same list."""


class IllegalInstructionError(ValueError):
    """An instruction that no core would carry out; names field, value and what would be legal."""


@dataclass(frozen=True)
class Instruction:
    """An operator and its fields; fields that are not given are 0.

    Attributes:
        opcode: the operator.
        fields: every field by name but the opcode, those of the header included.
    """

    opcode: Opcode
    fields: Mapping[str, int]

    def __getattr__(self, name: str) -> int:
        fields = object.__getattribute__(self, "fields")
        if name in fields:
            return fields[name]
        raise AttributeError(f"{self.opcode.name} has no field {name!r}")

    @property
    def engine(self) -> Engine | None:
        """Who carries it out; None for HALT."""
        return self.opcode.engine

    @property
    def waits(self) -> dict[Engine, int]:
        """The wait counts that are not zero."""
        counts = {engine: self.fields[f"wait_{engine.name.lower()}"] for engine in Engine}
        return {engine: count for engine, count in counts.items() if count}


def fields_of(opcode: Opcode) -> tuple[Field, ...]:
    """All fields of an operator, header first."""
    return HEADER + OPERANDS[opcode]


def make(
    opcode: Opcode,
    config: CoreConfig,
    *,
    waits: Mapping[Engine, int] | None = None,
    **values: int,
) -> Instruction:
    """Make an instruction and check it.

    Args:
        opcode: the operator.
        config: the core that is to carry it out.
        waits: wait counts by engine.
        **values: operands by name, and `tag`.

    Raises:
        IllegalInstructionError: an unknown field, a value out of range, or a broken rule.
    """
    names = {field.name for field in fields_of(opcode)} - {"opcode"}
    given = {f"wait_{engine.name.lower()}": count for engine, count in (waits or {}).items()}
    given |= {name: int(value) for name, value in values.items()}
    for name in given:
        if name not in names:
            raise IllegalInstructionError(f"{opcode.name} has no field {name!r}")
    result = Instruction(opcode, {name: given.get(name, 0) for name in sorted(names)})
    check(result, config)
    return result


def check(instruction: Instruction, config: CoreConfig) -> None:
    """Check every range and rule.

    Raises:
        IllegalInstructionError: the first that is broken.
    """
    opcode = instruction.opcode
    values = {**instruction.fields, "opcode": int(opcode)}
    for item in fields_of(opcode):
        lowest, highest = item.limits(config)
        value = values[item.name]
        if not lowest <= value <= highest:
            raise IllegalInstructionError(
                f"{opcode.name}: {item.name} must be from {lowest} to {highest}, but is {value}"
            )
        if value % item.multiple(config):
            raise IllegalInstructionError(
                f"{opcode.name}: {item.name} must be a multiple of {item.multiple(config)}, "
                f"but is {value}"
            )
    for rule in RULES[opcode]:
        if violates(rule, values, config):
            raise IllegalInstructionError(f"{opcode.name}: {describe(rule, config)}")


def violates(rule: Rule, values: Mapping[str, int], config: CoreConfig) -> bool:
    """Whether fields break a rule."""
    if any(values[name] not in allowed for name, allowed in rule.when.items()):
        return False
    match rule:
        case Forbid():
            return rule.unless is None or not getattr(config, rule.unless)
        case Fits():
            count = values[rule.count] if rule.count else 0
            return values[rule.first] + count > limit_of(rule, config)
        case Aligned():
            return values[rule.name] % unit_of(rule, config) != 0


def limit_of(rule: Fits, config: CoreConfig) -> int:
    """The number that a `Fits` compares with."""
    return 1 if rule.limit == "one" else getattr(config, rule.limit)


def unit_of(rule: Aligned, config: CoreConfig) -> int:
    """The number that an `Aligned` divides by."""
    return rule.unit if isinstance(rule.unit, int) else getattr(config, rule.unit)


def describe(rule: Rule, config: CoreConfig) -> str:
    """State a rule as a sentence for errors and the manual."""
    if rule.when:
        conditions = " and ".join(
            f"{name} is {' or '.join(str(value) for value in allowed)}"
            for name, allowed in rule.when.items()
        )
        where = f" where {conditions}"
    else:
        where = ""
    match rule:
        case Forbid():
            return f"not allowed{where}: {rule.reason}"
        case Fits():
            total = f"{rule.first} + {rule.count}" if rule.count else rule.first
            return f"{total} must be at most {limit_of(rule, config)}{where}: {rule.reason}"
        case Aligned():
            return (
                f"{rule.name} must be a multiple of {unit_of(rule, config)}{where}: {rule.reason}"
            )


def encode(instruction: Instruction) -> bytes:
    """Encode into 64 bytes. The instruction is taken as checked."""
    image = bytearray(INSTRUCTION_BYTES)
    values = {**instruction.fields, "opcode": int(instruction.opcode)}
    for item in fields_of(instruction.opcode):
        size = item.width // 8
        image[item.offset : item.offset + size] = values[item.name].to_bytes(
            size, "little", signed=item.signed
        )
    return bytes(image)


def decode(image: bytes, config: CoreConfig) -> Instruction:
    """Decode 64 bytes and check what they say, as the core does.

    Raises:
        IllegalInstructionError: not an instruction.
    """
    if len(image) != INSTRUCTION_BYTES:
        raise IllegalInstructionError(
            f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(image)}"
        )
    if image[0] not in list(Opcode):
        raise IllegalInstructionError(f"there is no opcode {image[0]}")
    opcode = Opcode(image[0])
    covered = set[int]()
    fields = dict[str, int]()
    for item in fields_of(opcode):
        span = range(item.offset, item.offset + item.width // 8)
        covered.update(span)
        fields[item.name] = int.from_bytes(
            image[span.start : span.stop], "little", signed=item.signed
        )
    for position, byte in enumerate(image):
        if byte and position not in covered:
            raise IllegalInstructionError(
                f"{opcode.name}: byte {position} is reserved and must be 0, but is {byte}"
            )
    del fields["opcode"]
    instruction = Instruction(opcode, dict(sorted(fields.items())))
    check(instruction, config)
    return instruction


def table_address(table: int) -> int:
    """The `address` of a LOAD into the start of a table."""
    return table * TABLE_ENTRIES
