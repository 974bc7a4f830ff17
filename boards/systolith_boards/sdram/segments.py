"""From AXI bursts to segments: accesses within a row that nothing can hold up."""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_boards.sdram.timing import BANKS, DQ_BITS, SdramTiming

SEGMENT_WORDS = 16
"""Words of the longest segment, so also the cycles that it keeps the data pins busy."""

SEGMENTS = 4
"""Segments whose data there is room for, in each direction.

One is on its way to or from the master, one in the column unit, one waits there, and one has its
row opened.
"""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a beat's address is made of row, bank and column.

    Attributes:
        words: of a beat, which is a burst of the chip.
        row_bits: of a bank's rows.
        column_bits: of the beats of a row.
    """

    words: int
    row_bits: int
    column_bits: int

    @classmethod
    def of(cls, timing: SdramTiming, config: CoreConfig) -> "Geometry":
        """The geometry of a chip behind an AXI port.

        Raises:
            ValueError: the chip has no bursts as long as a beat.
        """
        words = config.axi_data_bits // DQ_BITS
        if words not in (2, 4, 8):
            raise ValueError(
                f"axi_data_bits must be 32, 64 or 128, since a beat is one burst of the chip, "
                f"but is {config.axi_data_bits}"
            )
        chip = timing.chip
        return cls(
            words=words,
            row_bits=chip.row_bits,
            column_bits=chip.column_bits - exact_log2(words),
        )

    @property
    def address_bits(self) -> int:
        """Bits of a beat's number in the chip."""
        return self.row_bits + exact_log2(BANKS) + self.column_bits

    @property
    def segment_beats(self) -> int:
        """Beats of the longest segment."""
        return SEGMENT_WORDS // self.words

    @property
    def depth(self) -> int:
        """Beats that there is room for, in each direction."""
        return SEGMENTS * self.segment_beats

    @property
    def burst_layout(self) -> data.StructLayout:
        """A burst: its first beat, beats less one, whether it is only answered."""
        return data.StructLayout({"address": self.address_bits, "length": 8, "error": 1})

    @property
    def segment_layout(self) -> data.StructLayout:
        """A segment: beats less one from `column` on; `last` ends a burst, `error` is no access."""
        return data.StructLayout(
            {
                "write": 1,
                "error": 1,
                "last": 1,
                "bank": range(BANKS),
                "row": self.row_bits,
                "column": self.column_bits,
                "length": exact_log2(self.segment_beats),
            }
        )


class Cutter(wiring.Component):
    """Cut the bursts of one direction into segments, and offer each only once it can be finished.

    A segment ends where `segment_beats` beats end counted from address 0, so it lies in one row.
    For reads, `space` is the room for their beats, for writes the beats that have come. Therefore
    a segment never waits for the master, and a refresh waits for a few segments at most.

    A burst takes a cycle, and each of its segments 3.

    Members:
        i: bursts.
        space: `In`, beats that may be claimed. A claim must show in it within 2 cycles.
        claimed: `Out`, how many beats `claim`, high for one cycle, takes off it.
        o: segments; `write` is not set.
    """

    i: stream.Interface
    space: Signal
    claim: Signal
    claimed: Signal
    o: stream.Interface

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "i": In(stream.Signature(geometry.burst_layout)),
                "space": In(range(geometry.depth + 1)),
                "claim": Out(1),
                "claimed": Out(range(geometry.segment_beats + 1)),
                "o": Out(stream.Signature(geometry.segment_layout)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count, check, offer, in turn."""
        m = Module()
        geometry = self.geometry
        inner = exact_log2(geometry.segment_beats)
        address = Signal(geometry.address_bits, reset_less=True)
        more = Signal(8, reset_less=True)
        error = Signal(reset_less=True)
        length = Signal(inner, reset_less=True)
        last = Signal(reset_less=True)
        to_boundary = ~address[:inner]
        within = ~more[inner:].any() & (more[:inner] <= to_boundary)
        bank = address[geometry.column_bits :][: exact_log2(BANKS)]
        row = address[geometry.column_bits + exact_log2(BANKS) :]
        m.d.comb += [
            self.o.p.error.eq(error),
            self.o.p.last.eq(last),
            # Strides of whole rows would otherwise meet one bank again and again.
            self.o.p.bank.eq(bank ^ row[: exact_log2(BANKS)]),
            self.o.p.row.eq(row),
            self.o.p.column.eq(address),
            self.o.p.length.eq(length),
            self.claimed.eq(length + 1),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [
                    address.eq(self.i.p.address),
                    more.eq(self.i.p.length),
                    error.eq(self.i.p.error),
                ]
                with m.If(self.i.valid):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += [length.eq(Mux(within, more, to_boundary)), last.eq(within)]
                m.next = "CHECK"
            # A comparison without a carry: whole segments, else what is left against the length.
            least = Array([self.space[:inner] > some for some in range(geometry.segment_beats)])
            with m.State("CHECK"), m.If(self.space[inner:].any() | least[length]):
                m.d.comb += self.claim.eq(1)
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    upper = address[inner:]
                    m.d.sync += [
                        address.eq(Cat(Const(0, inner), upper + 1)),
                        more.eq(more - length - 1),
                    ]
                    with m.If(last):
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "COUNT"
        return m


class Turns(wiring.Component):
    """Choose between segments of reads and of writes.

    Each change of direction costs the data pins CAS latency + 1 cycles at least, so one goes on
    until it lets the column unit run dry, or has had `PATIENCE` segments while the other waited.

    Members:
        reads, writes: segments.
        starving: `In(1)`, the column unit has nothing to do.
        o: the same, in the order chosen; `write` is set.
    """

    PATIENCE = 16

    reads: stream.Interface
    writes: stream.Interface
    starving: Signal
    o: stream.Interface

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        segment = stream.Signature(geometry.segment_layout)
        super().__init__(
            {"reads": In(segment), "writes": In(segment), "starving": In(1), "o": Out(segment)}
        )

    def elaborate(self, platform: object) -> Module:
        """A direction, how long the other one has waited for it, and a register."""
        m = Module()
        write = Signal()
        left = Signal(range(self.PATIENCE), init=self.PATIENCE - 1)
        held = Signal(self.geometry.segment_layout, reset_less=True)
        full = Signal()
        mine = Mux(write, self.writes.valid, self.reads.valid)
        other = Mux(write, self.reads.valid, self.writes.valid)
        taken = mine & ~full
        m.d.comb += [
            self.o.payload.eq(held),
            self.o.valid.eq(full),
            self.writes.ready.eq(write & ~full),
            self.reads.ready.eq(~write & ~full),
        ]
        with m.If(~full):
            m.d.sync += [
                held.eq(Mux(write, self.writes.payload, self.reads.payload)),
                held.write.eq(write),
                full.eq(mine),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += full.eq(0)
        with m.If(other & Mux(mine, taken & (left == 0), self.starving & ~full)):
            m.d.sync += [write.eq(~write), left.eq(self.PATIENCE - 1)]
        with m.Elif(taken & other):
            m.d.sync += left.eq(left - 1)
        return m
