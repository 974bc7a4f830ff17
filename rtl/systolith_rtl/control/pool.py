"""The pool in which the instructions of all engines wait."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import MAX_PER_ENGINE, Engine
from systolith_rtl.control.decoder import WORD_WIDTH, used_bits, waits_of
from systolith_rtl.control.queue import COUNTS_LAYOUT, pool_size

_WAIT_BITS = MAX_PER_ENGINE.bit_length()
"""Bits of a legal wait count."""


class Pool(wiring.Component):
    """A LUT RAM for instructions, with one place written and one read in a cycle.

    All queues share it, because LUT RAM has a fixed depth, and six memories of their own would be
    half empty and four times as large. Only bits that a legal instruction may have are stored.

    Waits are in a memory of their own. Those of the queues' heads are compared with the progress
    counts, one head in each cycle, in turn: counts never fall, so it does not matter when.

    Members:
        word: `In(512)`, an instruction.
        push: `In(1)`, store it at `slot`, which must be `free`. The next one may come 2 cycles
            later.
        slot: `Out`, a place that is not in use, if `free`.
        free: `Out(1)`, there is one.
        asks: `In(6)`, which queues want an instruction.
        asked: `In`, for each queue the place of it.
        grant: `Out(6)`, who will get it: the lowest that asks.
        result: `Out(512)`, in the cycle after the grant, the instruction without its waits.
        counts: `In`, the progress counts.
        waits: `In(6)`, queues whose head waits for counts.
        place: `In`, for each queue the place of its head.
        reached: `Out(6)`, two cycles after a comparison has begun, whose head may go.
        done: `In(6)`, the same, unless it is known: the place is given back.
    """

    word: Signal
    push: Signal
    slot: Signal
    free: Signal
    asks: Signal
    asked: list[Signal]
    grant: Signal
    result: Signal
    counts: data.View
    waits: Signal
    place: list[Signal]
    reached: Signal
    done: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.size = pool_size(config)
        super().__init__(
            {
                "word": In(WORD_WIDTH),
                "push": In(1),
                "slot": Out(range(self.size)),
                "free": Out(1),
                "asks": In(len(Engine)),
                "asked": In(range(self.size)).array(len(Engine)),
                "grant": Out(len(Engine)),
                "result": Out(WORD_WIDTH),
                "counts": In(COUNTS_LAYOUT),
                "waits": In(len(Engine)),
                "place": In(range(self.size)).array(len(Engine)),
                "reached": Out(len(Engine)),
                "done": In(len(Engine)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Keep a map of the places in use, and choose the next one ahead."""
        m = Module()
        runs = used_bits(self.config)
        stored = Cat(self.word[first:end] for first, end in runs)
        m.submodules.memory = memory = Memory(shape=len(stored), depth=self.size, init=[])
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        place = Signal(range(self.size), reset_less=True)
        granted = self.asks & ~(self.asks - 1)[: len(self.asks)]
        m.d.comb += [
            write.addr.eq(self.slot),
            write.data.eq(stored),
            write.en.eq(self.push),
            read.addr.eq(place),
            self.grant.eq(granted),
            self.result.eq(_expand(read.data, runs)),
        ]
        with m.If(self.asks.any()):
            m.d.sync += place.eq(lowest(self.asks, list(self.asked)))
        left = self._compare(m)

        unused = Signal(self.size, init=-1)
        leaving = Signal()
        leaves = Signal.like(left, reset_less=True)
        m.d.sync += [leaving.eq(self.done.any()), leaves.eq(left)]
        with m.If(self.push):
            m.d.sync += [unused.bit_select(self.slot, 1).eq(0), self.free.eq(0)]
        with m.Elif(~self.free):
            places = [Const(index, len(self.slot)) for index in range(self.size)]
            m.d.sync += [self.slot.eq(lowest(unused, places)), self.free.eq(unused.any())]
        with m.If(leaving):
            m.d.sync += unused.bit_select(leaves, 1).eq(1)
        return m

    def _compare(self, m: Module) -> Signal:
        """Compare the waits of one head after the other; return the place of the last result."""
        stored = Cat(each[:_WAIT_BITS] for each in waits_of(self.word))
        m.submodules.waits = memory = Memory(shape=len(stored), depth=self.size, init=[])
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        # Heads that have had their turn while others had not.
        turned = Signal(len(Engine))
        turn = Signal(len(Engine))
        compared = Signal(len(Engine))
        reached = Signal(len(Engine), reset_less=True)
        place = Signal(range(self.size), reset_less=True)
        left = Signal.like(place, reset_less=True)
        others = Signal(len(Engine))
        candidates = Signal(len(Engine))
        chosen = Signal(len(Engine))
        m.d.comb += [
            write.addr.eq(self.slot),
            write.data.eq(stored),
            write.en.eq(self.push),
            read.addr.eq(place),
            others.eq(self.waits & ~turned),
            candidates.eq(Mux(others.any(), others, self.waits)),
            chosen.eq(candidates & ~(candidates - 1)[: len(Engine)]),
            self.reached.eq(compared & reached.all().replicate(len(Engine))),
        ]
        m.d.sync += [
            turned.eq(Mux(others.any(), turned, 0) | chosen),
            turn.eq(chosen),
            place.eq(lowest(candidates, list(self.place))),
            compared.eq(turn),
            left.eq(place),
            reached.eq(
                Cat(
                    self.counts[engine] >= read.data.word_select(engine, _WAIT_BITS)
                    for engine in Engine
                )
            ),
        ]
        return left


def lowest(bits: Value, values: list) -> Value:
    """Return the value beside the lowest bit that is set; the last one if none is."""
    result = values[-1]
    for position in reversed(range(len(values) - 1)):
        result = Mux(bits[position], values[position], result)
    return result


def _expand(stored: Value, runs: list[tuple[int, int]]) -> Value:
    """Put what is stored back to its places in an instruction, and zeros between."""
    parts = []
    position = taken = 0
    for first, end in runs:
        parts += [Const(0, first - position), stored[taken : taken + end - first]]
        taken += end - first
        position = end
    return Cat(*parts, Const(0, WORD_WIDTH - position))
