"""A whole core on the SDRAM controller in a simulator of cores, for the cycles that it takes."""

from dataclasses import replace
from pathlib import Path

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_boards.sdram.chip import ChipModel
from systolith_boards.sdram.simulated import SimulatedSdram
from systolith_boards.sdram.timing import SdramTiming
from systolith_rtl.core import Core
from systolith_rtl.dma.fifo import Queue
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature
from systolith_sim.toolchain import digest, generator_sources, version
from systolith_sim.verilator.design import Design

STORED_BITS = 12
"""log2 of the words that the chip model keeps: a row of each bank, for the memory test."""

AHEAD = 1024
"""Beats that the memory outside may be ahead: more than the controller accepts bursts for."""


class CoreOnSdram(wiring.Component):
    """A core whose memory port is as fast as the SDRAM, with its data from the memory outside.

    Each burst goes to the SDRAM and to the memory of the simulator; an answer is passed on once
    both have given it. So the host sees the memory as with any simulated core, and every cycle is
    that of the controller and the chip model. If the chip reports a broken rule, or the two
    memories answer in different order, the port stops for good.

    Args:
        config: the core.
        timing: the chip.
        round_trip: cycles of delay between chip and controller.

    Members:
        s_axil, m_axi, irq: as of `Core`. The memory must answer reads in order.
    """

    s_axil: wiring.PureInterface
    m_axi: wiring.PureInterface
    irq: Signal

    def __init__(self, config: CoreConfig, timing: SdramTiming, *, round_trip: int = 2) -> None:
        self.config = config
        self.timing = timing
        self.round_trip = round_trip
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature()),
                "m_axi": Out(AxiSignature(config)),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Fork what the core asks, join what it is answered."""
        m = Module()
        config, outside = self.config, self.m_axi
        m.submodules.core = core = Core(config)
        chip = ChipModel(self.timing, address_bits=STORED_BITS, round_trip=self.round_trip)
        m.submodules.memory = memory = SimulatedSdram(self.timing, config, chip=chip)
        m.submodules.beats = beats = Queue(config.axi_data_bits, depth=AHEAD)
        m.submodules.order = order = Queue(AxiSignature.ID_WIDTH + 1, depth=AHEAD)
        wiring.connect(m, wiring.flipped(self.s_axil), core.s_axil)
        m.d.comb += self.irq.eq(core.irq)
        stopped = Signal()
        inside = memory.axi
        # Both are offered what the other one accepts, so both accept it in the same cycle.
        for channel in ("ar", "aw", "w"):
            source = getattr(core.m_axi, channel)
            sinks = getattr(inside, channel), getattr(outside, channel)
            for sink, other in (sinks, sinks[::-1]):
                for name in source.signature.members:
                    if name not in ("valid", "ready"):
                        m.d.comb += getattr(sink, name).eq(getattr(source, name))
                m.d.comb += sink.valid.eq(source.valid & other.ready)
            m.d.comb += source.ready.eq(sinks[0].ready & sinks[1].ready)

        responses = Signal(8)
        answered = Signal()
        m.d.comb += [
            outside.b.ready.eq(1),
            core.m_axi.b.valid.eq(inside.b.valid & (responses != 0) & ~stopped),
            core.m_axi.b.id.eq(inside.b.id),
            core.m_axi.b.resp.eq(inside.b.resp),
            answered.eq(core.m_axi.b.valid & core.m_axi.b.ready),
            inside.b.ready.eq(answered),
        ]
        m.d.sync += responses.eq(responses + outside.b.valid - answered)

        source, target = core.m_axi.r, inside.r
        taken = Signal()
        m.d.comb += [
            outside.r.ready.eq(beats.i.ready),
            beats.i.payload.eq(outside.r.data),
            beats.i.valid.eq(outside.r.valid),
            order.i.payload.eq(outside.r.id << 1 | outside.r.last),
            order.i.valid.eq(outside.r.valid),
            source.valid.eq(target.valid & beats.o.valid & ~stopped),
            source.data.eq(beats.o.payload),
            source.id.eq(target.id),
            source.last.eq(target.last),
            source.resp.eq(target.resp),
            taken.eq(source.valid & source.ready),
            target.ready.eq(taken),
            beats.o.ready.eq(taken),
            order.o.ready.eq(taken),
        ]
        differs = taken & (order.o.payload != (target.id << 1 | target.last))
        m.d.sync += stopped.eq(stopped | memory.violations.any() | differs | memory.failed)
        return m


def core_on_sdram(config: CoreConfig, timing: SdramTiming) -> Design:
    """The design for `VerilatorDevice` and `PysimDevice`, with a chip that starts at once."""
    timing = replace(timing, startup=timing.refresh)
    files = [*generator_sources(), *sorted(Path(__file__).parent.glob("*.py"))]

    def make() -> wiring.Component:
        return CoreOnSdram(config, timing)

    key = digest(config, timing, version("amaranth"), files=files)
    name = f"sdram-core{config.rows}x{config.columns}"
    return Design(name=name, key=key, make=make, probed=False)
