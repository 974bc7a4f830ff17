"""Cores compiled by Verilator."""

from systolith_sim.verilator.design import Design, core_design
from systolith_sim.verilator.device import VerilatorDevice

__all__ = ["Design", "VerilatorDevice", "core_design"]
