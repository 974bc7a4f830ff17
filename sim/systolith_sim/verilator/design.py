"""What a simulator is built from: a component with the core's ports, as flat RTLIL."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.lib import wiring

from systolith.config import CoreConfig
from systolith_rtl.core import Core
from systolith_rtl.export import convert
from systolith_sim.toolchain import digest, generator_sources, version


@dataclass(frozen=True, kw_only=True)
class Design:
    """A component with the ports of a core, not yet elaborated.

    Attributes:
        name: for messages, and the start of the name in the cache.
        key: changes whenever the RTL does; known without elaborating anything.
        make: constructs the component.
        probed: whether it has a probe.
        rehearsal: the core that it is, if the compiler is to see it run before it optimizes: that
            takes twice the time, and spares an eighth of every simulation.
    """

    name: str
    key: str
    make: Callable[[], wiring.Component]
    probed: bool
    rehearsal: CoreConfig | None = None


LARGE = 64
"""MACs per cycle of a core whose simulations take longer than its compilation."""


def core_design(config: CoreConfig, *, probed: bool) -> Design:
    """The core of a configuration."""

    def make() -> wiring.Component:
        return Core(config, probe=probed)

    key = digest(config, probed, version("amaranth"), files=generator_sources())
    name = f"core{config.rows}x{config.columns}"
    # Runs with a probe are comparisons, which take their time elsewhere.
    rehearsal = config if config.macs_per_cycle >= LARGE and not probed else None
    return Design(name=name, key=key, make=make, probed=probed, rehearsal=rehearsal)


def to_rtlil(component: wiring.Component, *, platform: Any = None) -> str:
    """Convert to RTLIL: module `top` with the flat port names, clock `clk`, reset `rst`."""
    return convert(component, platform=platform)
