"""Manual of the instruction set, register map and C header, generated from `isa` and `regs`.

Fields, ranges, rules, names and addresses come from there, so that documents and drivers cannot
drift from the core. What an operator does is said here in words, and defined, byte by byte, by
`systolith_sim.reference`.
"""

from collections.abc import Iterable
from enum import IntEnum

from systolith import regs
from systolith.config import ISA_VERSION, PRESETS, CoreConfig
from systolith.isa import (
    BASE_ALIGNMENT,
    BASES,
    HEADER,
    INSTRUCTION_BYTES,
    MAX_PER_ENGINE,
    OPERANDS,
    RULES,
    SCALARS,
    Aligned,
    Engine,
    Field,
    Fill,
    Fits,
    Flag,
    Forbid,
    Function,
    Mask,
    Opcode,
    RowOperation,
    Rule,
    Second,
    Space,
    Statistic,
    WeightSource,
    XFormat,
    fields_of,
    limit_of,
    unit_of,
)
from systolith.numerics import Format

ENUMS: tuple[type[IntEnum], ...] = (
    Opcode,
    Engine,
    Space,
    Fill,
    WeightSource,
    Format,
    XFormat,
    Second,
    Function,
    Statistic,
    Mask,
    RowOperation,
    Flag,
    regs.State,
    regs.FaultCause,
    regs.Control,
    regs.Capability,
    regs.Stall,
)
"""All that have names in a C header."""


_RUNS = """\
For `i2` below `n2`, `i1` below `n1`: `n0` bytes between DRAM, from `base + (dram_offset + scalar \
* scalar_stride + i2 * dram_stride2 + i1 * dram_stride1) mod 2**32` on, and the scratchpad, from \
granule `address + i2 * stride2 + i1 * stride1` on. Any alignment in DRAM is legal, and nothing \
beyond the `n0` bytes changes on either side. All of them must lie within the limit of the base: a \
run does not wrap around, only where it begins does."""

MEANINGS: dict[Opcode, str] = {
    Opcode.HALT: """\
Ends the program when its waits hold and every engine has retired all it was given.""",
    Opcode.STREAM: """\
Pushes `size` bytes from `base + dram_offset` on into the weight ring, as words of R bytes.""",
    Opcode.LOAD: f"""\
{_RUNS} ZERO writes zeros and reads nothing. GATHER takes its list from the scratchpad. COLUMNS \
and TABLES load column records of 8 bytes, and table entries of 2.""",
    Opcode.STORE: _RUNS,
    Opcode.GEMM: """\
Fills accumulator halves with `sum(A[m, k] * B[j, k] for k)`: one half of M rows and C sums for \
each group of C rows `j` of B, in turn, over all GEMMs. From the ring, B comes as words: for each \
group, for each R columns of B, for each of the C rows, R bytes, zero where B has nothing. A is \
read in whole words, and what lies beyond K counts as nothing. A STREAM of exactly these words \
comes right before, and the VECTOR that drains the halves right after it.

RING_S4 takes s4 weights with block exponents, at twice the rate. A half then has M rows of 2C \
sums, of a group of 2C rows of B, and the VECTOR drains its first C sums, then its last C, as two \
groups of columns; the last C do not exist if N ends before them. Byte `r` of the word for `c` has \
the weight of row `c` of the group in its low nibble and that of row `C + c` in its high one. \
Before the first R columns of a group, and after every 2R / C times R columns, there is one more \
word: 2 bits for each row of the group, for each of the next 2R / C times R columns, lowest bits \
first, zero where B has nothing. With this exponent `e`, `sum(A[m, k] * B[j, k])` over these R \
columns counts `2**e` times. So a STREAM has `ceil(N / 2C) * (ceil(K / R) * C + ceil(ceil(K / R) \
/ (2R / C))) * R` bytes.""",
    Opcode.VECTOR: """\
Computes `y[m, j]` for each group of C columns, for each row: AFFINE is the formula of \
`systolith.numerics.affine` with the record in column slot `column + j` (or `column`, if \
`broadcast`) and the row record in slot `row_in + m`; TABLE looks its u8 result up; EXP is the \
softmax numerator with the maximum in slot `row_in + m`. Columns from the scalar `length` on are \
masked: -32768, and in no statistic. Whole groups are stored, zero beyond `n`; transposed, element \
`m` of row `j`, in whole granules, zero beyond `m`. Statistics of the stored elements of a row go \
to slot `stat_out + m`. y may lie where x or r lies if address, row and element size are the same, \
or if y has bytes and x has words at the same address and row.""",
    Opcode.ROW: """\
Makes the row record in slot `destination + i` from the statistics in slot `source + i`, by \
`layer_norm_row`, `rms_norm_row` or `recip` of `systolith.numerics`.""",
}
"""What operators do."""


def isa_manual(config: CoreConfig) -> str:
    """The instruction set as Markdown, with ranges as they are on one core."""
    parts = [
        "# Instruction set",
        f"Version {ISA_VERSION}. An instruction has {INSTRUCTION_BYTES} bytes, little endian, "
        f"with every field on a byte boundary; bytes that no field covers must be 0. A program "
        f"has at most {MAX_PER_ENGINE} instructions of each engine. Ranges are those of a core "
        f"with {config.rows} x {config.columns} multipliers.",
        "## Every instruction begins with",
        _field_table(HEADER, config),
    ]
    for opcode in Opcode:
        parts += [f"## {opcode.name}", _first_line(opcode), MEANINGS[opcode]]
        parts.append(_field_table(OPERANDS[opcode], config))
        rules = [f"- {_sentence(rule, opcode, config)}" for rule in RULES[opcode]]
        if rules:
            parts.append("Rules:\n\n" + "\n".join(rules))
    parts.append("## Named values")
    for enum in ENUMS[2:13]:
        values = ", ".join(f"{member.value} {member.name}" for member in enum)
        parts.append(f"**{enum.__name__}**: {_doc(enum)} {values}.")
    return "\n\n".join(parts) + "\n"


