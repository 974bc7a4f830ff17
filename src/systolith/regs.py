"""The CSR map of the AXI4-Lite port: the one source for RTL, drivers, headers and the manual."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from systolith.config import CoreConfig
from systolith.isa import BASES, SCALARS, Engine

MAGIC = 0x5953_544C
"""What the register `id` reads: `LTSY` in memory order."""


class State(IntEnum):
    """What the core is doing; the register `status`."""

    IDLE = 0
    RUN = 1
    DONE = 2
    FAULTING = 3
    FAULT = 4


class FaultCause(IntEnum):
    """Why a program was stopped; the register `fault_cause`."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    SCRATCHPAD_BOUND = 2
    DRAM_LIMIT = 3
    AXI_ERROR = 4
    WATCHDOG = 5
    CONFIG_MISMATCH = 6
    ABORT = 7


class Stall(IntEnum):
    """Why an engine that has work does nothing; of several causes the first one counts."""

    AWAITED = 0
    INPUT = 1
    OUTPUT = 2
    BANK = 3
    DRAM = 4


STALLS: dict[Engine, dict[Stall, str]] = {
    Engine.STREAM: {
        Stall.AWAITED: "its next instruction waited for others to retire",
        Stall.OUTPUT: "the weight ring had words and no room for the next burst",
        Stall.DRAM: "no beat came while some were asked for",
    },
    Engine.LOAD: {
        Stall.AWAITED: "its next instruction waited for others to retire",
        Stall.BANK: "a word was not written, or an index not read, because its bank was refused",
        Stall.DRAM: "the next beat was asked for and had not come",
    },
    Engine.STORE: {
        Stall.AWAITED: "its next instruction waited for others to retire",
        Stall.BANK: "the next word was not there because its bank had been refused",
        Stall.DRAM: "AW or W was not taken, or nothing but responses were to come",
    },
    Engine.GEMM: {
        Stall.AWAITED: "its next instruction waited for others to retire",
        Stall.INPUT: "no row entered the array because the weight ring was empty",
        Stall.OUTPUT: "no row entered the array because both accumulator halves were in use",
        Stall.BANK: "no row entered the array because the bank of its weights was refused",
    },
    Engine.VECTOR: {
        Stall.AWAITED: "its next instruction waited for others to retire",
        Stall.INPUT: "its accumulator half was not complete",
        Stall.BANK: "the next operand was not there because its bank had been refused",
    },
    Engine.ROW: {Stall.AWAITED: "its next instruction waited for others to retire"},
}
"""What each engine may have to wait for, and when it does. Other causes have no register."""


NO_ENGINE = 7
"""The register `fault_engine` when no engine is to blame."""


class Control(IntEnum):
    """Bits of the register `control`; each acts when written as 1, and reads as 0."""

    START = 0
    ABORT = 1
    RESET = 2
    ACKNOWLEDGE = 3


class Capability(IntEnum):
    """Bits of the register `capabilities`: what a core has that another one may lack."""

    STALL_COUNTERS = 0


def capabilities(config: CoreConfig) -> int:
    """What the register `capabilities` of a core reads."""
    return config.stall_counters << Capability.STALL_COUNTERS


@dataclass(frozen=True, kw_only=True)
class Register:
    """One 32-bit register.

    Attributes:
        name: in drivers and headers.
        offset: its byte address, a multiple of 4.
        writable: whether the host may write it; a write to any other register is ignored.
        doc: its meaning.
        reset: value after reset, for writable registers.
        mask: bits that exist, for writable registers.
        needs: without it, the register reads 0.
    """

    name: str
    offset: int
    doc: str
    writable: bool = False
    reset: int = 0
    mask: int = 0xFFFF_FFFF
    needs: Capability | None = None


def _pair(name: str, offset: int, doc: str, **options: object) -> tuple[Register, Register]:
    return (
        Register(name=f"{name}_lo", offset=offset, doc=f"{doc}, low word.", **options),  # pyright: ignore[reportArgumentType]
        Register(name=f"{name}_hi", offset=offset + 4, doc=f"{doc}, high word.", **options),  # pyright: ignore[reportArgumentType]
    )


def _base(index: int) -> tuple[Register, ...]:
    at = 0x100 + 16 * index
    return (
        Register(
            name=f"base{index}_lo",
            offset=at,
            doc=f"DRAM address of base {index}, low word; a multiple of 64.",
            writable=True,
            mask=0xFFFF_FFC0,
        ),
        Register(
            name=f"base{index}_hi",
            offset=at + 4,
            doc=f"DRAM address of base {index}, high word.",
            writable=True,
        ),
        Register(
            name=f"limit{index}",
            offset=at + 8,
            doc=f"Bytes that may be accessed from base {index} on; 0 for none.",
            writable=True,
        ),
    )


