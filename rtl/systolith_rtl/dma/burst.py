"""From runs of bytes to AXI bursts."""

from amaranth.hdl import Cat, Const, Module, Signal
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

    A burst takes 3 cycles and a run another one, beats not counted. A burst takes one more if there
    is space for it, but not for the longest one.

    Members:
        i: runs.
        space: `In`, beats that may be asked for. A reservation must show in it within 2 cycles.
        plenty: `In(1)`, they are enough for the longest burst: a register's output, best.
        held: `Out(1)`, there is no space for the next burst.
        reserve: `Out(1)`, the beats of the burst that is offered next (`o.p.length + 1`) are
            reserved now.
        o: bursts.
        o_next: `Out(1)`, `o.valid` of the next cycle, unless a burst is taken now.
        idle: `Out(1)`, no run is being cut.

    Attributes:
        state: one of four bits: idle, counts, checks, offers. Each enables registers as it is.
        beat: the first beat of the next burst.
        last_beat: the run's last one, counted from the boundary before it.
        far: there is a boundary between the two.
    """

    i: stream.Interface
    space: Signal
    plenty: Signal
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
        self.beat = Signal(config.axi_address_bits - exact_log2(config.axi_bytes), reset_less=True)
        self.last_beat = Signal(exact_log2(max_beats), reset_less=True)
        self.far = Signal()
        super().__init__(
            {
                "i": In(stream.Signature(run_layout(config, size_width))),
                "space": In(space_width),
                "plenty": In(1),
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
        low = lane_bits + inner
        beat, last_beat, far = self.beat, self.last_beat, self.far
        # How many there are, and one more: added only with the first burst, since the sum of the
        # low bits, which tells of it, is a long path already.
        boundaries = Signal(self.size_width - low, reset_less=True)
        some, another = Signal(reset_less=True), Signal(reset_less=True)
        burst = Signal.like(beat, reset_less=True)
        # Beats are counted less one.
        length = Signal(inner, reset_less=True)
        ends = Signal(reset_less=True)
        last = Signal(reset_less=True)
        # Whether there is space for this burst, once it has been compared, if there is not plenty.
        checked, enough = Signal(), Signal(reset_less=True)
        fits = Signal()
        m.d.comb += [
            self.i.ready.eq(idle),
            self.idle.eq(idle),
            far.eq(some | another),
            self.o.valid.eq(offers),
            fits.eq(self.plenty | (checked & enough)),
            self.reserve.eq(checks & fits),
            self.o_next.eq((checks & fits) | offers),
            self.held.eq(checks & ~fits),
            self.o.p.address.eq(Cat(Const(0, lane_bits), burst)),
            self.o.p.length.eq(length),
            self.o.p.last.eq(ends & last),
        ]
        m.d.sync += [
            checked.eq(checks),
            enough.eq(self.space[:inner] > length),
            idle.eq((idle & ~self.i.valid) | (offers & self.o.ready & ends)),
            counts.eq((idle & self.i.valid) | (offers & self.o.ready & ~ends)),
            checks.eq(counts | (checks & ~fits)),
            offers.eq((checks & fits) | (offers & ~self.o.ready)),
        ]
        reach = Signal(low + 1)
        m.d.comb += reach.eq(run.address[:low] + run.more[:low])
        with m.If(idle):
            m.d.sync += [
                beat.eq(run.address[lane_bits:]),
                last_beat.eq(reach[lane_bits:low]),
                boundaries.eq(run.more[low:]),
                another.eq(reach[low]),
                some.eq(run.more[low:].any()),
                last.eq(run.last),
            ]
        with m.If(counts):
            m.d.sync += [
                burst.eq(beat),
                length.eq((last_beat | far.replicate(inner)) - beat[:inner]),
                ends.eq(~far),
                # Of the next burst, if there is one.
                beat.eq((beat[inner:] + 1) << inner),
                boundaries.eq(boundaries - ~another),
                another.eq(0),
                some.eq(boundaries[1:].any() | (boundaries[0] & another)),
            ]
        return m
