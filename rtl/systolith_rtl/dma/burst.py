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
        idle: `Out(1)`, no run is being cut.
    """

    i: stream.Interface
    space: Signal
    held: Signal
    reserve: Signal
    o: stream.Interface
    idle: Signal

    def __init__(
        self, config: CoreConfig, *, size_width: int, space_width: int, max_beats: int = MAX_BEATS
    ) -> None:
        check_max_beats(config, max_beats)
        self.config = config
        self.max_beats = max_beats
        self.size_width = size_width
        super().__init__(
            {
                "i": In(stream.Signature(run_layout(config, size_width))),
                "space": In(space_width),
                "held": Out(1),
                "reserve": Out(1),
                "o": Out(stream.Signature(burst_layout(config))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count, check, offer, in turn."""
        m = Module()
        lane_bits = exact_log2(self.config.axi_bytes)
        inner = exact_log2(self.max_beats)
        run = self.i.payload
        beat = Signal(self.config.axi_address_bits - lane_bits, reset_less=True)
        # Beats are counted less one. So whatever these hold, a burst ends at its boundary.
        more = Signal(self.size_width + 1 - lane_bits, reset_less=True)
        length = Signal(inner, reset_less=True)
        ends = Signal(reset_less=True)
        last = Signal(reset_less=True)
        to_boundary = ~beat[:inner]
        within = Signal()
        m.d.comb += [
            within.eq(~more[inner:].any() & (more[:inner] <= to_boundary)),
            self.o.p.address.eq(Cat(Const(0, lane_bits), beat)),
            self.o.p.length.eq(length),
            self.o.p.last.eq(ends & last),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.i.ready.eq(1), self.idle.eq(1)]
                last_byte = (run.address[:lane_bits] + run.more)[: self.size_width + 1]
                m.d.sync += [
                    beat.eq(run.address[lane_bits:]),
                    more.eq(last_byte[lane_bits:]),
                    last.eq(run.last),
                ]
                with m.If(self.i.valid):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += [length.eq(Mux(within, more, to_boundary)), ends.eq(within)]
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(self.space > length):
                    m.d.comb += self.reserve.eq(1)
                    m.next = "OFFER"
                with m.Else():
                    m.d.comb += self.held.eq(1)
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [beat.eq(beat + length + 1), more.eq(more - length - 1)]
                    with m.If(ends):
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "COUNT"
        return m