def _engine(engine: Engine) -> tuple[Register, ...]:
    at = 0x200 + 32 * engine
    name = engine.name.lower()
    busy = (
        f"Cycles in which {engine.name} had an instruction, or one waited for others in front of it"
    )
    stall = f"Cycles of them in which {engine.name} stood still for any cause"
    return (
        Register(name=f"{name}_retired", offset=at, doc=f"Instructions {engine.name} has retired."),
        *_pair(f"{name}_busy", at + 8, busy, needs=Capability.STALL_COUNTERS),
        *_pair(f"{name}_stall", at + 16, stall, needs=Capability.STALL_COUNTERS),
    )


def stall_counter(engine: Engine, cause: Stall) -> str:
    """Name of the register pair that counts a cause, without `_lo` and `_hi`."""
    return f"{engine.name.lower()}_stall_{cause.name.lower()}"


def _stalls(engine: Engine) -> Iterator[Register]:
    at = 0x300 + 8 * len(Stall) * engine
    for cause, when in STALLS[engine].items():
        doc = f"Cycles in which {engine.name} stood still: {when}"
        yield from _pair(
            stall_counter(engine, cause), at + 8 * cause, doc, needs=Capability.STALL_COUNTERS
        )


REGISTERS: tuple[Register, ...] = (
    Register(name="id", offset=0x00, doc="The constant 0x5953544C."),
    Register(name="version", offset=0x04, doc="Version of the instruction set."),
    *_pair("config_hash", 0x08, "Hash of the configuration"),
    Register(
        name="control",
        offset=0x10,
        doc="Bit 0 starts, bit 1 aborts, bit 2 resets the core, bit 3 acknowledges the interrupt.",
        writable=True,
    ),
    Register(name="status", offset=0x14, doc="0 idle, 1 run, 2 done, 3 faulting, 4 fault."),
    Register(
        name="interrupt_enable",
        offset=0x18,
        doc="Bit 0: raise `irq` when a program ends.",
        writable=True,
        mask=1,
    ),
    Register(name="interrupt_pending", offset=0x1C, doc="Bit 0: a program has ended."),
    *_pair(
        "program_hash",
        0x20,
        "Hash of the program's configuration; a start with another faults",
        writable=True,
    ),
    Register(
        name="program_size",
        offset=0x28,
        doc="Instructions of the program, which starts at base 0; running past them faults.",
        writable=True,
    ),
    Register(
        name="watchdog",
        offset=0x2C,
        doc="Cycles without a retired instruction after which the program faults; 0 for never.",
        writable=True,
    ),
    Register(name="halt_code", offset=0x30, doc="The code of the HALT that ended the program."),
    Register(name="fault_cause", offset=0x34, doc="Why the program was stopped."),
    Register(name="fault_engine", offset=0x38, doc="The engine at fault; 7 for none."),
    Register(
        name="fault_pc", offset=0x3C, doc="Index of the instruction at fault; 0 after an abort."
    ),
    Register(name="fault_tag", offset=0x40, doc="Its tag."),
    *_pair("fault_address", 0x44, "The address at fault"),
    Register(
        name="capabilities",
        offset=0x4C,
        doc="Bit 0: the core counts when engines have work, and why they stand still.",
    ),
    *_pair("cycles", 0x50, "Cycles from start to interrupt"),
    *_pair("read_beats", 0x58, "Read beats on the memory port since the start"),
    *_pair("write_beats", 0x60, "Write beats on the memory port since the start"),
    Register(name="bank_clashes", offset=0x68, doc="Scratchpad requests refused since the start."),
    *(
        Register(
            name=f"scalar{index}",
            offset=0x80 + 4 * index,
            doc=f"Run-time scalar {index}.",
            writable=True,
        )
        for index in range(SCALARS)
    ),
    *(register for index in range(BASES) for register in _base(index)),
    *(register for engine in Engine for register in _engine(engine)),
    *(register for engine in Engine for register in _stalls(engine)),
)
"""All registers; every other address below `SPAN` reads 0."""

SPAN = 0x400
"""Bytes of the register space; the port decodes 10 address bits."""

BY_NAME: dict[str, Register] = {register.name: register for register in REGISTERS}
"""Registers by name."""


def offset(name: str) -> int:
    """Byte address of a register.

    Raises:
        KeyError: there is none of that name.
    """
    return BY_NAME[name].offset
