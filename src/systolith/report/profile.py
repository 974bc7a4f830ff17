"""What each engine does when, and what it waits for, from a program's estimate."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from systolith.compiler.estimate import Memory, Timing, estimate
from systolith.host.figures import Roofline, roofline
from systolith.host.session import Counters
from systolith.isa import Engine, Fill, Instruction, Opcode, WeightSource
from systolith.program import Program

DISPATCH = "dispatch"
"""What an engine waits for whose next instruction has not been fetched and decoded yet."""

ESTIMATE = "estimate"
"""The source of what was not measured."""

START = "start"
"""What an engine waits for that could begin, but takes its time to do so."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """An instruction in its engine.

    Attributes:
        index: of the instruction.
        instruction: what it does.
        engine: who carries it out.
        layer: of the model, or "".
        begin, end: cycles since the start; an engine's spans do not overlap.
        waited: cycles between the engine's previous span and this one.
        waited_for: an engine's name, `DISPATCH` or `START`.
        macs: unpadded multiply-accumulates.
        needed: cycles of the array for them, each tile full, at the rate of the weights' format.
        occupied: cycles that its tiles take, padding included.
        dram_bytes: over the memory port.
    """

    index: int
    instruction: Instruction
    engine: Engine
    layer: str
    begin: int
    end: int
    waited: int
    waited_for: str
    macs: int
    needed: float
    occupied: int
    dram_bytes: int


@dataclass(frozen=True, kw_only=True)
class EngineTime:
    """An engine's cycles; all of them together are the program's.

    Attributes:
        working: an instruction was in it.
        waiting: none was, by what it waited for.
        idle: after its last instruction.
        instructions: how many it carried out.
    """

    working: int
    waiting: Mapping[str, int]
    idle: int
    instructions: int


@dataclass(kw_only=True)
class LayerTime:
    """A layer of the model.

    Attributes:
        name: of the layer.
        begin, end: cycles since the start; layers overlap.
        working: cycles by engine.
        macs, needed, occupied, dram_bytes: see `Span`.
        instructions: how many.
    """

    name: str
    begin: int
    end: int
    working: dict[str, int] = field(default_factory=lambda: {each.name: 0 for each in Engine})
    macs: int = 0
    needed: float = 0.0
    occupied: int = 0
    dram_bytes: int = 0
    instructions: int = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run of the program on the core.

    Attributes:
        device: where.
        counters: what the core counted.
    """

    device: str
    counters: Counters


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A program's time.

    Attributes:
        program: whose.
        memory: what the core is connected to.
        cycles: from start to interrupt, as estimated; so are spans, engines and layers.
        measured: the same program's run on such a core, or None.
        roofline: the least that it could be.
        spans: in the order of the program.
        engines: by name.
        layers: in the order in which they begin.
    """

    program: Program
    memory: Memory
    cycles: int
    roofline: Roofline
    spans: tuple[Span, ...]
    engines: Mapping[str, EngineTime]
    layers: tuple[LayerTime, ...]
    measured: Measured | None = None

    @property
    def source(self) -> str:
        """Who says how long it takes: a device, or the estimate."""
        return ESTIMATE if self.measured is None else self.measured.device

    @property
    def taken(self) -> int:
        """Cycles from start to interrupt: measured, if they were, else estimated."""
        return self.cycles if self.measured is None else self.measured.counters.cycles

    @property
    def dram_bytes(self) -> int:
        """Bytes over the memory port, likewise."""
        if self.measured is not None:
            return self.measured.counters.dram_bytes
        return sum(span.dram_bytes for span in self.spans) + len(self.program.code)


def profile(program: Program, memory: Memory, *, measured: Measured | None = None) -> Profile:
    """Estimate a program's cycles and say who does what when; put a run beside it.

    Raises:
        DeadlockError: the program does not end.
    """
    result = estimate(program.code, program.config, memory)
    finished: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    spans = []
    for timing in result.instructions:
        engine = timing.instruction.engine
        if engine is None:
            continue
        spans.append(_span(program, timing, engine, finished))
        finished[engine].append(timing.finished)
    return Profile(
        program=program,
        memory=memory,
        cycles=result.cycles,
        roofline=roofline(program, memory.bandwidth),
        spans=tuple(spans),
        engines={engine.name: _engine(spans, engine, result.cycles) for engine in Engine},
        layers=_layers(spans),
        measured=measured,
    )


def _span(
    program: Program, timing: Timing, engine: Engine, finished: Mapping[Engine, list[int]]
) -> Span:
    instruction = timing.instruction
    before = finished[engine][-1] if finished[engine] else 0
    begin = max(timing.started, before)
    # Waits name earlier instructions, so what they wait for is in the lists already.
    awaited = {
        other: finished[other][count - 1]
        for other, count in instruction.waits.items()
        if other != engine
    }
    latest = max(awaited, key=lambda other: awaited[other], default=None)
    if latest is not None and before < awaited[latest] <= begin:
        reason = latest.name
    else:
        reason = DISPATCH if timing.ready > before else START
    tag = instruction.tag
    macs, needed, occupied = _macs(program, instruction)
    return Span(
        index=timing.index,
        instruction=instruction,
        engine=engine,
        layer=program.layers[tag] if tag < len(program.layers) else "",
        begin=begin,
        end=timing.finished,
        waited=begin - before,
        waited_for=reason,
        macs=macs,
        needed=needed,
        occupied=occupied,
        dram_bytes=_dram_bytes(instruction),
    )


def _macs(program: Program, instruction: Instruction) -> tuple[int, float, int]:
    """MACs, cycles that they need, and cycles that they take."""
    if instruction.opcode != Opcode.GEMM:
        return 0, 0.0, 0
    rows, columns = program.config.rows, program.config.columns
    m, n, k = instruction.m, instruction.n, instruction.k
    rate = 2 if instruction.b_source == WeightSource.RING_S4 else 1
    tiles = -(-n // (rate * columns)) * -(-k // rows)
    # Loading the next tile takes as many cycles as there are columns, five at least.
    return m * n * k, m * n * k / (rate * rows * columns), tiles * max(m, columns, 5)


def _dram_bytes(instruction: Instruction) -> int:
    match instruction.opcode:
        case Opcode.STREAM:
            return instruction.size
        case Opcode.LOAD if instruction.fill == Fill.ZERO:
            return 0
        case Opcode.LOAD | Opcode.STORE:
            return instruction.n0 * instruction.n1 * instruction.n2
        case _:
            return 0


def _engine(spans: list[Span], engine: Engine, cycles: int) -> EngineTime:
    own = [span for span in spans if span.engine == engine]
    waiting: dict[str, int] = defaultdict(int)
    for span in own:
        if span.waited:
            waiting[span.waited_for] += span.waited
    return EngineTime(
        working=sum(span.end - span.begin for span in own),
        waiting=dict(waiting),
        idle=cycles - (own[-1].end if own else 0),
        instructions=len(own),
    )


def _layers(spans: list[Span]) -> tuple[LayerTime, ...]:
    layers: dict[str, LayerTime] = {}
    for span in spans:
        layer = layers.setdefault(
            span.layer, LayerTime(name=span.layer, begin=span.begin, end=span.end)
        )
        layer.begin = min(layer.begin, span.begin)
        layer.end = max(layer.end, span.end)
        layer.working[span.engine.name] += span.end - span.begin
        layer.macs += span.macs
        layer.needed += span.needed
        layer.occupied += span.occupied
        layer.dram_bytes += span.dram_bytes
        layer.instructions += 1
    return tuple(sorted(layers.values(), key=lambda layer: (layer.begin, layer.end)))
