"""From a command to its retirement: who says which instruction is being carried out."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import Function, Mask, Opcode, Second, Statistic, XFormat
from systolith.numerics import Format
from systolith.regs import FaultCause
from systolith_rtl.interfaces import WRITE_LATENCY, EngineSignature, operand_layout
from systolith_rtl.reset import without_reset
from systolith_rtl.vector.loop import extent, extent_layout
from systolith_rtl.vector.statistics import statistics_latency
from systolith_rtl.vector.walk import ADDRESS_WIDTH

PARTS = 3
"""Parts that can find an address outside of the scratchpad: x, r, y, in order of precedence."""


FLAGS = data.StructLayout(
    {
        "x_drained": 1,
        "x_words": 1,
        "x_signed": 1,
        "r_used": 1,
        "product": 1,
        "affine": 1,
        "exp": 1,
        "y_words": 1,
        "masked": 1,
        "statistic": 1,
        "moments": 1,
        "shared": 1,
        "adds": 1,
        "row_off": 1,
    }
)
"""What an instruction's fields are compared with, in registers beside them."""


class Sequence(wiring.Component):
    """Holds the instruction, and retires it when its last write and statistic have landed.

    Members:
        engine: `Out(EngineSignature(Opcode.VECTOR))`.
        op: `Out`, the instruction's operands, from `start` until it is retired. Between
            instructions, they are those of whatever command is offered.
        flags: `Out(FLAGS)`, likewise.
        extent: `Out(extent_layout(config))`, likewise, of its rows and columns.
        start: `Out(1)`, the first cycle of an instruction.
        stop: `Out(1)`, nothing new may be started; high from the cycle after a halt or a fault on.
        final: `In(1)`, the last write is requested in the next cycle.
        fault: `In(PARTS)`, who has a fault.
        fault_address: `In`, the granule for each of them.
    """

    engine: wiring.PureInterface
    op: data.View
    flags: data.View
    extent: data.View
    start: Signal
    stop: Signal
    final: Signal
    fault: Signal
    fault_address: data.View

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.VECTOR)),
                "op": Out(operand_layout(Opcode.VECTOR)),
                "flags": Out(FLAGS),
                "extent": Out(extent_layout(config)),
                "start": Out(1),
                "stop": Out(1),
                "final": In(1),
                "fault": In(PARTS),
                "fault_address": In(data.ArrayLayout(ADDRESS_WIDTH, PARTS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the instruction's register, the time after its last write, and the faults."""
        m = Module()
        engine = self.engine
        command = engine.command
        op = Signal(operand_layout(Opcode.VECTOR), reset_less=True)
        accepted = command.valid & command.ready
        vacant = Signal(init=1)
        settled = Signal(attrs={"keep": 1})
        remains_vacant = (vacant & ~accepted) | settled
        # Dispatch has more to do with it, so it is a register.
        ready = Signal(init=1)
        m.d.comb += command.ready.eq(ready)
        # After a fault nothing is retired, so it is not vacant.
        m.d.sync += ready.eq(remains_vacant & ~engine.halt)
        flags = Signal(FLAGS, reset_less=True)
        walk = Signal.like(self.extent, reset_less=True)
        m.d.comb += [self.op.eq(op), self.flags.eq(flags), self.extent.eq(walk)]
        m.d.sync += [self.start.eq(accepted), vacant.eq(remains_vacant)]
        with m.If(accepted):
            m.d.sync += engine.busy.eq(1)
        # Whether there is a command is known late, and this goes to hundreds of registers.
        with m.If(vacant):
            m.d.sync += op.eq(command.payload)
            new = command.payload
            comparisons = {
                "x_drained": new.x_format == XFormat.ACCUMULATOR,
                "x_words": new.x_format == XFormat.S16,
                "x_signed": new.x_format == XFormat.S8,
                "r_used": new.second != Second.NONE,
                "product": new.second == Second.MULTIPLY,
                "affine": new.function == Function.AFFINE,
                "exp": new.function == Function.EXP,
                "y_words": new.y_format == Format.S16,
                "masked": new.mask == Mask.LENGTH,
                "statistic": new.statistic != Statistic.NONE,
                "moments": new.statistic == Statistic.MOMENTS,
                "adds": (new.second != Second.NONE) & (new.second != Second.MULTIPLY),
                "row_off": new.use_row[0] & (new.x_format != XFormat.ACCUMULATOR),
                "shared": new.broadcast[0] | (new.function == Function.EXP),
            }
            m.d.sync += [flags[name].eq(value) for name, value in comparisons.items()]
            facts = extent(self.config, new.m, new.n)
            m.d.sync += [walk[name].eq(value) for name, value in facts.items()]

        # A write is requested a cycle after `final`, and seen by reads that are granted
        # `WRITE_LATENCY` later. Statistics take longer, but have started a cycle before `final`.
        write_only = WRITE_LATENCY
        both = max(WRITE_LATENCY, statistics_latency(self.config) - 1)
        settling = Signal()
        left = Signal(range(both))
        # A copy for whom it tells, who is far from what is here.
        retires = Signal(attrs={"keep": 1})
        assert write_only >= 2
        with m.If(self.final):
            m.d.sync += settling.eq(1)
            m.d.sync += left.eq(Mux(flags.statistic, both, write_only) - 1)
        with m.Elif(settling):
            m.d.sync += left.eq(left - 1)
        fails = self.fault.any()
        settles = settling & (left == 1) & ~fails
        m.d.sync += [settled.eq(settles), retires.eq(settles)]
        m.d.comb += engine.retire.eq(retires)
        with m.If(settled):
            m.d.sync += [settling.eq(0), engine.busy.eq(0)]

        # The one who is told is far from the parts. Without a fault, any address will do.
        without_reset(engine.fault_address)
        m.d.comb += engine.fault_cause.eq(FaultCause.SCRATCHPAD_BOUND)
        m.d.sync += engine.fault.eq(fails)
        # A fault stops the other parts a cycle later: they are ahead of it, or behind.
        m.d.sync += self.stop.eq(engine.halt | fails)
        address = self.fault_address[PARTS - 1]
        for part in reversed(range(PARTS - 1)):
            address = Mux(self.fault[part], self.fault_address[part], address)
        m.d.sync += engine.fault_address.eq(address)

        # The last read is granted a cycle after `halt`, and comes back `read_latency` cycles later.
        quiet = Signal(self.config.read_latency + 1)
        m.d.sync += quiet.eq(Cat(engine.halt, quiet))
        m.d.comb += engine.idle.eq(quiet.all() & engine.halt)
        return m
