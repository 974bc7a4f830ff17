"""Seeds side by side: what some of them cannot do, others can."""

import pytest

from systolith_sim.seeds import by_seed
from systolith_sim.toolchain import ToolError


def attempt(seed: int) -> str:
    if seed < 10:
        raise ToolError(f"no place for {seed}")
    return f"routed {seed}"


def test_a_seed_that_fails_is_left_out() -> None:
    messages: list[str] = []
    assert by_seed([12, 3, 11], attempt, messages.append) == {12: "routed 12", 11: "routed 11"}
    assert messages == ["seed 3 is left out: no place for 3"]


def test_if_all_fail_the_reason_is_raised() -> None:
    with pytest.raises(ToolError, match=r"no place for \d"):
        by_seed([3, 4], attempt, lambda _: None)


def test_no_seeds_are_no_failure() -> None:
    assert by_seed([], attempt, lambda _: None) == {}
