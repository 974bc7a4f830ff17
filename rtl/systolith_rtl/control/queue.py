"""What stands between dispatch and an engine: a queue whose head waits for progress counts."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import MAX_PER_ENGINE, WAIT_WIDTH, Engine, Opcode
from systolith_rtl.control.decoder import (
    TAG_WIDTH,
    WORD_WIDTH,
    packed_layout,
    packed_operands,
    waits_of,
)
from systolith_rtl.interfaces import operand_layout

IN_FLIGHT = 8
"""Instructions that an engine may hold at a time, a power of two."""

OPERAND_DELAY = 2
"""Cycles by which a head's operands follow its waits. The engine does not see them earlier than
that: the waits are compared first."""

COUNTS_LAYOUT = data.ArrayLayout(WAIT_WIDTH, len(Engine))
"""Progress counts by engine."""

WAITS_LAYOUT = data.ArrayLayout(MAX_PER_ENGINE.bit_length(), len(Engine))
"""Legal wait counts by engine."""

ORIGIN_LAYOUT = data.StructLayout(
    {"pc": (len(Engine) * MAX_PER_ENGINE).bit_length(), "tag": TAG_WIDTH}
)
"""Where an instruction comes from: its index in a program of legal length, and its tag."""


def pool_size(config: CoreConfig) -> int:
    """Instructions that may wait in front of all engines together.

    It is at least what a LUT RAM holds, whatever its depth, and twice the share of an engine: no
    compiled program was faster with more.
    """
    return max(16, 2 * config.queue_depth)


class LutFifo:
    """A queue in LUT RAM, of a depth that is a power of two, for use within a module.

    There is no register behind the read.

    Attributes:
        data: the oldest payload's bits, if `level` is not 0.
        level: how many there are.
        some: whether there are any.
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
        self.some = Signal(name=f"{name}_some")
        self.data = read_port.data
        # A power of two, so its uppermost bit alone says that it is full.
        self.room = ~self.level[-1]
        m.d.comb += [
            self._write_port.addr.eq(self._write),
            self._write_port.data.eq(payload),
            read_port.addr.eq(self._read),
        ]

    def drive(self, *, push: Value, pop: Value) -> None:
        """Say when a payload is stored (there must be room) and when the oldest one is dropped."""
        m = self._m
        m.d.comb += self._write_port.en.eq(push)
        m.d.sync += self.some.eq(push | (self.some & ~(pop & (self.level == 1))))
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

    The instructions themselves wait in a pool, and their places in it wait here. The oldest one
    that is not handed over moves from the pool to the head as soon as there is none. The head is
    compared with the progress counts in each cycle, and offered to the engine two cycles after all
    have been reached. The engine may hold `IN_FLIGHT` instructions; where each comes
    from is kept until it is retired.

    Members:
        push: `In(1)`, an instruction has got the place `slot` in the pool. There must be `room`.
        slot: `In`, its place.
        origin: `In`, where it comes from.
        room: `Out(1)`, there is room for another one. Undefined in the cycle after a push.
        asks: `Out(1)`, the head is to be fetched from the pool.
        asked: `Out`, its place.
        grant: `In(1)`, its waits will be on `word` in the next cycle, and its operands
            `OPERAND_DELAY` cycles later. Only together with `asks`, on which it may depend.
        word: `In(512)`, instructions from the pool.
        counts: `In`, the progress counts.
        retire: `In(1)`, the oldest instruction is complete.
        command: to the engine.
        oldest: `Out`, origin of the oldest instruction not yet retired, unless `empty`; 2 cycles
            after `retire`.
        empty: `Out(1)`, all are retired; 2 cycles after `retire`.
        waiting: `Out(16)`, instructions not yet handed over.
        awaits: `Out(1)`, the head has not yet seen the progress counts that it waits for.
    """

    push: Signal
    slot: Signal
    origin: data.View
    room: Signal
    asks: Signal
    asked: Signal
    grant: Signal
    word: Signal
    counts: data.View
    retire: Signal
    command: stream.Interface
    oldest: data.View
    empty: Signal
    waiting: Signal
    awaits: Signal

    def __init__(self, opcode: Opcode, config: CoreConfig) -> None:
        self.opcode = opcode
        self.config = config
        super().__init__(
            {
                "push": In(1),
                "slot": In(range(pool_size(config))),
                "origin": In(ORIGIN_LAYOUT),
                "room": Out(1),
                "asks": Out(1),
                "asked": Out(range(pool_size(config))),
                "grant": In(1),
                "word": In(WORD_WIDTH),
                "counts": In(COUNTS_LAYOUT),
                "retire": In(1),
                "command": Out(stream.Signature(operand_layout(opcode))),
                "oldest": Out(ORIGIN_LAYOUT),
                "empty": Out(1),
                "waiting": Out(16),
                "awaits": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Queue places up to the head, and origins up to the end."""
        m = Module()
        depth = self.config.queue_depth
        slots = LutFifo(m, "slots", self.slot, depth=depth)
        origins = LutFifo(m, "origins", Value.cast(self.origin), depth=2 * max(depth, IN_FLIGHT))
        # The oldest one's place is looked up before it is asked for. What is pushed into an empty
        # queue is asked for in the next cycle.
        place = Signal.like(self.slot, reset_less=True)
        m.d.sync += place.eq(Mux(slots.some, slots.data, self.slot))
        operands = Signal(packed_layout(self.opcode, self.config), reset_less=True)
        waits = Signal(WAITS_LAYOUT, reset_less=True)
        # Equal, but one has all waits of the head to move: Yosys must not make one of both.
        moving, loads = (Signal(name=name, attrs={"keep": 1}) for name in ("moving", "loads"))
        # For the operands, which are as far away as the engine.
        follows = Signal(OPERAND_DELAY)
        # `ready` comes late, so a head that is handed over is `held` for a cycle more.
        head_held = Signal()
        head_valid = Signal()
        # Equal, but one is the engine's, which is far away.
        satisfied, offers = (
            Signal(name=name, attrs={"keep": 1}) for name in ("satisfied", "offers")
        )
        held = Signal(range(IN_FLIGHT + 1))
        # Taken in the cycle before: it was offered, and is not any more. So nothing here looks at
        # whether it is taken now, which the engine finds out for itself.
        offered = Signal()
        taken = Signal()
        # A cycle late, as engines are far away. Whoever may not wait looks at both.
        left = Signal()
        # Whether another origin finds room, but for a push of the cycle before.
        roomy = Signal(init=1)
        m.d.sync += [
            offered.eq(satisfied),
            left.eq(self.retire),
            roomy.eq(origins.room | left | self.retire),
        ]
        # A cycle late, as are the counts themselves: they never fall.
        reached = Signal(len(Engine))
        compared = Signal()
        m.d.sync += [
            reached.eq(Cat(self.counts[engine] >= waits[engine] for engine in Engine)),
            compared.eq(head_valid),
        ]
        m.d.comb += [
            self.room.eq((slots.room | moving) & roomy),
            self.asked.eq(place),
            self.command.valid.eq(offers),
            taken.eq(offered & ~satisfied),
            Value.cast(self.oldest).eq(origins.data),
            self.empty.eq(~origins.some),
            self.waiting.eq(slots.level + head_valid),
            head_valid.eq(head_held & ~taken),
            self.awaits.eq(compared & ~offered & ~satisfied),
        ]
        slots.drive(push=self.push, pop=moving)
        origins.drive(push=self.push, pop=left)
        for name in packed_layout(self.opcode, self.config).members:
            m.d.comb += self.command.payload[name].eq(operands[name])

        # What is in the next cycle, looked at in this one: there is a place, and no head. `ready`
        # and `grant` come late, so the rest is there before, and Yosys must leave it there. While
        # there is a head, nothing is on its way to it.
        some = self.push | slots.some
        lacks = Signal(attrs={"keep": 1})
        if_taken = Signal(attrs={"keep": 1})
        m.d.comb += [
            lacks.eq(some & ~moving & ~head_valid),
            if_taken.eq(some & satisfied),
        ]
        m.d.sync += [
            self.asks.eq((lacks & ~self.grant) | (if_taken & self.command.ready)),
            moving.eq(self.grant),
            loads.eq(self.grant),
        ]
        m.d.sync += follows.eq(Cat(loads, follows))
        with m.If(loads):
            m.d.sync += [waits[engine].eq(waits_of(self.word)[engine]) for engine in Engine]
        with m.If(follows[-1]):
            packed = packed_operands(self.word, self.opcode, self.config)
            m.d.sync += Value.cast(operands).eq(packed)
        m.d.sync += head_held.eq(moving | head_valid)
        # What was handed over before this head is in `held`. Looked at while it is not offered.
        fine = Signal(attrs={"keep": 1})
        m.d.comb += fine.eq(compared & ~offered & reached.all() & (~held[-1] | left))
        still = Mux(satisfied, ~self.command.ready, fine)
        m.d.sync += [satisfied.eq(still), offers.eq(still)]
        with m.If(taken & ~left):
            m.d.sync += held.eq(held + 1)
        with m.Elif(left & ~taken):
            m.d.sync += held.eq(held - 1)
        return m
