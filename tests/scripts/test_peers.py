"""What `scripts/peers.py` gives to other tools and reads from them; none of them runs here."""

import configparser
import json
import sys
from pathlib import Path

import pytest

import peers
from peer_tools import environment, scalesim, vela
from peer_tools.encoder import Encoder, Matmul
from peer_tools.environment import Environment, run_tool
from peer_tools.figures import Figure, ReportError, read_report, table
from systolith_sim.toolchain import ToolError


def figure(cycles: int = 4_000_000) -> Figure:
    return Figure(
        tool="A 1.0", core="16x8", includes="all", seq_len=32, macs=384_000_000, cycles=cycles
    )


@pytest.mark.parametrize("t", [1, 32, 100, 128])
def test_macs_are_those_of_the_formula(t: int) -> None:
    expected = 6 * (4 * t * 384 * 384 + 2 * t * 384 * 1536 + 2 * 12 * t * t * 32)
    assert Encoder().macs(t) == expected
    assert sum(each.count * each.m * each.n * each.k for each in Encoder().matmuls(t)) == expected


def test_macs_by_hand() -> None:
    assert Encoder().macs(32) == 344_457_216
    assert Encoder().macs(128) == 1_434_451_968
    small = Encoder(layers=1, width=4, heads=2, hidden=8)
    # Four projections of 3x4x4, two heads of 3x3x2 twice, 3x8x4 and 3x4x8.
    assert small.macs(3) == 4 * 48 + 2 * 2 * 18 + 96 + 96


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide a width of 384"):
        Encoder(heads=5)


def test_topology_has_rows_columns_and_depth_in_this_order() -> None:
    assert scalesim.topology(Encoder().matmuls(32)).splitlines() == [
        "Layer,M,N,K,",
        "projection,32,384,384,",
        "scores,32,32,32,",
        "context,32,32,32,",
        "up,32,1536,384,",
        "down,32,384,1536,",
    ]
    assert "scores,128,128,32,\ncontext,128,32,128,\n" in scalesim.topology(Encoder().matmuls(128))


@pytest.mark.parametrize("flow", ["os", "ws"])
def test_configuration_is_the_array_without_stalls(flow: str) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(scalesim.config(flow))
    core = parser["architecture_presets"]
    assert (core["ArrayHeight"], core["ArrayWidth"], core["Dataflow"]) == ("16", "8", flow)
    assert parser["run_presets"]["InterfaceBandwidth"] == "CALC"
    assert parser["general"]["run_name"] == flow
    assert not parser.getboolean("layout", "FilterCustomLayout")
    assert not parser.getboolean("sparsity", "SparsitySupport")


COMPUTE_REPORT = """\
LayerID, Total Cycles (incl. prefetch), Total Cycles, Stall Cycles, Overall Util %, \
Mapping Efficiency %, Compute Util %,
0, 1100, 1000, 0, 50.0, 100.0, 49.9,
1, 25, 20, 0, 50.5, 100.0, 49.9,
"""

TWO = [Matmul(name="a", m=1, n=1, k=1, count=3), Matmul(name="b", m=1, n=1, k=1, count=10)]


def test_scalesim_cycles_count_each_shape_as_often_as_it_occurs() -> None:
    assert scalesim.total_cycles(COMPUTE_REPORT, TWO) == 3 * 1000 + 10 * 20


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Total Cycles,", "Cycles,", "other columns"),
        ("1, 25, 20, 0, 50.5, 100.0, 49.9,\n", "", "1 layers of 2"),
        ("20, 0, 50.5", "20, 7, 50.5", "unexpected line"),
        ("1, 25", "2, 25", "unexpected line"),
        ("1, 25, 20,", "1, 25, twenty,", "unexpected line"),
        (COMPUTE_REPORT, "", "is empty"),
    ],
)
def test_scalesim_report_that_is_not_understood_is_refused(
    old: str, new: str, message: str
) -> None:
    assert old in COMPUTE_REPORT
    with pytest.raises(ReportError, match=message):
        scalesim.total_cycles(COMPUTE_REPORT.replace(old, new), TWO)


SUMMARY = """\
experiment,network,core_clock,cycles_npu,cycles_sram_access,cycles_total
default,encoder,1000000000.0,1000,10,1000
"""

LAYERS = """\
Original Operator,NNG Operator,Target,Op Cycles,SRAM AC,Name
FullyConnected,FullyConnected,NPU,500,10,q
BatchMatMul,MatMul,NPU,70,0,scores
Softmax,Sub,NPU,400,0,softmax
Mul,Mul,NPU,31,0,norm
"""


