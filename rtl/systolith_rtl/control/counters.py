"""Performance counters."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.isa import Engine

COUNTER_WIDTH = 48
"""Bits of a counter: three weeks at 150 MHz. Registers show them as 64."""

EVENTS = (
    "cycles",
    "read_beats",
    "write_beats",
    *(f"{engine.name.lower()}_{what}" for engine in Engine for what in ("busy", "stall")),
)
"""Counters by the names of their registers."""


class Counters(wiring.Component):
    """Count what happens between `clear` and the end of `run`, all of it two cycles late.

    Members:
        clear: `In(1)`.
        run: `In(1)`, also what `cycles` counts.
        busy, stall: `In(6)`, by engine; stalls count only while busy.
        read_beat, write_beat: `In(1)`.
        clashes: `In(3)`, how many in this cycle.
        <name>: `Out(COUNTER_WIDTH)`, for each of `EVENTS`.
        bank_clashes: `Out(32)`.
    """

    clear: Signal
    run: Signal
    clashes: Signal
    bank_clashes: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "clear": In(1),
                "run": In(1),
                "busy": In(len(Engine)),
                "stall": In(len(Engine)),
                "read_beat": In(1),
                "write_beat": In(1),
                "clashes": In(3),
                "bank_clashes": Out(32),
                **{name: Out(COUNTER_WIDTH) for name in EVENTS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Register what happens, then count it."""
        m = Module()
        happens = {"cycles": self.run, "read_beats": self.read_beat, "write_beats": self.write_beat}
        for engine in Engine:
            name = engine.name.lower()
            happens[f"{name}_busy"] = self.busy[engine]
            happens[f"{name}_stall"] = self.busy[engine] & self.stall[engine]
        for name in EVENTS:
            event = Signal(name=f"{name}_event")
            counter = getattr(self, name)
            m.d.sync += event.eq(happens[name] & self.run)
            with m.If(self.clear):
                m.d.sync += counter.eq(0)
            with m.Elif(event):
                m.d.sync += counter.eq(counter + 1)
        clashes = Signal.like(self.clashes, name="clashes_event")
        m.d.sync += clashes.eq(self.clashes & self.run.replicate(len(self.clashes)))
        with m.If(self.clear):
            m.d.sync += self.bank_clashes.eq(0)
        with m.Else():
            m.d.sync += self.bank_clashes.eq(self.bank_clashes + clashes)
        return m
