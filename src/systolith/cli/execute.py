"""Runs inputs through a compiled model and puts the float model beside it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from systolith.cli.exits import UsageError
from systolith.cli.inputs import Sample, is_image
from systolith.cli.parallel import Run, run_all
from systolith.host.device import Device
from systolith.host.figures import roofline_fraction, utilization
from systolith.host.inference import HostParts
from systolith.host.session import Counters
from systolith.program import Program
from systolith_sim.check import Difference, check_outputs, check_tensors
from systolith_sim.devices import is_board


@dataclass(frozen=True, kw_only=True)
class Result:
    """One input's run.

    Attributes:
        outputs: of the NPU, by name.
        reference: of the float model, by name; empty if there is none to compare with.
        counters: what the core counted.
        cosine: between the embeddings of both, None without a reference.
        difference: the first difference between levels, if they were compared and differ.
    """

    outputs: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    counters: Counters
    cosine: float | None
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All inputs' runs.

    Attributes:
        results: one for each input.
        checked: whether levels were compared.
        wall_s: seconds on the devices, checks not included.
        jobs: how many devices worked at the same time.
    """

    results: list[Result]
    checked: bool
    wall_s: float
    jobs: int


class FloatModel:
    """The unmodified model in onnxruntime.

    Args:
        path: the ONNX file.
    """

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session: Any = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def run(self, sample: Sample) -> dict[str, np.ndarray]:
        """Run one input, unpadded, unless the model has a fixed length."""
        feeds = {}
        names = [info.name for info in self._session.get_outputs()]
        if is_image(sample):
            feeds = {name: image[None] for name, image in sample.items()}
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        for info in self._session.get_inputs():
            value = sample.get(info.name)
            if value is None:
                value = np.zeros_like(next(iter(sample.values())))
            value = np.atleast_2d(value)
            length = info.shape[-1]
            if isinstance(length, int) and length > value.shape[1]:
                value = np.pad(value, ((0, 0), (0, length - value.shape[1])))
            feeds[info.name] = value.astype(np.int32 if "int32" in info.type else np.int64)
        return dict(zip(names, self._session.run(names, feeds), strict=True))


def embedding(outputs: Mapping[str, np.ndarray], length: int, pooling: str = "model") -> np.ndarray:
    """The unit vector that a model's outputs stand for.

    A sentence output, `[1, channels]`, is taken as it is; of token outputs, `[1, tokens,
    channels]`, the valid tokens are averaged.

    Args:
        outputs: by name.
        length: valid tokens.
        pooling: what a program makes of tokens: with "mean" or "cls", token outputs count.
    """
    real = [np.asarray(value) for value in outputs.values() if value.dtype.kind == "f"]
    sentence = [value for value in real if value.ndim <= 2]
    tokens = [value for value in real if value.ndim > 2]
    if tokens and pooling == "cls":
        vector = tokens[0].reshape(-1, tokens[0].shape[-1])[0]
    elif sentence and not (tokens and pooling == "mean"):
        vector = sentence[-1].reshape(-1)
    elif tokens:
        vector = tokens[0].reshape(-1, tokens[0].shape[-1])[:length].mean(0)
    else:
        raise UsageError("the model has no floating-point output to judge it by")
    vector = vector.astype(np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def execute(
    program: Program,
    devices: Sequence[Device],
    samples: Sequence[Sample],
    *,
    reference: FloatModel | None,
    check: bool,
    quiet: bool,
) -> Outcome:
    """Run every input on one of the devices.

    Args:
        program: the compiled model.
        devices: where to run it: devices of a kind, which work at the same time.
        samples: inputs.
        reference: the float model, or None.
        check: whether to compare every tensor with golden model and instruction simulator.
        quiet: no progress.
    """
    host = HostParts(program)
    runs = []
    for sample in samples:
        padded, length = host.pad(sample)
        runs.append(Run(padded=padded, length=length, codes=host.prologue(padded)))
    started = time.perf_counter()
    name = devices[0].name
    watched = check and not is_board(name)
    run_all(program, devices, runs, watch=watched, quiet=quiet)
    wall = time.perf_counter() - started
    results = []
    for sample, run in zip(samples, runs, strict=True):
        difference = None
        if check:
            captured = {name: run.captured} if watched and name != "iss" else {}
            difference = check_tensors(program, run.codes, run.length, captured)
            if difference is None and is_board(name):
                difference = check_outputs(program, run.codes, run.length, {name: run.raw})
        outputs = host.epilogue(run.raw, run.padded, run.length)
        expected = reference.run(sample) if reference else {}
        cosine = None
        if expected:
            exact = embedding(expected, run.length, program.pooling)
            cosine = float(embedding(outputs, run.length) @ exact)
        results.append(
            Result(
                outputs=outputs,
                reference=expected,
                counters=run.counters,
                cosine=cosine,
                difference=difference,
            )
        )
    return Outcome(results=results, checked=check, wall_s=wall, jobs=len(devices))


def _engines(timed: Sequence[Counters]) -> dict[str, Any] | None:
    """Where each engine's cycles went, means over the runs; a cause is there if it can happen.

    None if nobody counted.
    """
    if not (timed and timed[0].has_stalls):
        return None

    def mean(values: Iterable[int]) -> float:
        return float(np.mean(list(values)))

    return {
        name: {
            "working": mean(each.busy[name] - each.stall[name] for each in timed),
            "stalled": {
                cause: mean(each.stalls[name][cause] for each in timed)
                for cause in timed[0].stalls[name]
            },
            "idle": mean(each.cycles - each.busy[name] for each in timed),
        }
        for name in timed[0].busy
    }


def summary(program: Program, device: Device, preset: str, outcome: Outcome) -> dict[str, Any]:
    """The JSON object of a run: means over the inputs, null for what was not asked for."""
    counters = [result.counters for result in outcome.results]
    timed = [each for each in counters if each.cycles]

    def mean(values: Sequence[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return float(np.mean(found)) if found else None

    cycles = mean([each.cycles for each in timed])
    return {
        "model": program.name,
        "preset": preset,
        "device": device.name,
        "seq_len": program.seq_len,
        "weights": program.weights,
        "cycles": cycles,
        "macs": program.macs,
        "utilization": mean([utilization(program, each.cycles) for each in timed]),
        "roofline_fraction": mean(
            [roofline_fraction(program, each.cycles, device.bandwidth) for each in timed]
        ),
        "dram_bytes": mean([each.dram_bytes for each in timed]),
        "engines": _engines(timed),
        "wall_s": outcome.wall_s,
        "bit_exact": (
            all(result.difference is None for result in outcome.results)
            if outcome.checked
            else None
        ),
        "cosine": mean([result.cosine for result in outcome.results]),
        "inputs": len(outcome.results),
        "jobs": outcome.jobs,
        "bandwidth": device.bandwidth or None,
        "host": list(program.host),
    }
