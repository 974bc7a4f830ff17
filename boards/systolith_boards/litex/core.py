"""The core as a module of LiteX, and what a SoC needs to have it on its bus."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from litex.gen import LiteXModule
from litex.soc.integration.soc import SoCRegion
from litex.soc.interconnect import axi
from migen import ClockSignal, Instance, ResetSignal, Signal
from migen.genlib.fifo import SyncFIFO

from systolith import regs
from systolith.config import CoreConfig, preset
from systolith.register_maps import csr_csv
from systolith_boards.exported import exported
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature

REGION_BYTES = 0x1000
"""Of the bus's address space, so that a page of memory management covers nothing else."""

BURSTS = 64
"""Bursts of reads that may be under way: more than LiteX's bridges let pass."""

ADDRESS_BITS = 32
"""Of both buses: LiteX's bridges want 32 for AXI4-Lite, and its bus has no more."""

_ADDRESS_CHANNEL = ("len", "size", "burst", "lock", "cache", "prot", "qos")
_CHANNELS = {
    "aw": _ADDRESS_CHANNEL,
    "ar": _ADDRESS_CHANNEL,
    "w": ("data", "strb", "last"),
    "r": ("data", "resp", "last"),
    "b": ("resp",),
}
"""Of the memory port, besides valid, ready and what `Systolith` makes of IDs."""

_LITE_CHANNELS = {
    "aw": ("addr",),
    "ar": ("addr",),
    "w": ("data", "strb"),
    "r": ("data", "resp"),
    "b": ("resp",),
}


class Systolith(LiteXModule):
    """The core, as Verilog, in the clock domain `sys`.

    Args:
        platform: gets the Verilog as a source.
        config: the core.
        verilog: file that `systolith verilog --module systolith` wrote for this configuration; by
            default it is exported, once, into the cache.

    Attributes:
        bus: AXI4-Lite slave, the registers.
        dma: AXI4 master, the memory. LiteX's AXI interconnects have IDs of one bit, whatever their
            ports have. So all reads have the ID 0, their answers come in order, and a queue
            knows the core's IDs.
        irq: level, high when a program has ended and the core's own enable is set.
        ev: what LiteX asks for the interrupt. The core has enable and pending bits of its own, so
            there is no EventManager, which would have them a second time.
        config: the core.
    """

    def __init__(self, platform: Any, config: CoreConfig, *, verilog: Path | None = None) -> None:
        self.config = config
        self.bus = axi.AXILiteInterface(data_width=32, address_width=ADDRESS_BITS)
        self.dma = axi.AXIInterface(
            data_width=config.axi_data_bits,
            address_width=ADDRESS_BITS,
            id_width=1,
        )
        self.irq = Signal()
        self.ev = SimpleNamespace(irq=self.irq)

        # # #

        platform.add_source(str(verilog or exported(config)))
        ports: dict[str, Any] = {
            "i_clk": ClockSignal("sys"),
            "i_rst": ResetSignal("sys"),
            "o_irq": self.irq,
        }
        for channel, names in _LITE_CHANNELS.items():
            ports |= _ports("s_axil", self.bus, channel, names, drives=channel in "rb")
        for channel, names in _CHANNELS.items():
            ports |= _ports("m_axi", self.dma, channel, names, drives=channel not in "rb")
        for channel in ("aw", "ar"):
            address = getattr(self.bus, channel).addr[: AxiLiteSignature.ADDRESS_WIDTH]
            ports[f"i_s_axil_{channel}addr"] = address
            ports[f"i_s_axil_{channel}prot"] = 0
            # Bases below 4 GiB keep the upper bits 0.
            wide = Signal(config.axi_address_bits)
            ports[f"o_m_axi_{channel}addr"] = wide
            self.comb += getattr(self.dma, channel).addr.eq(wide)
        ports |= self._identify()
        self.specials += Instance("systolith", **ports)  # pyright: ignore[reportOperatorIssue]

    def _identify(self) -> dict[str, Any]:
        """The connections of IDs, and of the handshake that waits for room in their queue."""
        read, answer = self.dma.ar, self.dma.r
        self.ids = ids = SyncFIFO(AxiSignature.ID_WIDTH, BURSTS)
        valid = Signal()
        self.comb += [  # pyright: ignore[reportOperatorIssue]
            read.valid.eq(valid & ids.writable),
            ids.we.eq(read.valid & read.ready),
            ids.re.eq(answer.valid & answer.ready & answer.last),
        ]
        return {
            "o_m_axi_arid": ids.din,
            "o_m_axi_arvalid": valid,
            "i_m_axi_arready": read.ready & ids.writable,
            "i_m_axi_rid": ids.dout,
            "i_m_axi_bid": 0,
        }


def _ports(
    prefix: str, bus: Any, channel: str, names: tuple[str, ...], *, drives: bool
) -> dict[str, Any]:
    """The connections of a channel; `drives` says that the core makes its payload."""
    endpoint = getattr(bus, channel)
    out, back = ("o", "i") if drives else ("i", "o")
    return {
        **{f"{out}_{prefix}_{channel}{name}": getattr(endpoint, name) for name in names},
        f"{out}_{prefix}_{channel}valid": endpoint.valid,
        f"{back}_{prefix}_{channel}ready": endpoint.ready,
    }


def add_systolith(
    soc: Any,
    name: str = "npu",
    *,
    preset_name: str = "tiny",
    origin: int | None = None,
    verilog: Path | None = None,
) -> Systolith:
    """Put a core on the bus of a SoC: registers, memory port, interrupt.

    The memory port becomes a master of the SoC's DMA bus, if it has one, or of its bus; LiteX
    converts width and standard. The registers are in a region `name`, the interrupt is `name`.

    Args:
        soc: not yet finalized.
        name: of module, region and interrupt.
        preset_name: the core.
        origin: of the region, in the processor's I/O space; by default LiteX finds a place.
        verilog: see `Systolith`.
    """
    module = Systolith(soc.platform, preset(preset_name), verilog=verilog)
    soc.add_module(name=name, module=module)
    region = SoCRegion(origin=origin, size=REGION_BYTES, cached=False)
    soc.bus.add_slave(name=name, slave=module.bus, region=region)
    memory = getattr(soc, "dma_bus", soc.bus)
    memory.add_master(name=f"{name}_dma", master=module.dma)
    if soc.irq.enabled:
        soc.irq.add(name, use_loc_if_exists=True)
    return module


def registers_csv(soc: Any, name: str = "npu") -> str:
    """Lines for a SoC's csr.csv: the core's registers by name, where this SoC has them.

    LiteX knows the region, not what is in it. With these lines behind its own, `RemoteClient`
    has `regs.systolith_status` and the others.
    """
    origin = soc.bus.regions[name].origin
    assert origin % regs.SPAN == 0
    lines = csr_csv(origin).splitlines()
    return "\n".join(line for line in lines if not line.startswith("constant,config_")) + "\n"
