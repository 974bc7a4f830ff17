"""Random legal programs, to hold simulators, checker and RTL to each other."""

from systolith_sim.programs.program import RandomProgram, random_program

__all__ = ["RandomProgram", "random_program"]
