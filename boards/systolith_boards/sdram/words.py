"""Words: what passes the data pins, and its way from and to beats."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith_boards.sdram.pins import PINS_PER_ENABLE
from systolith_boards.sdram.segments import Geometry
from systolith_boards.sdram.timing import DQ_BITS, SdramTiming
from systolith_rtl.reset import without_reset

DELAYS = 8
"""Delays to choose from: cycles that registers and wires on the way to and from the chip add."""

MASK_BITS = DQ_BITS // 8
"""Bits of a word's byte mask."""


ALL = (1 << MASK_BITS) - 1
"""Every byte masked."""


class Writer(wiring.Component):
    """Send the words of beats, the first one in the cycle after `start`, with the command.

    Members:
        starts_next: `In(1)`, `start` of the next cycle.
        start: `In(1)`, a WRITE in this cycle, of
        data: `In`, this beat,
        strobe: `In`, with these bytes.
        testing: `In(1)`, write `pattern` instead, all of it.
        pattern: `In(16)`, one word, taken in each cycle in which `takes`.
        takes: `Out(1)`, a word is on the pins in the next cycle.
        blocked: `In(1)`, mask all bytes when not writing, as chips want it during start-up.
        dq_o, dq_oe, dq_oes, dqm: `Out`, pins.
    """

    starts_next: Signal
    start: Signal
    data: Signal
    strobe: Signal
    testing: Signal
    pattern: Signal
    takes: Signal
    blocked: Signal
    dq_o: Signal
    dq_oe: Signal
    dq_oes: Signal
    dqm: Signal

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "starts_next": In(1),
                "start": In(1),
                "data": In(geometry.words * DQ_BITS),
                "strobe": In(geometry.words * MASK_BITS),
                "testing": In(1),
                "pattern": In(DQ_BITS),
                "takes": Out(1),
                "blocked": In(1),
                "dq_o": Out(DQ_BITS),
                "dq_oe": Out(1),
                "dq_oes": Out(DQ_BITS // PINS_PER_ENABLE),
                "dqm": Out(MASK_BITS, init=ALL),  # pyright: ignore[reportCallIssue]
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A shift register behind the pins' registers."""
        m = Module()
        words = self.geometry.words
        data = Signal((words - 1) * DQ_BITS, reset_less=True)
        strobe = Signal((words - 1) * MASK_BITS, reset_less=True)
        more = Signal(words - 1)
        following = more[1] if words > 2 else Const(0)
        # What these registers tell the chip is masked, or without a command, in a reset.
        without_reset(self.dq_o, self.dq_oe, self.dqm)
        # The pins lie along a whole edge: each of these is near some of them, and low as pins are.
        floats = [
            Signal(name=f"floats{index}", init=1, reset_less=True, attrs={"keep": 1})
            for index in range(len(self.dq_oes))
        ]
        m.d.sync += [each.eq(~self.takes) for each in floats]
        m.d.comb += self.dq_oes.eq(~Cat(floats))
        m.d.sync += [
            self.takes.eq(self.starts_next | self.start | following),
            data.eq(Mux(self.start, self.data[DQ_BITS:], data >> DQ_BITS)),
            strobe.eq(Mux(self.start, self.strobe[MASK_BITS:], strobe >> MASK_BITS)),
            more.eq(Mux(self.start, ~0, more >> 1)),
            self.dq_oe.eq(self.takes),
            self.dq_o.eq(
                Mux(
                    self.testing,
                    self.pattern,
                    Mux(self.start, self.data[:DQ_BITS], data[:DQ_BITS]),
                )
            ),
        ]
        mask = ~Mux(self.start, self.strobe[:MASK_BITS], strobe[:MASK_BITS])
        with m.If(self.takes):
            m.d.sync += self.dqm.eq(mask & ~self.testing.replicate(MASK_BITS))
        with m.Else():
            m.d.sync += self.dqm.eq(self.blocked.replicate(MASK_BITS))
        return m


class Reader(wiring.Component):
    """Collect the words of a READ.

    With no delay on the way, the first word is on `dq_i` CAS latency + 1 cycles after `start`.

    Members:
        start: `In(1)`, a READ in this cycle.
        delay: `In`, cycles that it takes longer than with no delay.
        dq_i: `In(16)`, pins.
        word: `Out(16)`, the pins, a cycle later,
        word_valid: `Out(1)`, and a word of a READ.
        beat: `Out`, a beat,
        beat_valid: `Out(1)`, which is complete.
    """

    start: Signal
    delay: Signal
    dq_i: Signal
    word: Signal
    word_valid: Signal
    beat: Signal
    beat_valid: Signal

    def __init__(self, timing: SdramTiming, geometry: Geometry) -> None:
        self.timing = timing
        self.geometry = geometry
        super().__init__(
            {
                "start": In(1),
                "delay": In(range(DELAYS)),
                "dq_i": In(DQ_BITS),
                "word": Out(DQ_BITS),
                "word_valid": Out(1),
                "beat": Out(geometry.words * DQ_BITS),
                "beat_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A shift register of what was asked for, and one of what has come."""
        m = Module()
        latency, words = self.timing.cas_latency, self.geometry.words
        asked = Signal(latency + DELAYS - 1)
        arrives = Signal()
        here = Signal(words)
        beat = Signal(words * DQ_BITS, reset_less=True)
        m.d.sync += [
            asked.eq(Cat(self.start, asked)),
            arrives.eq(Array(asked[latency - 1 :])[self.delay]),
            here.eq(Cat(arrives, here)),
            beat.eq(Cat(beat[DQ_BITS:], self.dq_i)),
        ]
        m.d.comb += [
            self.word.eq(beat[-DQ_BITS:]),
            self.word_valid.eq(here.any()),
            self.beat.eq(beat),
            self.beat_valid.eq(here[-1]),
        ]
        return m