def _first_line(opcode: Opcode) -> str:
    who = "Control itself" if opcode.engine is None else f"The {opcode.engine.name} engine"
    return f"Opcode {int(opcode)}. {who} carries it out."


def _field_table(fields: Iterable[Field], config: CoreConfig) -> str:
    rows = []
    for item in sorted(fields, key=lambda each: each.offset):
        lowest, highest = item.limits(config)
        values = item.enum.__name__ if item.enum is not None else f"{lowest} to {highest}"
        multiple = item.multiple(config)
        if multiple > 1:
            values += f", multiple of {multiple}"
        last = item.offset + item.width // 8 - 1
        place = f"{item.offset}" if last == item.offset else f"{item.offset} to {last}"
        rows.append((place, f"`{item.name}`", values, item.doc))
    return _table(("bytes", "field", "values", "meaning"), rows)


def _sentence(rule: Rule, opcode: Opcode, config: CoreConfig) -> str:
    items = {item.name: item for item in fields_of(opcode)}
    conditions = " and ".join(
        f"`{name}` is {' or '.join(_value(items[name], value) for value in values)}"
        for name, values in rule.when.items()
    )
    where = f" where {conditions}" if conditions else ""
    match rule:
        case Forbid():
            unless = f" unless the core has `{rule.unless}`" if rule.unless else ""
            text = f"Illegal{where}{unless}"
        case Fits():
            total = f"`{rule.first} + {rule.count}`" if rule.count else f"`{rule.first}`"
            text = f"{total} is at most {limit_of(rule, config)}{where}"
        case Aligned():
            text = f"`{rule.name}` is a multiple of {unit_of(rule, config)}{where}"
    return f"{text}: {rule.reason}."


def _value(item: Field, value: int) -> str:
    return item.enum(value).name if item.enum is not None else str(value)


def register_manual() -> str:
    """The register map as Markdown."""
    rows = [
        (
            f"`0x{item.offset:03x}`",
            f"`{item.name}`",
            "read, write" if item.writable else "read",
            item.doc if item.needs is None else f"{item.doc} Needs {item.needs.name}.",
        )
        for item in sorted(regs.REGISTERS, key=lambda each: each.offset)
    ]
    parts = [
        "# Registers",
        f"32 bits each, on the AXI4-Lite port, which decodes {regs.SPAN:#x} bytes. Every other "
        f"address reads 0, and so does a register that needs a capability that the core lacks. "
        f"Writable registers are 0 after power-up.",
        _table(("offset", "register", "access", "meaning"), rows),
        "## Named values",
    ]
    for enum in (regs.State, regs.FaultCause, regs.Control, regs.Capability, Engine):
        values = ", ".join(f"{member.value} {member.name}" for member in enum)
        parts.append(f"**{enum.__name__}**: {_doc(enum)} {values}.")
    return "\n\n".join(parts) + "\n"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _doc(enum: type[IntEnum]) -> str:
    return (enum.__doc__ or "").partition("\n")[0]


def c_header() -> str:
    """Field offsets, named values and register offsets for drivers in C and C++."""
    lines = [
        "/* Systolith: instruction fields, named values and registers. Generated. */",
        "#ifndef SYSTOLITH_H",
        "#define SYSTOLITH_H",
        "",
        f"#define SYSTOLITH_ISA_VERSION {ISA_VERSION}",
        f"#define SYSTOLITH_INSTRUCTION_BYTES {INSTRUCTION_BYTES}",
        f"#define SYSTOLITH_MAX_PER_ENGINE {MAX_PER_ENGINE}",
        f"#define SYSTOLITH_BASES {BASES}",
        f"#define SYSTOLITH_BASE_ALIGNMENT {BASE_ALIGNMENT}",
        f"#define SYSTOLITH_SCALARS {SCALARS}",
        f"#define SYSTOLITH_MAGIC 0x{regs.MAGIC:08x}u",
        f"#define SYSTOLITH_NO_ENGINE {regs.NO_ENGINE}",
        "",
        "/* Configuration hashes of the presets. */",
        *(
            f"#define SYSTOLITH_HASH_{_upper(name)} 0x{preset.hash:016x}ull"
            for name, preset in PRESETS.items()
        ),
    ]
    for enum in ENUMS:
        lines += ["", f"/* {_doc(enum)} */"]
        lines += [
            f"#define SYSTOLITH_{_snake(enum.__name__)}_{member.name} {member.value}"
            for member in enum
        ]
    lines += ["", "/* Bytes of fields in an instruction: first byte, and how many. */"]
    for scope, fields in (("HEADER", HEADER), *((op.name, OPERANDS[op]) for op in Opcode)):
        for item in fields:
            name = f"SYSTOLITH_{scope}_{item.name.upper()}"
            lines.append(f"#define {name}_OFFSET {item.offset}")
            lines.append(f"#define {name}_BYTES {item.width // 8}")
    lines += ["", "/* Byte addresses of registers. */"]
    lines += [
        f"#define SYSTOLITH_CSR_{item.name.upper()} 0x{item.offset:03x}u" for item in regs.REGISTERS
    ]
    return "\n".join([*lines, "", "#endif", ""])


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


def _snake(name: str) -> str:
    """CamelCase as upper-case words: `RowOperation` is `ROW_OPERATION`."""
    words = "".join(f"_{letter}" if letter.isupper() else letter for letter in name)
    return words.strip("_").replace("X_Format", "XFormat").upper()
