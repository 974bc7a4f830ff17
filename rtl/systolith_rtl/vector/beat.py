"""Stages in lockstep: rows that move on together, once in many cycles."""

from types import SimpleNamespace

from amaranth.hdl import Module, Signal, Value, ValueLike

from systolith_rtl.pipeline import register


class Beat:
    """The clock that all stages share: it counts the cycles for which each of them has its row.

    A stage takes its row over from the stage before in the last cycle of a beat, and works on it
    in the next beat. Everything that steers a stage is a register, decided a cycle ahead.
    """

    def __init__(self, m: Module, *, period: int, wait_at: int) -> None:
        """Make the counter.

        Args:
            m: the module in which all of it is built.
            period: cycles of a beat.
            wait_at: the phase in which the counter stands while `waiting` is high, and begins.
        """
        self.phase = Signal(range(period), init=wait_at)
        """Number of the cycle."""

        self.last = Signal()
        """High in the last cycle."""

        self.begins = Signal(init=1)
        """High in the phase in which the counter may stand."""

        self.waiting = Signal()
        """For the user to drive: there is nothing to do."""

        self._m = m
        self._period = period
        assert 0 < wait_at < period - 2
        stands = self.waiting & self.begins
        m.d.sync += self.begins.eq((self.phase == wait_at - 1) | stands)
        m.d.sync += self.last.eq(self.phase == period - 2)
        with m.If(self.last):
            m.d.sync += self.phase.eq(0)
        with m.Elif(~stands):
            m.d.sync += self.phase.eq(self.phase + 1)

    def stage(self, name: str, before: SimpleNamespace, **members: Value) -> SimpleNamespace:
        """Make a stage: whether it has a row, and what comes to it with the row."""
        stage = SimpleNamespace(
            valid=Signal(name=f"{name}_valid"),
            loading=self.window(f"{name}_loading", before, self._period - 1, self._period),
        )
        with self._m.If(self.last):
            self._m.d.sync += stage.valid.eq(before.valid)
        for key, member in members.items():
            setattr(stage, key, self.load(stage, member, name=f"{name}_{key}"))
        return stage

    def load(self, stage: SimpleNamespace, value: ValueLike, *, name: str) -> Signal:
        """Make a register that takes `value` over from the stage before, in the last cycle."""
        return register(self._m, name, Value.cast(value), stage.loading)

    def window(
        self,
        name: str,
        stage: SimpleNamespace,
        start: int,
        stop: int,
        *,
        unless: ValueLike = 0,
    ) -> Signal:
        """Make a register that is high in the cycles from `start` to `stop - 1` of a row.

        `stage` is who has the row in the cycle before: for a start of 0, the stage before.
        """
        high = Signal(name=f"is_{name}")
        with self._m.If(self.phase == start - 1 if start else self.last):
            self._m.d.sync += high.eq(stage.valid & ~Value.cast(unless))
        with self._m.Elif(self.phase == stop - 1):
            self._m.d.sync += high.eq(0)
        return high
