"""The order of operators in a program: heads overlap, so that the array does not wait for softmax.

An attention head is projections, scores, exponentials, context. In the graph's order the array
would idle while the vector engine exponentiates; here the projections of the next head run
meanwhile::

    v q k (0) | scores (0) | v q k (1) | context (0) | scores (1) | v q k (2) | context (1) | ...

The last head has none behind it, so its own V comes after its scores::

    ... | q k (11) | context (10) | scores (11) | v (11) | context (11)

Projections of one head at a time need little memory, and keep the stream of weights even. Where it
is too much all the same, `one_by_one` does with less: each head is like the last one above.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from systolith.compiler.qgraph import Operator

_PROJECTIONS = ("bias", "v", "q", "k")
"""Parts of a head that come before its scores. A bias is loaded meanwhile. V is first, since it is
needed last: its drain never delays the scores."""


def overlap_heads(operators: Iterable[Operator]) -> list[Operator]:
    """Reorder each run of operators that belong to heads of one layer; leave all others in place.

    Dependencies hold: the operators of one head keep their order among themselves but for the
    three projections, which do not depend on each other.
    """
    ordered: list[Operator] = []
    for (_, in_head), run in groupby(operators, key=run_key):
        members = list(run)
        ordered += _pipelined(members) if in_head else members
    return ordered


def one_by_one(operators: Iterable[Operator]) -> list[Operator]:
    """Reorder as `overlap_heads` does, but let a head's own V alone hide its exponentials.

    Nothing of the next head is there before this one's context, and no V before the scores; with
    few tokens the array may wait.
    """
    ordered: list[Operator] = []
    for (_, in_head), run in groupby(operators, key=run_key):
        members = list(run)
        if not in_head:
            ordered += members
            continue
        heads: dict[int, list[Operator]] = {}
        for operator in members:
            heads.setdefault(getattr(operator, "head", None) or 0, []).append(operator)
        for head in heads.values():
            for stage in (("bias", "q", "k"), None, ("v",), ("context",)):
                ordered += [each for each in head if _stage(each) == stage]
    return ordered


def _stage(operator: Operator) -> tuple[str, ...] | None:
    """Of which parts an operator of a head is; None for what lies between scores and context."""
    stages = (("bias", "q", "k"), ("v",), ("context",))
    return next((stage for stage in stages if _part(operator) in stage), None)


def run_key(operator: Operator) -> tuple[str, bool]:
    """What neighbouring operators of one layer's heads have in common: layer, and whether."""
    return operator.layer, getattr(operator, "head", None) is not None


def _pipelined(run: Sequence[Operator]) -> list[Operator]:
    heads: dict[int, list[Operator]] = {}
    for operator in run:
        head = getattr(operator, "head", None)
        assert head is not None
        heads.setdefault(head, []).append(operator)
    front = {
        head: sorted(
            (each for each in members if _part(each) in _PROJECTIONS),
            key=lambda each: _PROJECTIONS.index(_part(each)),
        )
        for head, members in heads.items()
    }
    middle = {
        head: [each for each in members if _part(each) not in (*_PROJECTIONS, "context")]
        for head, members in heads.items()
    }
    back = {
        head: [each for each in members if _part(each) == "context"]
        for head, members in heads.items()
    }
    names = list(heads)
    last = names[-1]
    late = [each for each in front[last] if _part(each) == "v"]
    front[last] = [each for each in front[last] if _part(each) != "v"]
    middle[last] += late
    ordered = list(front[names[0]])
    for position, head in enumerate(names):
        ordered += middle[head]
        if position + 1 < len(names):
            ordered += front[names[position + 1]]
        ordered += back[head]
    return ordered


def _part(operator: Operator) -> str:
    return getattr(operator, "part", "")
