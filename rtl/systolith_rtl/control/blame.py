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
from systolith_rtl.control.pool import only_lowest
from systolith_rtl.control.queue import ORIGIN_LAYOUT
from systolith_rtl.reset import without_reset

_BLOCK = exact_log2(INSTRUCTION_BYTES)


class Blame(wiring.Component):
    """Keep the first fault.

    Engines come before dispatch, because their instruction is the older one, the lowest of them
    first; then the watchdog, which blames the first engine that has something to do, or else the
    instruction in front of dispatch; then abort, which blames nobody. The registers are complete 4
    cycles after `take`.

    Members:
        take: `In(1)`, something is wrong in this cycle, and was not in the one before.
        clear: `In(1)`, nothing is wrong any more, unless there is a `mismatch`.
        mismatch: `In(1)`, the program is for another core.
        by_engine, by_dispatch, by_watchdog: `In(1)`, who says so: there are `faults`, a fault came
            instead of dispatch's next instruction, or nothing is retired any more.
        faults, causes, addresses: `In`, from the engines; they stay.
        origins, pending: `In`, oldest instruction of each engine, and whether there is one.
        next_pc, next_tag, next_cause: `In`, from dispatch, which stands still at a fault.
        base, limit: `In`, of the program.
        cause, engine, pc, tag, address: `Out`, what the host reads.
    """

    take: Signal
    clear: Signal
    mismatch: Signal
    by_engine: Signal
    by_dispatch: Signal
    by_watchdog: Signal
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
                "by_engine": In(1),
                "by_dispatch": In(1),
                "by_watchdog": In(1),
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
        found = Signal()
        look = Signal()
        put = Signal()
        m.d.sync += [found.eq(self.take), look.eq(found), put.eq(look)]

        # Who may have been it, and by whom it was found.
        suspects = Signal(len(Engine))
        by_engine = Signal()
        by_dispatch = Signal()
        by_watchdog = Signal()
        with m.If(self.take):
            m.d.sync += [
                by_engine.eq(self.by_engine),
                by_dispatch.eq(self.by_dispatch & ~self.by_engine),
                by_watchdog.eq(self.by_watchdog & ~self.by_dispatch & ~self.by_engine),
                suspects.eq(
                    Mux(
                        self.by_engine,
                        self.faults,
                        self.pending
                        & (self.by_watchdog & ~self.by_dispatch).replicate(len(suspects)),
                    )
                ),
            ]

        # Who it was, and what that one says. Nothing of it changes any more.
        first = only_lowest(suspects)
        blamed = Signal(len(Engine))
        located = Signal(len(Engine))
        nobody = Signal()
        in_front = Signal()
        at_fetch = Signal()
        beyond = Signal(_BLOCK, reset_less=True)
        own_cause = Signal(FaultCause)
        m.d.sync += [
            blamed.eq(first),
            located.eq(first & by_engine.replicate(len(first))),
            nobody.eq(~suspects.any()),
            in_front.eq(by_dispatch | (by_watchdog & ~suspects.any())),
            at_fetch.eq(by_dispatch & (self.next_cause != FaultCause.ILLEGAL_INSTRUCTION)),
            own_cause.eq(
                Mux(
                    by_dispatch,
                    self.next_cause,
                    Mux(by_watchdog, FaultCause.WATCHDOG, FaultCause.ABORT),
                )
            ),
        ]

        # An instruction that does not lie within the limit begins in the limit's own 64 bytes, so
        # the first address beyond is the limit.
        instruction = Signal(self.config.axi_address_bits - _BLOCK, reset_less=True)
        m.d.sync += [
            instruction.eq(self.base[_BLOCK:] + self.next_pc),
            beyond.eq(Mux(self.next_cause == FaultCause.DRAM_LIMIT, self.limit[:_BLOCK], 0)),
        ]

        # In two steps, since what they choose from comes from all over the chip.
        engines = [*(int(engine) for engine in Engine), NO_ENGINE]
        pcs = [*(self.origins[engine].pc for engine in Engine), self.next_pc]
        tags = [*(self.origins[engine].tag for engine in Engine), self.next_tag]
        addresses = [*(self.addresses[engine] for engine in Engine), Cat(beyond, instruction)]
        causes = [self.causes[engine] for engine in Engine]
        chosen = {
            "cause": ([*located], causes),
            "pc": ([*blamed, in_front], pcs),
            "tag": ([*blamed, by_dispatch], tags),
            "address": ([*located, at_fetch], addresses),
        }
        late = {name: _late(m, name, *each) for name, each in chosen.items()}

        # Late, since nobody looks at it that soon, and high after the reset. Without the attribute,
        # Yosys makes one register of it and the counters' reset.
        clearing = Signal(init=1, attrs={"keep": 1})
        mismatch = Signal()
        m.d.sync += [clearing.eq(self.clear), mismatch.eq(self.mismatch)]
        without_reset(self.cause, self.engine, self.pc, self.tag, self.address)
        with m.If(clearing):
            m.d.sync += [
                self.cause.eq(Mux(mismatch, FaultCause.CONFIG_MISMATCH, FaultCause.NONE)),
                self.engine.eq(NO_ENGINE),
                self.pc.eq(0),
                self.tag.eq(0),
                self.address.eq(0),
            ]
        with m.Elif(put):
            m.d.sync += [
                self.cause.eq(Mux(by_engine, late["cause"], own_cause)),
                self.engine.eq(_choose([*blamed, nobody], engines)),
                self.pc.eq(late["pc"]),
                self.tag.eq(late["tag"]),
                self.address.eq(late["address"]),
            ]
        return m


def _choose(choices: Sequence[Value], values: Sequence[Value | int]) -> Value:
    """Return the value whose bit is set; 0 if none is."""
    gated = []
    for choice, value in zip(choices, values, strict=True):
        bits = Value.cast(value)
        gated.append(bits & choice.replicate(len(bits)))
    return reduce(or_, gated)


def _late(m: Module, name: str, choices: Sequence[Value], values: Sequence[Value]) -> Value:
    """Return the same a cycle late: of each two or three, there is a register between."""
    parts = []
    for first in range(0, len(values) - 1, 2):
        part = slice(first, first + 2 if first + 3 < len(values) else None)
        value = _choose(choices[part], values[part])
        register = Signal(len(value), name=f"{name}_{first}", reset_less=True)
        m.d.sync += register.eq(value)
        parts.append(register)
    return reduce(or_, parts)
