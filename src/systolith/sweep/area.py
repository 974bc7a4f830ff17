"""What a core takes of an FPGA's hard blocks, counted without synthesis."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from amaranth.hdl import Fragment

from systolith.config import CoreConfig
from systolith_rtl.core import Core
from systolith_rtl.ecp5 import Ecp5Primitives


@dataclass(frozen=True, kw_only=True)
class Area:
    """Hard blocks of ECP5.

    Attributes:
        multipliers: MULT18X18D.
        block_rams: DP16KD, 18 Kbit each.
    """

    multipliers: int
    block_rams: int


@cache
def area_of(config: CoreConfig) -> Area:
    """Elaborate a core for ECP5 and count its multipliers and block RAMs; takes seconds."""
    blocks = _Counting()
    Fragment.get(Core(config), blocks).prepare()
    return Area(multipliers=blocks.counts["MULT18X18D"], block_rams=blocks.counts["DP16KD"])


class _Counting(Ecp5Primitives):
    """Counts the instances that it gives out."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def instance(self, block: str, **connections: Any) -> Any:
        """Count and build one."""
        self.counts[block] += 1
        return super().instance(block, **connections)
