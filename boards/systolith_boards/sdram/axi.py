"""The AXI4 port: addresses, data and responses in queues on the way to and from segments."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_boards.sdram.segments import Cutter, Geometry
from systolith_rtl.dma.fifo import Queue
from systolith_rtl.dma.read import INCR
from systolith_rtl.interfaces import AxiSignature

OUTSTANDING = 16
"""Bursts in each direction whose last response has not been accepted."""

OKAY, SLAVE_ERROR = 0, 2
"""Responses."""


class AxiPort(wiring.Component):
    """An AXI4 slave that turns bursts into segments.

    Reads are answered in order, and so are writes; a read that is accepted after the response of
    a write sees it. Bursts are INCR with beats as wide as the bus; others, and those outside of
    the chip, are answered with SLVERR and do nothing. A burst must not cross the chip's end.

    Members:
        axi: the port.
        enable: `In(1)`, accept addresses and data.
        reads, writes: segments that can be finished without the master.
        data, strobe: `Out`, the next beat to write,
        take: `In(1)`, which is written in this cycle, if there is one;
        written: `In(1)`, a cycle later: it was the last one of its burst.
        beat: `In`, a beat that was read,
        beat_valid: `In(1)`, in this cycle.
    """

    axi: wiring.PureInterface
    enable: Signal
    reads: stream.Interface
    writes: stream.Interface
    data: Signal
    strobe: Signal
    take: Signal
    written: Signal
    beat: Signal
    beat_valid: Signal

    def __init__(self, config: CoreConfig, geometry: Geometry) -> None:
        self.config = config
        self.geometry = geometry
        segment = stream.Signature(geometry.segment_layout)
        super().__init__(
            {
                "axi": In(AxiSignature(config)),
                "enable": In(1),
                "reads": Out(segment),
                "writes": Out(segment),
                "data": Out(config.axi_data_bits),
                "strobe": Out(config.axi_bytes),
                "take": In(1),
                "written": In(1),
                "beat": In(config.axi_data_bits),
                "beat_valid": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Two halves that know nothing of each other."""
        m = Module()
        self._reads(m)
        self._writes(m)
        return m

    def _accept(
        self, m: Module, name: str, channel: wiring.PureInterface, answer: StructLayout
    ) -> tuple[Queue, Cutter]:
        """Put a channel's addresses into a queue for the cutter and one for the answers."""
        geometry, config = self.geometry, self.config
        lanes = exact_log2(config.axi_bytes)
        m.submodules[f"{name}_bursts"] = bursts = Queue(geometry.burst_layout, depth=OUTSTANDING)
        m.submodules[f"{name}_answers"] = answers = Queue(answer, depth=OUTSTANDING)
        m.submodules[f"{name}_cutter"] = cutter = Cutter(geometry)
        outside = channel.addr[lanes + geometry.address_bits :].any()
        error = outside | (channel.burst != INCR) | (channel.size != lanes)
        # Every burst that waits for the cutter waits for its answer too.
        accept = channel.valid & channel.ready
        m.d.comb += [
            channel.ready.eq(answers.i.ready & self.enable),
            bursts.i.valid.eq(accept),
            bursts.i.p.address.eq(channel.addr[lanes:]),
            bursts.i.p.length.eq(channel.len),
            bursts.i.p.error.eq(error),
            answers.i.valid.eq(accept),
            answers.i.p.id.eq(channel.id),
            answers.i.p.error.eq(error),
        ]
        wiring.connect(m, bursts.o, cutter.i)
        return answers, cutter

    def _count(self, m: Module, name: str, cutter: Cutter, *, moved: Signal, init: int) -> None:
        """Keep the cutter's `space`: one more a cycle after `moved`, fewer after a claim."""
        space = Signal(cutter.space.shape(), name=name, init=init)
        change = Signal(signed(len(cutter.claimed) + 1), name=f"{name}_change")
        m.d.comb += cutter.space.eq(space)
        # The sum of what may be claimed is there before anybody knows whether it is.
        less, least = (Signal.like(change, name=f"{name}_{each}") for each in ("less", "least"))
        with m.Switch(cutter.claimed):
            for claimed in range(1, 1 << len(cutter.claimed)):
                with m.Case(claimed):
                    m.d.comb += [less.eq(1 - claimed), least.eq(-claimed)]
        m.d.sync += [
            change.eq(Mux(cutter.claim, Mux(moved, less, least), moved)),
            space.eq(space + change),
        ]

    def _reads(self, m: Module) -> None:
        """AR and R."""
        geometry, axi = self.geometry, self.axi
        layout = {"id": AxiSignature.ID_WIDTH, "error": 1, "length": 8}
        answers, cutter = self._accept(m, "read", axi.ar, StructLayout(layout))
        m.submodules.beats = beats = Queue(self.config.axi_data_bits, depth=geometry.depth)
        burst = Signal(answers.o.payload.shape(), reset_less=True)
        answering = Signal()
        left = Signal()
        ends = burst.length == 0
        m.d.comb += [
            answers.i.p.length.eq(axi.ar.len),
            beats.i.payload.eq(self.beat),
            beats.i.valid.eq(self.beat_valid),
            beats.o.ready.eq(axi.r.ready & answering),
            axi.r.valid.eq(beats.o.valid & answering),
            axi.r.data.eq(beats.o.payload),
            axi.r.id.eq(burst.id),
            axi.r.resp.eq(burst.error << exact_log2(SLAVE_ERROR)),
            axi.r.last.eq(ends),
            left.eq(axi.r.valid & axi.r.ready),
            answers.o.ready.eq(~answering),
        ]
        self._count(m, "space", cutter, moved=left, init=geometry.depth)
        with m.If(~answering):
            m.d.sync += [burst.eq(answers.o.payload), answering.eq(answers.o.valid)]
        with m.Elif(left):
            m.d.sync += [burst.length.eq(burst.length - 1), answering.eq(~ends)]
        wiring.connect(m, cutter.o, wiring.flipped(self.reads))

    def _writes(self, m: Module) -> None:
        """AW, W and B."""
        config, geometry, axi = self.config, self.geometry, self.axi
        layout = {"id": AxiSignature.ID_WIDTH, "error": 1}
        answers, cutter = self._accept(m, "write", axi.aw, StructLayout(layout))
        beat = StructLayout({"data": config.axi_data_bits, "strobe": config.axi_bytes})
        m.submodules.words = words = Queue(beat, depth=geometry.depth)
        done = Signal(range(OUTSTANDING + 1))
        came = Signal()
        answered = Signal()
        m.d.comb += [
            axi.w.ready.eq(words.i.ready & self.enable),
            came.eq(axi.w.valid & axi.w.ready),
            words.i.valid.eq(came),
            words.i.p.data.eq(axi.w.data),
            words.i.p.strobe.eq(axi.w.strb),
            self.data.eq(words.o.p.data),
            self.strobe.eq(words.o.p.strobe),
            words.o.ready.eq(self.take),
            axi.b.valid.eq(done != 0),
            axi.b.id.eq(answers.o.p.id),
            axi.b.resp.eq(answers.o.p.error << exact_log2(SLAVE_ERROR)),
            answered.eq(axi.b.valid & axi.b.ready),
            answers.o.ready.eq(answered),
        ]
        self._count(m, "available", cutter, moved=came, init=0)
        m.d.sync += done.eq(done + self.written - answered)
        wiring.connect(m, cutter.o, wiring.flipped(self.writes))
