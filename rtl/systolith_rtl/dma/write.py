"""The write half of the AXI master: bursts of one writer, in order."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_rtl.dma.burst import MAX_BEATS, burst_layout
from systolith_rtl.dma.fifo import Queue
from systolith_rtl.dma.read import INCR, NORMAL_MEMORY
from systolith_rtl.interfaces import AxiSignature
from systolith_rtl.skid import Skid

MAX_BURSTS = 16
"""Write bursts without their response."""


class WriteChannel(wiring.Component):
    """Raise AW for each burst, send its beats, and report its response.

    Beats of a burst are sent as soon as AW is raised, so the memory may wait for either. Once
    `stopped`, the beats that are owed carry no byte; the writer must offer no more bursts.

    Members:
        aw, w, b: `Out`, AXI.
        burst: what to write; an offer may be withdrawn.
        beat: its beats, data and strobes; an offer may be withdrawn once `stopped`.
        beat_next: `Out(1)`, `beat.ready` of the next cycle.
        stopped: `In(1)`.
        held: `Out(1)`, no beat is taken because AW, W or too many owed responses are in the way.
        sending: `Out(1)`, not all beats of the bursts have been taken.
        done: `Out(1)`, the response of the oldest burst is in:
        done_last: it ends an instruction;
        done_error: it was not OKAY;
        done_address: the burst's address.
        active: `Out(1)`, beats or responses are owed, or AW is raised.
    """

    aw: wiring.PureInterface
    w: wiring.PureInterface
    b: wiring.PureInterface
    burst: stream.Interface
    beat: stream.Interface
    beat_next: Signal
    stopped: Signal
    held: Signal
    sending: Signal
    done: Signal
    done_last: Signal
    done_error: Signal
    done_address: Signal
    active: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        axi = AxiSignature(config).members
        beat = data.StructLayout({"data": config.axi_data_bits, "strobe": config.axi_bytes})
        super().__init__(
            {
                "aw": axi["aw"],
                "w": axi["w"],
                "b": axi["b"],
                "burst": In(stream.Signature(burst_layout(config))),
                "beat": In(stream.Signature(beat)),
                "beat_next": Out(1),
                "stopped": In(1),
                "held": Out(1),
                "sending": Out(1),
                "done": Out(1),
                "done_last": Out(1),
                "done_error": Out(1),
                "done_address": Out(config.axi_address_bits),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """AW, W and B, with queues of what they owe each other."""
        m = Module()
        config = self.config
        lane_bits = exact_log2(config.axi_bytes)
        m.submodules.lengths = lengths = Queue(
            data.StructLayout({"length": range(MAX_BEATS), "single": 1}),
            depth=MAX_BURSTS,
            trusted=True,
        )
        m.submodules.owed = owed = Queue(
            data.StructLayout({"address": config.axi_address_bits - lane_bits, "last": 1}),
            depth=MAX_BURSTS,
            trusted=True,
        )
        aw, burst = self.aw, self.burst
        # A copy for the payload, which Yosys would merge without `keep`.
        raised, busy = (Signal(name=name, attrs={"keep": 1}) for name in ("raised", "busy"))
        address = Signal(config.axi_address_bits, reset_less=True)
        length = Signal(8, reset_less=True)
        start = Signal()
        m.d.comb += [
            # A burst is owed from here on, though its AW is raised in the next cycle. Its length is
            # among those that are owed, so there is room for it.
            start.eq(burst.valid & burst.ready),
            burst.ready.eq(~raised & owed.i.ready),
            owed.i.valid.eq(start),
            owed.i.p.address.eq(burst.p.address[lane_bits:]),
            owed.i.p.last.eq(burst.p.last),
            lengths.i.valid.eq(start),
            lengths.i.p.length.eq(burst.p.length),
            lengths.i.p.single.eq(burst.p.length == 0),
            aw.valid.eq(raised),
            aw.addr.eq(address),
            aw.len.eq(length),
            aw.size.eq(exact_log2(config.axi_bytes)),
            aw.burst.eq(INCR),
            aw.cache.eq(NORMAL_MEMORY),
        ]
        with m.If(~busy):
            m.d.sync += [address.eq(burst.p.address), length.eq(burst.p.length)]
        m.d.sync += [signal.eq(start | (raised & ~aw.ready)) for signal in (raised, busy)]

        self._send_beats(m, lengths)

        answered = Signal()
        error = Signal(reset_less=True)
        m.d.sync += [answered.eq(self.b.valid), error.eq(self.b.resp != 0)]
        m.d.comb += [
            self.b.ready.eq(1),
            owed.o.ready.eq(answered),
            self.done.eq(answered),
            self.done_error.eq(error),
            self.done_last.eq(owed.o.p.last),
            self.done_address.eq(Cat(Const(0, lane_bits), owed.o.p.address)),
            self.active.eq(~owed.empty),
        ]
        return m

    def _send_beats(self, m: Module, lengths: Queue) -> None:
        """Count the beats of each burst into a `Skid`."""
        config, w = self.config, self.w
        layout = data.StructLayout(
            {"data": config.axi_data_bits, "strobe": config.axi_bytes, "last": 1}
        )
        m.submodules.beats = skid = Skid(layout)
        in_burst = Signal()
        left = Signal(range(MAX_BEATS), reset_less=True)
        # None is left behind the next one.
        ends = Signal(reset_less=True)
        # A register that is `in_burst & skid.i.ready`.
        takes = Signal(attrs={"keep": 1})
        fills = self.beat.valid | self.stopped
        send = takes & fills
        sent = takes & ends & fills
        m.d.comb += [
            skid.i.p.data.eq(self.beat.p.data),
            skid.i.p.strobe.eq(Mux(self.stopped, 0, self.beat.p.strobe)),
            skid.i.p.last.eq(ends),
            skid.i.valid.eq(in_burst & fills),
            self.beat.ready.eq(takes),
            self.held.eq(
                self.beat.valid & Mux(in_burst, ~skid.i.ready, self.burst.valid & ~self.burst.ready)
            ),
            self.sending.eq(in_burst | lengths.o.valid),
            lengths.o.ready.eq(~in_burst | sent),
            w.data.eq(skid.o.p.data),
            w.strb.eq(skid.o.p.strobe),
            w.last.eq(skid.o.p.last),
            w.valid.eq(skid.o.valid),
            skid.o.ready.eq(w.ready),
        ]
        # What comes next is known before it is known whether it comes now.
        begins = ~in_burst | ends
        in_burst_next = (in_burst & ~sent) | lengths.o.valid
        m.d.comb += self.beat_next.eq(in_burst_next & skid.i_next)
        m.d.sync += [in_burst.eq(in_burst_next), takes.eq(self.beat_next)]
        with m.If(~in_burst | send):
            m.d.sync += [
                left.eq(Mux(begins, lengths.o.p.length, left - 1)),
                ends.eq(Mux(begins, lengths.o.p.single, left == 1)),
            ]
