"""Bytes from any place in a beat to any place in a beat."""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith_rtl.dma.fifo import Queue
from systolith_rtl.skid import Skid


class Realigner(wiring.Component):
    """Move runs of bytes by less than a beat, and mark which bytes of each beat are theirs.

    The source beats of a run are those that its bytes touch, and so are the beats at `o`. One
    beat per cycle; a run takes one cycle more if moving it makes it touch one more beat.

    Bytes are rotated within their beat; those that wrap around belong to the next one, so each
    result takes its lower bytes from the beat before and the upper ones from the latest.

    Args:
        width: bytes of a beat.
        size_width: bits of the bytes behind a run's first one.
        tag: shape of the tag.
        runs: how many may be here; without a tag, four more.

    Members:
        run: `In`, the first byte's lane at the source and at the destination, bytes behind
            the first one, whether they are zeros instead of being read from `i`, and a tag.
        i: source beats, run after run.
        o_next: `In(1)`, `o.ready` of the next cycle.
        o: beats, with a strobe for each byte, whether it is the first or the last beat of its
            run, and the run's tag.
        tag: `Out`, tag of the run that makes the next result.
        first: `Out(1)`, that beat is the run's first.
        drained: `Out(1)`, every result made so far has left.
        idle: `Out(1)`, the same, and no run is here.
    """

    run: stream.Interface
    i: stream.Interface
    o: stream.Interface
    o_next: Signal
    tag: Value
    first: Signal
    drained: Signal
    idle: Signal

    def __init__(self, *, width: int, size_width: int, tag: ShapeLike = 0, runs: int = 4) -> None:
        self.width = width
        self.runs = runs
        self.lane_bits = exact_log2(width)
        self.size_width = size_width
        self.tag_shape = tag
        run = data.StructLayout(
            {
                "source": self.lane_bits,
                "destination": self.lane_bits,
                "more": size_width,
                "zero": 1,
                "tag": tag,
            }
        )
        beat = data.StructLayout(
            {"data": 8 * width, "strobe": width, "first": 1, "last": 1, "tag": tag}
        )
        super().__init__(
            {
                "run": In(stream.Signature(run)),
                "i": In(stream.Signature(8 * width)),
                "o": Out(stream.Signature(beat)),
                "o_next": In(1),
                "tag": Out(tag),
                "first": Out(1),
                "drained": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Plan, step and rotate, merge."""
        m = Module()
        self._planning = Signal()
        self._leaves = Signal()
        self._tag = Signal(Shape.cast(self.tag_shape).width)
        plans = self._plan(m)
        width = self.width
        ones = Const((1 << width) - 1, width)

        # A step takes a source beat or makes a result, usually both.
        plan = Signal(self._plan_layout, reset_less=True)
        steps = Signal(len(plan.more), reset_less=True)
        active = Signal()
        # Whether a step that comes next is a plan's first one (`~active | last`), with a copy for
        # `consume`, which Yosys would merge without `keep`; and whether there is a step that takes
        # a source beat (`active & consume`).
        begins, turns = (
            Signal(name=name, init=1, attrs={"keep": 1}) for name in ("begins", "turns")
        )
        takes = Signal()
        starts = Signal(reset_less=True)
        fresh = Signal(reset_less=True)
        step, could = Signal(), Signal()
        stepped, produced, valid = Signal(), Signal(), Signal()
        # Whether results advance, and copies for the next plan and for all lanes. Yosys merges what
        # lacks `keep`.
        advance, planned, move = (
            Signal(name=name, init=1, attrs={"keep": 1}) for name in ("advance", "planned", "move")
        )
        advances = self.o_next | ~Mux(advance, produced, valid)
        last = Signal(reset_less=True)
        # Whether the step takes a source beat.
        consume = Signal(reset_less=True)
        produce = ~(starts & plan.skip)
        m.d.comb += [
            could.eq(advance & (self.i.valid | ~consume)),
            step.eq(active & could),
            self.i.ready.eq(takes & advance),
            plans.ready.eq(~active | (last & planned & (self.i.valid | ~consume))),
            self.first.eq(starts),
        ]
        m.d.sync += [advance.eq(advances), planned.eq(advances), move.eq(advances)]
        with m.If(~active | (could & last)):
            m.d.sync += [active.eq(plans.valid), plan.eq(plans.payload)]
        # What comes next is known before it is known whether it comes now.
        ends = Mux(turns, plans.p.single, steps == 1)
        flush = Mux(turns, plans.p.flush, plan.flush)
        zero = Mux(turns, plans.p.zero, plan.zero)
        consumes = ~((ends & flush) | zero)
        with m.If(~active | could):
            m.d.sync += [
                begins.eq(ends | (turns & ~plans.valid)),
                turns.eq(ends | (turns & ~plans.valid)),
                takes.eq(consumes & ~(turns & ~plans.valid)),
                steps.eq(Mux(begins, plans.p.more, steps - 1)),
                last.eq(ends),
                consume.eq(consumes),
                starts.eq(begins),
                fresh.eq(begins | (fresh & ~produce)),
            ]

        rotated = Signal(8 * width, reset_less=True)
        wrapped = Signal(width, reset_less=True)
        strobe = Signal(width, reset_less=True)
        is_first = Signal(reset_less=True)
        is_last = Signal(reset_less=True)
        # Without a step, anything goes here: nobody looks at it.
        with m.If(move):
            head = Mux(fresh, (ones << plan.destination)[:width], ones)
            tail = Mux(last, ~(Const((1 << width) - 2, width) << plan.end)[:width], ones)
            m.d.sync += [
                stepped.eq(step),
                produced.eq(step & produce),
                rotated.eq(_rotate(Mux(plan.zero, 0, self.i.payload), plan.shift)),
                wrapped.eq(~(ones << plan.shift)[:width]),
                strobe.eq(head & tail),
                is_first.eq(fresh),
                is_last.eq(last),
            ]

        before = Signal(8 * width, reset_less=True)
        result = Signal(self.o.payload.shape(), reset_less=True)
        with m.If(advance):
            m.d.sync += valid.eq(produced)
        with m.If(move):
            m.d.sync += [
                result.data.eq(_choose(wrapped, before, rotated)),
                result.strobe.eq(strobe),
                result.first.eq(is_first),
                result.last.eq(is_last),
                Value.cast(result.tag).eq(self._tag),
            ]
        with m.If(move & stepped):
            m.d.sync += before.eq(rotated)
        m.d.comb += [
            self._leaves.eq(advance & stepped & is_last),
            Value.cast(self.tag).eq(self._tag),
            self.o.valid.eq(valid),
            self.o.payload.eq(result),
            self.drained.eq(~(valid | stepped)),
            self.idle.eq(self.drained & ~(active | plans.valid | self._planning)),
        ]
        return m

    def _plan(self, m: Module) -> stream.Interface:
        """Work out the steps of each run, in two stages around the queue of those that wait."""
        lane_bits = self.lane_bits
        run = self.run.p
        self._plan_layout = data.StructLayout(
            {
                "more": self.size_width + 2 - lane_bits,
                "single": 1,
                "skip": 1,
                "flush": 1,
                "shift": lane_bits,
                "destination": lane_bits,
                "end": lane_bits,
                "zero": 1,
            }
        )
        layout = data.StructLayout(
            {
                "target": self.size_width + 1,
                "odd": 1,
                "source": lane_bits,
                "destination": lane_bits,
                "zero": 1,
            }
        )
        # In front of the queue, since its outputs come late enough.
        sums = Signal(layout)
        m.d.comb += [
            # Last byte, counted from lane 0 of the first beat, at either side; at the source,
            # whether it is in an odd beat.
            sums.target.eq(run.destination + run.more),
            sums.odd.eq((run.source + run.more[: lane_bits + 1])[lane_bits]),
            sums.source.eq(run.source),
            sums.destination.eq(run.destination),
            sums.zero.eq(run.zero),
        ]
        m.submodules.queue = queue = Queue(layout, depth=self.runs, trusted=True)
        waiting = queue.o
        m.d.comb += [
            queue.i.valid.eq(self.run.valid & self.run.ready),
            queue.i.payload.eq(sums),
            self.run.ready.eq(queue.i.ready),
        ]
        if len(self._tag):
            # Tags meet the results of their runs; while they are here, there is room for plans.
            m.submodules.tags = tags = Queue(len(self._tag), depth=self.runs)
            m.d.comb += [
                tags.i.valid.eq(self.run.valid),
                tags.i.payload.eq(Value.cast(run.tag)),
                self.run.ready.eq(tags.i.ready),
                self._tag.eq(tags.o.payload),
                tags.o.ready.eq(self._leaves),
            ]

        # The second stage is a skid, since taking a plan depends on all that goes on behind it.
        m.submodules.plans = plans = Skid(self._plan_layout)
        last, plan = Signal(layout, reset_less=True), plans.i.p
        skip = Signal(reset_less=True)
        shift = Signal(lane_bits, reset_less=True)
        valid = Signal()
        with m.If(plans.i.ready):
            m.d.sync += [
                last.eq(waiting.payload),
                skip.eq(waiting.p.destination < waiting.p.source),
                shift.eq(waiting.p.destination - waiting.p.source),
                valid.eq(waiting.valid),
            ]
        m.d.comb += [
            waiting.ready.eq(plans.i.ready),
            self._planning.eq(valid | waiting.valid),
            plans.i.valid.eq(valid),
            # A run whose first beat makes no result has one step more than results.
            plan.more.eq(last.target[lane_bits:] + skip),
            plan.single.eq(~(last.target[lane_bits:].any() | skip)),
            plan.skip.eq(skip),
            # It has as many steps as source beats, or one more, so the lowest bits tell.
            plan.flush.eq(last.target[lane_bits] ^ skip ^ last.odd),
            plan.shift.eq(shift),
            plan.destination.eq(last.destination),
            plan.end.eq(last.target[:lane_bits]),
            plan.zero.eq(last.zero),
        ]
        return plans.o


def _rotate(value: Value, lanes: Value) -> Value:
    """Rotate bytes towards the upper lanes."""
    for bit in range(len(lanes)):
        value = Mux(lanes[bit], value.rotate_left(8 << bit), value)
    return value


def _choose(from_first: Value, first: Value, second: Value) -> Value:
    """Choose between two values byte by byte."""
    mask = Cat(bit.replicate(8) for bit in from_first)
    return (first & mask) | (second & ~mask)
