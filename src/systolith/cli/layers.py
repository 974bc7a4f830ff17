"""`--errors`: float against integer, layer by layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systolith.cli.inputs import Sample
from systolith.cli.prepare import Calibration
from systolith.compiler import compile_with_model
from systolith.compiler.compare import compare_tensors, float_tensors, format_errors
from systolith.compiler.options import QuantizeOptions
from systolith.config import CoreConfig
from systolith.host.inference import HostParts
from systolith_sim.golden.qgraph import run_qgraph

MOST_SAMPLES = 8
"""Inputs that the comparison takes; more change little."""


def layer_errors(
    model: Path,
    *,
    config: CoreConfig,
    seq_len: int,
    calibrated: Calibration,
    quantization: QuantizeOptions,
    samples: Sequence[Sample],
) -> str:
    """A table of every layer's signal-to-noise ratio, on the golden model."""
    program, compiled = compile_with_model(
        model,
        config=config,
        seq_len=seq_len,
        calibration=calibrated.samples,
        options=quantization,
    )
    host = HostParts(program)
    pairs = []
    for sample in samples[:MOST_SAMPLES]:
        padded, length = host.pad(sample)
        real = host.tokens(padded)
        if compiled.patches is not None:
            real = compiled.patches.unfold(real)
        codes = run_qgraph(compiled.qgraph, host.prologue(padded), length)
        floats = float_tensors(compiled.graph, np.asarray(real)[:length])
        pairs.append((codes, floats))
    return format_errors(compare_tensors(compiled.qgraph, pairs))
