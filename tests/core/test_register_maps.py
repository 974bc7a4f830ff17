"""Other people's readers find the same registers in the generated maps."""

from pathlib import Path

import pytest
from systemrdl.compiler import RDLCompiler
from systemrdl.node import AddrmapNode, RegNode

from systolith import regs
from systolith.register_maps import csr_csv, system_rdl
from systolith.regs import BY_NAME, REGISTERS, Control


@pytest.fixture(name="registers", scope="module")
def _registers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RegNode]:
    """Registers by name, as the reference compiler of SystemRDL reads them."""
    file: Path = tmp_path_factory.mktemp("rdl") / "systolith.rdl"
    file.write_text(system_rdl())
    compiler = RDLCompiler()
    compiler.compile_file(str(file))
    (top,) = compiler.elaborate().children()
    assert isinstance(top, AddrmapNode)
    assert top.size <= regs.SPAN
    return {each.inst_name: each for each in top.registers()}


def test_system_rdl_has_all_registers(registers: dict[str, RegNode]) -> None:
    assert list(registers) == [each.name for each in sorted(REGISTERS, key=lambda r: r.offset)]
    for name, node in registers.items():
        assert node.absolute_address == BY_NAME[name].offset
        assert node.get_property("desc") == BY_NAME[name].doc
        assert node.has_sw_writable == BY_NAME[name].writable


def test_system_rdl_has_the_bits(registers: dict[str, RegNode]) -> None:
    """The bits that exist, and what they are after reset."""
    for name, node in registers.items():
        register = BY_NAME[name]
        fields = node.fields()
        bits = sum((1 << field.high + 1) - (1 << field.low) for field in fields)
        if name == "control":
            assert [field.inst_name.upper() for field in fields] == [bit.name for bit in Control]
            assert [field.low for field in fields] == list(Control)
            assert not node.has_sw_readable
            continue
        assert bits == register.mask
        assert node.has_sw_readable
        if register.writable:
            (field,) = fields
            reset = field.get_property("reset")
            assert isinstance(reset, int)
            assert reset << field.low == register.reset


def test_csr_csv_has_all_registers() -> None:
    rows = [line.split(",") for line in csr_csv(0x8000_0000).splitlines() if line[0] != "#"]
    assert all(len(row) == 5 for row in rows)
    found = {row[1]: (int(row[2], 0), row[3:]) for row in rows if row[0] == "csr_register"}
    assert found == {
        f"systolith_{each.name}": (
            0x8000_0000 + each.offset,
            ["1", "rw" if each.writable else "ro"],
        )
        for each in REGISTERS
    }
    assert ["csr_base", "systolith", "0x80000000", "", ""] in rows
    with pytest.raises(ValueError, match="multiple of 1024, but is 512"):
        csr_csv(512)
