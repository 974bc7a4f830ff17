"""Measures points on any executor, and remembers what was measured."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
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
    config, seq_len, weights = points[0].config, points[0].seq_len, points[0].weights
    quantization = quantization or QuantizeOptions()
    if weights == "mixed":
        quantization = replace(quantization, weights="mixed")
    else:
        quantization = replace(quantization, weights=weights, max_bytes=None, max_loss=None)  # pyright: ignore[reportArgumentType]
    try:
        program, compiled = compile_with_model(
            model, config=config, seq_len=seq_len, calibration=samples, options=quantization
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
            an earlier sweep with the same identity is not measured again.
        identity: names the model and the calibration.
        quantization: as in `measure`.
        progress: told how many points have been measured.

    Returns:
        A row for each point, in their order.
    """
    known = _remembered(memory, identity)
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
                    file.write(json.dumps({"identity": identity} | row) + "\n")
                file.flush()
                progress(len(rows))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    return [known[point.key] for point in points]


def _remembered(memory: Path, identity: str) -> dict[str, dict[str, Any]]:
    if not memory.is_file():
        return {}
    known = {}
    for line in memory.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # an interrupted sweep may have left half a line
        if row.pop("identity", None) == identity:
            known[row["key"]] = row
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
