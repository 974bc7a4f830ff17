"""Cuts a graph into blocks of rows, for sequences whose tensors do not fit the scratchpad.

Between attentions every row is computed from the same row of other tensors, so a block of rows
goes through all operators there before the next one begins, and weights are streamed once for
each block. An attention's heads need the keys and values of all rows: these are gathered block
by block, head by head, and then scores, exponentials and context follow, in blocks of their own,
since scores are as wide as the sequence is long. The context of a head goes to memory, where that
of all heads comes together.

While scores of one head are exponentiated, the array makes projections of the next one; behind
the last head's first scores comes its own V, and behind the others the context before them::

    v q k (0) | scores (0, 0) | v q k (1), a part | context (0, 0) | scores (0, 1) | ...
    scores (11, 0) | v (11) | scores (11, 1) | context (11, 0) | scores (11, 2) | ...

The numbers are those of the graph: nothing is summed in another order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from systolith.compiler.allocate import CapacityError, name_of, reads
from systolith.compiler.order import run_key
from systolith.compiler.pooled import LAYER as POOLING
from systolith.compiler.qgraph import (
    Columns,
    Constant,
    Epilogue,
    Exp,
    Indices,
    Input,
    Lookup,
    Map,
    Matmul,
    Operator,
    Output,
    QGraph,
    RowRecords,
    Tensor,
    View,
)
from systolith.config import CoreConfig
from systolith.isa import INDEX_BYTES, Statistic

MEAN_PARTS = 4
"""A mean's operand comes back in parts of at most one in so many of the scratchpad."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What part of a graph's tensor a tensor of the cut graph is.

    Attributes:
        tensor: the graph's.
        top: its row that is the part's first one.
        first: likewise, its column.
    """

    tensor: str
    top: int
    first: int = 0


@dataclass(frozen=True, kw_only=True)
class CutGraph:
    """A graph in blocks of rows.

    Attributes:
        graph: its tensors and operators; nobody makes what comes from memory.
        pieces: for tensors that are parts, of what. All others are whole.
        movable: those that may leave the scratchpad and come back.
        gathered: those that are complete in memory once other parts have been stored there.
        stored: those other parts.
        segments: ranges of operators that one block of rows goes through.
        rows, score_rows: of a block, and of one of scores.
    """

    graph: QGraph
    pieces: dict[str, Piece]
    movable: frozenset[str]
    gathered: frozenset[str]
    stored: frozenset[str]
    segments: tuple[range, ...]
    rows: int
    score_rows: int


def cut(
    graph: QGraph, *, rows: int, score_rows: int, config: CoreConfig, overlap: bool = True
) -> CutGraph:
    """Cut a graph.

    Args:
        graph: what to cut.
        rows: of a block between attentions and in projections, at most; a multiple of the
            array's columns, at which blocks begin.
        score_rows: of a block of scores, likewise.
        config: the core.
        overlap: whether projections of one head come between what follows those of another: it
            saves time and takes memory.

    Raises:
        CapacityError: an operator needs several rows at once, and is no attention's.
    """
    return _Cutter(graph, rows, score_rows, config, overlap=overlap).run()


def tokens_of(graph: QGraph) -> int:
    """Rows of a graph's input, and so of most of its tensors."""
    first = next(each for each in graph.operators if isinstance(each, Input))
    tensor = graph.tensors[first.out]
    return tensor.rows if first.indices is None else tensor.columns // INDEX_BYTES


