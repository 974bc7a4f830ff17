"""What stands between dispatch and an engine: a queue whose head waits for progress counts."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import INSTRUCTION_BYTES, MAX_PER_ENGINE, WAIT_WIDTH, Engine, Opcode
from systolith_rtl.control.decoder import TAG_WIDTH, packed_layout
from systolith_rtl.interfaces import operand_layout

IN_FLIGHT = 8
"""Instructions that an engine may hold at a time."""

PC_WIDTH = 33 - (INSTRUCTION_BYTES - 1).bit_length()
"""Bits of an instruction's index: a limit of 32 bits ends the program before."""

COUNTS_LAYOUT = data.ArrayLayout(WAIT_WIDTH, len(Engine))
"""Progress counts by engine."""

WAITS_LAYOUT = data.ArrayLayout(MAX_PER_ENGINE.bit_length(), len(Engine))
"""Legal wait counts by engine."""

ORIGIN_LAYOUT = data.StructLayout({"pc": PC_WIDTH, "tag": TAG_WIDTH})
"""Where an instruction comes from."""


def entry_layout(opcode: Opcode, config: CoreConfig) -> data.StructLayout:
    """Return what a queue holds of a legal instruction."""
    return data.StructLayout(
        {
            "operands": packed_layout(opcode, config),
            "waits": WAITS_LAYOUT,
            "origin": ORIGIN_LAYOUT,
        }
    )


class LutFifo:
    """A queue in LUT RAM, for use within a module: no register behind the read.

    Attributes:
        data: the oldest payload's bits, if `level` is not 0.
        level: how many there are.
        room: whether there is room for another one.
    """

    def __init__(self, m: Module, name: str, payload: Value, *, depth: int) -> None:
        self._m = m
        memory = Memory(shape=len(payload), depth=depth, init=[])
        m.submodules[name] = memory
        self._write_port = memory.write_port()
        read_port = memory.read_port(domain="comb")
        self._write = Signal(range(depth), name=f"{name}_write")
        self._read = Signal(range(depth), name=f"{name}_read")
        self.level = Signal(range(depth + 1), name=f"{name}_level")
        self.data = read_port.data
        self.room = self.level != depth
        m.d.comb += [
            self._write_port.addr.eq(self._write),
            self._write_port.data.eq(payload),
            read_port.addr.eq(self._read),
        ]

    def drive(self, *, push: Value, pop: Value) -> None:
        """Say when a payload is stored (there must be room) and when the oldest one is dropped."""
        m = self._m
        m.d.comb += self._write_port.en.eq(push)
        with m.If(push):
            m.d.sync += self._write.eq(self._write + 1)
        with m.If(pop):
            m.d.sync += self._read.eq(self._read + 1)
        with m.If(push & ~pop):
            m.d.sync += self.level.eq(self.level + 1)
        with m.Elif(pop & ~push):
            m.d.sync += self.level.eq(self.level - 1)


class EngineQueue(wiring.Component):
    """Instructions of one engine, from dispatch until they are retired.

    The oldest one that is not handed over is the head. It is compared with the progress counts in
    each cycle, and offered to the engine from the cycle after on if all have been reached. The
    head follows its predecessor by 3 cycles at the earliest. The engine may hold `IN_FLIGHT`
    instructions; where each comes from is kept until it is retired.

    Members:
        i: legal instructions.
        counts: `In`, the progress counts.
        retire: `In(1)`, the oldest instruction is complete.
        command: to the engine.
        origin: `Out`, of the oldest instruction not yet retired, unless `empty`.
        empty: `Out(1)`, all are retired.
        waiting: `Out(16)`, instructions not yet handed over.
    """

    i: stream.Interface
    counts: data.View
    retire: Signal
    command: stream.Interface
    origin: data.View
    empty: Signal
    waiting: Signal

    def __init__(self, opcode: Opcode, config: CoreConfig) -> None:
        self.opcode = opcode
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(entry_layout(opcode, config))),
                "counts": In(COUNTS_LAYOUT),
                "retire": In(1),
                "command": Out(stream.Signature(operand_layout(opcode))),
                "origin": Out(ORIGIN_LAYOUT),
                "empty": Out(1),
                "waiting": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Queue operands up to the engine, and origins up to the end."""
        m = Module()
        entry = self.i.payload
        layout = data.StructLayout(
            {"operands": packed_layout(self.opcode, self.config), "waits": WAITS_LAYOUT}
        )
        depth = self.config.queue_depth
        queued = Cat(Value.cast(entry.operands), Value.cast(entry.waits))
        queue = LutFifo(m, "queue", queued, depth=depth)
        origins = LutFifo(m, "origins", Value.cast(entry.origin), depth=2 * max(depth, IN_FLIGHT))

        head = Signal(layout, reset_less=True)
        head_valid = Signal()
        satisfied = Signal()
        held = Signal(range(IN_FLIGHT + 1))
        push = Signal()
        pop = Signal()
        handed = Signal()
        reached = [self.counts[engine] >= head.waits[engine] for engine in Engine]
        m.d.comb += [
            self.i.ready.eq(queue.room & origins.room),
            push.eq(self.i.valid & self.i.ready),
            pop.eq((queue.level != 0) & ~head_valid),
            self.command.valid.eq(satisfied),
            handed.eq(satisfied & self.command.ready),
            Value.cast(self.origin).eq(origins.data),
            self.empty.eq(origins.level == 0),
            self.waiting.eq(queue.level + head_valid),
        ]
        queue.drive(push=push, pop=pop)
        origins.drive(push=push, pop=self.retire)
        for name in layout.members["operands"].members:  # pyright: ignore[reportAttributeAccessIssue]
            m.d.comb += self.command.payload[name].eq(head.operands[name])

        with m.If(pop):
            m.d.sync += [Value.cast(head).eq(queue.data), head_valid.eq(1)]
        with m.If(handed):
            m.d.sync += [head_valid.eq(0), satisfied.eq(0)]
        with m.Elif(head_valid & ~satisfied):
            m.d.sync += satisfied.eq(Cat(reached).all() & (held != IN_FLIGHT))
        with m.If(handed & ~self.retire):
            m.d.sync += held.eq(held + 1)
        with m.Elif(self.retire & ~handed):
            m.d.sync += held.eq(held - 1)
        return m
