"""Moves cells of a placed ECP5 netlist nearer to what their slowest paths go to.

nextpnr's placers end with a search for short wires, in which a long path counts little. What is
left are a few hundred paths that go to and fro across the chip, and they alone decide on the clock.
`refine` moves what lies on them, by what wires of such lengths have taken once they were routed.
"""

from systolith_sim.placement.delays import Refined
from systolith_sim.placement.packed import Packed, PlacementError
from systolith_sim.placement.refine import refine

__all__ = ["Packed", "PlacementError", "Refined", "refine"]
