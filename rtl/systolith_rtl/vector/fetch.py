"""Brings an operand of the vector engine from the scratchpad, group after group."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith.numerics import MASKED, WORD_WIDTH
from systolith_rtl.interfaces import ReadSignature
from systolith_rtl.memory.scratchpad import BANK_WIDTH, bank_of, row_of
from systolith_rtl.vector.extend import extend
from systolith_rtl.vector.loop import extent_layout
from systolith_rtl.vector.walk import ADDRESS_WIDTH, STRIDE_WIDTH, OperandWalk

POP_LATENCY = 3
"""Cycles from `pop` to the group on `group`."""

DEPTH = 16
"""Groups that are under way or wait. It takes up to 8 cycles from the request to the return of its
room, and LUT RAM comes in sixteens."""

NEAR = 4
"""Lanes whose words wait in one memory."""

COMPARED = 4
"""Bits that are compared with those of -32768 at a time."""


class OperandFetch(wiring.Component):
    """Reads [m, n] elements, groups outer and rows inner, and hands them over as signed words.

    It runs ahead of its reader as far as its memory goes, and asks for nothing that it has no
    room for. If grants are not refused, it sustains a group in every cycle; where a group of
    words takes two scratchpad words (R = C), in every second one. The first group is available
    `read_latency + 3` cycles after `start`.

    ::

        address -> request -> scratchpad -> group of words -> LUT RAM -> group

    Members:
        port: `Out(ReadSignature(config))`.
        start: `In(1)`, begin with the operands, which stay as they are until the end.
        unused: `In(1)`, there are no operands, and whoever pops may go on.
        address: `In(32)`, granule of the first element.
        stride: `In(16)`, granules from row to row.
        extent: `In(extent_layout(config))`, rows and columns.
        words: `In(1)`, elements are s16.
        signed: `In(1)`, bytes are s8, else u8.
        stop: `In(1)`, start no read from the next cycle on.
        late: `Out(1)`, a refusal keeps a group from being available in `config.read_latency`
            cycles: it is the cycle after its word has come.
        available: `Out(1)`, a group may be popped, or a cycle ago there were no operands.
        more: `Out(1)`, `available` is high in the next cycle even if a group is popped in this one;
            or a cycle ago there were no operands.
        held: `Out(1)`, there is a group, so likewise if none is popped.
        pop: `In(1)`, take it.
        group: `Out`, C elements, `POP_LATENCY` cycles after `pop`; holds until the next.
        masked: `Out(C)`, with it: those of them that are -32768.
        fault: `Out(1)`, the next address is outside of the scratchpad; stays high until reset.
        fault_address: `Out(32)`, that granule.
    """

    port: wiring.PureInterface
    start: Signal
    unused: Signal
    address: Signal
    stride: Signal
    extent: data.View
    words: Signal
    signed: Signal
    stop: Signal
    late: Signal
    available: Signal
    more: Signal
    held: Signal
    pop: Signal
    group: data.View
    masked: Signal
    fault: Signal
    fault_address: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": Out(ReadSignature(config)),
                "start": In(1),
                "unused": In(1),
                "address": In(ADDRESS_WIDTH),
                "stride": In(STRIDE_WIDTH),
                "extent": In(extent_layout(config)),
                "words": In(1),
                "signed": In(1),
                "stop": In(1),
                "late": Out(1),
                "available": Out(1),
                "more": Out(1),
                "held": Out(1),
                "pop": In(1),
                "group": Out(data.ArrayLayout(signed(WORD_WIDTH), config.columns)),
                "masked": Out(config.columns),
                "fault": Out(1),
                "fault_address": Out(ADDRESS_WIDTH),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the walk, the requests, the way back and the memory, in this order."""
        m = Module()
        config = self.config
        sub_width = exact_log2(config.word_granules)
        beats = config.word_granules == 1

        # The walk. With two beats to a group of words, the first is no step.
        m.submodules.walk = walk = OperandWalk(config)
        address = walk.granule
        credits = Signal(range(DEPTH + 1), init=DEPTH)
        # The walk is not where requests are, and has as many registers.
        has_room, room_to_step, room_to_turn = (
            Signal(name=name, init=1, attrs={"keep": 1})
            for name in ("has_room", "room_to_step", "room_to_turn")
        )
        second = Signal()
        spare = Signal()
        goes = Signal()
        advance = Signal()
        last_beat = (second | ~self.words) if beats else 1
        m.d.comb += [
            walk.start.eq(self.start),
            walk.address.eq(self.address),
            walk.stride.eq(self.stride),
            walk.extent.eq(self.extent),
            walk.words.eq(self.words),
            walk.stop.eq(self.stop),
            walk.looks.eq(goes),
            walk.step.eq(room_to_step & ~spare & last_beat),
            walk.turn.eq(room_to_turn & ~spare & last_beat),
            self.fault.eq(walk.fault),
            self.fault_address.eq(walk.fault_address),
        ]
        if beats:
            with m.If(advance):
                m.d.sync += second.eq(self.words & ~second)

        # Two requests in registers, so that the walk depends neither on the arbiter nor, until it
        # has gone a step too far, on the bound. They take turns, and so the arbiter's answer, which
        # is late, moves few bits; a bank comes from one register, as other readers look at it.
        layout = data.StructLayout(
            {"row": range(config.bank_words), "tag": 1 if beats else max(sub_width, 1)}
        )
        places = [Signal(layout, name=f"place{index}", reset_less=True) for index in range(2)]
        turn, reads = Signal(), Signal()
        bank = Signal(BANK_WIDTH, reset_less=True)
        spare_bank = Signal.like(bank, reset_less=True)
        asking = Signal()
        free = ~asking | self.port.ready
        new_word = Value.cast(address[sub_width:] | (second if beats else 0))
        new_word = new_word[: len(self.port.address)]
        new_bank = bank_of(new_word)
        asked = Signal(layout)
        tag = asked.tag
        m.d.comb += [
            goes.eq(has_room & ~spare),
            advance.eq(walk.active & goes),
            asked.eq(Mux(reads, places[1], places[0])),
            self.port.address.eq(Cat(asked.row, bank)),
            self.port.valid.eq(asking),
        ]
        # `advance` without a look at `spare`, which is in the way of the walk alone.
        comes = walk.active & has_room & walk.inside
        fills = spare | comes
        m.d.sync += [turn.eq(turn ^ (comes & ~spare)), reads.eq(reads ^ (asking & self.port.ready))]
        with m.If(free):
            m.d.sync += [asking.eq(fills), spare.eq(0), bank.eq(Mux(spare, spare_bank, new_bank))]
        with m.Else():
            m.d.sync += spare.eq(fills)
        with m.If(self.stop):
            m.d.sync += [asking.eq(0), spare.eq(0), turn.eq(0), reads.eq(0)]
        with m.If(~spare):
            m.d.sync += spare_bank.eq(new_bank)
        for index, place in enumerate(places):
            with m.If(~spare & (turn == index)):
                m.d.sync += [
                    place.row.eq(row_of(new_word)),
                    place.tag.eq(last_beat if beats else address[:sub_width]),
                ]

        # A refused request is still there when the refusal is known. The second word of a group
        # would have come a cycle behind the first one.
        m.d.comb += self.late.eq(self.port.refused)
        if beats:
            first_late = Signal()
            m.d.sync += first_late.eq(self.port.refused & ~tag[0])
            m.d.comb += self.late.eq(first_late | (self.port.refused & tag[0]))

        # The way back: what is wanted of the word travels beside it.
        tags = tag
        for stage in range(config.read_latency):
            delayed = Signal(len(tag), name=f"tag_{stage}", reset_less=True)
            m.d.sync += delayed.eq(tags)
            tags = delayed
        # When it comes is known from the grant; `data_valid` is far from what counts groups.
        coming = Signal(config.read_latency)
        arrived = coming[-1]
        stored = Signal()
        m.d.sync += coming.eq(
            Cat(asking & self.port.ready & (tag[0] if beats else 1), coming),
        )
        m.d.sync += stored.eq(arrived)
        group = extend(m, platform, config, self.port, tags, self.words, self.signed)

        # The memory. A group is counted while it is on its way into it: `pop` reads later.
        level = Signal(range(DEPTH + 1))
        some = Signal()
        popped = Signal(POP_LATENCY - 1)
        taken = Signal.like(group, reset_less=True)
        differs = Signal(len(group) // COMPARED, reset_less=True)
        m.d.comb += self.group.as_value().eq(taken)
        _, over_one, over_two = _count(m, "level", level, arrived, popped[0])
        # Knowing that `level` is not 0 costs a register, and saves a comparison before `pop`; so it
        # does with `credits`. Both counts are a cycle late for what is taken from them.
        several = Mux(popped[0], over_two, over_one)
        remains = arrived | several | (some & ~self.pop)
        surely = Signal()
        m.d.sync += surely.eq(coming[-2] | self.unused)
        m.d.comb += [self.more.eq(surely | several), self.held.eq(some)]
        m.d.sync += [some.eq(remains), self.available.eq(remains | self.unused)]
        lent = advance & last_beat
        was_lent = Signal()
        _, spare_one, spare_two = _count(m, "credits", credits, popped[-1], was_lent)
        room = popped[-1] | Mux(was_lent, spare_two, spare_one) | (has_room & ~lent)
        m.d.sync += [copy.eq(room) for copy in (has_room, room_to_step, room_to_turn)]
        m.d.sync += [was_lent.eq(lent), popped.eq(Cat(self.pop, popped))]
        waiting = [
            self._wait(m, first, group[WORD_WIDTH * first :][: WORD_WIDTH * NEAR], stored, popped)
            for first in range(0, config.columns, NEAR)
        ]
        with m.If(popped[-1]):
            m.d.sync += taken.eq(Cat(waiting))
            # A comparison of all bits would be too long behind the memory.
            difference = Cat(waiting) ^ Const(MASKED, WORD_WIDTH).replicate(config.columns)
            m.d.sync += [
                differs[part].eq(difference.word_select(part, COMPARED).any())
                for part in range(len(differs))
            ]
        m.d.comb += [
            self.masked[lane].eq(~differs.word_select(lane, WORD_WIDTH // COMPARED).any())
            for lane in range(config.columns)
        ]
        return m

    def _wait(self, m: Module, first: int, words: Value, stored: Value, popped: Value) -> Value:
        """Return the oldest group's words of some lanes; the memory has addresses of its own."""
        memory = Memory(shape=len(words), depth=DEPTH, init=[])
        m.submodules[f"memory{first}"] = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        write_at, read_at = (
            Signal(range(DEPTH), name=f"{name}{first}", attrs={"keep": 1})
            for name in ("write_at", "read_at")
        )
        m.d.comb += [
            write.en.eq(stored),
            write.data.eq(words),
            write.addr.eq(write_at),
            read.addr.eq(read_at),
        ]
        with m.If(stored):
            m.d.sync += write_at.eq(write_at + 1)
        with m.If(popped[-1]):
            m.d.sync += read_at.eq(read_at + 1)
        return read.data


def _count(m: Module, name: str, count: Signal, up: Value, down: Value) -> list[Signal]:
    """Count up and down, and return whether the count is above 0, 1 and 2, from registers."""
    over = [Signal(name=f"{name}_over{least}", init=count.init > least) for least in range(3)]
    with m.If(up ^ down):
        m.d.sync += count.eq(count + Cat(1, down.replicate(len(count) - 1)))
        m.d.sync += [
            over[0].eq(~down | over[1]),
            over[1].eq(Mux(down, over[2], over[0])),
            over[2].eq(Mux(down, count[2:].any(), over[1])),
        ]
    return over
