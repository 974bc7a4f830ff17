"""Whose fault it was: what the host reads after a program has been stopped."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.isa import INSTRUCTION_BYTES, Engine
from systolith.regs import NO_ENGINE, FaultCause
from systolith_rtl.control.decoder import TAG_WIDTH
from systolith_rtl.control.dispatch import PC_WIDTH
from systolith_rtl.control.queue import ORIGIN_LAYOUT

_BLOCK = exact_log2(INSTRUCTION_BYTES)


class Blame(wiring.Component):
    """Keep the first fault.

    Engines come before dispatch, because their instruction is the older one, the lowest of them
    first; then the watchdog, which blames the first engine that has something to do, or else the
    instruction in front of dispatch; then abort, which blames nobody. The registers are complete 2
    cycles after `take`.

    Members:
        take: `In(1)`, something is wrong in this cycle, and was not in the one before.
        clear: `In(1)`, nothing is wrong any more, unless there is a `mismatch`.
        mismatch: `In(1)`, the program is for another core.
        expired: `In(1)`, the watchdog.
        faults, causes, addresses: `In`, from the engines; they stay.
        origins, pending: `In`, oldest instruction of each engine, and whether there is one.
        next_pc, next_tag, next_cause: `In`, from dispatch, which stands still at a fault.
        base, limit: `In`, of the program.
        cause, engine, pc, tag, address: `Out`, what the host reads.
    """

    take: Signal
    clear: Signal
    mismatch: Signal
    expired: Signal
    faults: Signal
    causes: data.View
    addresses: data.View
    origins: data.View
    pending: Signal
    next_pc: Signal
    next_tag: Signal
    next_cause: Signal
    base: Signal
    limit: Signal
    cause: Signal
    engine: Signal
    pc: Signal
    tag: Signal
    address: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        count = len(Engine)
        super().__init__(
            {
                "take": In(1),
                "clear": In(1),
                "mismatch": In(1),
                "expired": In(1),
                "faults": In(count),
                "causes": In(data.ArrayLayout(FaultCause, count)),
                "addresses": In(data.ArrayLayout(64, count)),
                "origins": In(data.ArrayLayout(ORIGIN_LAYOUT, count)),
                "pending": In(count),
                "next_pc": In(PC_WIDTH),
                "next_tag": In(TAG_WIDTH),
                "next_cause": In(FaultCause),
                "base": In(64),
                "limit": In(32),
                "cause": Out(FaultCause),
                "engine": Out(3, init=NO_ENGINE),  # pyright: ignore[reportCallIssue]
                "pc": Out(PC_WIDTH),
                "tag": Out(TAG_WIDTH),
                "address": Out(64),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Find out who it was, then look at what that one says."""
        m = Module()
        look = Signal()
        blamed = Signal(len(Engine))
        by_engine = Signal()
        by_dispatch = Signal()
        aborted = Signal()
        m.d.sync += look.eq(self.take)

        suspects = Signal(len(Engine))
        m.d.comb += suspects.eq(Mux(self.faults.any(), self.faults, self.pending))
        first = suspects & ~(suspects - 1)[: len(suspects)]
        with m.If(self.take):
            m.d.sync += [by_engine.eq(0), by_dispatch.eq(0), aborted.eq(0), blamed.eq(0)]
            with m.If(self.faults.any()):
                m.d.sync += [blamed.eq(first), by_engine.eq(1)]
            with m.Elif(self.next_cause != FaultCause.NONE):
                m.d.sync += [self.cause.eq(self.next_cause), by_dispatch.eq(1)]
            with m.Elif(self.expired):
                m.d.sync += [self.cause.eq(FaultCause.WATCHDOG), blamed.eq(first)]
            with m.Else():
                m.d.sync += [self.cause.eq(FaultCause.ABORT), aborted.eq(1)]

        # An instruction that does not lie within the limit begins in the limit's own 64 bytes, so
        # the first address beyond is the limit.
        instruction = Signal(self.config.axi_address_bits - _BLOCK, reset_less=True)
        m.d.sync += instruction.eq(self.base[_BLOCK:] + self.next_pc)
        beyond = Mux(self.cause == FaultCause.DRAM_LIMIT, self.limit[:_BLOCK], 0)
        at_fetch = by_dispatch & (self.cause != FaultCause.ILLEGAL_INSTRUCTION)
        with m.If(look):
            nobody = ~blamed.any()
            engines = [*(int(engine) for engine in Engine), NO_ENGINE]
            pcs = [*(self.origins[engine].pc for engine in Engine), self.next_pc]
            m.d.sync += [
                self.engine.eq(_choose([*blamed, nobody], engines)),
                self.pc.eq(_choose([*blamed, nobody & ~aborted], pcs)),
                self.tag.eq(
                    _choose(
                        [*blamed, by_dispatch],
                        [*(self.origins[e].tag for e in Engine), self.next_tag],
                    )
                ),
                self.address.eq(
                    _choose(
                        [*(blamed & by_engine.replicate(len(blamed))), at_fetch],
                        [*(self.addresses[e] for e in Engine), Cat(beyond, instruction)],
                    )
                ),
            ]
            with m.If(by_engine):
                m.d.sync += self.cause.eq(_choose(list(blamed), [self.causes[e] for e in Engine]))
        with m.If(self.clear):
            m.d.sync += [
                self.cause.eq(Mux(self.mismatch, FaultCause.CONFIG_MISMATCH, FaultCause.NONE)),
                self.engine.eq(NO_ENGINE),
                self.pc.eq(0),
                self.tag.eq(0),
                self.address.eq(0),
            ]
        return m


def _choose(choices: Sequence[Value], values: Sequence[Value | int]) -> Value:
    """Return the value whose bit is set; 0 if none is."""
    gated = []
    for choice, value in zip(choices, values, strict=True):
        bits = Value.cast(value)
        gated.append(bits & choice.replicate(len(bits)))
    return reduce(or_, gated)
