"""Seeds side by side: what some of them cannot do, others can."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from systolith.cli.routing_options import add_routing_options
from systolith_sim.seeds import by_seed, file_of_seed, keep_best
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


def test_of_files_the_best_seeds_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "top.config"
    path.write_text("of an earlier run")
    for seed in (1, 2, 3):
        file_of_seed(path, seed).write_text(f"seed {seed}")
    keep_best(path, [1, 2, 3], 2)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("top.config", "seed 2")
    ]


@pytest.mark.parametrize(
    ("words", "seeds"),
    [("", [1]), ("--seeds 1", [1]), ("--seeds 3", [1, 2, 3]), ("--seed 7 0 4", [7, 0, 4])],
)
def test_how_many_seeds_or_which(words: str, seeds: list[int]) -> None:
    parser = ArgumentParser()
    add_routing_options(parser)
    assert parser.parse_args(words.split()).seeds == seeds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 0", "'0' is no number of seeds"),
        ("--seeds two", "'two' is no number of seeds"),
        ("--seed=-1", "'-1' is no seed"),
        ("--seeds 2 --seed 4", "not allowed with"),
    ],
)
def test_what_is_no_seed(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    add_routing_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words.split())
    assert message in capsys.readouterr().err
