"""From an ONNX model to a quantized graph: front end, calibration, quantization."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from systolith.compiler.calibrate import Ranges, Sample, calibrate, embed
from systolith.compiler.errors import CompileError
from systolith.compiler.fit import Fitted, Progress, fit, part_of
from systolith.compiler.frontend import LoadedModel, load_model
from systolith.compiler.graph import Floats, Graph
from systolith.compiler.legalize import move_biases, pad_heads, split_feed_forward
from systolith.compiler.lookup import move_lookup
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.patches import PatchGrid
from systolith.compiler.pooling import move_pooling
from systolith.compiler.precision import Choice, choose_all, choose_mixed
from systolith.compiler.prologue import HostModel, random_images, random_inputs
from systolith.compiler.qgraph import QGraph
from systolith.compiler.quantize import quantize

DEFAULT_BLOCK = 16
"""Weights that share an exponent, on the core that is meant where none is named: `ecp5-85k`."""

HEAD_UNIT = 8
"""Channels that a head's begin at a multiple of, on cores with at most as many columns."""

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
        patches: how the image falls into patches, if the input is one.
        host: what runs on the host, in words.
        notes: what the user should know.
        choices: the format of each linear operator's weights.
        pooling: as in `Program`.
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
    patches: PatchGrid | None
    host: tuple[str, ...]
    notes: tuple[str, ...]
    choices: tuple[Choice, ...] = ()
    pooling: str = "model"


