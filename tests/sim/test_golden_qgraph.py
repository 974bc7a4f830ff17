"""The golden model of a graph: against hand-made numbers, and against its program on the ISS."""

import numpy as np
import pytest

from systolith.compiler.qgraph import (
    Columns,
    Epilogue,
    Exp,
    Input,
    Map,
    Matmul,
    Output,
    QGraph,
    RowRecords,
    Tensor,
    View,
)
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.session import Session
from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.iss import IssDevice

TOKENS, WIDTH, HEAD, HIDDEN = 12, 16, 8, 24


def columns(random: np.random.Generator, n: int, shift: int) -> Columns:
    return Columns(
        mant=random.integers(90, 250, n),
        shift=np.full(n, shift),
        off=random.integers(0, 15000, n),
    )


def encoder_layer(seed: int) -> QGraph:
    """One head of attention, a residual, a layer norm, and a hidden layer with a table."""
    random = np.random.default_rng(seed)
    tensors = [
        Tensor(name="x", rows=TOKENS, columns=WIDTH, format=Format.S16),
        Tensor(name="x8", rows=TOKENS, columns=WIDTH, format=Format.S8),
        Tensor(name="q", rows=TOKENS, columns=HEAD, format=Format.S8),
        Tensor(name="k", rows=TOKENS, columns=HEAD, format=Format.S8),
        Tensor(name="vt", rows=HEAD, columns=TOKENS, format=Format.S8),
        Tensor(name="s", rows=TOKENS, columns=TOKENS, format=Format.S16),
        Tensor(name="p", rows=TOKENS, columns=TOKENS, format=Format.U8),
        Tensor(name="ctx", rows=TOKENS, columns=HEAD, format=Format.S8),
        Tensor(name="r", rows=TOKENS, columns=WIDTH, format=Format.S16),
        Tensor(name="y", rows=TOKENS, columns=WIDTH, format=Format.S16),
        Tensor(name="y8", rows=TOKENS, columns=WIDTH, format=Format.S8),
        Tensor(name="g", rows=TOKENS, columns=HIDDEN, format=Format.U8),
        Tensor(name="z", rows=TOKENS, columns=WIDTH, format=Format.S16),
        Tensor(name="w", rows=TOKENS, columns=WIDTH, format=Format.S16),
    ]
    shapes = {each.name: each for each in tensors}

    def all_of(name: str) -> View:
        return View(tensor=name, first=0, columns=shapes[name].columns)

    def weights(n: int, k: int) -> np.ndarray:
        return random.integers(-127, 128, (n, k)).astype(np.int8)

    def dense(out: str, a: str, n: int, shift: int, **options: object) -> Matmul:
        transpose = bool(options.pop("transpose", False))
        epilogue = Epilogue(columns=columns(random, n, shift), **options)  # pyright: ignore[reportArgumentType]
        return Matmul(
            out=all_of(out),
            a=all_of(a),
            b=weights(n, shapes[a].columns),
            epilogue=epilogue,
            transpose=transpose,
        )

    return QGraph(
        tensors=shapes,
        operators=[
            Input(out="x"),
            Map(out=all_of("x8"), x=all_of("x"), epilogue=Epilogue(columns=columns(random, 1, 16))),
            dense("q", "x8", HEAD, 8),
            dense("k", "x8", HEAD, 8),
            dense("vt", "x8", HEAD, 8, transpose=True),
            Matmul(
                out=all_of("s"),
                a=all_of("q"),
                b=all_of("k"),
                epilogue=Epilogue(
                    columns=columns(random, 1, 3),
                    mask_length=True,
                    statistic=Statistic.MAX,
                    statistic_name="peak",
                ),
            ),
            Exp(out=all_of("p"), x=all_of("s"), maximum="peak", total="mass"),
            RowRecords(out="share", source="mass", operation=RowOperation.RECIPROCAL, rows=TOKENS),
            Matmul(
                out=all_of("ctx"),
                a=all_of("p"),
                b=all_of("vt"),
                epilogue=Epilogue(columns=columns(random, HEAD, 0), rows="share"),
            ),
            dense(
                "r",
                "ctx",
                WIDTH,
                -2,
                residual=all_of("x"),
                statistic=Statistic.MOMENTS,
                statistic_name="sums",
            ),
            RowRecords(
                out="norm",
                source="sums",
                operation=RowOperation.LAYER_NORM,
                rows=TOKENS,
                n=WIDTH,
                eps_mantissa=5,
                eps_shift=2,
            ),
            Map(
                out=all_of("y"),
                x=all_of("r"),
                epilogue=Epilogue(columns=columns(random, WIDTH, -7), rows="norm"),
            ),
            Map(out=all_of("y8"), x=all_of("y"), epilogue=Epilogue(columns=columns(random, 1, 15))),
            dense(
                "g",
                "y8",
                HIDDEN,
                8,
                table=tuple(int(each) for each in random.integers(-40, 300, 256)),
            ),
            dense("z", "g", WIDTH, 3, residual=all_of("y")),
            Map(
                out=all_of("w"),
                x=all_of("z"),
                multiply=all_of("y"),
                epilogue=Epilogue(columns=columns(random, WIDTH, 12)),
            ),
            Output(x="w"),
        ],
    )


