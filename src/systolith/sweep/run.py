"""Measures points on any executor, and remembers what was measured."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
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
    model: Path,
    samples: list[Sample] | None,
    points: Sequence[Point],
    *,
    executor: Executor,
    memory: Path,
    identity: str,
    quantization: QuantizeOptions | None = None,
    progress: Callable[[int], object],
) -> list[dict[str, Any]]:
    """Measure all points, those of one core, length and format together.

    Args:
        model: the ONNX file.
        samples: calibration inputs; None for random tokens.
        points: what to measure.
        executor: who measures.
        memory: file of JSON lines, to which every result is added at once; what is in there from
            an earlier sweep with the same identity and options is not measured again.
        identity: names the model and the calibration.
        quantization: as in `measure`.
        progress: told how many points have been measured.

    Returns:
        A row for each point, in their order.
    """
    # Each point is remembered with its own options, so further formats forget nothing.
    wanted = {point.key: f"{identity} {_options(point, quantization)}" for point in points}
    known = _remembered(memory, wanted)
    groups: dict[tuple[CoreConfig, int, str], list[Point]] = {}
    for point in points:
        if point.key not in known:
            groups.setdefault((point.config, point.seq_len, point.weights), []).append(point)
    progress(sum(point.key in known for point in points))
    tasks = [
        executor.submit(measure, str(model), samples, group, quantization)
        for group in groups.values()
    ]
    try:
        with memory.open("a", encoding="utf-8") as file:
            for task in as_completed(tasks):
                rows = task.result()
                for row in rows:
                    known[row["key"]] = row
                    file.write(json.dumps({"identity": wanted[row["key"]]} | row) + "\n")
                file.flush()
                progress(len(rows))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    return [known[point.key] for point in points]


def _options(point: Point, quantization: QuantizeOptions | None) -> QuantizeOptions:
    return (quantization or QuantizeOptions()).with_weights(point.weights)


def _remembered(memory: Path, wanted: dict[str, str]) -> dict[str, dict[str, Any]]:
    if not memory.is_file():
        return {}
    known = {}
    for line in memory.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # an interrupted sweep may have left half a line
        key, identity = row.get("key"), row.pop("identity", None)
        if identity is not None and identity == wanted.get(key):
            known[key] = row
    return known


def _varied(point: Point) -> dict[str, Any]:
    return {
        "key": point.key,
        "array": f"{point.config.rows}x{point.config.columns}",
        "scratchpad_kib": point.config.scratchpad_bytes / 1024,
        "seq_len": point.seq_len,
        "weights": point.weights,
        "bandwidth": point.bandwidth,
        "latency": point.latency,
    }
