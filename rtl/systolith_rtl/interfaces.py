"""Signatures between the engines, the memories and control: what a unit may rely on.

Latencies here are promises: both sides count on them, so neither needs a handshake for data.
"""

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import OPERANDS, Engine, Opcode
from systolith.numerics import (
    ACC_WIDTH,
    EXP_WIDTH,
    MANT_WIDTH,
    ROW_OFF_WIDTH,
    SQUARES_WIDTH,
    TOTAL_SUM_WIDTH,
    WORD_WIDTH,
)
from systolith.regs import FaultCause, Stall

WRITE_LATENCY = 3
"""Cycles after the one in which a write is granted until a read that is granted sees it."""

ACC_READ_LATENCY = 3
"""Cycles from `enable` of an accumulator drain to its data."""


def operand_layout(opcode: Opcode) -> data.StructLayout:
    """The operands of an instruction as they reach its engine, full width."""
    return data.StructLayout(
        {field.name: Shape(field.width, field.signed) for field in OPERANDS[opcode]}
    )


class ReadSignature(wiring.Signature):
    """A reader's view of the scratchpad.

    A read is granted in a cycle in which `valid` and `ready` are high; `ready` is combinational
    and may be high without `valid`. Its word is on `data` exactly `config.read_latency` cycles
    later, with `data_valid` high, so a reader must always have room for what it asked for.
    `address` counts words; it may change while a request waits. `refused` is high in the cycle
    after one in which a request was. A word must not be read in a cycle in which it is being
    written: programs that do are refused by the checker.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(
            {
                "address": Out(range(config.words)),
                "valid": Out(1),
                "ready": In(1),
                "refused": In(1),
                "data": In(8 * config.rows),
                "data_valid": In(1),
            }
        )


class WriteSignature(wiring.Signature):
    """A writer's view of the scratchpad: `mask` has a bit for each byte of the word.

    `refused` is high in the cycle after one in which a write was.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(
            {
                "address": Out(range(config.words)),
                "data": Out(8 * config.rows),
                "mask": Out(config.rows),
                "valid": Out(1),
                "ready": In(1),
                "refused": In(1),
            }
        )


class DrainSignature(wiring.Signature):
    """The vector engine's view of the accumulators.

    `full` is high while the half that is next to be drained is complete. Then rows may be read in
    any order: `data` holds the C sums of the row `ACC_READ_LATENCY` cycles after `enable`. A row
    that waits for something else may be read in each cycle until then.
    `release` for one cycle hands the half back, at the earliest together with its last `enable`;
    `full` then refers to the other half from the next cycle on.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(
            {
                "full": In(1),
                "row": Out(range(config.accumulator_rows)),
                "enable": Out(1),
                "release": Out(1),
                "data": In(data.ArrayLayout(signed(ACC_WIDTH), config.columns)),
            }
        )


class RingSignature(wiring.Signature):
    """STREAM's view of the weight ring: `free` words may be pushed without asking again.

    `free` goes down in the cycle after a push, and up when words are read. `data` is one word:
    the R weights of one array column, row 0 in the lowest byte.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(
            {
                "data": Out(8 * config.rows),
                "push": Out(1),
                "free": In(range(config.ring_words + 1)),
            }
        )


SIDE_LAYOUT = data.StructLayout(
    {"tables": unsigned(1), "address": unsigned(16), "data": unsigned(32)}
)
"""A 32-bit write of a LOAD into the column memory or, if `tables`, into the function tables.

`address` counts 32-bit words: a column record has two (mant, shift in the lower one: bytes 0 to 3
of the record), a table of 256 entries has 128 (the even entry in the low half).
"""


SIDE_SIGNATURE = stream.Signature(SIDE_LAYOUT)
"""LOAD's stream into the column memory and the tables."""


STALL_LAYOUT = data.StructLayout(
    {cause.name.lower(): unsigned(1) for cause in Stall if cause != Stall.AWAITED}
)
"""What an engine that has an instruction may wait for; see `regs.STALLS`."""


class EngineSignature(wiring.Signature):
    """Control's view of an engine is the flip of this one; members are as the engine sees them.

    Members:
        command: operands of an instruction whose waits are over. The engine takes it when it
            likes, and may work on several at a time.
        retire: high for one cycle per instruction, in order, when its last write has landed: a
            read that is requested from the next cycle on sees it.
        busy: an instruction has been taken and not been retired.
        stall: what it waited for a cycle ago, or two, if it was busy then.
        halt: from the next cycle on take no command and start no new access; what has been started
            on AXI is finished. Only reset ends it.
        idle: with `halt` high: no access is under way any more.
        fault: an error, in the oldest instruction not yet retired; stays high until reset.
        fault_cause: valid with `fault`.
        fault_address: valid with `fault`: a byte address in DRAM, or a granule.
    """

    def __init__(self, opcode: Opcode) -> None:
        super().__init__(
            {
                "command": In(stream.Signature(operand_layout(opcode))),
                "retire": Out(1),
                "busy": Out(1),
                "stall": Out(STALL_LAYOUT),
                "halt": In(1),
                "idle": Out(1),
                "fault": Out(1),
                "fault_cause": Out(FaultCause),
                "fault_address": Out(64),
            }
        )


