"""One memory port for two masters: the core, and the link."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_boards.link.master import LINK_ID
from systolith_rtl.interfaces import AxiSignature

WRITES_AHEAD = 4
"""Write addresses that may be ahead of their last beats."""


class Arbiter(wiring.Component):
    """Merges two AXI4 masters; a cycle of latency for addresses, none for anything else.

    Addresses take turns: who was served last waits if the other one wants, too. Beats of writes go
    on in the order of their addresses, and from the cycle on in which the address is offered, since
    a memory may wait for both. Responses go to who has their ID: `LINK_ID` is the link's.

    Members:
        core: `In(AxiSignature(config))`, IDs other than `LINK_ID`.
        link: `In(AxiSignature(config))`, with the ID `LINK_ID`.
        memory: `Out(AxiSignature(config))`.
    """

    core: wiring.PureInterface
    link: wiring.PureInterface
    memory: wiring.PureInterface

    def __init__(self, config: CoreConfig) -> None:
        axi = AxiSignature(config)
        super().__init__({"core": In(axi), "link": In(axi), "memory": Out(axi)})

    def elaborate(self, platform: object) -> Module:
        """Addresses through a register each, beats and responses straight through."""
        m = Module()
        core, link, memory = self.core, self.link, self.memory
        _address(m, "ar", core.ar, link.ar, memory.ar, Value.cast(1))
        self._writes(m)
        for name in ("r", "b"):
            source = getattr(memory, name)
            to_link = source.id == LINK_ID
            for target, chosen in ((getattr(core, name), ~to_link), (getattr(link, name), to_link)):
                for member in source.signature.members:
                    if member not in ("valid", "ready"):
                        m.d.comb += getattr(target, member).eq(getattr(source, member))
                m.d.comb += target.valid.eq(source.valid & chosen)
                with m.If(chosen):
                    m.d.comb += source.ready.eq(target.ready)
        return m

    def _writes(self, m: Module) -> None:
        """Remember whose address was taken, oldest lowest, until its last beat has gone."""
        core, link, memory = self.core, self.link, self.memory
        order = Signal(WRITES_AHEAD)
        level = Signal(range(WRITES_AHEAD + 1))
        taken, from_link = _address(m, "aw", core.aw, link.aw, memory.aw, level != WRITES_AHEAD)
        ended = Signal()
        for_link = order[0]
        for member in ("data", "strb", "last"):
            with m.If(for_link):
                m.d.comb += getattr(memory.w, member).eq(getattr(link.w, member))
            with m.Else():
                m.d.comb += getattr(memory.w, member).eq(getattr(core.w, member))
        for source, chosen in ((core.w, ~for_link), (link.w, for_link)):
            now = chosen & (level != 0)
            m.d.comb += source.ready.eq(memory.w.ready & now)
            with m.If(now):
                m.d.comb += memory.w.valid.eq(source.valid)
        m.d.comb += ended.eq(memory.w.valid & memory.w.ready & memory.w.last)
        m.d.sync += level.eq(level + taken - ended)
        after = Signal(WRITES_AHEAD)
        m.d.comb += after.eq(order >> ended)
        m.d.sync += order.eq(after)
        with m.If(taken), m.Switch((level - ended)[: len(level)]):
            for place in range(WRITES_AHEAD):
                with m.Case(place):
                    m.d.sync += order[place].eq(from_link)


def _address(
    m: Module,
    name: str,
    core: wiring.PureInterface,
    link: wiring.PureInterface,
    memory: wiring.PureInterface,
    room: Value,
) -> tuple[Value, Value]:
    """Merge an address channel; return whether one is taken, and whether it is the link's."""
    link_was_last = Signal(name=f"{name}_link_was_last")
    from_link = Signal(name=f"{name}_from_link")
    open_ = Signal(name=f"{name}_open")
    taken = Signal(name=f"{name}_taken")
    m.d.comb += [
        from_link.eq(link.valid & ~(core.valid & link_was_last)),
        open_.eq((~memory.valid | memory.ready) & room),
        core.ready.eq(open_ & ~from_link),
        link.ready.eq(open_ & from_link),
        taken.eq(open_ & (core.valid | link.valid)),
    ]
    with m.If(memory.ready):
        m.d.sync += memory.valid.eq(0)
    with m.If(taken):
        m.d.sync += [memory.valid.eq(1), link_was_last.eq(from_link)]
    with m.If(open_):
        for member in core.signature.members:
            if member in ("valid", "ready"):
                continue
            with m.If(from_link):
                m.d.sync += getattr(memory, member).eq(getattr(link, member))
            with m.Else():
                m.d.sync += getattr(memory, member).eq(getattr(core, member))
    return taken, from_link
