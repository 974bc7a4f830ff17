"""The first access to the chip: does it answer, and how late?"""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systolith_boards.sdram.segments import SEGMENT_WORDS, Geometry
from systolith_boards.sdram.timing import BANKS, DQ_BITS
from systolith_boards.sdram.words import DELAYS

WORDS = BANKS * SEGMENT_WORDS
"""Words of the test, a segment in row 0 of each bank."""

SEED = 0xACE1
"""The first word; the others follow it in a shift register with feedback of period 65,535."""

TAPS = 0xB400
"""Feedback of that register."""


class MemoryTest(wiring.Component):
    """Write pseudo-random words, read them back with each delay, and choose the middle good one.

    It overwrites a segment of row 0 of each bank.

    Members:
        enable: `In(1)`, the chip takes accesses.
        o: the segments of the test.
        sent: `In(1)`, a word has been written,
        pattern: `Out(16)`, this one.
        word: `In(16)`, a word that was read,
        word_valid: `In(1)`, in this cycle.
        delay: `Out`, to read with.
        testing: `Out(1)`, the test is not over.
        failed: `Out(1)`, it is, and no delay was good.
        ready: `Out(1)`, it is, and `delay` is good.
    """

    enable: Signal
    o: stream.Interface
    sent: Signal
    pattern: Signal
    word: Signal
    word_valid: Signal
    delay: Signal
    testing: Signal
    failed: Signal
    ready: Signal

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "enable": In(1),
                "o": Out(stream.Signature(geometry.segment_layout)),
                "sent": In(1),
                "pattern": Out(DQ_BITS),
                "word": In(DQ_BITS),
                "word_valid": In(1),
                "delay": Out(range(DELAYS)),
                "testing": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "failed": Out(1),
                "ready": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count words, whichever way they go."""
        m = Module()
        pattern = Signal(DQ_BITS, reset_less=True)
        count = Signal(range(WORDS))
        bank = Signal(range(BANKS))
        offering = Signal()
        counted = Signal()
        writing = Signal()
        bad = Signal(reset_less=True)
        found = Signal()
        first = Signal(range(DELAYS), reset_less=True)
        last = Signal(range(DELAYS), reset_less=True)
        middle = Signal(range(2 * DELAYS))
        m.d.comb += [
            self.pattern.eq(pattern),
            self.o.p.write.eq(writing),
            self.o.p.bank.eq(bank),
            self.o.p.length.eq(~0),
            self.o.valid.eq(offering),
            middle.eq(first + last),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += bank.eq(bank + 1)
            with m.If(bank == BANKS - 1):
                m.d.sync += offering.eq(0)

        moved = Signal()
        m.d.comb += moved.eq(self.sent | self.word_valid)
        m.d.sync += counted.eq(moved & (count == WORDS - 1))
        with m.If(moved):
            feedback = TAPS & pattern[0].replicate(DQ_BITS)
            m.d.sync += [count.eq(count + 1), pattern.eq(Cat(pattern[1:], 0) ^ feedback)]
        # What is wrong is known a cycle late, which is soon enough for a verdict.
        wrong = Signal(2, reset_less=True)
        seen = Signal(reset_less=True)
        m.d.sync += [
            wrong.eq(Cat(part.any() for part in _halves(self.word ^ pattern))),
            seen.eq(self.word_valid),
        ]
        with m.If(seen & wrong.any()):
            m.d.sync += bad.eq(1)

        with m.FSM():
            with m.State("START"), m.If(self.enable):
                m.d.sync += [writing.eq(1), offering.eq(1), pattern.eq(SEED)]
                m.next = "WRITE"
            with m.State("WRITE"), m.If(counted):
                m.d.sync += [writing.eq(0), offering.eq(1), pattern.eq(SEED), bad.eq(0)]
                m.next = "READ"
            with m.State("READ"), m.If(counted):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                with m.If(~bad):
                    m.d.sync += [found.eq(1), last.eq(self.delay)]
                    with m.If(~found):
                        m.d.sync += first.eq(self.delay)
                m.d.sync += [
                    self.delay.eq(self.delay + 1),
                    offering.eq(self.delay != DELAYS - 1),
                    pattern.eq(SEED),
                    bad.eq(0),
                ]
                m.next = "READ"
                with m.If(self.delay == DELAYS - 1):
                    m.next = "END"
            with m.State("END"):
                m.d.sync += [
                    self.delay.eq(middle[1:]),
                    self.ready.eq(found),
                    self.failed.eq(~found),
                    self.testing.eq(0),
                ]
                m.next = "OVER"
            with m.State("OVER"):
                pass
        return m


def _halves(word: Value) -> tuple[Value, Value]:
    middle = len(word) // 2
    return word[:middle], word[middle:]
