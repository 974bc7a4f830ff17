"""Dispatch: instructions in program order, each to the queue of its engine."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import INSTRUCTION_BYTES, OPERANDS, Engine, Opcode
from systolith.regs import FaultCause
from systolith_rtl.control.decoder import DECODED_LAYOUT, TAG_WIDTH, field_of, waits_of
from systolith_rtl.control.pool import Pool
from systolith_rtl.control.queue import COUNTS_LAYOUT, ORIGIN_LAYOUT, EngineQueue
from systolith_rtl.interfaces import operand_layout

PC_WIDTH = 33 - (INSTRUCTION_BYTES - 1).bit_length()
"""Bits of an instruction's index: a limit of 32 bits ends the program before."""

ENGINE_OPCODES = tuple(Opcode[engine.name] for engine in Engine)
"""Opcodes by engine."""


class Dispatch(wiring.Component):
    """Move decoded instructions into the queues, and keep the progress counts.

    An instruction that is a fault, and HALT, are not taken: they stay in front until reset. HALT
    is done when its waits hold and every engine has retired all it was given.

    Members:
        i: decoded instructions.
        commands: to the engines, by name in lower case.
        retire: `In(6)`, from the engines.
        retired: `Out`, progress counts, a cycle after `retire`.
        origins: `Out`, of the oldest instruction of each engine that is not retired, 2 cycles
            after `retire`.
        pending: `Out(6)`, there is one.
        waiting: `Out`, by engine, instructions not yet handed over.
        awaits: `Out(6)`, engines whose next instruction waits for others to retire.
        next: `Out`, index of the next instruction, and its tag where there is one.
        refused: `Out(1)`, a fault came instead of the next instruction, and stays.
        cause: `Out`, its cause.
        halted: `Out(1)`, HALT is done.
        halt_code: `Out(32)`, its code.
    """

    i: stream.Interface
    retire: Signal
    retired: data.View
    origins: data.View
    pending: Signal
    waiting: data.View
    awaits: Signal
    next: data.View
    refused: Signal
    cause: Signal
    halted: Signal
    halt_code: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(DECODED_LAYOUT)),
                **{
                    engine.name.lower(): Out(stream.Signature(operand_layout(opcode)))
                    for engine, opcode in zip(Engine, ENGINE_OPCODES, strict=True)
                },
                "retire": In(len(Engine)),
                "retired": Out(COUNTS_LAYOUT),
                "origins": Out(data.ArrayLayout(ORIGIN_LAYOUT, len(Engine))),
                "pending": Out(len(Engine)),
                "waiting": Out(COUNTS_LAYOUT),
                "awaits": Out(len(Engine)),
                "next": Out(data.StructLayout({"pc": PC_WIDTH, "tag": TAG_WIDTH})),
                "refused": Out(1),
                "cause": Out(FaultCause),
                "halted": Out(1),
                "halt_code": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the queues and their pool, and what happens at the front."""
        m = Module()
        instruction = self.i.payload
        operators = instruction.operators
        halts = operators[list(Opcode).index(Opcode.HALT)]
        pc = Signal.like(self.next.pc)
        m.submodules.pool = pool = Pool(self.config)

        # Who gets the instruction is decided in one cycle and done in the next, because it reaches
        # everything that is held of an instruction.
        chosen = Signal(len(Engine))
        wanted = []
        for engine, mine in zip(Engine, ENGINE_OPCODES, strict=True):
            queue = EngineQueue(mine, self.config)
            m.submodules[engine.name.lower()] = queue
            wanted.append(operators[list(Opcode).index(mine)] & queue.room)
            m.d.comb += [
                queue.push.eq(chosen[engine]),
                queue.slot.eq(pool.slot),
                queue.origin.pc.eq(pc),
                queue.origin.tag.eq(instruction.tag),
                pool.asks[engine].eq(queue.asks),
                pool.asked[engine].eq(queue.asked),
                queue.grant.eq(pool.grant[engine]),
                queue.word.eq(pool.result),
                queue.counts.eq(self.retired),
                queue.retire.eq(self.retire[engine]),
                self.origins[engine].eq(queue.oldest),
                self.pending[engine].eq(~queue.empty),
                self.waiting[engine].eq(queue.waiting),
                self.awaits[engine].eq(queue.awaits),
            ]
            wiring.connect(m, wiring.flipped(getattr(self, engine.name.lower())), queue.command)
            with m.If(self.retire[engine]):
                m.d.sync += self.retired[engine].eq(self.retired[engine] + 1)
        # Equal, but one writes into all of the pool: Yosys must not make one of both.
        goes, stores = (Signal(name=name, attrs={"keep": 1}) for name in ("goes", "stores"))
        may = self.i.valid & pool.free & ~goes
        m.d.sync += [
            chosen.eq(Cat(wanted) & may.replicate(len(Engine))),
            goes.eq(Cat(wanted).any() & may),
            stores.eq(Cat(wanted).any() & may),
        ]
        m.d.comb += [self.i.ready.eq(goes), pool.push.eq(stores), pool.word.eq(instruction.word)]
        with m.If(stores):
            m.d.sync += pc.eq(pc + 1)

        reached = Signal()
        waits = waits_of(instruction.word)
        # An instruction is here for some cycles before it is valid.
        counted = Signal(len(Engine))
        m.d.sync += [
            counted.eq(Cat(self.retired[engine] >= waits[engine] for engine in Engine)),
            reached.eq(self.i.valid & halts & counted.all()),
            self.refused.eq(self.i.valid & ~operators.any()),
        ]
        m.d.comb += [
            self.next.pc.eq(pc),
            self.next.tag.eq(instruction.tag),
            self.halted.eq(reached & ~self.pending.any()),
            self.halt_code.eq(field_of(instruction.word, OPERANDS[Opcode.HALT][0])),
            self.cause.eq(instruction.cause),
        ]
        return m
