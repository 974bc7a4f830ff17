"""One memory port for two masters: the core, and the link."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_boards.link.master import LINK_ID
from systolith_rtl.interfaces import AxiSignature
from systolith_rtl.reset import without_reset

WRITES_AHEAD = 4
"""Write addresses that may be ahead of their last beats."""


class Arbiter(wiring.Component):
    """Merges two AXI4 masters; a cycle of latency for addresses, none for anything else.

    Addresses take turns, and none of both masters waits for two of the other one; the link's turn
    comes a cycle after it asks. Beats of writes go on in the order of their addresses, and from the
    cycle on in which the address is offered, since a memory may wait for both. Responses go to who
    has their ID: `LINK_ID` is the link's.

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
        _address(m, "ar", core.ar, link.ar, memory.ar, Const(1))
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
        """Remember whose address was taken, oldest first, until its last beat has gone."""
        core, link, memory = self.core, self.link, self.memory
        # The oldest one is the core's, or the link's; whether there are more, and whose.
        core_now, link_now = Signal(), Signal()
        more = Signal(WRITES_AHEAD - 1)
        of_link = Signal(WRITES_AHEAD - 1, reset_less=True)
        taken, from_link = _address(m, "aw", core.aw, link.aw, memory.aw, ~more[-1])
        ended = Signal()
        for member in ("data", "strb", "last"):
            with m.If(link_now):
                m.d.comb += getattr(memory.w, member).eq(getattr(link.w, member))
            with m.Else():
                m.d.comb += getattr(memory.w, member).eq(getattr(core.w, member))
        m.d.comb += [
            memory.w.valid.eq((core.w.valid & core_now) | (link.w.valid & link_now)),
            core.w.ready.eq(memory.w.ready & core_now),
            link.w.ready.eq(memory.w.ready & link_now),
            ended.eq(memory.w.valid & memory.w.ready & memory.w.last),
        ]
        some = core_now | link_now
        oldest = Mux(ended, more[0], some)
        whose = Mux(ended, Mux(more[0], of_link[0], from_link), Mux(some, link_now, from_link))
        m.d.sync += [
            core_now.eq((oldest | taken) & ~whose),
            link_now.eq((oldest | taken) & whose),
        ]
        # A place that is not taken remembers anything.
        fewer, before = Cat(more[1:], 0), Cat(some, more)
        m.d.sync += more.eq(Mux(ended, Mux(taken, more, fewer), Mux(taken, before[:-1], more)))
        for place, (mine, next_one) in enumerate(
            zip(of_link, [*of_link[1:], from_link], strict=True)
        ):
            stays = Mux(more[place], mine, from_link)
            follows = Mux(fewer[place], next_one, from_link)
            m.d.sync += mine.eq(Mux(ended, follows, stays))


def _address(
    m: Module,
    name: str,
    core: wiring.PureInterface,
    link: wiring.PureInterface,
    memory: wiring.PureInterface,
    room: Value,
) -> tuple[Value, Value]:
    """Merge an address channel; return whether one is taken, and whether it is the link's."""
    # Decided a cycle ahead, so that no master's `ready` depends on its `valid`.
    link_turn = Signal(name=f"{name}_link_turn")
    free = Signal(name=f"{name}_free")
    open_ = Signal(name=f"{name}_open")
    taken = Signal(name=f"{name}_taken")
    m.d.comb += [
        free.eq(~memory.valid | memory.ready),
        open_.eq(free & room),
        core.ready.eq(open_ & ~link_turn),
        link.ready.eq(open_ & link_turn),
        taken.eq(open_ & Mux(link_turn, link.valid, core.valid)),
    ]
    m.d.sync += [
        memory.valid.eq(taken | ~free),
        link_turn.eq(Mux(link_turn, ~open_, link.valid & (~core.valid | open_))),
    ]
    for member in core.signature.members:
        if member in ("valid", "ready"):
            continue
        target = getattr(memory, member)
        without_reset(target)
        with m.If(free):
            m.d.sync += target.eq(Mux(link_turn, getattr(link, member), getattr(core, member)))
    return taken, link_turn