class AxiSignature(wiring.Signature):
    """The memory master, AXI4: INCR bursts of whole beats, IDs of `ID_WIDTH` bits, no locks."""

    ID_WIDTH = 2
    FETCH_ID = 0
    STREAM_ID = 1
    LOAD_ID = 2

    def __init__(self, config: CoreConfig) -> None:
        address = {
            "id": Out(self.ID_WIDTH),
            "addr": Out(config.axi_address_bits),
            "len": Out(8),
            "size": Out(3),
            "burst": Out(2),
            "lock": Out(1),
            "cache": Out(4),
            "prot": Out(3),
            "qos": Out(4),
            "valid": Out(1),
            "ready": In(1),
        }
        super().__init__(
            {
                "aw": Out(wiring.Signature(address)),
                "w": Out(
                    wiring.Signature(
                        {
                            "data": Out(config.axi_data_bits),
                            "strb": Out(config.axi_bytes),
                            "last": Out(1),
                            "valid": Out(1),
                            "ready": In(1),
                        }
                    )
                ),
                "b": Out(
                    wiring.Signature(
                        {
                            "id": In(self.ID_WIDTH),
                            "resp": In(2),
                            "valid": In(1),
                            "ready": Out(1),
                        }
                    )
                ),
                "ar": Out(wiring.Signature(address)),
                "r": Out(
                    wiring.Signature(
                        {
                            "id": In(self.ID_WIDTH),
                            "data": In(config.axi_data_bits),
                            "resp": In(2),
                            "last": In(1),
                            "valid": In(1),
                            "ready": Out(1),
                        }
                    )
                ),
            }
        )


class AxiLiteSignature(wiring.Signature):
    """The CSR port as its host sees it, AXI4-Lite with 32 data bits."""

    ADDRESS_WIDTH = 10

    def __init__(self) -> None:
        address = {
            "addr": Out(self.ADDRESS_WIDTH),
            "prot": Out(3),
            "valid": Out(1),
            "ready": In(1),
        }
        super().__init__(
            {
                "aw": Out(wiring.Signature(address)),
                "w": Out(
                    wiring.Signature(
                        {"data": Out(32), "strb": Out(4), "valid": Out(1), "ready": In(1)}
                    )
                ),
                "b": Out(wiring.Signature({"resp": In(2), "valid": In(1), "ready": Out(1)})),
                "ar": Out(wiring.Signature(address)),
                "r": Out(
                    wiring.Signature(
                        {"data": In(32), "resp": In(2), "valid": In(1), "ready": Out(1)}
                    )
                ),
            }
        )


ROW_READ_LATENCY = 3
"""Cycles from `read` of the row file by ROW to its statistics."""

STATISTICS_LAYOUT = data.StructLayout(
    {
        "maximum": signed(WORD_WIDTH),
        "absmax": unsigned(WORD_WIDTH),
        "total": signed(TOTAL_SUM_WIDTH),
        "squares": unsigned(SQUARES_WIDTH),
    }
)
"""`numerics.Statistics`."""

ROW_LAYOUT = data.StructLayout(
    {
        "off": signed(ROW_OFF_WIDTH),
        "mant": unsigned(MANT_WIDTH),
        "exp": signed(EXP_WIDTH),
    }
)
"""`numerics.Row`."""


class RowFileSignature(wiring.Signature):
    """ROW's view of the row file, which is in the vector engine.

    Both ports are always served at once; the vector engine waits a cycle instead. `statistics`
    holds the slot's `ROW_READ_LATENCY` cycles after `read`.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(
            {
                "read": Out(1),
                "read_slot": Out(range(config.row_slots)),
                "statistics": In(STATISTICS_LAYOUT),
                "write": Out(1),
                "write_slot": Out(range(config.row_slots)),
                "record": Out(ROW_LAYOUT),
            }
        )


class FetchSignature(wiring.Signature):
    """Instruction fetch's view of the DMA's read side.

    Each accepted address asks for the 64 bytes there (aligned to 64), which come as beats on
    `data`, in order. The fetch unit must have room for what it asked for: there is no `ready`.
    `error` comes with a beat whose response was not OKAY.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(unsigned(64))),
                "data": In(config.axi_data_bits),
                "data_valid": In(1),
                "error": In(1),
            }
        )


class ProbeSignature(wiring.Signature):
    """What a simulation may see inside a core: every scratchpad write, and progress.

    `write` has one member for each writer (vector, load): address in words, data, byte mask, and
    `valid` in the cycle in which it is granted.
    """

    def __init__(self, config: CoreConfig) -> None:
        write = wiring.Signature(
            {
                "address": Out(range(config.words)),
                "data": Out(8 * config.rows),
                "mask": Out(config.rows),
                "valid": Out(1),
            }
        )
        super().__init__(
            {
                "write": Out(write).array(2),
                "retired": Out(data.ArrayLayout(unsigned(16), len(Engine))),
                "waiting": Out(data.ArrayLayout(unsigned(16), len(Engine))),
                "working": Out(len(Engine)),
            }
        )
