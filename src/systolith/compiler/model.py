"""From an ONNX model to a quantized graph: front end, calibration, quantization."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from systolith.compiler.calibrate import Sample, calibrate, embed
from systolith.compiler.errors import CompileError
from systolith.compiler.frontend import LoadedModel, load_model
from systolith.compiler.graph import Floats, Graph
from systolith.compiler.legalize import move_biases, split_feed_forward
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.prologue import HostModel, random_inputs
from systolith.compiler.qgraph import QGraph
from systolith.compiler.quantize import quantize

RANDOM_SAMPLES = 32
"""Samples that are made up where none are given."""


@dataclass(frozen=True, kw_only=True)
class CompiledModel:
    """A quantized model, and what the host does around it.

    The prologue's inputs are the model's inputs, `[1, T, ...]`; its output has the name of the
    quantized graph's input. The epilogue's inputs are the quantized graph's output, by its name
    and as real numbers, and model inputs; its outputs are the model's. Without an epilogue, the
    quantized graph's output is the model's.

    Attributes:
        name: of the model.
        seq_len: tokens.
        qgraph: what the core computes.
        graph: the same in real numbers: `Tensor.source` names its tensors.
        prologue: ONNX model.
        epilogue: ONNX model; empty for none.
        input: name of the quantized graph's input.
        output: name of its output.
        outputs: names of the model's outputs.
        mask_input: the model input that says which tokens are valid, if there is one.
        host: what runs on the host, in words.
        notes: what the user should know.
    """

    name: str
    seq_len: int
    qgraph: QGraph
    graph: Graph
    prologue: bytes
    epilogue: bytes
    input: str
    output: str
    outputs: tuple[str, ...]
    mask_input: str | None
    host: tuple[str, ...]
    notes: tuple[str, ...]


def build_qgraph(
    source: Path | str | bytes,
    seq_len: int | None = None,
    calibration: Sequence[Sample] | None = None,
    options: QuantizeOptions | None = None,
    *,
    name: str = "",
) -> CompiledModel:
    """Load, calibrate and quantize a model.

    Args:
        source: an ONNX file, or its contents.
        seq_len: tokens; may be left out if the model's inputs have a fixed length.
        calibration: sample inputs, each a mapping of the model's inputs to arrays `[L]` or
            `[1, L]`, L at most `seq_len`; None for random tokens, which cost accuracy.
        options: of quantization.
        name: of the model; by default the file's.

    Raises:
        CompileError: the model is not supported, or a sample does not suit it.
    """
    options = options or QuantizeOptions()
    loaded = load_model(source, seq_len)
    notes: list[str] = []
    if calibration is None:
        calibration = random_inputs(
            loaded.prologue,
            loaded.epilogue,
            loaded.seq_len,
            loaded.mask_input,
            count=RANDOM_SAMPLES,
            seed=0,
        )
        notes.append(
            f"calibrated on {RANDOM_SAMPLES} samples of random tokens: give samples of real input "
            "for the accuracy that the model can have"
        )
    if not calibration:
        raise CompileError("there are no calibration samples", accepted="at least one")
    if not loaded.masked:
        notes.append(
            f"the model has no attention mask: every input must have {loaded.seq_len} tokens"
        )
    inputs = _embed(loaded, calibration)
    graph = move_biases(loaded.graph)
    # Chunks follow from ranges, and the ranges of partial sums from chunks.
    graph = split_feed_forward(graph, calibrate(graph, inputs), options.chunks)
    qgraph = quantize(
        graph,
        calibrate(graph, inputs),
        seq_len=loaded.seq_len,
        options=options,
        result=loaded.result,
        masked=loaded.masked,
    )
    if not name:
        name = "model" if isinstance(source, bytes) else Path(source).stem
    return CompiledModel(
        name=name,
        seq_len=loaded.seq_len,
        qgraph=qgraph,
        graph=graph,
        prologue=loaded.prologue,
        epilogue=loaded.epilogue,
        input=graph.input,
        output=loaded.result,
        outputs=loaded.outputs,
        mask_input=loaded.mask_input,
        host=loaded.host,
        notes=(*notes, *qgraph.notes),
    )


def _embed(loaded: LoadedModel, samples: Sequence[Sample]) -> list[Floats]:
    return embed(
        HostModel(loaded.prologue),
        samples,
        name=loaded.graph.input,
        seq_len=loaded.seq_len,
        mask_input=loaded.mask_input,
    )
