"""The register map in the forms that other flows read: SystemRDL, and LiteX's csr.csv.

Both are made from `regs`, as the manual and the C header are; `scripts/manual.py` writes them to
docs/.
"""

from systolith import link, regs
from systolith.config import ISA_VERSION, PRESETS
from systolith.regs import REGISTERS, Control, Register

_FIELD = "value"
"""The field of a register that has but one."""


def system_rdl() -> str:
    """An address map of SystemRDL 2.0: what software may do, what hardware does, reset values.

    Counters, status and constants are `hw=w`: their values come from the core.
    """
    lines = [
        "// Systolith: registers of the AXI4-Lite port. Generated.",
        "addrmap systolith {",
        '    name = "Systolith";',
        "    default regwidth = 32;",
        "    default accesswidth = 32;",
    ]
    for register in REGISTERS:
        lines += [
            "",
            "    reg {",
            f'        desc = "{_quoted(register.doc)}";',
            *(f"        {field}" for field in _fields(register)),
            f"    }} {register.name} @ 0x{register.offset:03x};",
        ]
    return "\n".join([*lines, "};", ""])


def _fields(register: Register) -> list[str]:
    if register.name == "control":
        return [
            f"field {{ sw = w; hw = r; singlepulse; }} {bit.name.lower()}[{bit}:{bit}] = 0;"
            for bit in Control
        ]
    low = (register.mask & -register.mask).bit_length() - 1
    high = register.mask.bit_length() - 1
    assert register.mask == (1 << high + 1) - (1 << low), register.name
    if not register.writable:
        return [f"field {{ sw = r; hw = w; }} {_FIELD}[{high}:{low}];"]
    reset = register.reset >> low
    return [f"field {{ sw = rw; hw = r; }} {_FIELD}[{high}:{low}] = 0x{reset:x};"]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def csr_csv(base: int = 0) -> str:
    """A map as LiteX writes it, for its clients: `RemoteClient(csr_csv=...)` finds names in it.

    Args:
        base: byte address of the core on the bus that the client drives.

    Raises:
        ValueError: `base` is no multiple of the map's size.
    """
    if base % regs.SPAN:
        raise ValueError(f"base must be a multiple of {regs.SPAN}, but is {base}")
    constants = {
        "systolith_magic": regs.MAGIC,
        "systolith_isa_version": ISA_VERSION,
        **{
            f"systolith_hash_{name.replace('-', '_')}": preset.hash
            for name, preset in PRESETS.items()
        },
    }
    lines = [
        "# Systolith: registers of the AXI4-Lite port. Generated.",
        f"csr_base,systolith,0x{base:08x},,",
        *(
            f"csr_register,systolith_{register.name},0x{base + register.offset:08x},1,"
            f"{'rw' if register.writable else 'ro'}"
            for register in REGISTERS
        ),
        # In decimal: LiteX's clients take anything else for text.
        *(f"constant,{name},{value},," for name, value in constants.items()),
        "constant,config_csr_data_width,32,,",
        "constant,config_bus_address_width,32,,",
    ]
    return "\n".join([*lines, ""])


def board_csv(memory_bytes: int) -> str:
    """The map behind a board's host link, likewise: core, link registers and DRAM.

    Args:
        memory_bytes: of the board's DRAM.
    """
    lines = [
        csr_csv(link.CORE_BASE).rstrip("\n"),
        f"csr_base,link,0x{link.LINK_BASE:08x},,",
        *(
            f"csr_register,link_{register.name},0x{link.address(register.name):08x},1,"
            f"{'rw' if register.writable else 'ro'}"
            for register in link.REGISTERS
        ),
        "constant,config_bus_standard,AXI-LITE,,",
        f"memory_region,main_ram,0x{link.MEMORY_BASE:08x},{memory_bytes},cached",
    ]
    return "\n".join([*lines, ""])
