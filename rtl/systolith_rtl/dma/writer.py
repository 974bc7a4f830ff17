"""The last part of LOAD: beats into scratchpad words or into 32-bit writes."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_rtl.dma.bounds import place_width
from systolith_rtl.interfaces import SIDE_SIGNATURE, WRITE_LATENCY, WriteSignature
from systolith_rtl.skid import PingPong, Skid

SIDE_BITS = 32
"""Bits of a write to column memory or tables."""


def tag_layout(config: CoreConfig) -> data.StructLayout:
    """What LOAD must know of a run.

    Its first beat on the core (if `side`, its first 32-bit word), whether it ends its
    instruction, and its first beat in memory.
    """
    lane_bits = exact_log2(config.axi_bytes)
    place = max(exact_log2(config.scratchpad_bytes) - lane_bits, place_width(config) + 1)
    return data.StructLayout(
        {
            "place": place,
            "side": 1,
            "tables": 1,
            "last": 1,
            "address": config.axi_address_bits - lane_bits,
        }
    )


class LoadWriter(wiring.Component):
    """Collect beats into words and write them; write column records and tables piece by piece.

    A word is written when its last beat has come or its run ends. Words are written at one beat
    per cycle, pieces at one piece per cycle and one more cycle per beat.

    Members:
        i: beats of runs, from a `Realigner`.
        halt: `In(1)`, take no beat, from the next cycle on.
        write: the scratchpad.
        side: column memory and tables.
        held: `Out(1)`, no beat is taken, because a word before it is refused.
        retire: `Out(1)`, for one cycle when an instruction's last byte has landed.
        drained: `Out(1)`, everything that was taken has landed and is retired.
    """

    i: stream.Interface
    halt: Signal
    write: wiring.PureInterface
    side: stream.Interface
    held: Signal
    retire: Signal
    drained: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        beat = data.StructLayout(
            {
                "data": config.axi_data_bits,
                "strobe": config.axi_bytes,
                "first": 1,
                "last": 1,
                "tag": tag_layout(config),
            }
        )
        super().__init__(
            {
                "i": In(stream.Signature(beat)),
                "halt": In(1),
                "write": Out(WriteSignature(config)),
                "side": Out(SIDE_SIGNATURE),
                "held": Out(1),
                "retire": Out(1),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Two ways out, of which one is in use at a time, and a delay until writes have landed."""
        m = Module()
        pieces = self._write_pieces(m)
        words = self._write_words(m, pieces.holds)
        side = self.i.p.tag.side
        m.d.comb += [
            words.take.eq(self.i.valid & ~side & ~words.waits & ~pieces.holds),
            pieces.take.eq(self.i.valid & side & ~pieces.holds & ~words.busy),
            self.i.ready.eq(~pieces.holds & ~Mux(side, words.busy, words.waits)),
        ]
        # A write that is granted now has landed for a read that is granted WRITE_LATENCY later.
        landing = Signal(WRITE_LATENCY - 1)
        m.d.sync += landing.eq(Cat(words.last | pieces.last, landing))
        m.d.comb += [
            self.held.eq(self.i.valid & words.waits),
            self.retire.eq(landing[-1]),
            self.drained.eq(~(words.busy | pieces.busy | landing.any())),
        ]
        return m

    def _write_words(self, m: Module, holds: Signal) -> SimpleNamespace:
        """Collect beats in a word, and send it through buffers; while `holds`, none is taken.

        Whether a write is granted comes late, so data are in a `PingPong`, few of whose bits depend
        on it. But the address decides about the grant, and is in a `Skid` in step with it.
        """
        config = self.config
        beat = self.i.p
        beats = config.rows // config.axi_bytes
        way = SimpleNamespace(
            take=Signal(name="take_word"),
            # Registers: the word cannot move, so no beat is taken; there is a word.
            waits=Signal(name="word_waits"),
            busy=Signal(name="words_busy"),
            last=Signal(name="last_word"),
        )
        word = data.StructLayout(
            {
                "data": data.ArrayLayout(config.axi_data_bits, beats),
                "mask": data.ArrayLayout(config.axi_bytes, beats),
            }
        )
        place_layout = data.StructLayout({"address": range(config.words), "last": 1})
        m.submodules.words = words = PingPong(word)
        m.submodules.places = skid = Skid(place_layout)
        held = Signal(word, reset_less=True)
        held_place = Signal(place_layout, reset_less=True)
        # Copies, which Yosys would merge without `keep`: what decides has no wires to all bits.
        valid, full = (Signal(name=name, attrs={"keep": 1}) for name in ("valid", "full"))
        # The word is complete and gone, or has never begun.
        empty = Signal(init=1)
        place = Signal(len(beat.tag.place), reset_less=True)
        here = Mux(beat.first, beat.tag.place, place)
        position = here[: exact_log2(beats)]
        completes = beat.last | (position == beats - 1)
        m.d.comb += [
            way.last.eq(self.write.valid & self.write.ready & skid.o.p.last),
            skid.i.valid.eq(valid),
            skid.i.payload.eq(held_place),
            words.i.valid.eq(valid),
            words.i.payload.eq(held),
            self.write.valid.eq(skid.o.valid),
            self.write.address.eq(skid.o.p.address),
            self.write.data.eq(words.o.p.data),
            self.write.mask.eq(words.o.p.mask),
            skid.o.ready.eq(self.write.ready),
            words.o.ready.eq(self.write.ready),
        ]
        # A word that stays hides the next one, so this needs no `ready`.
        comes = self.i.valid & ~beat.tag.side & ~holds & completes
        stays = valid & ~skid.i.ready
        m.d.sync += [
            valid.eq(stays | comes),
            full.eq(stays | comes),
            way.waits.eq((stays | comes) & ~skid.i_next),
            way.busy.eq(comes | valid | ~(skid.empty | (self.write.ready & skid.i.ready))),
        ]
        with m.If(way.take):
            m.d.sync += [place.eq(here + 1), empty.eq(completes)]
        # A beat that must wait may be copied all the same: it will be again.
        with m.If(self.i.valid & (~full | skid.i_enable)):
            m.d.sync += [
                held_place.address.eq(here[exact_log2(beats) :]),
                held_place.last.eq(beat.last & beat.tag.last),
            ]
            for index in range(beats):
                with m.If(position == index):
                    m.d.sync += held.data[index].eq(beat.data)
                # A gate instead of another choice, of which Yosys would make a reset.
                rest = held.mask[index] & (~empty).replicate(config.axi_bytes)
                m.d.sync += held.mask[index].eq(Mux(position == index, beat.strobe, rest))
        return way

    def _write_pieces(self, m: Module) -> SimpleNamespace:
        """Send a beat 32 bits at a time."""
        config = self.config
        beat = self.i.p
        pieces = config.axi_data_bits // SIDE_BITS
        way = SimpleNamespace(
            take=Signal(name="take_pieces"),
            busy=Signal(name="pieces_busy", attrs={"keep": 1}),
            # The same, or halted.
            holds=Signal(name="pieces_hold", attrs={"keep": 1}),
            last=Signal(name="last_piece"),
        )
        bits = Signal(config.axi_data_bits, reset_less=True)
        # A bit for each piece that is still to be sent, in order; whole pieces have strobes, the
        # first one of a beat always.
        left = Signal(pieces, attrs={"keep": 1})
        sends = Mux(left[0], Mux(self.side.ready, (left >> 1)[0], 1), beat.strobe[0] & way.take)
        address = Signal(len(self.side.p.address), reset_less=True)
        tables = Signal(reset_less=True)
        last = Signal(reset_less=True)
        m.d.comb += [
            way.last.eq((left == 1) & self.side.ready & last),
            self.side.valid.eq(left[0]),
            self.side.p.data.eq(bits[:SIDE_BITS]),
            self.side.p.address.eq(address),
            self.side.p.tables.eq(tables),
        ]
        m.d.sync += [way.busy.eq(sends), way.holds.eq(sends | self.halt)]
        # While nothing is sent, whatever is there is copied.
        with m.If(~left[0]):
            m.d.sync += [
                bits.eq(beat.data),
                left.eq(beat.strobe[:: SIDE_BITS // 8] & way.take.replicate(pieces)),
                tables.eq(beat.tag.tables),
                last.eq(beat.last & beat.tag.last),
            ]
            with m.If(self.i.valid & beat.first):
                m.d.sync += address.eq(beat.tag.place)
        with m.Elif(self.side.ready):
            m.d.sync += [
                bits.eq(bits >> SIDE_BITS),
                left.eq(left >> 1),
                address.eq(address + 1),
            ]
        return way
