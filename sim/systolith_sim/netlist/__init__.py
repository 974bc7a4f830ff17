"""The netlist that synthesis makes of a core, simulated."""

from systolith_sim.netlist.device import NetlistDevice

__all__ = ["NetlistDevice"]
