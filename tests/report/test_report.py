"""Reports: every cycle has one place, and all files say the same."""

import csv
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from systolith.compiler.estimate import Memory, estimate
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS
from systolith.host.session import Counters
from systolith.isa import Engine
from systolith.program import Program
from systolith.regs import STALLS
from systolith.report import (
    Measured,
    Profile,
    engine_table,
    layer_table,
    performance,
    profile,
    render,
    trace,
)
from systolith.report.hints import hints
from systolith.report.memory_map import FREE, MemoryMap, memory_map
from systolith.report.pictures import memory_picture, roofline_picture, timeline
from systolith_sim.graphs import encoder, gemm

CONFIG = PRESETS["ecp5-85k"]
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def program() -> Program:
    return schedule(encoder(32), CONFIG, name="small <encoder>", seq_len=32)


@pytest.fixture(scope="module", params=[8.0, 0.5], ids=["fast", "slow"])
def measured(request: pytest.FixtureRequest, program: Program) -> Profile:
    return profile(program, Memory(bandwidth=request.param))


def test_every_cycle_of_an_engine_has_one_place(measured: Profile) -> None:
    for name, time in measured.engines.items():
        total = time.working + sum(time.waiting.values()) + time.idle
        assert total == measured.cycles, name
        assert min([time.working, *time.waiting.values(), time.idle]) >= 0
        assert name not in time.waiting, "an engine does not wait for itself"


def test_spans_are_in_order_and_do_not_overlap(measured: Profile, program: Program) -> None:
    assert measured.cycles == estimate(program.code, CONFIG, measured.memory).cycles
    for engine in Engine:
        end = 0
        for span in (each for each in measured.spans if each.engine == engine):
            assert end + span.waited == span.begin < span.end <= measured.cycles
            end = span.end


def test_work_adds_up(measured: Profile, program: Program) -> None:
    assert sum(span.macs for span in measured.spans) == program.macs
    assert sum(layer.macs for layer in measured.layers) == program.macs
    assert sum(layer.instructions for layer in measured.layers) == len(measured.spans)
    figures = performance(measured)
    # No operand is loaded twice in a program that fits.
    assert figures["dram_bytes"] == program.dram_bytes
    gemm_time = measured.engines["GEMM"].working
    assert (figures["macs"] / 128 + figures["padding_cycles"]) <= gemm_time


def test_a_slow_memory_is_what_everybody_waits_for(program: Program) -> None:
    slow = profile(program, Memory(bandwidth=0.5))
    assert hints(slow)[0].endswith("bytes per cycle on, the array is the limit")
    assert performance(slow)["bound"] == "memory"
    fast = profile(program, Memory(bandwidth=64.0))
    assert not any("bound by memory" in hint for hint in hints(fast))
    assert fast.cycles < slow.cycles


def test_padding_is_counted() -> None:
    """5 columns of 8, 20 rows of A in tiles of 16: each tile column takes two tiles."""
    wide = profile(schedule(gemm(20, 5, 24), CONFIG, name="odd", seq_len=20), Memory())
    assert performance(wide)["padding_cycles"] == pytest.approx(2 * 20 - 20 * 24 * 5 / 128)
    assert any("padding" in hint for hint in hints(wide))


def test_the_table_has_the_figures(measured: Profile) -> None:
    rows = list(csv.DictReader(io.StringIO(layer_table(measured))))
    assert [row["layer"] for row in rows] == [layer.name for layer in measured.layers]
    for engine in Engine:
        total = sum(int(row[f"{engine.name.lower()}_cycles"]) for row in rows)
        assert total == measured.engines[engine.name].working


def test_the_trace_has_every_instruction(measured: Profile) -> None:
    events = json.loads(json.dumps(trace(measured)))["traceEvents"]
    names = {
        event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"
    }
    boxes = [event for event in events if event["ph"] == "X"]
    assert len(boxes) == len(measured.spans)
    for span, box in zip(measured.spans, boxes, strict=True):
        assert names[box["tid"]] == span.engine.name
        assert (box["ts"], box["ts"] + box["dur"]) == (span.begin, span.end)


def test_pictures_are_well_formed_and_inside_of_their_frame(measured: Profile) -> None:
    for picture in (timeline(measured), roofline_picture(measured)):
        root = ElementTree.fromstring(picture)
        width, height = (float(root.attrib[name]) for name in ("width", "height"))
        for box in root.iter("{http://www.w3.org/2000/svg}rect"):
            x, y, w, h = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
            assert 0 <= x <= x + w <= width + 0.5
            assert 0 <= y <= y + h <= height
        for point in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 < float(point.attrib["cx"]) < width
            assert 0 < float(point.attrib["cy"]) < height


def test_the_page_says_what_perf_json_says(measured: Profile) -> None:
    page = render(measured)
    figures = performance(measured)
    cells = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td></tr>", page)
    shown = dict(cells[:5])
    assert shown["cycles"] == f"{figures['cycles']:,}"
    assert shown["of the roofline"].startswith(f"{figures['roofline_fraction']:.1%}")
    assert "small &lt;encoder&gt;" in page
    assert "<encoder>" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", ""), "it needs nothing else"


