"""Bytes from any place in a beat to any place in a beat."""

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith_rtl.pipeline import Pipeline
from systolith_rtl.skid import Skid


class Realigner(wiring.Component):
    """Move runs of bytes by less than a beat, and mark which bytes of each beat are theirs.

    The source beats of a run are those that its bytes touch, and so are the beats at `o`. One
    beat per cycle; a run takes one cycle more if moving it makes it touch one more beat.

    Bytes are rotated within their beat; those that wrap around belong to the next one, so each
    result takes its lower bytes from the beat before and the upper ones from the latest.

    Members:
        run: `In`, the first byte's lane at the source and at the destination, bytes behind
            the first one, whether they are zeros instead of being read from `i`, and a tag.
        i: source beats, run after run.
        o: beats, with a strobe for each byte, whether it is the first or the last beat of its
            run, and the run's tag.
        tag: `Out`, tag of the run that takes the next beat from `i`.
        first: `Out(1)`, that beat is the run's first.
        drained: `Out(1)`, every result made so far has left.
        idle: `Out(1)`, the same, and no run is here.
    """

    run: stream.Interface
    i: stream.Interface
    o: stream.Interface
    tag: Value
    first: Signal
    drained: Signal
    idle: Signal

    def __init__(self, *, width: int, size_width: int, tag: ShapeLike = 0) -> None:
        self.width = width
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
                "tag": Out(tag),
                "first": Out(1),
                "drained": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Plan, step and rotate, merge."""
        m = Module()
        plans = self._plan(m)
        width = self.width
        ones = Const((1 << width) - 1, width)

        # A step takes a source beat or makes a result, usually both.
        plan = Signal(self._plan_layout, reset_less=True)
        steps = Signal(len(plan.more), reset_less=True)
        active = Signal()
        starts = Signal()
        fresh = Signal()
        step = Signal()
        advance = Signal()
        last = Signal(reset_less=True)
        consume = ~(last & plan.flush) & ~plan.zero
        produce = ~(starts & plan.skip)
        m.d.comb += [
            advance.eq(self.o.ready | ~self.o.valid),
            step.eq(active & advance & (self.i.valid | ~consume)),
            self.i.ready.eq(active & advance & consume),
            plans.ready.eq(~active | (step & last)),
            self.first.eq(starts),
            Value.cast(self.tag).eq(Value.cast(plan.tag)),
        ]
        with m.If(step):
            m.d.sync += [steps.eq(steps - 1), last.eq(steps == 1)]
            m.d.sync += [starts.eq(0), fresh.eq(fresh & ~produce)]
        with m.If(plans.ready):
            m.d.sync += active.eq(plans.valid)
            with m.If(plans.valid):
                m.d.sync += [
                    plan.eq(plans.payload),
                    steps.eq(plans.p.more),
                    last.eq(plans.p.more == 0),
                    starts.eq(1),
                    fresh.eq(1),
                ]

        rotated = Signal(8 * width, reset_less=True)
        wrapped = Signal(width, reset_less=True)
        strobe = Signal(width, reset_less=True)
        is_first = Signal(reset_less=True)
        is_last = Signal(reset_less=True)
        tag = Signal.like(Value.cast(plan.tag), reset_less=True)
        stepped = Signal()
        produced = Signal()
        with m.If(advance):
            m.d.sync += [stepped.eq(step), produced.eq(step & produce)]
        with m.If(step):
            head = Mux(fresh, (ones << plan.destination)[:width], ones)
            tail = Mux(last, ~(Const((1 << width) - 2, width) << plan.end)[:width], ones)
            m.d.sync += [
                rotated.eq(_rotate(Mux(plan.zero, 0, self.i.payload), plan.shift)),
                wrapped.eq(~(ones << plan.shift)[:width]),
                strobe.eq(head & tail),
                is_first.eq(fresh),
                is_last.eq(last),
                tag.eq(Value.cast(plan.tag)),
            ]

        before = Signal(8 * width, reset_less=True)
        valid = Signal()
        result = Signal(self.o.payload.shape(), reset_less=True)
        with m.If(advance):
            m.d.sync += valid.eq(produced)
            with m.If(stepped):
                m.d.sync += [
                    before.eq(rotated),
                    result.data.eq(_choose(wrapped, before, rotated)),
                    result.strobe.eq(strobe),
                    result.first.eq(is_first),
                    result.last.eq(is_last),
                    Value.cast(result.tag).eq(tag),
                ]
        m.d.comb += [
            self.o.valid.eq(valid),
            self.o.payload.eq(result),
            self.drained.eq(~(valid | stepped)),
            self.idle.eq(self.drained & ~(active | plans.valid | self._planning)),
        ]
        return m

    def _plan(self, m: Module) -> stream.Interface:
        """Work out the steps of each run, in two stages."""
        lane_bits = self.lane_bits
        run = self.run.p
        self._plan_layout = data.StructLayout(
            {
                "more": self.size_width + 2 - lane_bits,
                "skip": 1,
                "flush": 1,
                "shift": lane_bits,
                "destination": lane_bits,
                "end": lane_bits,
                "zero": 1,
                "tag": self.tag_shape,
            }
        )
        ends = stream.Signature(
            data.StructLayout(
                {
                    "target": self.size_width + 1,
                    "source": lane_bits + 1,
                    "skip": 1,
                    "shift": lane_bits,
                    "destination": lane_bits,
                    "zero": 1,
                    "tag": self.tag_shape,
                }
            )
        ).create(path=("ends",))
        pipe = Pipeline(m, i=self.run, o=ends)
        s = pipe.stage(
            "ends",
            # Last byte, counted from lane 0 of the first beat, at either side.
            target=(run.destination + run.more)[: self.size_width + 1],
            source=(run.source + run.more)[: lane_bits + 1],
            skip=run.destination < run.source,
            shift=(run.destination - run.source)[:lane_bits],
            destination=run.destination,
            zero=run.zero,
            tag=Value.cast(run.tag),
        )
        end = Signal(ends.payload.shape())
        m.d.comb += [Value.cast(end[name]).eq(getattr(s, name)) for name in end.shape().members]
        pipe.drive(end)
        self._planning = ends.valid

        # The second stage is a skid, since taking a plan depends on all that goes on behind it.
        m.submodules.plans = plans = Skid(self._plan_layout)
        last, plan = ends.p, plans.i.p
        m.d.comb += [
            plans.i.valid.eq(ends.valid),
            ends.ready.eq(plans.i.ready),
            # A run whose first beat makes no result has one step more than results.
            plan.more.eq(last.target[lane_bits:] + last.skip),
            plan.skip.eq(last.skip),
            # It has as many steps as source beats, or one more, so the lowest bits tell.
            plan.flush.eq(last.target[lane_bits] ^ last.skip ^ last.source[lane_bits]),
            plan.shift.eq(last.shift),
            plan.destination.eq(last.destination),
            plan.end.eq(last.target[:lane_bits]),
            plan.zero.eq(last.zero),
            Value.cast(plan.tag).eq(Value.cast(last.tag)),
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
