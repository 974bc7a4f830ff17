"""Transfers between scratchpad and memory that the compiler adds to a graph's operators."""

from dataclasses import dataclass

from systolith.compiler.qgraph import Operator


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Bring a tensor, or what part of one it is, in from memory.

    Attributes:
        out: the tensor, in the scratchpad.
        name: of the same in the cut graph.
        origin: the part that made it: it says in which bank it belongs.
    """

    out: str
    name: str
    origin: str = ""
    layer: str = ""
    part: str = "fetch"


@dataclass(frozen=True, kw_only=True)
class Spill:
    """Put a tensor into memory, from where it will be fetched.

    Attributes:
        x: the tensor, as the operator made it.
    """

    x: str
    layer: str = ""
    part: str = "spill"


Step = Operator | Fetch | Spill
"""What a program is emitted from."""
