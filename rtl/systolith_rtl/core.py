"""The core: control, memories and engines behind three ports."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import Engine
from systolith.regs import State
from systolith_rtl.array.gemm import GemmEngine
from systolith_rtl.control.control import Control
from systolith_rtl.dma.dma import Dma
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature, ProbeSignature
from systolith_rtl.memory.scratchpad import Scratchpad
from systolith_rtl.reset import local_reset
from systolith_rtl.vector.engine import VectorEngine
from systolith_rtl.vector.row import RowEngine


class Core(wiring.Component):
    """A Systolith NPU.

    A host writes program and tensors into memory, sets the registers (`systolith.regs`) and
    starts; `irq` says that the program has ended.

    Args:
        config: what is built in.
        probe: whether there is a port for simulators to look inside.
        shows_state: whether there is a port that says what the core is doing.

    Members:
        s_axil: `In(AxiLiteSignature())`, registers.
        m_axi: `Out(AxiSignature(config))`, memory.
        irq: `Out(1)`, level.
        probe: `Out(ProbeSignature(config))`, only if asked for.
        state: `Out(State)`, the register `status`, only if asked for.
    """

    s_axil: wiring.PureInterface
    m_axi: wiring.PureInterface
    irq: Signal
    probe: wiring.PureInterface
    state: Signal

    def __init__(
        self, config: CoreConfig, *, probe: bool = False, shows_state: bool = False
    ) -> None:
        self.config = config
        self._probed = probe
        self._shows_state = shows_state
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature()),
                "m_axi": Out(AxiSignature(config)),
                "irq": Out(1),
                **({"probe": Out(ProbeSignature(config))} if probe else {}),
                **({"state": Out(State)} if shows_state else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire control to everything else, which it can reset."""
        m = Module()
        config = self.config
        m.submodules.control = control = Control(config)
        parts = {
            "dma": Dma(config),
            "scratchpad": Scratchpad(config),
            "gemm": GemmEngine(config),
            "vector": VectorEngine(config),
            "row": RowEngine(config),
        }
        for name, part in parts.items():
            m.submodules[name] = local_reset(m, name, control.reset_engines)(part)
        dma, scratchpad, gemm, vector, row = parts.values()

        wiring.connect(m, wiring.flipped(self.s_axil), control.s_axil)
        wiring.connect(m, wiring.flipped(self.m_axi), dma.axi)
        wiring.connect(m, control.fetch, dma.fetch)
        for engine, port in {
            Engine.STREAM: dma.stream,
            Engine.LOAD: dma.load,
            Engine.STORE: dma.store,
            Engine.GEMM: gemm.engine,
            Engine.VECTOR: vector.engine,
            Engine.ROW: row.engine,
        }.items():
            wiring.connect(m, getattr(control, engine.name.lower()), port)

        # In the scratchpad's order of priority.
        readers = [gemm.a, gemm.b, vector.x, vector.r, dma.read]
        writers = [vector.y, dma.write]
        for reader, port in zip(readers, scratchpad.read, strict=True):
            wiring.connect(m, reader, port)
        for writer, port in zip(writers, scratchpad.write, strict=True):
            wiring.connect(m, writer, port)
        wiring.connect(m, dma.ring, gemm.ring)
        wiring.connect(m, vector.drain, gemm.drain)
        wiring.connect(m, dma.side, vector.side)
        wiring.connect(m, row.rows, vector.rows)

        axi = self.m_axi
        m.d.comb += [
            self.irq.eq(control.irq),
            control.quiet.eq(dma.quiet),
            control.clashes.eq(scratchpad.clashes),
            control.read_beat.eq(axi.r.valid & axi.r.ready),
            control.write_beat.eq(axi.w.valid & axi.w.ready),
        ]
        # Whoever starts a program needs more cycles than this register.
        for name in ("place", "data", "write"):
            changed = Signal.like(getattr(control.change, name), name=f"change_{name}")
            m.d.sync += changed.eq(getattr(control.change, name))
            m.d.comb += [getattr(unit.change, name).eq(changed) for unit in (dma, vector)]

        if self._shows_state:
            m.d.comb += self.state.eq(control.state)
        if self._probed:
            m.d.comb += [
                self.probe.retired.eq(control.retired),
                self.probe.waiting.eq(control.waiting),
                self.probe.working.eq(control.working),
            ]
            for writer, probe in zip(writers, self.probe.write, strict=True):
                m.d.comb += [
                    probe.address.eq(writer.address),
                    probe.data.eq(writer.data),
                    probe.mask.eq(writer.mask),
                    probe.valid.eq(writer.valid & writer.ready),
                ]
        return m
