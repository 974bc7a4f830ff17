"""From runs of bytes to AXI bursts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig

MAX_BEATS = 32
"""Beats of the longest burst. It is at most 2 KiB, so aligned bursts stay within 4 KiB."""

BOUNDARY = 4096
"""Bytes whose multiples an AXI burst must not cross."""


def run_layout(config: CoreConfig, size_width: int) -> data.StructLayout:
    """A run of bytes in DRAM, all of which may be accessed.

    It has a first byte, a number of bytes behind that, and may be the last of its instruction.
    """
    return data.StructLayout({"address": config.axi_address_bits, "more": size_width, "last": 1})


def burst_layout(config: CoreConfig) -> data.StructLayout:
    """A burst: aligned address, beats less one, and whether it ends an instruction."""
    return data.StructLayout({"address": config.axi_address_bits, "length": 8, "last": 1})


def check_max_beats(config: CoreConfig, max_beats: int) -> None:
    """Check that bursts of so many beats are legal and can be aligned to their size.

    Raises:
        ValueError: they are not, or cannot.
    """
    if max_beats < 1 or max_beats & (max_beats - 1):
        raise ValueError(f"max_beats must be a power of two, but is {max_beats}")
    if max_beats > 256 or max_beats * config.axi_bytes > BOUNDARY:
        raise ValueError(f"bursts of {max_beats} beats can cross 4 KiB")


class Splitter(wiring.Component):
    """Cut runs into bursts, and offer each only once there is space for its beats.

    A burst ends where `max_beats` beats end counted from address 0, or where its run ends. So all
    bursts of a run but the first and the last have `max_beats` beats and are aligned to their
    size, and none crosses 4 KiB.

    A burst takes 3 cycles and a run another one, beats not counted.

    Members:
        i: runs.
        space: `In`, beats that may be asked for. A reservation must show in it within 2 cycles.
        held: `Out(1)`, there is no space for the next burst.
        reserve: `Out(1)`, the beats of the burst that is offered next (`o.p.length + 1`) are
            reserved now.
        o: bursts.
        o_next: `Out(1)`, `o.valid` of the next cycle, unless a burst is taken now.
        idle: `Out(1)`, no run is being cut.

    Attributes:
        state: one of four bits: idle, counts, checks, offers. Each enables registers as it is.
        offering: a copy of `offers` for those, which Yosys would merge without `keep`.
    """

    i: stream.Interface
    space: Signal
    held: Signal
    reserve: Signal
    o: stream.Interface
    o_next: Signal
    idle: Signal

    def __init__(
        self, config: CoreConfig, *, size_width: int, space_width: int, max_beats: int = MAX_BEATS
    ) -> None:
        check_max_beats(config, max_beats)
        self.config = config
        self.max_beats = max_beats
        self.size_width = size_width
        self.state = Signal(4, init=1, attrs={"keep": 1})
        self.offering = Signal(attrs={"keep": 1})
        super().__init__(
            {
                "i": In(stream.Signature(run_layout(config, size_width))),
                "space": In(space_width),
                "held": Out(1),
                "reserve": Out(1),
                "o": Out(stream.Signature(burst_layout(config))),
                "o_next": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count, check, offer, in turn."""
        m = Module()
        idle, counts, checks, offers = self.state
        lane_bits = exact_log2(self.config.axi_bytes)
        inner = exact_log2(self.max_beats)
        run = self.i.payload
        beat = Signal(self.config.axi_address_bits - lane_bits, reset_less=True)
        # Beats are counted less one. So whatever these hold, a burst ends at its boundary.
        more = Signal(self.size_width + 1 - lane_bits, reset_less=True)
        length = Signal(inner, reset_less=True)
        ends = Signal(reset_less=True)
        last = Signal(reset_less=True)
        # The rest reaches beyond the next boundary whatever its lower bits are.
        far = Signal(reset_less=True)
        # What the next burst begins with, if there is one.
        next_beat = Signal.like(beat, reset_less=True)
        next_more = Signal.like(more, reset_less=True)
        burst = Signal.like(beat, reset_less=True)
        to_boundary = ~beat[:inner]
        within = Signal()
        fits = Signal()
        m.d.comb += [
            self.i.ready.eq(idle),
            self.idle.eq(idle),
            self.o.valid.eq(offers),
            within.eq(~far & (more[:inner] <= to_boundary)),
            fits.eq(self.space > length),
            self.reserve.eq(checks & fits),
            self.o_next.eq((checks & fits) | offers),
            self.held.eq(checks & ~fits),
            self.o.p.address.eq(Cat(Const(0, lane_bits), burst)),
            self.o.p.length.eq(length),
            self.o.p.last.eq(ends & last),
        ]
        m.d.sync += [
            idle.eq((idle & ~self.i.valid) | (offers & self.o.ready & ends)),
            counts.eq((idle & self.i.valid) | (offers & self.o.ready & ~ends)),
            checks.eq(counts | (checks & ~fits)),
            offers.eq((checks & fits) | (offers & ~self.o.ready)),
            self.offering.eq((checks & fits) | (offers & ~self.o.ready)),
        ]
        with m.If(idle):
            low = lane_bits + inner
            last_byte = run.address[:lane_bits] + run.more[:low]
            m.d.sync += [
                beat.eq(run.address[lane_bits:]),
                more.eq((run.address[:lane_bits] + run.more) >> lane_bits),
                far.eq(last_byte[low:].any() | run.more[low:].any()),
                last.eq(run.last),
            ]
        with m.If(counts):
            m.d.sync += [length.eq(Mux(within, more, to_boundary)), ends.eq(within)]
        with m.If(checks):
            m.d.sync += [
                burst.eq(beat),
                next_beat.eq(beat + length + 1),
                next_more.eq(more - length - 1),
            ]
        with m.If(self.offering):
            m.d.sync += [beat.eq(next_beat), more.eq(next_more), far.eq(next_more[inner:].any())]
        return m
