"""Measures points on any executor, and remembers what was measured."""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from systolith.compiler import compile_with_model
from systolith.compiler.errors import CompileError
from systolith.compiler.estimate import Memory, estimate
from systolith.compiler.options import QuantizeOptions
from systolith.config import CoreConfig
from systolith.host.figures import roofline, roofline_fraction, utilization
from systolith.sweep.accuracy import loss_of
from systolith.sweep.area import area_of
from systolith.sweep.points import Point

Sample = dict[str, np.ndarray]
"""A model's input for calibration."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to run on the cores.

    Attributes:
        name: in results; no other work of a sweep has it.
        model: the ONNX file.
        samples: calibration inputs; None for random tokens.
        identity: changes with the model's and the samples' contents.
    """

    name: str
    model: Path
    samples: list[Sample] | None
    identity: str


def measure(
    model: str,
    samples: list[Sample] | None,
    points: Sequence[Point],
    quantization: QuantizeOptions | None = None,
) -> list[dict[str, Any]]:
    """Compile a model once, and estimate it with each of the memories.

    Args:
        model: path of the ONNX file, as whoever carries this out finds it.
        samples: calibration inputs; None for random tokens.
        points: with the same core, sequence length and weights.
        quantization: the user's other choices, None for the defaults; limits are for points with
            mixed weights.

    Raises:
        OSError: the file cannot be read.

    Returns:
        A row for each point: `key`, what was varied, and either `cycles`, `utilization`,
        `roofline_fraction`, `bound`, `dram_bytes`, `multipliers`, `block_rams` and, if there are
        samples, `loss` (see `accuracy`); or `refused`.
    """
    config, seq_len = points[0].config, points[0].seq_len
    options = _options(points[0], quantization)
    try:
        program, compiled = compile_with_model(
            model, config=config, seq_len=seq_len, calibration=samples, options=options
        )
    except CompileError as error:
        return [_varied(point) | {"refused": str(error)} for point in points]
    area = area_of(config)
    accuracy = {"loss": loss_of(program, compiled, samples)} if samples else {}
    rows = []
    for point in points:
        memory = Memory(bandwidth=point.bandwidth, latency=point.latency)
        cycles = estimate(program.code, config, memory).cycles
        rows.append(
            _varied(point)
            | {
                "cycles": cycles,
                "utilization": utilization(program, cycles),
                "roofline_fraction": roofline_fraction(program, cycles, point.bandwidth),
                "bound": roofline(program, point.bandwidth).bound,
                "dram_bytes": program.dram_bytes,
                "multipliers": area.multipliers,
                "block_rams": area.block_rams,
            }
            | accuracy
        )
    return rows


def sweep(
    works: Sequence[Work],
    points: Sequence[Point],
    *,
    executor: Executor,
    memory: Path,
    quantization: QuantizeOptions | None = None,
    progress: Callable[[int], object],
) -> list[dict[str, Any]]:
    """Measure all points with each model, those of one core, length and format together.

    Args:
        works: models.
        points: what to measure of each.
        executor: who measures.
        memory: file of JSON lines, to which every result is added at once; what is in there from
            an earlier sweep with the same model, inputs and options is not measured again.
        quantization: as in `measure`.
        progress: told how many points have been measured.

    Raises:
        ValueError: two works have one name.

    Returns:
        A row for each work and point, in their order: `model`, the work's name, and what
        `measure` says.
    """
    if len({work.name for work in works}) < len(works):
        raise ValueError(f"works need names of their own: {[work.name for work in works]}")
    # Each point is remembered with its own options, so further formats forget nothing.
    places = {
        (work.name, point.key): (f"{work.identity} {_options(point, quantization)}", point.key)
        for work in works
        for point in points
    }
    known = _remembered(memory, set(places.values()))
    progress(sum(place in known for place in places.values()))
    tasks = {
        executor.submit(measure, str(work.model), work.samples, group, quantization): work
        for work in works
        for group in _groups(point for point in points if places[work.name, point.key] not in known)
    }
    try:
        with memory.open("a", encoding="utf-8") as file:
            for task in as_completed(tasks):
                rows = task.result()
                for row in rows:
                    place = places[tasks[task].name, row["key"]]
                    known[place] = row
                    file.write(json.dumps({"identity": place[0]} | row) + "\n")
                file.flush()
                progress(len(rows))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    return [
        {"model": work.name} | known[places[work.name, point.key]]
        for work in works
        for point in points
    ]


def _groups(points: Iterable[Point]) -> list[list[Point]]:
    """What one compilation serves."""
    groups: dict[tuple[CoreConfig, int, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.config, point.seq_len, point.weights), []).append(point)
    return list(groups.values())


def _options(point: Point, quantization: QuantizeOptions | None) -> QuantizeOptions:
    return (quantization or QuantizeOptions()).with_weights(point.weights)


def _remembered(
    memory: Path, wanted: set[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Any]]:
    if not memory.is_file():
        return {}
    known = {}
    for line in memory.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # an interrupted sweep may have left half a line
        place = row.pop("identity", None), row.get("key")
        if place in wanted:
            known[place] = row
    return known


def _varied(point: Point) -> dict[str, Any]:
    return {
        "key": point.key,
        "array": f"{point.config.rows}x{point.config.columns}",
        "lanes": point.config.columns,
        "scratchpad_kib": point.config.scratchpad_bytes / 1024,
        "seq_len": point.seq_len,
        "weights": point.weights,
        "bandwidth": point.bandwidth,
        "latency": point.latency,
    }
