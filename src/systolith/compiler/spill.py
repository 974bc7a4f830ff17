"""Which tensors leave the scratchpad when, and when they come back.

Operators are gone through in order, with a budget of granules. What an operator needs and is not
there is fetched; what has no room makes the tensor leave that is needed last. A tensor that
leaves is stored where it was made, once: so leaving takes no time. Fetches come as far ahead as
the array needs to hide them, if what is needed in between leaves room.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeGuard

from systolith.compiler.allocate import (
    CapacityError,
    element_bytes,
    lifetimes,
    name_of,
    reads,
    share,
    storage,
    written,
)
from systolith.compiler.blocks import CutGraph
from systolith.compiler.moves import Fetch, Spill, Step
from systolith.compiler.qgraph import (
    Epilogue,
    Exp,
    Input,
    Lookup,
    Map,
    Matmul,
    Operator,
    Output,
    QGraph,
    View,
)
from systolith.config import CoreConfig

CYCLES_PER_BYTE = 1.0
"""How far ahead of its use a fetch begins, by its size: weights share the memory port."""

LEAST_LEAD = 2000
"""Cycles that a fetch of any size is ahead: it may wait for a store, and others for it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A cut graph with its transfers.

    Attributes:
        graph: its tensors: a tensor that comes back has another name every time.
        steps: its operators, with fetches and spills between them.
        fetched: bytes that come back from memory, inputs not counted.
        stored: bytes that go there.
    """

    graph: QGraph
    steps: tuple[Step, ...]
    fetched: int
    stored: int


def plan_spills(cut: CutGraph, config: CoreConfig, budget: int) -> Plan:
    """Decide what lies in the scratchpad when.

    Args:
        cut: the graph.
        config: the core.
        budget: granules that may be in use.

    Raises:
        CapacityError: what one operator needs is more, or what cannot leave.
    """
    return _Planner(cut, config, budget).run()


class _Planner:
    def __init__(self, cut: CutGraph, config: CoreConfig, budget: int) -> None:
        self._cut = cut
        self._config = config
        self._budget = budget
        self._tensors = dict(cut.graph.tensors)
        self._operators = operators = cut.graph.operators
        self._reads = [list(dict.fromkeys(map(name_of, reads(each)))) for each in operators]
        # Inputs are in memory: that is where they come from, whenever they are needed.
        self._writes = [None if _is_fetched(each) else written(each) for each in operators]
        self._inputs = {each.out for each in operators if _is_fetched(each)}
        self._spans = lifetimes(operators)
        self._uses: dict[str, list[int]] = {}
        self._origins: dict[str, str] = {}
        for position, operator in enumerate(operators):
            for name in {*self._reads[position], *_some(self._writes[position])}:
                self._uses.setdefault(name, []).append(position)
            for name in _some(self._writes[position]):
                self._origins[name] = getattr(operator, "part", "")
        self._over = self._replaced(share(cut.graph, operators, self._spans))
        self._sizes = self._make_sizes()
        self._ready = self._make_ready()
        self._fixed = self._make_fixed()
        self._until = [0.0]
        for operator in operators:
            self._until.append(self._until[-1] + _cycles(operator, cut.graph, config))
        largest = max(map(self._bytes, cut.movable), default=0)
        self._most_lead = largest * CYCLES_PER_BYTE + LEAST_LEAD
        self._resident: dict[str, str] = {}
        self._instances: dict[str, int] = {}
        self._spilled: set[str] = set(cut.stored)
        self._fetches: dict[int, list[Fetch]] = {}
        self._moved = 0

    def run(self) -> Plan:
        steps: list[list[Step]] = []
        for position, operator in enumerate(self._operators):
            if _is_fetched(operator):
                steps.append([])
                continue
            target = self._writes[position]
            needed = {*self._reads[position], *_some(target)}
            for name in self._reads[position]:
                if name not in self._resident:
                    self._make_room(name, position, needed)
                    self._fetch(name, position)
            if target is not None and target not in self._over and target not in self._resident:
                self._make_room(target, position, needed)
                self._resident[target] = target
            self._prefetch(position, needed)
            renames = self._resident | {name: name for name in _some(target)}
            steps.append([_renamed(operator, renames)])
            if target in self._over and self._spans[self._over[target]][1] == position:
                del self._resident[self._over[target]]
                self._resident[target] = target
            for name in needed & self._resident.keys():
                if self._spans[name][1] == position:
                    del self._resident[name]
        return self._assemble(steps)

    def _assemble(self, steps: list[list[Step]]) -> Plan:
        stored = 0
        for position, operator in enumerate(self._operators):
            target = self._writes[position]
            if target is not None and target in self._spilled:
                steps[position].append(Spill(x=target, layer=operator.layer))
                stored += self._bytes(target)
            steps[position] = [*self._fetches.get(position, ()), *steps[position]]
        return Plan(
            graph=replace(self._cut.graph, tensors=self._tensors, operators=()),
            steps=tuple(step for group in steps for step in group),
            fetched=self._moved,
            stored=stored,
        )

    def _replaced(self, shared: dict[str, str]) -> dict[str, str]:
        """For each result that lies where an operand was, that operand."""
        found: dict[str, str] = {}
        for position, target in enumerate(self._writes):
            if target is None or target not in shared:
                continue
            for name in self._reads[position]:
                if shared.get(name, name) == shared[target] and self._spans[name][1] == position:
                    found[target] = name
        return found

    def _make_sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        # In the order of their making, so that what is replaced has its size already.
        for name in sorted(self._spans, key=lambda each: self._spans[each][0]):
            over = self._over.get(name)
            sizes[name] = (
                sizes[over] if over else storage(self._cut.graph.tensors[name], self._config)
            )
        return sizes

    def _make_ready(self) -> dict[str, int]:
        """The first position at which each movable tensor may be fetched."""
        ready: dict[str, int] = {}
        parts: dict[str, list[tuple[int, int, int]]] = {}
        for name in self._cut.stored:
            piece, rows = self._cut.pieces[name], self._cut.graph.tensors[name].rows
            parts.setdefault(piece.tensor, []).append(
                (piece.top, piece.top + rows, self._spans[name][0])
            )
        for name in self._cut.movable:
            piece, rows = self._cut.pieces[name], self._cut.graph.tensors[name].rows
            if name in self._cut.gathered:
                self._origins[name] = "context"
                ready[name] = 1 + max(
                    made
                    for top, bottom, made in parts[piece.tensor]
                    if top < piece.top + rows and piece.top < bottom
                )
            elif name in self._inputs:
                ready[name] = 0
            else:
                ready[name] = self._spans[name][0] + 1
        return ready

    def _make_fixed(self) -> list[int]:
        """At each position, granules of what cannot leave."""
        change = [0] * (len(self._operators) + 1)
        for name, (first, last) in self._spans.items():
            if name not in self._cut.movable:
                # A result over an operand begins where the operand has ended.
                over = self._over.get(name)
                change[self._spans[over][1] + 1 if over else first] += self._sizes[name]
                change[last + 1] -= self._sizes[name]
        fixed, total = [], 0
        for each in change:
            total += each
            fixed.append(total)
        return fixed

    def _used(self) -> int:
        return sum(self._sizes[name] for name in self._resident)

    def _next_use(self, name: str, position: int) -> int:
        """The first position from `position` on that needs a tensor."""
        uses = self._uses[name]
        return uses[bisect_left(uses, position)]

    def _make_room(self, name: str, position: int, keep: set[str]) -> None:
        while self._used() + self._sizes[name] > self._budget:
            if not self._evict(position, keep, later_than=-1):
                need = (self._used() + self._sizes[name]) * self._config.columns / 1024
                operator = self._operators[position]
                where = f"{operator.layer} {getattr(operator, 'part', '')}".strip()
                raise CapacityError(
                    f"{where} needs {need:.0f} KiB of scratchpad for what cannot leave it, in "
                    f"blocks of rows, of {self._budget * self._config.columns / 1024:.0f} KiB. "
                    f"Use a shorter --seq-len or a larger preset."
                )

    def _evict(self, position: int, keep: set[str], *, later_than: int) -> bool:
        """Let the tensor leave that is needed last, and after a position; whether there is one."""
        candidates = [
            (self._next_use(name, position), name)
            for name in self._resident
            if name in self._cut.movable and name not in keep
        ]
        if not candidates or max(candidates)[0] <= later_than:
            return False
        _, victim = max(candidates)
        del self._resident[victim]
        if victim not in self._inputs and victim not in self._cut.gathered:
            self._spilled.add(victim)
        return True

    def _fetch(self, name: str, position: int) -> None:
        count = self._instances.get(name, 0)
        self._instances[name] = count + 1
        out = self._last_instance(name)
        self._tensors[out] = replace(self._cut.graph.tensors[name], name=out)
        self._resident[name] = out
        self._fetches.setdefault(position, []).append(
            Fetch(
                out=out,
                name=name,
                layer=self._operators[self._next_use(name, position)].layer,
                origin=self._origins.get(name, ""),
            )
        )
        if name not in self._inputs:
            self._moved += self._bytes(name)

    def _last_instance(self, name: str) -> str:
        count = self._instances.get(name, 0)
        made = name not in self._inputs and name not in self._cut.gathered
        return name if count + made <= 1 else f"{name}#{count - 1 + made}"

    def _bytes(self, name: str) -> int:
        tensor = self._cut.graph.tensors[name]
        return tensor.rows * tensor.columns * element_bytes(tensor.format)

    def _prefetch(self, position: int, needed: set[str]) -> None:
        """Fetch what is needed soon, in the order of need, as far as there is room."""
        for use in range(position + 1, len(self._operators)):
            distance = self._until[use] - self._until[position]
            missing = [
                name
                for name in self._reads[use]
                if name not in self._resident
                and name in self._cut.movable
                and self._ready[name] <= position
            ]
            for name in missing:
                if distance > self._bytes(name) * CYCLES_PER_BYTE + LEAST_LEAD:
                    continue
                if self._demand(position, use, name) > self._budget:
                    return
                while self._used() + self._sizes[name] > self._budget:
                    if not self._evict(position, needed, later_than=use):
                        return
                self._fetch(name, position)
            if distance > self._most_lead:
                return

    def _demand(self, position: int, use: int, extra: str) -> int:
        """The most granules that operators up to `use` need, with one more tensor from now on."""
        change = [0] * (use - position + 2)
        names = {extra}
        for at in range(position, use + 1):
            names |= {*self._reads[at], *_some(self._writes[at])}
        for name in names & self._cut.movable:
            uses = self._uses[name]
            window = uses[bisect_left(uses, position) : bisect_right(uses, use)]
            here = name in self._resident or name == extra
            first = position if here else window[0] + (name in self._over)
            if first <= window[-1]:
                change[first - position] += self._sizes[name]
                change[window[-1] + 1 - position] -= self._sizes[name]
        most, total = 0, 0
        for at in range(position, use + 1):
            total += change[at - position]
            most = max(most, total + self._fixed[at])
        return most


def largest_segment(cut: CutGraph, config: CoreConfig) -> int:
    """Granules that a block of rows needs at most between attentions."""
    most = 0
    for segment in cut.segments:
        operators = [cut.graph.operators[index] for index in segment]
        spans = lifetimes(operators)
        shared = share(cut.graph, operators, spans)
        homes: dict[str, tuple[int, int]] = {}
        for name, (first, last) in spans.items():
            home = shared.get(name, name)
            before = homes.get(home, (first, last))
            homes[home] = min(first, before[0]), max(last, before[1])
        for position in range(len(operators)):
            live = sum(
                storage(cut.graph.tensors[name], config)
                for name, (first, last) in homes.items()
                if first <= position <= last
            )
            most = max(most, live)
    return most


def _cycles(operator: Operator, graph: QGraph, config: CoreConfig) -> float:
    """About how long the array or else the vector engine is busy with an operator."""
    match operator:
        case Matmul():
            n, m = operator.out.columns, operator.a.rows_of(graph.tensors[operator.a.tensor])
            if operator.transpose:
                n = graph.tensors[operator.out.tensor].rows
            return m * n * operator.a.columns / config.macs_per_cycle
        case Map():
            return graph.tensors[operator.out.tensor].rows * operator.out.columns / config.columns
        case _:
            return 0.0


def _is_fetched(operator: Operator) -> TypeGuard[Input]:
    """Whether it is an input that lies in memory row by row; others come once."""
    return isinstance(operator, Input) and operator.patches is None and operator.indices is None


def _some(name: str | None) -> Iterable[str]:
    return () if name is None else (name,)


def _renamed(operator: Operator, names: dict[str, str]) -> Operator:
    """The operator on other tensors."""

    def view(each: View) -> View:
        return replace(each, tensor=names[each.tensor])

    def epilogue(each: Epilogue) -> Epilogue:
        return replace(each, residual=view(each.residual)) if each.residual else each

    match operator:
        case Matmul():
            return replace(
                operator,
                out=view(operator.out),
                a=view(operator.a),
                b=view(operator.b) if isinstance(operator.b, View) else operator.b,
                epilogue=epilogue(operator.epilogue),
            )
        case Map():
            return replace(
                operator,
                out=view(operator.out),
                x=view(operator.x),
                multiply=view(operator.multiply) if operator.multiply else None,
                epilogue=epilogue(operator.epilogue),
            )
        case Exp():
            return replace(operator, out=view(operator.out), x=view(operator.x))
        case Lookup():
            return replace(operator, out=view(operator.out), indices=view(operator.indices))
        case Output():
            return replace(operator, x=names[operator.x])
        case _:
            return operator
