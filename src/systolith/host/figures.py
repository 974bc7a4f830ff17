"""The figures of a run: utilization, roofline, where the time went."""

from dataclasses import dataclass

from systolith.program import Program


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The least time a program can take, and what limits it.

    Attributes:
        compute: cycles if every MAC of the array worked in every cycle; padding not counted.
        memory: cycles to move the program, its parameters and its inputs and outputs once.
    """

    compute: float
    memory: float

    @property
    def cycles(self) -> float:
        """The larger of both."""
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        """Which of both it is."""
        return "compute" if self.compute >= self.memory else "memory"


def roofline(program: Program, bandwidth: float) -> Roofline:
    """Return the roofline of a program at a bandwidth in bytes per cycle."""
    return Roofline(
        compute=program.array_cycles,
        memory=program.dram_bytes / bandwidth if bandwidth else 0.0,
    )


def utilization(program: Program, cycles: float) -> float:
    """Share of the array's multiplier-cycles that did useful work in a run of so many cycles."""
    return program.array_cycles / cycles


def roofline_fraction(program: Program, cycles: float, bandwidth: float) -> float:
    """Share of the roofline that a run of so many cycles reached."""
    return roofline(program, bandwidth).cycles / cycles