class PreparedModel:
    """A model that has been loaded, with its calibration inputs: quantized as often as one likes.

    Args:
        loaded: the model.
        inputs: the core's input for each calibration sample, `[valid tokens, channels]`.
        name: of the model.
        notes: what the user should know.
        unit: channels that heads, and bytes that runs of an image, are padded to multiples of.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        inputs: Sequence[Floats],
        name: str,
        notes: Sequence[str],
        unit: int = HEAD_UNIT,
    ) -> None:
        self.loaded = loaded
        self._inputs = inputs
        self._name = name
        self._notes = notes
        self._unit = unit
        self._whole = pad_heads(move_biases(loaded.graph), unit)
        # Chunks follow from ranges, and the ranges of partial sums from chunks.
        self._whole_ranges = calibrate(self._whole, inputs)
        self._split: dict[tuple[int, int | None], tuple[Graph, Ranges]] = {}
        self._fits: dict[tuple[QuantizeOptions, int], tuple[Fitted, tuple[Choice, ...]]] = {}

    def graph(self, options: QuantizeOptions) -> tuple[Graph, Ranges]:
        """The operator graph as it is quantized, and its calibrated ranges."""
        key = (options.max_chunk, options.wide_channels)
        if key not in self._split:
            graph = split_feed_forward(self._whole, self._whole_ranges, options.chunks)
            self._split[key] = (graph, calibrate(graph, self._inputs))
        return self._split[key]

    def fit(
        self, options: QuantizeOptions, *, block: int, progress: Progress | None = None
    ) -> tuple[Fitted, tuple[Choice, ...]]:
        """Choose the weights' formats, and fit those of 4 bits and what is beside them.

        Args:
            options: the user's choices.
            block: weights that share an exponent: the rows of the array.
            progress: told of each of the operators; twice, if their formats are to be chosen.

        Raises:
            CompileError: no choice keeps the limits.
        """
        key = (options, block)
        if key not in self._fits:
            graph, ranges = self.graph(options)
            rounds = 2 if options.weights == "mixed" else 1
            match options.weights:
                case "int8":
                    choices = choose_all(graph, 8, block=block)
                case "int4":
                    choices = choose_all(graph, 4, block=block)
                case "mixed":
                    choices = choose_mixed(
                        graph,
                        self._inputs,
                        ranges,
                        options,
                        block=block,
                        progress=part_of(progress, 0, rounds),
                    )
            fitted = Fitted()
            bits = {choice.tensor: choice.bits for choice in choices}
            if 4 in bits.values():
                fitted = fit(
                    graph,
                    self._inputs,
                    ranges,
                    bits,
                    options,
                    block=block,
                    progress=part_of(progress, rounds - 1, rounds),
                )
            self._fits[key] = fitted, choices
        return self._fits[key]

    def qgraph(
        self,
        options: QuantizeOptions,
        seq_len: int | None = None,
        *,
        block: int = DEFAULT_BLOCK,
        progress: Progress | None = None,
    ) -> QGraph:
        """Quantize; on request for another length, which changes no number.

        Raises:
            CompileError: something cannot be expressed in the core's integers.
        """
        graph, ranges = self.graph(options)
        fitted, _ = self.fit(options, block=block, progress=progress)
        return quantize(
            graph,
            ranges,
            seq_len=seq_len or self.loaded.seq_len,
            options=options,
            result=self.loaded.result,
            others=self.loaded.others,
            patches=self.loaded.patches,
            run=self._unit,
            masked=self.loaded.masked,
            fitted=fitted,
        )

    def compile(
        self,
        options: QuantizeOptions,
        *,
        block: int = DEFAULT_BLOCK,
        progress: Progress | None = None,
    ) -> CompiledModel:
        """Quantize; see `fit` for the arguments.

        Raises:
            CompileError: something cannot be expressed in the core's integers.
        """
        loaded, qgraph = self.loaded, self.qgraph(options, block=block, progress=progress)
        _, choices = self.fit(options, block=block)
        graph, _ = self.graph(options)
        return CompiledModel(
            name=self._name,
            seq_len=loaded.seq_len,
            qgraph=qgraph,
            graph=graph,
            prologue=loaded.prologue,
            epilogue=loaded.epilogue,
            input=graph.input,
            output=loaded.result,
            outputs=loaded.outputs,
            mask_input=loaded.mask_input,
            patches=loaded.patches,
            host=loaded.host,
            notes=(*self._notes, *qgraph.notes),
            choices=choices,
            pooling="model" if options.pooling == "host" else options.pooling,
        )


def build_qgraph(
    source: Path | str | bytes,
    seq_len: int | None = None,
    calibration: Sequence[Sample] | None = None,
    options: QuantizeOptions | None = None,
    *,
    name: str = "",
) -> CompiledModel:
    """Load, calibrate and quantize a model: `prepare_model`, then `PreparedModel.compile`."""
    options = options or QuantizeOptions()
    prepared = prepare_model(source, seq_len, calibration, name=name, options=options)
    return prepared.compile(options)


def prepare_model(
    source: Path | str | bytes,
    seq_len: int | None = None,
    calibration: Sequence[Sample] | None = None,
    *,
    name: str = "",
    unit: int = HEAD_UNIT,
    options: QuantizeOptions | None = None,
) -> PreparedModel:
    """Load a model and run its prologue on samples.

    Args:
        source: an ONNX file, or its contents.
        seq_len: tokens; may be left out if the model's inputs have a fixed length.
        calibration: sample inputs, each a mapping of the model's inputs to arrays `[L]` or
            `[1, L]`, L at most `seq_len`; None for random tokens, which cost accuracy.
        name: of the model; by default the file's.
        unit: channels that heads are padded to multiples of.
        options: the user's choices; here, what is to be pooled where.

    Raises:
        CompileError: the model is not supported, or a sample does not suit it.
    """
    options = options or QuantizeOptions()
    original = move_pooling(load_model(source, seq_len), options)
    loaded = move_lookup(original, options)
    notes = list(loaded.notes)
    if calibration is None:
        if loaded.patches is not None:
            kind = "images"
            calibration = random_images(loaded.prologue, count=RANDOM_SAMPLES, seed=0)
        else:
            kind = "tokens"
            calibration = random_inputs(
                original.prologue,
                original.epilogue,
                loaded.seq_len,
                loaded.mask_input,
                count=RANDOM_SAMPLES,
                seed=0,
            )
        notes.append(
            f"calibrated on {RANDOM_SAMPLES} samples of random {kind}: give samples of real input "
            "for the accuracy that the model can have"
        )
    if not calibration:
        raise CompileError("there are no calibration samples", accepted="at least one")
    if loaded.mask_input is None and loaded.patches is None:
        notes.append(
            f"the model has no attention mask: every input must have {loaded.seq_len} tokens"
        )
    inputs = embed(
        HostModel(loaded.prologue),
        calibration,
        name=loaded.graph.input,
        seq_len=loaded.seq_len,
        mask_input=loaded.mask_input,
        patches=loaded.patches,
    )
    if not name:
        name = "model" if isinstance(source, bytes) else Path(source).stem
    return PreparedModel(loaded, inputs, name, notes, unit)
