"""Instruction fetch: a program in memory becomes a stream of instructions."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.isa import BASE_ALIGNMENT, INSTRUCTION_BYTES
from systolith.regs import FaultCause
from systolith_rtl.control.decoder import FETCHED_LAYOUT, WORD_WIDTH
from systolith_rtl.interfaces import FetchSignature

PREFETCH = 4
"""Instructions that may be asked for ahead."""


class Fetch(wiring.Component):
    """Read instructions from base 0 on, in order, as long as there is room for them.

    What ends a program without HALT comes in the place of the instruction that is missing:
    `ILLEGAL_INSTRUCTION` behind the last one, `DRAM_LIMIT` where the next one does not lie within
    the limit, `AXI_ERROR` for one that came with an error. It is a fault only if it is reached.

    Beats go through a LUT RAM and are put together one per cycle, from the cycle after the word
    before has left, so an instruction takes as many cycles as it has beats, and one more.

    Members:
        fetch: `Out(FetchSignature(config))`.
        base, limit, size: `In`, address, bytes and instructions of the program, steady from 2
            cycles before `run` on.
        run: `In(1)`, ask for instructions.
        o: instructions.
        idle: `Out(1)`, nothing is being asked for and nothing was owed in the cycle before.
    """

    fetch: wiring.PureInterface
    base: Signal
    limit: Signal
    size: Signal
    run: Signal
    o: stream.Interface
    idle: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "fetch": Out(FetchSignature(config)),
                "base": In(64),
                "limit": In(32),
                "size": In(32),
                "run": In(1),
                "o": Out(stream.Signature(FETCHED_LAYOUT)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Ask, store beats, put instructions together."""
        m = Module()
        # The base is a multiple of an instruction, so whole instructions are counted.
        assert BASE_ALIGNMENT % INSTRUCTION_BYTES == 0
        shift = exact_log2(INSTRUCTION_BYTES)
        beats = WORD_WIDTH // self.config.axi_data_bits

        started = Signal()
        address = Signal(self.config.axi_address_bits - shift, reset_less=True)
        instructions = Signal(32, reset_less=True)
        blocks = Signal(32 - shift, reset_less=True)
        ends = Signal()
        cause = Signal(FaultCause, reset_less=True)
        room = Signal(range(PREFETCH + 1), init=PREFETCH)
        owed = Signal(range(PREFETCH * beats + 1))
        # A cycle late, since the DMA is far away.
        came = Signal()
        request = self.fetch.request
        # All is counted when a request is raised, since whether it is accepted is known late. The
        # next one is raised 2 cycles after that at the earliest: there is time to look at what is
        # left, and to count up the address.
        raised = Signal()
        counted = Signal()
        accepted = Signal()
        none_left = Signal()
        exhausted = Signal()
        roomy = Signal()
        completed = Signal()
        # Else Yosys makes one register of both. This one is for all that is loaded.
        fresh = Signal(init=1, attrs={"keep": 1})
        m.d.comb += [
            request.payload.eq(Cat(Const(0, shift), address)),
            self.idle.eq(~request.valid & (owed == 0)),
        ]
        m.d.sync += [
            counted.eq(raised),
            accepted.eq(request.valid & request.ready),
            none_left.eq(instructions == 0),
            exhausted.eq((instructions == 0) | (blocks == 0)),
            roomy.eq((room != 0) | completed),
        ]
        m.d.sync += started.eq(self.run)
        with m.If(self.run):
            m.d.sync += fresh.eq(0)
        able = started & ~request.valid
        m.d.comb += raised.eq(able & ~exhausted & roomy)
        with m.If(able & exhausted):
            m.d.sync += ends.eq(1)
        with m.If(~ends):
            m.d.sync += cause.eq(
                Mux(none_left, FaultCause.ILLEGAL_INSTRUCTION, FaultCause.DRAM_LIMIT)
            )
        with m.If(request.valid):
            m.d.sync += request.valid.eq(~request.ready)
        with m.Else():
            m.d.sync += request.valid.eq(raised)
        for left, all_of_them in ((instructions, self.size), (blocks, self.limit[shift:])):
            _count_down(m, left, fresh, all_of_them, raised)
        with m.If(fresh | accepted):
            m.d.sync += address.eq(Mux(fresh, self.base[shift:], address + 1))
        with m.If(raised & ~completed):
            m.d.sync += room.eq(room - 1)
        with m.Elif(completed & ~raised):
            m.d.sync += room.eq(room + 1)
        m.d.sync += [
            came.eq(self.fetch.data_valid),
            owed.eq(owed + Mux(counted, beats, 0) - came),
        ]

        empty = self._assemble(m, beats, completed)
        # It stays as it is, so a cycle later does no harm.
        nothing_left = Signal()
        m.d.sync += nothing_left.eq(ends & (room == PREFETCH) & empty)
        with m.If(nothing_left):
            m.d.comb += [self.o.valid.eq(1), self.o.p.cause.eq(cause)]
        return m

    def _assemble(self, m: Module, beats: int, completed: Signal) -> Signal:
        """Put beats together in a word, and offer it; return whether there is none."""
        width = self.config.axi_data_bits
        depth = PREFETCH * beats
        # A register behind it would make Yosys take a block RAM, of which small devices have few.
        m.submodules.beats = memory = Memory(
            shape=width + 1, depth=depth, init=[], attrs={"ram_style": "distributed"}
        )
        write_port = memory.write_port()
        read_port = memory.read_port(domain="comb")
        write = Signal(range(depth))
        read = Signal(range(depth))
        stored = Signal(range(depth + 1))
        m.d.comb += [
            write_port.addr.eq(write),
            write_port.data.eq(Cat(self.fetch.data, self.fetch.error)),
            write_port.en.eq(self.fetch.data_valid),
            read_port.addr.eq(read),
        ]
        # Where the beats of a word go is far from here, so each stops in a register on its way.
        held = Signal(width + 1, reset_less=True)
        holds = Signal()
        word = Signal(WORD_WIDTH, reset_less=True)
        error = Signal()
        some = Signal()
        full = Signal()
        moved, leaves = Signal(), Signal()
        # A beat goes from the memory to that register: known a cycle ahead, since both are apart.
        fills = Signal()
        # Which part of the word is next, and a copy for its registers. They take whatever is held
        # until the beat is there, but for the first part, which waits until the word has left.
        part = Signal(beats, init=1)
        part_next = Mux(moved, part.rotate_left(1), part)
        takes = Signal(beats, init=1, attrs={"keep": 1})
        full_next = completed | (full & ~leaves)
        some_next = self.fetch.data_valid | (some & ~(fills & (stored == 1)))
        holds_next = fills | (holds & full)
        m.d.comb += [
            leaves.eq(full & self.o.ready),
            moved.eq(holds & ~full),
            completed.eq(moved & part[-1]),
        ]
        m.d.sync += [
            write.eq(write + self.fetch.data_valid),
            read.eq(read + fills),
            some.eq(some_next),
            holds.eq(holds_next),
            fills.eq(some_next & ~(holds_next & full_next)),
            full.eq(full_next),
            part.eq(part_next),
            takes.eq(Cat(part_next[0] & ~full_next, part_next[1:])),
        ]
        with m.If(self.fetch.data_valid & ~fills):
            m.d.sync += stored.eq(stored + 1)
        with m.Elif(fills & ~self.fetch.data_valid):
            m.d.sync += stored.eq(stored - 1)
        with m.If(fills):
            m.d.sync += held.eq(read_port.data)
        with m.If(moved):
            m.d.sync += error.eq(held[width] | (error & ~part[0]))
        for number in range(beats):
            with m.If(takes[number]):
                m.d.sync += word.word_select(number, width).eq(held[:width])
        m.d.comb += [
            self.o.valid.eq(full),
            self.o.p.word.eq(word),
            self.o.p.cause.eq(Mux(error, FaultCause.AXI_ERROR, FaultCause.NONE)),
        ]
        return ~(full | some | holds)  # pyright: ignore[reportReturnType]


def _count_down(m: Module, left: Signal, loads: Signal, value: Value, takes: Signal) -> None:
    """Load a counter, or take 1 from it: at the earliest every second cycle.

    Its upper half borrows a cycle later. So it is not right in the cycle after the lower half has
    wrapped around, but not 0 either.
    """
    half = len(left) // 2
    borrows = Signal(name=f"{left.name}_borrows")
    m.d.sync += borrows.eq(takes & (left[:half] == 0))
    with m.If(loads | takes):
        m.d.sync += left[:half].eq(Mux(loads, value[:half], left[:half] - 1))
    with m.If(loads | borrows):
        m.d.sync += left[half:].eq(Mux(loads, value[half:], left[half:] - 1))