@pytest.fixture(scope="module")
def compared(measured: Profile) -> Profile:
    """With a run beside it, whose figures are such that none is equal to another."""
    numbers = iter(range(1000, 9000, 7))
    stalls = {
        engine.name.lower(): {cause.name.lower(): next(numbers) for cause in STALLS[engine]}
        for engine in Engine
    }
    stall = {name: sum(causes.values()) for name, causes in stalls.items()}
    cycles = measured.cycles + 5000
    counters = Counters(
        cycles=cycles,
        read_bytes=123_000,
        write_bytes=456,
        clashes=17,
        stall=stall,
        stalls=stalls,
        busy={name: value + next(numbers) for name, value in stall.items()},
        retired={name: next(numbers) for name in stall},
    )
    return replace(measured, measured=Measured(device="verilator", counters=counters))


def test_a_run_gives_the_figures_and_the_estimate_is_beside_it(
    compared: Profile, measured: Profile
) -> None:
    assert compared.measured is not None
    figures, estimated = performance(compared), performance(measured)
    assert (figures["source"], estimated["source"]) == ("verilator", "estimate")
    assert figures["cycles"] == figures["measured"]["cycles"] == measured.cycles + 5000
    assert figures["estimated_cycles"] == estimated["cycles"] == measured.cycles
    assert figures["dram_bytes"] == 123_456
    assert figures["roofline_fraction"] < estimated["roofline_fraction"]
    for same in ("engines", "layers", "roofline_cycles", "padding_cycles"):
        assert figures[same] == estimated[same]
    assert estimated["measured"] is None
    for engine in figures["measured"]["engines"].values():
        assert (
            engine["working"] + sum(engine["stalled"].values()) + engine["idle"]
            == (figures["cycles"])
        )
    page = render(compared)
    assert "Measured by the counters of the RTL (verilator)" in page
    assert "Estimated, not simulated" in render(measured)
    assert "stalled" not in render(measured)


def test_the_table_of_engines_says_who_says_so(compared: Profile, measured: Profile) -> None:
    rows = list(csv.DictReader(io.StringIO(engine_table(compared))))
    assert {row["source"] for row in rows} == {"estimate", "verilator"}
    for source, cycles in (("estimate", compared.cycles), ("verilator", compared.taken)):
        for engine in Engine:
            mine = [row for row in rows if (row["source"], row["engine"]) == (source, engine.name)]
            assert sum(int(row["cycles"]) for row in mine) == cycles
    shown = {row["state"] for row in rows if (row["source"], row["engine"]) == ("verilator", "ROW")}
    assert shown == {"working", "awaited", "idle"}
    assert engine_table(measured) == "".join(
        line for line in engine_table(compared).splitlines(True) if "verilator" not in line
    )


def test_a_core_without_counters_of_stalls_gives_no_shares(compared: Profile) -> None:
    """A sentence instead; cycles, bytes and the estimate are as they were."""
    assert compared.measured is not None
    counted = replace(compared.measured.counters, busy={}, stall={}, stalls={})
    without = replace(compared, measured=replace(compared.measured, counters=counted))
    figures = performance(compared)
    figures["measured"]["engines"] = None
    assert performance(without) == figures
    sentence = "This core has no stall counters."
    assert sentence in render(without)
    assert "stalled: dram" not in render(without)
    assert sentence not in render(compared)
    assert "verilator" in engine_table(compared)
    assert "verilator" not in engine_table(without)
    assert "measured" not in " ".join(hints(without))


def test_counters_of_gemm_give_advice(compared: Profile) -> None:
    assert any("measured: GEMM stands still" in hint for hint in hints(compared))


@pytest.fixture(scope="module")
def exact() -> tuple[Profile, MemoryMap]:
    """A map with a place for each granule and a time for each cycle, of a program that is short."""
    graph = encoder(4, width=32, chunks=(32,))
    measured = profile(schedule(graph, TINY, name="short", seq_len=4), Memory())
    return measured, memory_map(measured, places=TINY.granules, times=measured.cycles)


def test_memory_holds_each_tensor_when_it_is_complete(exact: tuple[Profile, MemoryMap]) -> None:
    measured, found = exact
    layers = {layer.name: index for index, layer in enumerate(measured.layers)}
    spans = {span.index: span for span in measured.spans}
    assert len(measured.program.watch) > 20
    for point in measured.program.watch:
        span = spans[point.instruction]
        size = 2 if point.format.name == "S16" else 1
        granules = -(-point.columns * size // TINY.columns)
        rows = point.address + np.arange(point.rows)[:, None] * point.row
        cells = found.owner[rows + np.arange(granules), span.end - 1]
        assert FREE not in cells, point.name
        # Other columns of a tensor may be another head's.
        assert layers[span.layer] in cells, point.name


def test_memory_in_use_is_what_the_map_shows(exact: tuple[Profile, MemoryMap]) -> None:
    measured, found = exact
    shown = (found.owner != FREE).sum(0) * TINY.columns
    np.testing.assert_array_equal(found.live, shown)
    assert 0 < shown.max() < TINY.scratchpad_bytes
    coarse = memory_map(measured)
    assert coarse.live.max() >= found.live.max()
    root = ElementTree.fromstring(memory_picture(measured, coarse))
    titles = {title.text for title in root.iter("{http://www.w3.org/2000/svg}title")}
    drawn = {measured.layers[index].name for index in np.unique(coarse.owner) if index != FREE}
    assert titles == drawn
