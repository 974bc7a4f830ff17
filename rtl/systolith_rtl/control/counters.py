"""Performance counters, in a small RAM instead of a thousand registers."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from systolith.config import CoreConfig
from systolith.isa import Engine
from systolith.regs import STALLS, Stall, stall_counter
from systolith_rtl.interfaces import STALL_LAYOUT
from systolith_rtl.memory.scratchpad import READERS, WRITERS

COUNTER_WIDTH = 48
"""Bits of a counter: three weeks at 150 MHz. Registers show them as 64."""

SAME = {
    stall_counter(engine, *STALLS[engine]): f"{engine.name.lower()}_stall"
    for engine in Engine
    if len(STALLS[engine]) == 1
}
"""Registers of engines with a single cause, and the counters that are the same."""

ALWAYS = ("cycles", "read_beats", "write_beats", "bank_clashes")
"""Counters of a core without counters of stalls, likewise."""

COUNTERS = (
    *ALWAYS,
    *(f"{engine.name.lower()}_{what}" for engine in Engine for what in ("busy", "stall")),
    *(
        name
        for engine in Engine
        for cause in STALLS[engine]
        if (name := stall_counter(engine, cause)) not in SAME
    ),
)
"""Counters by the names of their registers, in the order of their index: as many as two rows of
LUT RAM hold."""

_CHOICES = 4
"""Counters of which one is chosen before it is among the others."""

_MOST_CLASHES = (READERS - 1) + (WRITERS - 1)
"""Requests that the scratchpad can refuse in a cycle: of its readers, and of its writers, the first
one is always served."""


class Counters(wiring.Component):
    """Count what happens while `run` is high, from the reset on.

    The lowest bits of each counter count by themselves, enough of them for the time between two
    visits. An adder visits the counters in turn, one in each cycle, finds out whether these bits
    have wrapped around since, and stores them with the upper ones. So a counter is up to date
    `DELAY` cycles after the event.

    A core without `stall_counters` has those in `ALWAYS` only, and does not look at its engines.

    Members:
        run: `In(1)`, also what `cycles` counts.
        busy: `In(6)`, engines that have an instruction.
        awaits: `In(6)`, those in front of which one waits for others to retire.
        stall: `In`, by engine, what it waits for; counts only while it is busy.
        read_beat, write_beat: `In(1)`.
        clashes: `In`, requests that the scratchpad has refused, from 0 to `_MOST_CLASHES`.
        index: `In`, a counter, by its place in `names`.
        value: `Out(COUNTER_WIDTH)`, the counter, `DELAY` cycles after `index` has been set.
    """

    DELAY = len(COUNTERS) + 9

    run: Signal
    busy: Signal
    awaits: Signal
    stall: data.View
    read_beat: Signal
    write_beat: Signal
    clashes: Signal
    index: Signal
    value: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.names = COUNTERS if config.stall_counters else ALWAYS
        super().__init__(
            {
                "run": In(1),
                "busy": In(len(Engine)),
                "awaits": In(len(Engine)),
                "stall": In(data.ArrayLayout(STALL_LAYOUT, len(Engine))),
                "read_beat": In(1),
                "write_beat": In(1),
                "clashes": In(range(_MOST_CLASHES + 1)),
                "index": In(range(len(self.names))),
                "value": Out(COUNTER_WIDTH),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Register what happens, sum it up until the visit, visit."""
        m = Module()
        events: dict[str, Value] = {
            "cycles": self.run,
            "read_beats": self.read_beat,
            "write_beats": self.write_beat,
            "bank_clashes": self.clashes,
        }
        for engine in Engine:
            events |= self._engine_events(engine)
        names = self.names

        # So that it comes back to the first one by itself.
        assert len(names) == 1 << exact_log2(len(names))
        place = Signal(range(len(names)))
        m.d.sync += place.eq(place + 1)
        own = []
        for name in names:
            most = _MOST_CLASHES if name == "bank_clashes" else 1
            event = Signal(range(most + 1), name=f"{name}_event", reset_less=True)
            bits = Signal(bits_for(most * len(names)), name=f"{name}_own")
            m.d.sync += [event.eq(Mux(self.run, events[name], 0)), bits.eq(bits + event)]
            own.append(bits)
        few, many = (sorted({len(bits) for bits in own}) * 2)[:2]

        m.submodules.totals = totals = Memory(shape=COUNTER_WIDTH, depth=len(names), init=[])
        read = totals.read_port(domain="comb")
        write = totals.write_port()
        # What a counter holds does not count at its first visit after the reset.
        visits = Signal(range(len(names) + 1))
        known = Signal()
        with m.If(~visits[-1]):
            m.d.sync += visits.eq(visits + 1)
        m.d.sync += known.eq(visits[-1])

        # Choose one of some, 0 of the others, put them together, compare, add, write: a cycle each.
        # Only clashes are `wide`.
        choices = []
        for first in range(0, len(names), _CHOICES):
            some = own[first : first + _CHOICES]
            choice = Signal(max(map(len, some)), name=f"choice{first}", reset_less=True)
            m.d.sync += choice.eq(0)
            with m.If(place[exact_log2(_CHOICES) :] == first // _CHOICES):
                m.d.sync += choice.eq(Array(some)[place[: exact_log2(_CHOICES)]])
            choices.append(choice)
        looked = Signal.like(place)
        before = Signal(COUNTER_WIDTH, reset_less=True)
        now = Signal(many, reset_less=True)
        wide = Signal(reset_less=True)
        visited = Signal.like(place)
        m.d.comb += read.addr.eq(looked)
        m.d.sync += [
            looked.eq(place),
            before.eq(Mux(known, read.data, 0)),
            now.eq(reduce(or_, choices)),
            wide.eq(looked == names.index("bank_clashes")),
            visited.eq(looked),
        ]
        low = Signal(few, reset_less=True)
        high = Signal(COUNTER_WIDTH - few, reset_less=True)
        carry = Signal(many - few + 1, reset_less=True)
        middle = before[few:many]
        wrapped = now < Cat(before[:few], Mux(wide, middle, 0))
        m.d.sync += [
            low.eq(now),
            high.eq(Cat(Mux(wide, now[few:], middle), before[many:])),
            carry.eq(Mux(wide, wrapped << (many - few), wrapped)),
        ]
        # The sum stops in a register, since it is a long one.
        summed = Signal.like(place)
        total = Signal(COUNTER_WIDTH, reset_less=True)
        chosen, wanted = Signal(), Signal()
        m.d.sync += [
            summed.eq(visited),
            total.eq(Cat(low, high + carry)),
            write.addr.eq(summed),
            chosen.eq(visited == self.index),
            wanted.eq(chosen),
        ]
        m.d.comb += [write.data.eq(total), write.en.eq(1)]
        with m.If(wanted):
            m.d.sync += self.value.eq(total)
        return m

    def _engine_events(self, engine: Engine) -> dict[str, Value]:
        """Work, and the first of the causes why nothing was done."""
        name = engine.name.lower()
        busy, awaits = self.busy[engine], self.awaits[engine]
        # The engine says nothing of an instruction that it has not got.
        causes: dict[Stall, Value] = {Stall.AWAITED: awaits & ~busy}
        earlier = []
        for cause in STALLS[engine]:
            if cause != Stall.AWAITED:
                present = self.stall[engine][cause.name.lower()]
                causes[cause] = busy & present & ~Cat(earlier).any()
                earlier.append(present)
        return {
            f"{name}_busy": busy | awaits,
            f"{name}_stall": Cat(causes.values()).any(),
            **{stall_counter(engine, cause): event for cause, event in causes.items()},
        }
