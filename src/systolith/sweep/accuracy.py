"""How far a quantized model is from its real numbers, on the bit-exact golden model."""

from collections.abc import Mapping, Sequence

import numpy as np

from systolith.compiler.execute import run_float
from systolith.compiler.model import CompiledModel
from systolith.compiler.precision import turned
from systolith.host.inference import HostParts
from systolith.program import Program
from systolith_sim.golden.qgraph import run_qgraph

SAMPLES = 8
"""Inputs that the loss is measured on, at most, evenly taken from those that are given."""


def loss_of(
    program: Program, model: CompiledModel, samples: Sequence[Mapping[str, np.ndarray]]
) -> float:
    """One minus the cosine between the core's output tokens and real numbers, on average.

    Args:
        program: the compiled model.
        model: what it was compiled from.
        samples: inputs, of which the first tokens count.
    """
    host, output = HostParts(program), model.qgraph.tensors[model.output]
    angles: list[np.ndarray] = []
    for sample in samples[:: max(1, len(samples) // SAMPLES)][:SAMPLES]:
        cut = {name: np.asarray(value)[..., : program.seq_len] for name, value in sample.items()}
        padded, length = host.pad(cut)
        codes = run_qgraph(model.qgraph, host.prologue(padded), length)[output.name]
        y = codes[:length] * np.asarray(output.step, np.float64)
        real = host.tokens(padded)[None, :length]
        angles.append(turned(run_float(model.graph, real)[0], y))
    return float(np.concatenate(angles).mean())