def test_vela_cycles_are_the_total_and_those_of_products() -> None:
    # A cycle of rounding in the layers is no reason to refuse them.
    assert vela.cycles(SUMMARY, LAYERS) == vela.Cycles(total=1000, matmuls=570)


@pytest.mark.parametrize(
    ("summary", "layers", "message"),
    [
        (
            SUMMARY,
            LAYERS.replace("Mul,Mul,NPU", "Mul,Mul,CPU"),
            "1 operators are not on.*norm",
        ),
        (SUMMARY, LAYERS.replace(",400,", ",300,"), "901 cycles together, not 1,000"),
        (SUMMARY.replace("cycles_total", "cycles"), LAYERS, "no number in column cycles_total"),
        (SUMMARY, LAYERS.replace("Op Cycles", "Cycles"), "no number in column Op Cycles"),
        (SUMMARY.splitlines()[0], LAYERS, "0 networks"),
    ],
)
def test_vela_report_that_is_not_understood_is_refused(
    summary: str, layers: str, message: str
) -> None:
    with pytest.raises(ReportError, match=message):
        vela.cycles(summary, layers)


def test_share_of_the_ideal_is_macs_over_128_per_cycle() -> None:
    assert figure().of_ideal == 0.75
    assert figure().as_json()["of_ideal"] == 0.75
    heading, line = table([figure()]).splitlines()
    assert heading.split() == ["tool", "core", "includes", "T", "cycles", "of", "ideal"]
    assert line.split() == ["A", "1.0", "16x8", "all", "32", "4,000,000", "75.0%"]


def test_report_that_was_not_written_is_an_error_of_the_tool(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"wrote no report.*none\.csv"):
        read_report(tmp_path / "none.csv")


def test_failed_tool_shows_the_end_of_its_log(tmp_path: Path) -> None:
    code = "print('\\n'.join(f'line {n}' for n in range(99)) + '\\n10%\\r20%'); raise SystemExit(5)"
    with pytest.raises(ToolError) as error:
        run_tool([sys.executable, "-c", code], tmp_path, what="the tool")
    message = str(error.value)
    assert message.startswith("the tool: ended with code 5; the end of ")
    assert message.endswith("  line 98\n  20%")
    assert "line 80" not in message


def test_tool_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="the tool: cannot be started"):
        run_tool([tmp_path / "nowhere"], tmp_path, what="the tool")


def test_tool_works_in_its_folder_and_its_output_is_kept(tmp_path: Path) -> None:
    code = "import os; print(os.path.exists('here'))"
    (tmp_path / "here").touch()
    assert run_tool([sys.executable, "-c", code], tmp_path, what="it") == "True\n"
    assert (tmp_path / "log.txt").read_text() == "True\n"


def test_failed_installation_is_tried_again_and_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = list[Path]()

    def no_venv(folder: Path, **_: object) -> None:
        created.append(folder)

    # Without the interpreter that would be made, pip cannot start: as good as no network.
    monkeypatch.setattr(environment.venv, "create", no_venv)
    for _ in range(2):
        with pytest.raises(ToolError, match=r"(?s)installing a.*PIP_INDEX_URL"):
            Environment("a", ("a==1",)).python(tmp_path)
    assert len(created) == 2
    with pytest.raises(ToolError):
        Environment("a", ("a==2",)).python(tmp_path)
    assert len(set(created)) == 2


def test_complete_environment_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.venv, "create", lambda folder, **_: None)
    monkeypatch.setattr(environment, "run_tool", lambda *_, **__: "")
    first = Environment("a", ("a==1",)).python(tmp_path)
    monkeypatch.delattr(environment.venv, "create")
    assert Environment("a", ("a==1",)).python(tmp_path) == first


def test_missing_tool_is_exit_3_and_loses_no_other_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> list[Figure]:
        raise ToolError("no network")

    monkeypatch.setattr(peers, "TOOLS", {"vela": missing, "scalesim": lambda *_: [figure()]})
    assert peers.main(["--work", str(tmp_path), "--seq-len", "32", "--json"]) == 3
    captured = capsys.readouterr()
    assert [each["cycles"] for each in json.loads(captured.out)["figures"]] == [4_000_000]
    assert captured.err == "peers: no network\n"
    assert peers.main(["--work", str(tmp_path), "--seq-len", "32", "scalesim"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seq-len", "many"], "--seq-len takes a length"),
        (["gemmini"], "no tool gemmini: take vela or scalesim"),
        (["--work", "/dev/null/here"], "--work"),
    ],
)
def test_nonsense_is_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peers.main(arguments) == 2
    assert message in capsys.readouterr().err