def row_blocks(total: int, most: int, unit: int) -> list[range]:
    """Rows of each block: as few blocks as possible, of about the same size.

    A short one would have all weights streamed for little work.
    """
    count = -(-total // most)
    edges = [-(-total * index // (count * unit)) * unit for index in range(count)]
    return [range(first, last) for first, last in pairwise([*edges, total])]


class _Cutter:
    def __init__(
        self, graph: QGraph, rows: int, score_rows: int, config: CoreConfig, *, overlap: bool
    ) -> None:
        self._config = config
        self._unit = unit = config.columns
        self._depth = config.rows
        self._graph = graph
        self._overlap = overlap
        self._total = tokens_of(graph)
        self._rows = row_blocks(self._total, rows, unit)
        self._score_rows = row_blocks(self._total, score_rows, unit)
        self._tensors: dict[str, Tensor] = {}
        self._operators: list[Operator] = []
        self._pieces: dict[str, Piece] = {}
        self._movable: set[str] = set()
        self._gathered: set[str] = set()
        self._stored: set[str] = set()
        self._in_memory: set[str] = set()
        self._read_behind = {
            name_of(read)
            for operator in graph.operators
            if not run_key(operator)[1]
            for read in reads(operator)
        }
        self._segments: list[range] = []

    def run(self) -> CutGraph:
        for (_, in_head), run in groupby(self._graph.operators, key=run_key):
            members = list(run)
            if in_head:
                self._attention(members)
                continue
            if members[0].layer == POOLING:
                first = len(self._operators)
                for operator in members:
                    self._operators += self._on_all_rows(operator)
                self._segments.append(range(first, len(self._operators)))
                continue
            firsts = {id(each) for each in members if self._is_of_first_rows(each)}
            for operator in members:
                if id(operator) not in firsts:
                    self._check(operator)
            for block in self._rows:
                first = len(self._operators)
                for operator in members:
                    if isinstance(operator, Input) and operator.indices:
                        if block.start == 0:
                            self._tensors[operator.out] = self._graph.tensors[operator.out]
                            self._operators.append(operator)
                    elif id(operator) not in firsts:
                        self._operators.append(self._on_rows(operator, block))
                    elif block.start == 0:
                        self._operators.append(self._on_first_rows(operator, block))
                self._segments.append(range(first, len(self._operators)))
        return CutGraph(
            graph=replace(self._graph, tensors=self._tensors, operators=tuple(self._operators)),
            pieces=self._pieces,
            movable=frozenset(self._movable),
            gathered=frozenset(self._gathered),
            stored=frozenset(self._stored),
            segments=tuple(self._segments),
            rows=len(self._rows[0]),
            score_rows=len(self._score_rows[0]),
        )

    def _check(self, operator: Operator) -> None:
        """Make sure that an operator makes each row from one row."""
        match operator:
            case Input(indices=Indices()):
                names = []
            case Lookup():
                names = [operator.out.tensor]
            case Input() | Constant():
                names = [operator.out]
            case Output():
                names = [operator.x]
            case Matmul():
                names = [operator.a.tensor, operator.out.tensor]
                if isinstance(operator.b, View) or operator.transpose:
                    raise self._refused(operator)
            case Map():
                names = [operator.x.tensor]
                names += [] if operator.transpose else [operator.out.tensor]
            case _:
                names = []
        if any(self._graph.tensors[name].rows != self._total for name in names):
            raise self._refused(operator)

    def _is_of_first_rows(self, operator: Operator) -> bool:
        """Whether an operator makes, or hands out, fewer rows than there are: the first ones."""
        match operator:
            case Matmul() | Map():
                # Stored transposed, a tensor's rows are channels.
                rows = self._graph.tensors[operator.out.tensor].rows
                return rows < self._total and not operator.transpose
            case Output():
                return self._graph.tensors[operator.x].rows < self._total
            case RowRecords():
                return operator.rows < self._total
            case _:
                return False

    def _on_first_rows(self, operator: Operator, block: range) -> Operator:
        """The same operator, reading the first block where it reads all rows."""

        def view(each: View) -> View:
            whole = self._graph.tensors[each.tensor]
            if whole.rows == self._total:
                return self._block_view(each, block)
            self._tensors[each.tensor] = whole
            return each

        match operator:
            case Matmul():
                if isinstance(operator.b, View) or operator.transpose:
                    raise self._refused(operator)
                rows, changed = operator.out, replace(operator, a=view(operator.a))
            case Map():
                multiply = view(operator.multiply) if operator.multiply else None
                rows = operator.out
                changed = replace(operator, x=view(operator.x), multiply=multiply)
            case _:
                return operator
        residual = operator.epilogue.residual
        epilogue = replace(operator.epilogue, residual=view(residual) if residual else None)
        if self._graph.tensors[rows.tensor].rows > len(block):
            raise self._refused(operator)
        return replace(changed, out=view(operator.out), epilogue=epilogue)

    def _on_all_rows(self, operator: Operator) -> list[Operator]:
        """An operator of pooling: once, of the first rows, or of all of them side by side.

        The latter are in memory, and come back some channels at a time.
        """
        match operator:
            case Constant(out=name) | Exp(out=View(tensor=name)):
                self._tensors[name] = self._graph.tensors[name]
                return [operator]
            case Matmul(b=View(tensor=name)):
                self._tensors[operator.out.tensor] = self._graph.tensors[operator.out.tensor]
                return self._mean(operator, name)
            case _:
                return [self._on_first_rows(operator, self._rows[0])]

    def _mean(self, operator: Matmul, name: str) -> list[Operator]:
        """The mean of some channels after the other, of a tensor that has its rows in memory."""
        whole, columns = self._graph.tensors[name], operator.epilogue.columns
        most = self._config.scratchpad_bytes // MEAN_PARTS // whole.columns
        found: list[Operator] = []
        for rows in row_blocks(whole.rows, max(most, self._depth), self._depth):
            part = self._part(name, rows, _named(name, rows), 0, whole.columns)
            self._movable.add(part)
            self._gathered.add(part)
            own = slice(rows.start, rows.stop)
            records = Columns(
                mant=columns.mant[own], shift=columns.shift[own], off=columns.off[own]
            )
            found.append(
                replace(
                    operator,
                    out=replace(operator.out, first=rows.start, columns=len(rows)),
                    b=View(tensor=part, first=0, columns=whole.columns),
                    epilogue=replace(operator.epilogue, columns=records),
                )
            )
        return found

    def _across(self, view: View, block: range) -> View:
        """Some columns of a tensor that is stored transposed: they go to memory at once."""
        name, whole = f"{view.tensor}@{block.start}.T", self._graph.tensors[view.tensor]
        self._tensors[name] = replace(whole, name=name, columns=len(block))
        self._pieces[name] = Piece(tensor=view.tensor, top=0, first=block.start)
        self._stored.add(name)
        return View(tensor=name, first=0, columns=len(block))

    def _refused(self, operator: Operator) -> CapacityError:
        part = getattr(operator, "part", "")
        return CapacityError(
            f"the model does not fit into the scratchpad, and {operator.layer} {part} cannot be "
            "carried out row by row. Use a shorter --seq-len or a larger preset."
        )

    def _attention(self, run: Sequence[Operator]) -> None:
        heads: dict[int, list[Operator]] = {}
        for operator in run:
            head = getattr(operator, "head", None)
            assert head is not None
            heads.setdefault(head, []).append(operator)
        front = {head: list(self._projections(members)) for head, members in heads.items()}
        if not self._overlap:
            for head, members in heads.items():
                self._operators += front[head]
                for scores, context in zip(*self._scores(members), strict=True):
                    self._operators += [*scores, *context]
            return
        names = list(heads)
        self._operators += front[names[0]] if len(names) > 1 else self._without_v(front[names[0]])
        for position, head in enumerate(names):
            middle, back = self._scores(heads[head])
            is_last = position + 1 == len(names)
            if is_last:
                late = [each for each in front[head] if self._is_v(each)]
                fill = [late, *back[:-1]]
                after = [back[-1]]
            else:
                following = front[names[position + 1]]
                if position + 2 == len(names):
                    following = self._without_v(following)
                fill = [
                    part + own
                    for part, own in zip(_portions(following, len(back)), back, strict=True)
                ]
                after = []
            for scores, others in zip(middle, fill, strict=True):
                self._operators += self._spread(scores, others)
            for others in after:
                self._operators += others

    def _spread(self, scores: Sequence[Operator], others: Sequence[Operator]) -> list[Operator]:
        """Scores and what follows them, exponentials in turns with projections.

        The array runs two of its tiles ahead of the vector engine. Exponentials of more rows than
        that lasts for come in parts, each before another projection.
        """
        projections = [each for each in others if isinstance(each, Matmul) and _has_weights(each)]
        found: list[Operator] = []
        for operator in scores:
            parts = self._exp_parts(operator, projections) if isinstance(operator, Exp) else []
            if len(parts) < 2:
                found.append(operator)
                continue
            for part in parts[:-1]:
                found += [part, projections.pop(0)]
            found.append(parts[-1])
        own = {id(each) for each in found}
        return [*found, *(each for each in others if id(each) not in own)]

    def _exp_parts(self, operator: Exp, projections: Sequence[Matmul]) -> list[Exp]:
        """Parts of exponentials for the projections that there are, or all in one."""
        tensor = self._tensors[operator.x.tensor]
        if not projections:
            return [operator]
        first = projections[0]
        # Two tiles take this many elements' time, with as many lanes as the array has columns.
        ahead = 2 * self._unit * len(self._rows[0]) * first.a.columns // self._depth
        most = max(self._unit, ahead // operator.x.columns // self._unit * self._unit)
        rows = row_blocks(tensor.rows, most, self._unit)[: len(projections) + 1]
        edges = [*(each.start for each in rows), tensor.rows]
        return [
            replace(
                operator,
                x=replace(operator.x, top=first, rows=last - first),
                out=replace(operator.out, top=first, rows=last - first),
            )
            for first, last in pairwise(edges)
        ]

    def _is_v(self, operator: Operator) -> bool:
        return isinstance(operator, Matmul) and operator.transpose

    def _without_v(self, operators: Sequence[Operator]) -> list[Operator]:
        return [each for each in operators if not self._is_v(each)]

    def _projections(self, members: Sequence[Operator]) -> Iterator[Operator]:
        """Projections of a head, block by block; V first, since it is needed last."""
        own = [each for each in members if isinstance(each, Matmul) and _has_weights(each)]
        for operator in own:
            if operator.epilogue.residual is not None:
                raise self._refused(operator)
            self._tensors[operator.out.tensor] = self._graph.tensors[operator.out.tensor]
        own.sort(key=lambda each: not each.transpose)
        for block in self._rows:
            for each in own:
                if each.transpose:
                    out = replace(each.out, first=block.start, columns=len(block))
                else:
                    out = replace(each.out, top=block.start, rows=len(block))
                yield replace(each, out=out, a=self._block_view(each.a, block))

    def _scores(
        self, members: Sequence[Operator]
    ) -> tuple[list[list[Operator]], list[list[Operator]]]:
        """Scores and exponentials of a head by blocks, and its contexts."""
        own = [each for each in members if not (isinstance(each, Matmul) and _has_weights(each))]
        middle: list[list[Operator]] = []
        back: list[list[Operator]] = []
        for block in self._score_rows:
            parts = [self._on_score_rows(each, block) for each in own]
            last = parts.pop()
            if not isinstance(last, Matmul):
                raise self._refused(own[-1])
            middle.append(parts)
            back.append([last])
        return middle, back

    def _on_rows(self, operator: Operator, block: range) -> Operator:
        """A block of rows of an operator between attentions."""
        match operator:
            case Input():
                return replace(operator, out=self._block(operator.out, block))
            case Constant():
                values = operator.values[block.start : block.stop]
                return replace(operator, out=self._block(operator.out, block), values=values)
            case Lookup():
                first, columns = INDEX_BYTES * block.start, INDEX_BYTES * len(block)
                return replace(
                    operator,
                    out=self._block_view(operator.out, block),
                    indices=replace(operator.indices, first=first, columns=columns),
                )
            case Output():
                return replace(operator, x=self._block(operator.x, block))
            case Matmul():
                return replace(
                    operator,
                    out=self._block_view(operator.out, block),
                    a=self._block_view(operator.a, block),
                    epilogue=self._epilogue(operator.epilogue, block),
                )
            case Map():
                multiply = operator.multiply
                across = operator.transpose
                return replace(
                    operator,
                    out=self._across(operator.out, block)
                    if across
                    else self._block_view(operator.out, block),
                    x=self._block_view(operator.x, block),
                    multiply=self._block_view(multiply, block) if multiply else None,
                    epilogue=self._epilogue(operator.epilogue, block),
                )
            case RowRecords():
                return _on_rows(operator, block)
            case _:
                raise self._refused(operator)

    def _on_score_rows(self, operator: Operator, block: range) -> Operator:
        """A block of rows of what a head does behind its projections."""
        match operator:
            case Constant():
                values = operator.values[block.start : block.stop]
                whole = View(tensor=operator.out, first=0, columns=values.shape[1])
                return replace(operator, out=self._own(whole, block).tensor, values=values)
            case Matmul(b=View()) if not operator.transpose:
                a, epilogue = operator.a, operator.epilogue
                bias = epilogue.residual
                if bias is not None:
                    bias = replace(bias, tensor=_named(bias.tensor, block))
                epilogue = self._epilogue(replace(epilogue, residual=None), block)
                if a.tensor in self._tensors:
                    a = replace(a, top=block.start, rows=len(block))
                else:
                    a = replace(a, tensor=_named(a.tensor, block))
                return replace(
                    operator,
                    out=self._own(operator.out, block),
                    a=a,
                    epilogue=replace(epilogue, residual=bias),
                )
            case Exp():
                return replace(
                    operator,
                    out=self._own(operator.out, block),
                    x=replace(operator.x, tensor=_named(operator.x.tensor, block)),
                    maximum=_named(operator.maximum, block),
                    total=_named(operator.total, block),
                )
            case RowRecords():
                return _on_rows(operator, block)
            case _:
                raise self._refused(operator)

    def _epilogue(self, epilogue: Epilogue, block: range) -> Epilogue:
        residual = epilogue.residual
        changed = replace(
            epilogue, residual=self._block_view(residual, block) if residual else None
        )
        if epilogue.rows is not None:
            changed = replace(changed, rows=_named(epilogue.rows, block))
        if epilogue.statistic != Statistic.NONE:
            changed = replace(changed, statistic_name=_named(epilogue.statistic_name, block))
        return changed

    def _block_view(self, view: View, block: range) -> View:
        return replace(view, tensor=self._block(view.tensor, block))

    def _block(self, name: str, block: range) -> str:
        """A tensor that holds a block of rows, and may leave the scratchpad."""
        part = self._part(name, block, _named(name, block), 0, self._graph.tensors[name].columns)
        self._movable.add(part)
        if name in self._in_memory:
            self._gathered.add(part)
        return part

    def _own(self, view: View, block: range) -> View:
        """A tensor for a block of rows and the columns of a view.

        What is read behind the attention is stored, since other heads' columns belong to it.
        """
        name = _named(view.tensor, block)
        if view.tensor in self._read_behind:
            name += f".{view.first}"
            self._stored.add(name)
            self._in_memory.add(view.tensor)
        self._part(view.tensor, block, name, view.first, view.columns)
        return View(tensor=name, first=0, columns=view.columns)

    def _part(self, tensor: str, block: range, name: str, first: int, columns: int) -> str:
        if name not in self._tensors:
            whole = self._graph.tensors[tensor]
            self._tensors[name] = replace(whole, name=name, rows=len(block), columns=columns)
            self._pieces[name] = Piece(tensor=tensor, top=block.start, first=first)
        return name


def _on_rows(operator: RowRecords, block: range) -> RowRecords:
    return replace(
        operator,
        out=_named(operator.out, block),
        source=_named(operator.source, block),
        rows=len(block),
    )


def _has_weights(operator: Matmul) -> bool:
    return not isinstance(operator.b, View)


def _named(name: str, block: range) -> str:
    return f"{name}@{block.start}"


def _portions(items: Sequence[Operator], count: int) -> list[list[Operator]]:
    """Cut a list into so many parts, the longer ones first."""
    edges = [-(-len(items) * index // count) for index in range(count + 1)]
    return [list(items[first:last]) for first, last in pairwise(edges)]
