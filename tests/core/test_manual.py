"""The generated documents: complete, and true to the tables that they come from."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from systolith import regs
from systolith.config import preset
from systolith.isa import RULES, Opcode, encode, fields_of, make
from systolith.manual import ENUMS, MEANINGS, c_header, isa_manual, register_manual

TINY = preset("tiny")


def test_the_manual_has_every_operator_field_and_rule() -> None:
    text = isa_manual(TINY)
    for opcode in Opcode:
        section = text.partition(f"\n## {opcode.name}\n")[2].partition("\n## ")[0]
        assert MEANINGS[opcode] in section
        for item in fields_of(opcode):
            if item.offset >= 16:
                assert f"| `{item.name}` |" in section
                assert item.doc in section
        for rule in RULES[opcode]:
            assert f": {rule.reason}." in section
    assert "| 16 to 19 | `a_address` | 0 to 4294967295 |" in text
    assert "Illegal where `function` is EXP and `use_row` is ON" in text
    assert "`source + rows` is at most 128" in text
    assert "unless the core has `int4`" in text


def test_ranges_are_those_of_the_core() -> None:
    assert "| `m` | 1 to 512 |" in isa_manual(preset("large"))
    assert "| `m` | 1 to 128 |" in isa_manual(TINY)
    assert "0 to 4294967295, multiple of 16 | Bytes to push" not in isa_manual(TINY)
    assert "1 to 4294967295, multiple of 16 | Bytes to push" in isa_manual(preset("ecp5-85k"))


def test_tables_have_whole_rows() -> None:
    for text in (isa_manual(TINY), register_manual()):
        for line in text.splitlines():
            if line.startswith("|"):
                assert line.count("|") - line.count("\\|") == 5, line


def test_the_register_map_is_in_order_and_complete() -> None:
    text = register_manual()
    offsets = [int(each, 16) for each in re.findall(r"^\| `(0x\w+)` ", text, re.MULTILINE)]
    assert offsets == sorted(item.offset for item in regs.REGISTERS)
    assert "| `0x014` | `status` | read | 0 idle, 1 run" in text
    assert "| `0x028` | `program_size` | read, write |" in text


def test_the_header_has_every_number() -> None:
    text = c_header()
    defined = dict(re.findall(r"^#define (SYSTOLITH_\w+) (\w+)$", text, re.MULTILINE))
    names = re.findall(r"^#define (SYSTOLITH_\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names))
    for enum in ENUMS:
        assert sum(f"_{member.name}" in name for name in names for member in enum) >= len(enum)
    assert defined["SYSTOLITH_ROW_OPERATION_RECIPROCAL"] == "2"
    assert defined["SYSTOLITH_XFORMAT_ACCUMULATOR"] == "3"
    assert defined["SYSTOLITH_CSR_PROGRAM_SIZE"] == "0x028u"
    assert defined["SYSTOLITH_HEADER_WAIT_ROW_OFFSET"] == "14"
    assert defined["SYSTOLITH_HASH_TINY"] == f"0x{TINY.hash:016x}ull"


SOURCE = """
#include <stdint.h>
#include <stdio.h>
#include "systolith.h"

static void put(uint8_t *image, int offset, int bytes, uint32_t value) {
    for (int i = 0; i < bytes; i++) image[offset + i] = value >> 8 * i;
}

#define PUT(image, field, value) put(image, field##_OFFSET, field##_BYTES, value)

int main(void) {
    uint8_t image[SYSTOLITH_INSTRUCTION_BYTES] = {0};
    PUT(image, SYSTOLITH_HEADER_OPCODE, SYSTOLITH_OPCODE_ROW);
    PUT(image, SYSTOLITH_HEADER_WAIT_VECTOR, 3);
    PUT(image, SYSTOLITH_ROW_OPERATION, SYSTOLITH_ROW_OPERATION_RMS_NORM);
    PUT(image, SYSTOLITH_ROW_ROWS, 5);
    PUT(image, SYSTOLITH_ROW_N, 300);
    fwrite(image, 1, sizeof image, stdout);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_driver_in_c_makes_the_same_instruction(tmp_path: Path) -> None:
    (tmp_path / "systolith.h").write_text(c_header())
    (tmp_path / "main.c").write_text(SOURCE)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-o", "main", "main.c"]
    subprocess.run(["cc", *flags], cwd=tmp_path, check=True)
    image = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout
    expected = make(Opcode.ROW, TINY, wait_vector=3, operation=1, rows=5, n=300)
    assert image == encode(expected)
