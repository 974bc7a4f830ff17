"""A whole board in Verilator, at the other end of a pseudo-terminal."""

from systolith_boards.simulation.device import BoardSimulation

__all__ = ["BoardSimulation"]
