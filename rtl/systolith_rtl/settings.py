"""What the host sets for engines to look up: bases, limits and scalars, in LUT RAM beside each.

As registers, they would be a thousand bits that go everywhere, through a multiplexer at every end.
"""

from collections.abc import Sequence

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.isa import BASES, SCALARS

MEMORIES = 2
"""LUT RAMs that a copy of the settings is made of: bases and limits, high words and scalars."""

DEPTH = 16
"""Words of one: what a LUT RAM of ECP5 has."""

BASE, LIMIT = 0, BASES
"""Where bases (low words) and limits are in the first memory."""

BASE_HIGH, SCALAR = 0, BASES
"""Where high words of bases and scalars are in the second memory."""

PLACES = {
    **{f"base{index}_lo": BASE + index for index in range(BASES)},
    **{f"limit{index}": LIMIT + index for index in range(BASES)},
    **{f"base{index}_hi": DEPTH + BASE_HIGH + index for index in range(BASES)},
    **{f"scalar{index}": DEPTH + SCALAR + index for index in range(SCALARS)},
}
"""Settings by the names of their registers, in both memories counted as one."""


class SettingSignature(wiring.Signature):
    """A change of a setting, as its source sees it: `write` has a bit for each byte."""

    def __init__(self) -> None:
        super().__init__({"place": Out(range(MEMORIES * DEPTH)), "data": Out(32), "write": Out(4)})


class LookupSignature(wiring.Signature):
    """A look into one of the memories, as the reader sees it: `value` in the same cycle."""

    def __init__(self) -> None:
        super().__init__({"place": Out(range(DEPTH)), "value": In(32)})


class Settings(wiring.Component):
    """A copy of the settings.

    Args:
        readers: for each reader, which memory it looks into.

    Members:
        change: `In(SettingSignature())`; seen from the next cycle on.
        read: `In(LookupSignature()).array(len(readers))`.

    Attributes:
        memories: those that somebody reads, for test benches to fill.
    """

    change: wiring.PureInterface
    read: Sequence[wiring.PureInterface]

    def __init__(self, readers: Sequence[int]) -> None:
        self._readers = tuple(readers)
        self.memories = {
            number: Memory(shape=32, depth=DEPTH, init=[]) for number in sorted({*readers})
        }
        super().__init__(
            {
                "change": In(SettingSignature()),
                "read": In(LookupSignature()).array(len(self._readers)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Write them all alike."""
        m = Module()
        change = self.change
        for number, memory in self.memories.items():
            m.submodules[f"memory{number}"] = memory
            port = memory.write_port(granularity=8)
            m.d.comb += [
                port.addr.eq(change.place),
                port.data.eq(change.data),
                port.en.eq(change.write & (change.place[-1] == number).replicate(4)),
            ]
        for number, reader in zip(self._readers, self.read, strict=True):
            port = self.memories[number].read_port(domain="comb")
            m.d.comb += [port.addr.eq(reader.place), reader.value.eq(port.data)]
        return m
