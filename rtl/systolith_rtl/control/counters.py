"""Performance counters, in a small RAM instead of a thousand registers."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.isa import Engine
from systolith_rtl.memory.scratchpad import READERS, WRITERS

COUNTER_WIDTH = 48
"""Bits of a counter: three weeks at 150 MHz. Registers show them as 64."""

COUNTERS = (
    "cycles",
    "read_beats",
    "write_beats",
    *(f"{engine.name.lower()}_{what}" for engine in Engine for what in ("busy", "stall")),
    "bank_clashes",
)
"""Counters by the names of their registers, in the order of their index."""

_MOST_CLASHES = (READERS - 1) + (WRITERS - 1)
"""Requests that the scratchpad can refuse in a cycle: of its readers, and of its writers, the first
one is always served."""


class Counters(wiring.Component):
    """Count what happens while `run` is high.

    An adder visits the counters in turn, one in each cycle, and adds what has happened since its
    last visit, which a few bits hold. So a counter is up to date `DELAY` cycles after the event.

    Members:
        clear: `In(1)`, all counters become 0.
        run: `In(1)`, also what `cycles` counts.
        busy, stall: `In(6)`, by engine; stalls count only while busy.
        read_beat, write_beat: `In(1)`.
        clashes: `In`, requests that the scratchpad has refused, from 0 to `_MOST_CLASHES`.
        index: `In(4)`, a counter.
        value: `Out(COUNTER_WIDTH)`, the counter, `DELAY` cycles after `index` has been set.
    """

    DELAY = len(COUNTERS) + 6

    clear: Signal
    run: Signal
    busy: Signal
    stall: Signal
    read_beat: Signal
    write_beat: Signal
    clashes: Signal
    index: Signal
    value: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "clear": In(1),
                "run": In(1),
                "busy": In(len(Engine)),
                "stall": In(len(Engine)),
                "read_beat": In(1),
                "write_beat": In(1),
                "clashes": In(range(_MOST_CLASHES + 1)),
                "index": In(range(len(COUNTERS))),
                "value": Out(COUNTER_WIDTH),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Register what happens, sum it up until the visit, visit."""
        m = Module()
        events = {
            "cycles": self.run,
            "read_beats": self.read_beat,
            "write_beats": self.write_beat,
            "bank_clashes": self.clashes,
        }
        for engine in Engine:
            name = engine.name.lower()
            events[f"{name}_busy"] = self.busy[engine]  # pyright: ignore[reportArgumentType]
            events[f"{name}_stall"] = self.busy[engine] & self.stall[engine]  # pyright: ignore[reportArgumentType]

        place = Signal(range(len(COUNTERS)))
        m.d.sync += place.eq(Mux(place == len(COUNTERS) - 1, 0, place + 1))
        recent = []
        for position, name in enumerate(COUNTERS):
            most = _MOST_CLASHES if name == "bank_clashes" else 1
            event = Signal(range(most + 1), name=f"{name}_event")
            total = Signal(range(most * len(COUNTERS) + 1), name=f"{name}_recent")
            m.d.sync += event.eq(Mux(self.run, events[name], 0))
            with m.If(self.clear):
                m.d.sync += [event.eq(0), total.eq(0)]
            with m.Elif(place == position):
                m.d.sync += total.eq(event)
            with m.Else():
                m.d.sync += total.eq(total + event)
            recent.append(total)

        m.submodules.totals = totals = Memory(shape=COUNTER_WIDTH, depth=len(COUNTERS), init=[])
        read = totals.read_port(domain="comb")
        write = totals.write_port()
        # What a counter holds does not count until its first visit after `clear`.
        stale = Signal(len(COUNTERS), init=-1)
        before = Signal(COUNTER_WIDTH, reset_less=True)
        amount = Signal.like(recent[-1], name="amount", reset_less=True)
        visited = Signal.like(place)
        with m.If(self.clear):
            m.d.sync += stale.eq(-1)
        with m.Else():
            m.d.sync += stale.bit_select(place, 1).eq(0)
        m.d.comb += read.addr.eq(place)
        m.d.sync += [
            before.eq(Mux(stale.bit_select(place, 1), 0, read.data)),
            amount.eq(Array(recent)[place]),
            visited.eq(place),
            write.addr.eq(visited),
            write.data.eq(before + amount),
            write.en.eq(1),
        ]
        with m.If(write.addr == self.index):
            m.d.sync += self.value.eq(write.data)
        return m
