"""The pool in which the instructions of all engines wait."""

from itertools import pairwise

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.isa import Engine
from systolith_rtl.control.decoder import HEADER_WIDTH, WORD_WIDTH, used_bits
from systolith_rtl.control.queue import OPERAND_DELAY, pool_size

_PARTS = 2
"""Parts of the operands, each with an address of its own, near it: they are all over the core."""


class Pool(wiring.Component):
    """A LUT RAM for instructions, with one place written and one read in a cycle.

    All queues share it, because LUT RAM has a fixed depth, and six memories of their own would be
    half empty and four times as large. Only bits that a legal instruction may have are stored.

    Members:
        word: `In(512)`, an instruction.
        push: `In(1)`, store it at `slot`, which must be `free`. The next one may come 2 cycles
            later.
        slot: `Out`, a place that is not in use, if `free`.
        free: `Out(1)`, there is one.
        asks: `In(6)`, which queues want an instruction.
        asked: `In`, for each queue the place of it, which it then gives back.
        grant: `Out(6)`, who will get it: the lowest that asks.
        result: `Out(512)`, the instruction: its header in the cycle after the grant, its operands
            `OPERAND_DELAY` cycles later, when no other one may be stored at its place yet.
    """

    word: Signal
    push: Signal
    slot: Signal
    free: Signal
    asks: Signal
    asked: list[Signal]
    grant: Signal
    result: Signal

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
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Keep a map of the places in use, and choose the next one ahead."""
        m = Module()
        runs = used_bits(self.config)
        stored = Cat(self.word[first:end] for first, end in runs)
        unused = Signal(self.size, init=-1)
        # How many of them are 1.
        count = Signal(range(self.size + 1), init=self.size)
        leaving = Signal()
        # Else Yosys asks one queue after the other.
        half = Signal(attrs={"keep": 1})
        low, high = (
            Signal(range(self.size), name=name, attrs={"keep": 1}) for name in ("low", "high")
        )
        place = Signal(range(self.size), reset_less=True)
        # Two registers later, each part has the address for itself, which Yosys must not merge.
        later = Signal.like(place, reset_less=True)
        m.d.sync += later.eq(place)
        assert OPERAND_DELAY == 2
        addresses = [place]
        for part in range(_PARTS):
            address = Signal.like(place, name=f"place{part}", reset_less=True, attrs={"keep": 1})
            m.d.sync += address.eq(later)
            addresses.append(address)
        header = sum(end - first for first, end in runs if end <= HEADER_WIDTH)
        size = -(-(len(stored) - header) // _PARTS)
        bounds = [0, *range(header, len(stored), size), len(stored)]
        read = [
            self._memory(m, f"memory{index}", stored[slice(*ends)], address)
            for index, (ends, address) in enumerate(zip(pairwise(bounds), addresses, strict=True))
        ]
        m.d.comb += [
            half.eq(self.asks[:3].any()),
            low.eq(lowest(self.asks[:3], list(self.asked)[:3])),
            high.eq(lowest(self.asks[3:], list(self.asked)[3:])),
            self.grant.eq(
                Cat(only_lowest(self.asks[:3]), only_lowest(self.asks[3:]) & ~half.replicate(3))
            ),
            self.result.eq(_expand(Cat(read), runs)),
        ]
        m.d.sync += [
            place.eq(Mux(half, low, high)),
            leaving.eq(self.asks.any()),
        ]
        with m.If(self.push):
            m.d.sync += unused.bit_select(self.slot, 1).eq(0)
        with m.If(self.free):
            m.d.sync += self.free.eq(~self.push)
        with m.Else():
            m.d.sync += [self.slot.eq(first_of(unused)), self.free.eq(count != 0)]
        with m.If(leaving):
            m.d.sync += unused.bit_select(place, 1).eq(1)
        with m.If(leaving & ~self.push):
            m.d.sync += count.eq(count + 1)
        with m.Elif(self.push & ~leaving):
            m.d.sync += count.eq(count - 1)
        return m

    def _memory(self, m: Module, name: str, bits: Value, address: Signal) -> Value:
        """Store some bits of the instructions; return those of the one at `address`."""
        m.submodules[name] = memory = Memory(shape=len(bits), depth=self.size, init=[])
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.slot),
            write.data.eq(bits),
            write.en.eq(self.push),
            read.addr.eq(address),
        ]
        return read.data


def lowest(bits: Value, values: list) -> Value:
    """Return the value beside the lowest bit that is set; the last one if none is."""
    result = values[-1]
    for position in reversed(range(len(values) - 1)):
        result = Mux(bits[position], values[position], result)
    return result


def only_lowest(bits: Value) -> Value:
    """Return the bits without all but the lowest that is set; a few gates, no carry chain."""
    return Cat(
        bit if position == 0 else bit & ~bits[:position].any() for position, bit in enumerate(bits)
    )


def first_of(bits: Value) -> Value:
    """Return the index of the lowest bit that is set; the last one's if none is.

    Four bits at a time, then four of those: a chain of all of them would take as many gates.
    """
    quarters = [bits[first : first + 4] for first in range(0, len(bits), 4)]
    within = [lowest(quarter, _indices(len(quarter))) for quarter in quarters]
    if len(quarters) == 1:
        return within[0]
    quarter = first_of(Cat(each.any() for each in quarters))
    return Cat(Array(within)[quarter], quarter)


def _indices(count: int) -> list[Const]:
    return [Const(index, exact_log2(4)) for index in range(count)]


def _expand(stored: Value, runs: list[tuple[int, int]]) -> Value:
    """Put what is stored back to its places in an instruction, and zeros between."""
    parts = []
    position = taken = 0
    for first, end in runs:
        parts += [Const(0, first - position), stored[taken : taken + end - first]]
        taken += end - first
        position = end
    return Cat(*parts, Const(0, WORD_WIDTH - position))
