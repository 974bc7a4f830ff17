"""The order of operators in a program: heads overlap, so that the array does not wait for softmax.

An attention head is projections, scores, exponentials, context. In the graph's order the array
would idle while the vector engine exponentiates; here the projections of the next head run
meanwhile::

    v q k (0) | scores (0) | v q k (1) | context (0) | scores (1) | v q k (2) | context (1) | ...

The last head has none behind it, so its own V comes after its scores::

    ... | q k (11) | context (10) | scores (11) | v (11) | context (11)

Projections of one head at a time need the least memory, and keep the stream of weights even.
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
