"""Resets near what they reset: a net from end to end of the chip would limit the clock."""

from typing import Any

from amaranth.hdl import Module, ResetInserter, Signal, Value


class LocalReset(ResetInserter):
    """Reset the registers of an elaboratable by a signal instead of by the reset of their domain.

    Amaranth's own inserter adds to the domain's reset, which then still reaches every register and
    joins the signal in a gate in front of them. Here it does not: the signal must become high by
    the domain's reset, and have been for a cycle before anybody relies on what it resets.
    """

    def _insert_control(self, fragment: Any, domain: str, lhs_masks: Any) -> None:
        super()._insert_control(fragment, domain, lhs_masks)
        for signal, _, _ in lhs_masks.chunks():
            signal._reset_less = True


def local_reset(m: Module, name: str, reset: Value) -> LocalReset:
    """Return an inserter of a copy of `reset`, a cycle late and high after the domain's reset."""
    # Else Yosys makes one register of all copies.
    copy = Signal(name=f"{name}_reset", init=1, attrs={"keep": 1})
    m.d.sync += copy.eq(reset)
    return LocalReset(copy)


def without_reset(*ports: Any) -> None:
    """Let registers that are ports keep what they have when the unit is reset.

    A signal can say so when it is made, but a signature makes those of ports. For data that a
    valid bit goes with: what is reset shares no tile of the chip with what is not, and loads a net
    that goes everywhere.
    """
    for port in ports:
        signal = Value.cast(port)
        assert isinstance(signal, Signal)
        signal._reset_less = True
