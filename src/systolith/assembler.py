"""Text for programs: an assembler, and the disassembler that it undoes.

A line is an operator and its fields by name, in any order; fields that are not named are 0::

    ; the weights of one layer, and what they are multiplied with
    tokens = 20
    x:  LOAD base=2 n0=320 n1=1 n2=1
        STREAM base=1 size=2048
        GEMM m=tokens n=16 k=16 a_row=2 b_source=RING_S8 after=x
        VECTOR m=tokens n=16 x_format=ACCUMULATOR y_address=0x400 y_row=2 broadcast=ON

A value is a number, the name of one (`name = value` on a line of its own), or what the field
calls it. `after` names instructions by their labels, and sets the wait counts so that the
instruction waits for all of them; `wait_load=3` sets one directly. A semicolon starts a comment.
"""

import re
from collections.abc import Mapping
from typing import Any

from systolith.config import CoreConfig
from systolith.isa import (
    INSTRUCTION_BYTES,
    Engine,
    Field,
    IllegalInstructionError,
    Instruction,
    Opcode,
    decode,
    encode,
    fields_of,
    make,
)

_NAME = r"[A-Za-z_][A-Za-z_0-9]*"
_DEFINITION = re.compile(rf"({_NAME})\s*=\s*(\S+)")
_LABEL = re.compile(rf"({_NAME})\s*:\s*")
_ADDRESSES = re.compile(r"(^|_)(address|offset|index)$")
"""Fields that are disassembled in hexadecimal."""


class AssemblyError(ValueError):
    """A line that means nothing, with its number."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


def assemble(text: str, config: CoreConfig) -> bytes:
    """Translate a program into its instructions, 64 bytes each.

    Raises:
        AssemblyError: a line is no instruction, or one that the core refuses.
    """
    numbers: dict[str, int] = {}
    labels: dict[str, tuple[Engine, int]] = {}
    counts = dict.fromkeys(Engine, 0)
    code = bytearray()
    for number, whole in enumerate(text.splitlines(), 1):
        line = whole.partition(";")[0].strip()
        definition = _DEFINITION.fullmatch(line)
        if definition:
            numbers[definition[1]] = _number(definition[2], numbers, number)
            continue
        label = _LABEL.match(line)
        if label:
            line = line[label.end() :]
        if not line:
            if label:
                raise AssemblyError(number, f"the label {label[1]} names no instruction")
            continue
        instruction = _instruction(line, config, numbers, labels, number)
        if instruction.engine is not None:
            counts[instruction.engine] += 1
        if label:
            if label[1] in labels:
                raise AssemblyError(number, f"there is already a label {label[1]}")
            if instruction.engine is None:
                raise AssemblyError(number, "nothing can come after HALT")
            labels[label[1]] = instruction.engine, counts[instruction.engine]
        code += encode(instruction)
    return bytes(code)


def _instruction(
    line: str,
    config: CoreConfig,
    numbers: Mapping[str, int],
    labels: Mapping[str, tuple[Engine, int]],
    number: int,
) -> Instruction:
    mnemonic, *words = line.split()
    if mnemonic not in Opcode.__members__:
        raise AssemblyError(number, f"there is no operator {mnemonic!r}")
    opcode = Opcode[mnemonic]
    fields = {item.name: item for item in fields_of(opcode) if item.name != "opcode"}
    values: dict[str, Any] = {}
    waits = dict.fromkeys(Engine, 0)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise AssemblyError(number, f"{word!r} is not of the form field=value")
        if name in values:
            raise AssemblyError(number, f"{name} is given twice")
        if name == "after":
            for label in value.split(","):
                if label not in labels:
                    raise AssemblyError(number, f"no earlier instruction has the label {label!r}")
                engine, count = labels[label]
                waits[engine] = max(waits[engine], count)
        elif name in fields:
            values[name] = _value(value, fields[name], numbers, number)
        else:
            raise AssemblyError(number, f"{mnemonic} has no field {name!r}")
    for engine, count in waits.items():
        name = f"wait_{engine.name.lower()}"
        values[name] = max(count, values.get(name, 0))
    try:
        return make(opcode, config, **values)
    except IllegalInstructionError as error:
        raise AssemblyError(number, str(error)) from None


def _value(text: str, item: Field, numbers: Mapping[str, int], line: int) -> int:
    if item.enum is not None and text in item.enum.__members__:
        return item.enum[text]
    return _number(text, numbers, line)


def _number(text: str, numbers: Mapping[str, int], line: int) -> int:
    if text in numbers:
        return numbers[text]
    try:
        return int(text, 0)
    except ValueError:
        raise AssemblyError(line, f"{text!r} is neither a number nor the name of one") from None


def disassemble(code: bytes, config: CoreConfig) -> str:
    """Translate instructions into text, a line each, that assembles to the same bytes.

    Raises:
        IllegalInstructionError: some of it is no instruction.
    """
    lines = list[str]()
    for at in range(0, len(code), INSTRUCTION_BYTES):
        instruction = decode(code[at : at + INSTRUCTION_BYTES], config)
        lines.append(f"{disassemble_instruction(instruction)}\n")
    return "".join(lines)


def disassemble_instruction(instruction: Instruction) -> str:
    """The line of an instruction; fields that are 0 are left out."""
    words = [instruction.opcode.name]
    for item in fields_of(instruction.opcode):
        value = 0 if item.name == "opcode" else instruction.fields[item.name]
        if not value:
            continue
        if item.enum is not None:
            text = item.enum(value).name
        else:
            text = hex(value) if _ADDRESSES.search(item.name) else str(value)
        words.append(f"{item.name}={text}")
    return " ".join(words)
