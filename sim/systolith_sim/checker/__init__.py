"""The static checker: proves that no interleaving of the engines changes a program's result."""

from systolith_sim.checker.check import CheckError, Report, check_program

__all__ = ["CheckError", "Report", "check_program"]
