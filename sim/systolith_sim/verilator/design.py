"""What a simulator is built from: a component with the core's ports, as flat RTLIL."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.hdl import Value, ValueCastable
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from systolith.config import CoreConfig
from systolith_sim.toolchain import digest, generator_sources, version


@dataclass(frozen=True, kw_only=True)
class Design:
    """A component with the ports of a core, not yet elaborated.

    Attributes:
        name: for messages, and the start of the name in the cache.
        key: changes whenever the RTL does; known without elaborating anything.
        make: constructs the component.
        probed: whether it has a probe.
    """

    name: str
    key: str
    make: Callable[[], wiring.Component]
    probed: bool


def core_design(config: CoreConfig, *, probed: bool) -> Design:
    """The core of a configuration."""

    def make() -> wiring.Component:
        from systolith_rtl.core import Core

        return Core(config, probe=probed)

    key = digest(config, probed, version("amaranth"), files=generator_sources())
    name = f"core{config.rows}x{config.columns}"
    return Design(name=name, key=key, make=make, probed=probed)


def flat_ports(component: wiring.Component) -> dict[str, tuple[Value, PortDirection]]:
    """The ports of a component by the names of its Verilog.

    The last two parts of a bus's path are one word, as AXI's users know it: `m_axi_arvalid`,
    `s_axil_awaddr`; an array's index ends its name: `probe_write0_address`.
    """
    ports = dict[str, tuple[Value, PortDirection]]()
    for path, member, port in component.signature.flatten(component):
        value = port.as_value() if isinstance(port, ValueCastable) else port
        direction = PortDirection.Input if member.flow == In else PortDirection.Output
        ports[flat_name(tuple(map(str, path)))] = Value.cast(value), direction
    return ports


def flat_name(path: tuple[str, ...]) -> str:
    """The name of a port of the Verilog."""
    if path[0] in ("s_axil", "m_axi"):
        return f"{path[0]}_{''.join(path[1:])}"
    return re.sub(r"_(\d+)(?=_|$)", r"\1", "_".join(path))


def to_rtlil(component: wiring.Component, *, platform: Any = None) -> str:
    """Convert to RTLIL: module `top` with the flat port names, clock `clk`, reset `rst`."""
    ports = flat_ports(component)
    return drop_zeros(rtlil.convert(component, platform=platform, ports=ports, emit_src=False))


_MEMINIT = re.compile(r"^  cell \$meminit_v2 .*?\n  end\n", re.MULTILINE | re.DOTALL)


def drop_zeros(text: str) -> str:
    """Remove initial contents of memories that are zero throughout.

    Amaranth writes out every bit of every memory; simulators start at zero anyway, and Yosys and
    Verilator take minutes over it.
    """

    def replace(match: re.Match[str]) -> str:
        _, _, data = match[0].partition("connect \\DATA ")
        _, _, bits = data.partition("\n")[0].partition("'")
        return "" if bits and not bits.strip("0") else match[0]

    return _MEMINIT.sub(replace, text)
