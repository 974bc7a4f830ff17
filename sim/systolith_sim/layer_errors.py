"""Where a quantized model loses accuracy, on a user's own inputs."""

from collections.abc import Sequence

import numpy as np

from systolith.compiler.calibrate import Sample
from systolith.compiler.compare import TensorError, compare_tensors, float_tensors
from systolith.compiler.model import CompiledModel
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith.numerics import Format
from systolith_sim.golden.qgraph import run_qgraph


def layer_errors(model: CompiledModel, samples: Sequence[Sample]) -> list[TensorError]:
    """Run samples in floating point and on the golden model, and compare all tensors.

    `systolith.compiler.compare.format_errors` lays the result out as a table.

    Args:
        model: the quantized model, as `compile_with_model` returns it beside the program.
        samples: inputs of the model, each `[L]` or `[1, L]`.

    Raises:
        CompileError: a sample does not suit the model.
    """
    host = HostModel(model.prologue)
    tensor = model.qgraph.tensors[model.input]
    pairs = []
    for sample in samples:
        feeds, length = pad_inputs(sample, model.seq_len, model.mask_input)
        x = host.run(feeds)[model.input].reshape(tensor.rows, tensor.columns)
        codes = np.clip(np.rint(x / tensor.step), *Format.S16.limits).astype(np.int64)
        integers = run_qgraph(model.qgraph, {model.input: codes}, length)
        pairs.append((integers, float_tensors(model.graph, x[:length])))
    return compare_tensors(model.qgraph, pairs)
