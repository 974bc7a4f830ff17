"""The assembler and the disassembler: they undo each other, and errors name the line."""

import pytest

from systolith.assembler import AssemblyError, assemble, disassemble, disassemble_instruction
from systolith.config import PRESETS, preset
from systolith.isa import (
    INSTRUCTION_BYTES,
    Engine,
    IllegalInstructionError,
    Opcode,
    WeightSource,
    decode,
    encode,
    make,
)
from systolith_sim.programs import random_program

TINY = preset("tiny")

TEXT = """
; the weights of one layer, and what they are multiplied with
tokens = 20
wide=0x10

x:  LOAD base=2 n0=16 n1=tokens n2=1 stride1=4   ; a comment
w:  STREAM base=1 size=256
    GEMM m=tokens n=wide k=wide a_row=4 b_source=RING_S8 after=x
y:  VECTOR m=tokens n=16 x_format=ACCUMULATOR y_address=0x400 y_row=4 broadcast=ON
    STORE base=3 n0=16 n1=20 n2=1 dram_stride1=-16 after=y,w,x wait_load=0 tag=7
    HALT code=0xffffffff
"""


def test_text_becomes_instructions() -> None:
    code = assemble(TEXT, TINY)
    expected = [
        make(Opcode.LOAD, TINY, base=2, n0=16, n1=20, n2=1, stride1=4),
        make(Opcode.STREAM, TINY, base=1, size=256),
        make(Opcode.GEMM, TINY, m=20, n=16, k=16, a_row=4, waits={Engine.LOAD: 1}),
        make(Opcode.VECTOR, TINY, m=20, n=16, x_format=3, y_address=1024, y_row=4, broadcast=1),
        make(
            Opcode.STORE,
            TINY,
            base=3,
            n0=16,
            n1=20,
            n2=1,
            dram_stride1=-16,
            tag=7,
            waits={Engine.VECTOR: 1, Engine.STREAM: 1, Engine.LOAD: 1},
        ),
        make(Opcode.HALT, TINY, code=0xFFFF_FFFF),
    ]
    assert code == b"".join(encode(each) for each in expected)


def test_labels_count_by_engine() -> None:
    text = "ROW rows=1 n=1\na: ROW rows=1 n=1\nROW rows=1 n=1\nHALT after=a wait_row=3"
    halt = decode(assemble(text, TINY)[-INSTRUCTION_BYTES:], TINY)
    assert halt.waits == {Engine.ROW: 3}
    halt = decode(assemble(text.replace(" wait_row=3", ""), TINY)[-INSTRUCTION_BYTES:], TINY)
    assert halt.waits == {Engine.ROW: 2}


def test_disassembly_is_readable() -> None:
    lines = disassemble(assemble(TEXT, TINY), TINY).splitlines()
    assert lines[0] == "LOAD base=2 n0=16 n1=20 n2=1 stride1=4"
    assert lines[3] == (
        "VECTOR y_address=0x400 y_row=4 m=20 n=16 x_format=ACCUMULATOR broadcast=ON"
    )
    assert lines[4].startswith("STORE tag=7 wait_stream=1 wait_load=1 wait_vector=1 base=3")
    assert len(lines) == 6


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("seed", range(4))
def test_round_trip(name: str, seed: int) -> None:
    """Any program comes back byte by byte, and its text letter by letter."""
    program = random_program(preset(name), seed)
    text = disassemble(program.code, program.config)
    assert assemble(text, program.config) == program.code
    assert disassemble(assemble(text, program.config), program.config) == text


def test_fields_of_zero_are_left_out_and_come_back() -> None:
    i = make(Opcode.GEMM, TINY, m=1, n=1, k=1, b_source=WeightSource.SCRATCHPAD)
    assert disassemble_instruction(i) == "GEMM m=1 n=1 k=1 b_source=SCRATCHPAD"
    assert disassemble_instruction(make(Opcode.HALT, TINY)) == "HALT"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HALT\nJUMP to=3", "line 2: there is no operator 'JUMP'"),
        ("\n\nHALT code", "line 3: 'code' is not of the form field=value"),
        ("HALT code=", "line 1: 'code=' is not of the form field=value"),
        ("HALT size=1", "line 1: HALT has no field 'size'"),
        ("HALT opcode=2", "line 1: HALT has no field 'opcode'"),
        ("HALT code=1 code=1", "line 1: code is given twice"),
        ("HALT code=many", "line 1: 'many' is neither a number nor the name of one"),
        ("n = few", "line 1: 'few' is neither a number nor the name of one"),
        ("ROW rows=1 n=1 operation=ADD", "line 1: 'ADD' is neither a number"),
        ("ROW rows=0 n=1", "line 1: ROW: rows must be from 1 to 128, but is 0"),
        ("HALT after=x\nx: ROW rows=1 n=1", "line 1: no earlier instruction has the label 'x'"),
        ("x: ROW rows=1 n=1\nx: ROW rows=1 n=1", "line 2: there is already a label x"),
        ("x:\nROW rows=1 n=1", "line 1: the label x names no instruction"),
        ("x: HALT", "line 1: nothing can come after HALT"),
    ],
)
def test_errors_name_their_line(text: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        assemble(text, TINY)


def test_no_instruction_is_not_disassembled() -> None:
    with pytest.raises(IllegalInstructionError, match="there is no opcode 0"):
        disassemble(bytes(64), TINY)
