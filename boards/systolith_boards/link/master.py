"""Single accesses over AXI: one word at a time, and a slave that never answers blocks nobody."""

from collections.abc import Callable

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature
from systolith_rtl.reset import without_reset

LINK_ID = 3
"""The link's ID on the memory port; the core has 0 to 2."""

_INCR = 1
_PRIVILEGED_DATA = 0b001


class AccessSignature(wiring.Signature):
    """One word at a time, as who wants it sees it.

    Members:
        start: carry out this access; it is taken if `free` is high in the same cycle. Address and
            data need not stay.
        free: nothing is under way.
        address: of a word, `address_width` bits.
        write: else it is a read.
        data: to be written.
        abandon: nobody waits for the answer any more: it will be dropped when it comes, unless that
            is now.
        done: for one cycle: the answer was on the bus a cycle ago, with the data of a read.
        error: with `done`: the slave's response was not OKAY.
    """

    def __init__(self, address_width: int) -> None:
        super().__init__(
            {
                "start": Out(1),
                "free": In(1),
                "address": Out(address_width),
                "write": Out(1),
                "data": Out(32),
                "abandon": Out(1),
                "done": In(1),
                "error": In(1),
            }
        )


class Master(wiring.Component):
    """What AXI4 and AXI4-Lite have in common: offer address and data, wait for the response.

    An access holds its own copy of address and data, so that whoever wanted it may go on to other
    ports when there is no answer; VALID is never withdrawn.

    Args:
        bus: signature of the bus as its master sees it.
        address_width: bits of a word's address.
        drive: gives this bus what it needs besides.

    Members:
        access: `In(AccessSignature(address_width))`.
        bus: `Out(bus)`.
    """

    access: wiring.PureInterface
    bus: wiring.PureInterface

    def __init__(
        self,
        bus: wiring.Signature,
        address_width: int,
        drive: Callable[[Module, wiring.PureInterface, Signal, Signal], None],
    ) -> None:
        self._drive = drive
        super().__init__({"access": In(AccessSignature(address_width)), "bus": Out(bus)})

    def elaborate(self, platform: object) -> Module:
        """Five flags: who still has to take or to answer, and whether somebody waits for it."""
        m = Module()
        access, bus = self.access, self.bus
        address = Signal.like(access.address, reset_less=True)
        data = Signal(32, reset_less=True)
        busy = Signal()
        unwanted = Signal()
        m.d.comb += access.free.eq(~busy)
        for channel in (bus.aw, bus.w, bus.ar):
            with m.If(channel.ready):
                m.d.sync += channel.valid.eq(0)
        with m.If(access.start & ~busy):
            m.d.sync += [
                busy.eq(1),
                unwanted.eq(0),
                address.eq(access.address),
                data.eq(access.data),
                bus.aw.valid.eq(access.write),
                bus.w.valid.eq(access.write),
                bus.ar.valid.eq(~access.write),
            ]
        m.d.comb += [bus.b.ready.eq(1), bus.r.ready.eq(1)]
        # The slave may be far away.
        without_reset(access.error)
        answered = busy & (bus.b.valid | bus.r.valid)
        with m.If(access.abandon):
            m.d.sync += unwanted.eq(1)
        with m.If(answered):
            m.d.sync += busy.eq(0)
        m.d.sync += [
            access.done.eq(answered & ~unwanted),
            access.error.eq((bus.b.valid & (bus.b.resp != 0)) | (bus.r.valid & (bus.r.resp != 0))),
        ]
        self._drive(m, bus, address, data)
        return m


def lite_master() -> Master:
    """A master for registers; addresses count words."""

    def drive(m: Module, bus: wiring.PureInterface, address: Signal, data: Signal) -> None:
        for channel in (bus.aw, bus.ar):
            m.d.comb += [channel.addr.eq(address << 2), channel.prot.eq(_PRIVILEGED_DATA)]
        m.d.comb += [bus.w.data.eq(data), bus.w.strb.eq(-1)]

    return Master(AxiLiteSignature(), AxiLiteSignature.ADDRESS_WIDTH - 2, drive)


def memory_master(config: CoreConfig) -> Master:
    """A master for memory: bursts of one beat, of which one word is written or read."""
    beat_words = config.axi_bytes // 4
    lane_bits = (beat_words - 1).bit_length()

    def drive(m: Module, bus: wiring.PureInterface, address: Signal, data: Signal) -> None:
        lane = address[:lane_bits]
        for channel in (bus.aw, bus.ar):
            m.d.comb += [
                channel.id.eq(LINK_ID),
                channel.addr.eq(address[lane_bits:] << 2 + lane_bits),
                channel.size.eq((config.axi_bytes - 1).bit_length()),
                channel.burst.eq(_INCR),
                # Normal memory, neither cached nor buffered: an answer means that it is there.
                channel.cache.eq(0b0010),
                channel.prot.eq(_PRIVILEGED_DATA),
            ]
        m.d.comb += [
            bus.w.data.eq(data.replicate(beat_words)),
            bus.w.strb.eq(0b1111 << (lane << 2)),
            bus.w.last.eq(1),
        ]

    return Master(AxiSignature(config), 30, drive)
