"""Orders of heads: operators stay as they are, and dependencies hold."""

from collections.abc import Callable, Sequence

import pytest

from systolith.compiler.allocate import CapacityError, name_of, place_tensors, reads, written
from systolith.compiler.order import one_by_one, overlap_heads
from systolith.compiler.qgraph import Operator
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith_sim.check import captured_run, check_tensors
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.verilator import VerilatorDevice

ORDERS = [overlap_heads, one_by_one]


@pytest.mark.parametrize("order", ORDERS)
def test_operators_come_after_what_they_read(
    order: Callable[[Sequence[Operator]], list[Operator]],
) -> None:
    graph = encoder(16, heads=4, layers=2)
    ordered = order(graph.operators)
    assert sorted(map(id, ordered)) == sorted(map(id, graph.operators))
    # A context is complete behind the last of its heads.
    last = {written(each): n for n, each in enumerate(ordered) if written(each)}
    for position, operator in enumerate(ordered):
        for name in map(name_of, reads(operator)):
            assert last[name] <= position


def test_one_head_at_a_time() -> None:
    graph = encoder(16, heads=2)
    parts = [
        (each.head, each.part)
        for each in one_by_one(graph.operators)
        if getattr(each, "head", None) is not None
    ]
    one = ["q", "k", "scores", "exp", "softmax_rows", "v", "context"]
    assert parts == [(head, part) for head in (0, 1) for part in one]


def test_heads_that_do_not_fit_side_by_side_come_one_by_one() -> None:
    """All tensors are what the golden model makes, on the RTL too."""
    tokens, config = 24, PRESETS["tiny"]
    graph = encoder(tokens, width=128, heads=4, chunks=(16, 16))
    with pytest.raises(CapacityError):
        place_tensors(graph, overlap_heads(graph.operators), config)
    program = schedule(graph, config, name="tight", seq_len=tokens)
    codes = inputs_for(graph, 3)
    device = VerilatorDevice(config, probed=True)
    found = captured_run(device, program, codes, 20)
    device.close()
    assert check_tensors(program, codes, 20, {"rtl": found}) is None
