"""A whole system: VexRiscv, ROM, RAM, UART, and a core on the same bus."""

from pathlib import Path
from typing import Any

from litex.build.generic_platform import GenericPlatform, Pins, Subsignal
from litex.build.io import CRG
from litex.soc.integration import export
from litex.soc.integration.soc_core import SoCCore

from systolith_boards.litex.core import add_systolith, registers_csv

NPU_ORIGIN = 0x9000_0000
"""Where the example has its core; VexRiscv does not cache anything from 0x80000000 on."""

ROM_BYTES = 64 << 10
"""For the program, at address 0."""

RAM_BYTES = 256 << 10
"""Main RAM, in which the core's buffers are."""

_IO = [
    ("clk", 0, Pins(1)),
    ("rst", 0, Pins(1)),
    (
        "serial",
        0,
        Subsignal("source_valid", Pins(1)),
        Subsignal("source_ready", Pins(1)),
        Subsignal("source_data", Pins(8)),
        Subsignal("sink_valid", Pins(1)),
        Subsignal("sink_ready", Pins(1)),
        Subsignal("sink_data", Pins(8)),
    ),
]


class ExampleSoc(SoCCore):
    """A SoC for simulation, whose UART is a stream of bytes: `serial_source_*`, `serial_sink_*`.

    Args:
        preset_name: the core.
        cpu_variant: of VexRiscv; `standard` has caches for instructions and data.
        bus_standard: `wishbone`, `axi-lite` or `axi`.
    """

    def __init__(
        self,
        *,
        preset_name: str = "tiny",
        cpu_variant: str = "standard",
        bus_standard: str = "wishbone",
    ) -> None:
        platform = GenericPlatform("none", _IO, name="soc")
        SoCCore.__init__(
            self,
            platform,
            clk_freq=int(50e6),
            ident="Systolith in a LiteX SoC",
            cpu_type="vexriscv",
            cpu_variant=cpu_variant,
            bus_standard=bus_standard,
            integrated_rom_size=ROM_BYTES,
            # Not empty, so that the Verilog reads it from soc_rom.init when it starts.
            integrated_rom_init=[0x0000_006F],
            integrated_main_ram_size=RAM_BYTES,
            uart_name="sim",
        )
        pins: Any = platform
        self.crg = CRG(pins.request("clk"), pins.request("rst"))
        add_systolith(self, preset_name=preset_name, origin=NPU_ORIGIN)


def write_soc(soc: Any, folder: Path, name: str = "npu") -> list[Path]:
    """Write what LiteX makes of a SoC, but for the BIOS, which needs its own compiler.

    csr.csv and csr.json; csr.h, mem.h, soc.h and regions.ld in `generated`; soc.v and contents of
    memories. `sources.txt` lists all Verilog, the processor's and the core's included.

    Returns:
        The Verilog files.
    """
    soc.finalize()
    generated = folder / "generated"
    generated.mkdir(parents=True, exist_ok=True)
    maps = (soc.csr_regions, soc.constants, soc.mem_regions)
    base = soc.mem_regions["csr"].origin
    files = {
        folder / "csr.csv": export.get_csr_csv(*maps) + registers_csv(soc, name),
        folder / "csr.json": export.get_csr_json(*maps),
        generated / "csr.h": export.get_csr_header(
            soc.csr_regions, soc.constants, csr_base=base, with_access_functions=False
        ),
        generated / "mem.h": export.get_mem_header(soc.mem_regions),
        generated / "soc.h": export.get_soc_header(soc.constants),
        generated / "regions.ld": export.get_linker_regions(soc.mem_regions),
    }
    for path, text in files.items():
        path.write_text(text, "utf-8")
    output = soc.platform.get_verilog(soc, name="soc")
    for path, text in output.data_files.items():
        folder.joinpath(path).write_text(text, "utf-8")
    folder.joinpath("soc.v").write_text(output.main_source, "utf-8")
    sources = [folder / "soc.v", *(Path(source[0]) for source in soc.platform.sources)]
    folder.joinpath("sources.txt").write_text("".join(f"{each}\n" for each in sources), "utf-8")
    return sources