# A view must begin at a granule, and those of `large` are wider than these heads.
@pytest.mark.parametrize("name", [name for name, each in PRESETS.items() if each.columns <= HEAD])
@pytest.mark.parametrize("length", [TOKENS, 7])
def test_program_on_the_simulator_gives_the_golden_tensors(name: str, length: int) -> None:
    """Every tensor of the program, in program order and out of it."""
    graph = encoder_layer(seed=1)
    x = np.random.default_rng(2).integers(-20000, 20000, (TOKENS, WIDTH))
    golden = run_qgraph(graph, {"x": x}, length)
    program = schedule(graph, PRESETS[name], name="layer", seq_len=TOKENS)
    for seed in (None, 1, 2):
        device = IssDevice(PRESETS[name], memory_bytes=1 << 20, seed=seed, poison=3)
        session = Session(device, program)
        device.watch(program.watch)
        outputs = session.run({"x": x}, length=length)
        np.testing.assert_array_equal(outputs["w"], golden["w"])
        assert set(device.captured) == set(graph.tensors)
        for tensor, values in device.captured.items():
            np.testing.assert_array_equal(values, golden[tensor], err_msg=tensor)
            assert len(np.unique(values)) > 4, tensor


def test_padding_changes_nothing_in_valid_rows() -> None:
    graph = encoder_layer(seed=3)
    x = np.random.default_rng(4).integers(-20000, 20000, (5, WIDTH))
    padded = np.vstack([x, np.full((TOKENS - 5, WIDTH), 9999)])
    some, others = run_qgraph(graph, {"x": x}, 5), run_qgraph(graph, {"x": padded}, 5)
    np.testing.assert_array_equal(some["w"][:5], others["w"][:5])
    assert np.any(some["w"] != others["w"])
    assert np.all(some["s"][:, 5:] == -32768)
    assert not some["p"][:, 5:].any()


def test_statistics_and_records_have_names() -> None:
    graph = encoder_layer(seed=5)
    x = np.random.default_rng(6).integers(-20000, 20000, (TOKENS, WIDTH))
    values = run_qgraph(graph, {"x": x}, TOKENS)
    r = values["r"].astype(int)
    assert values["sums.total"].tolist() == r.sum(1).tolist()
    assert values["sums.squares"].tolist() == (r * r).sum(1).tolist()
    assert values["peak.maximum"].tolist() == values["s"].max(1).tolist()
    assert values["mass.total"].tolist() == values["p"].sum(1, dtype=int).tolist()
    assert values["norm.off"].tolist() == [(512 * t + WIDTH) // (2 * WIDTH) for t in r.sum(1)]


def test_missing_and_unfit_inputs_are_refused() -> None:
    graph = encoder_layer(seed=7)
    with pytest.raises(ValueError, match=r"^the input x is missing"):
        run_qgraph(graph, {}, 1)
    with pytest.raises(ValueError, match=r"^x has 12 rows of 16, but the input has 1 rows of 8"):
        run_qgraph(graph, {"x": np.zeros((1, 8), int)}, 1)
    with pytest.raises(ValueError, match=r"^x goes from -32768 to 32767, but the input from 0"):
        run_qgraph(graph, {"x": np.arange(16)[None] * 3000}, 1)
