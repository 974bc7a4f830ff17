"""The quantizer: an operator graph and its calibrated ranges to a graph of integers.

A linear operator has no result of its own where its drain can do what comes next: the residual
addition, the table, a head's format. `forms` says what tensors look like.
"""

from collections.abc import Mapping

from systolith.compiler.calibrate import Ranges
from systolith.compiler.embeddings import emit_lookup
from systolith.compiler.errors import CompileError
from systolith.compiler.fit import Fitted
from systolith.compiler.formats import encode_columns
from systolith.compiler.forms import Forms, Kept
from systolith.compiler.graph import (
    Activation,
    Add,
    Attention,
    Embedding,
    First,
    Graph,
    LayerNorm,
    Linear,
    Mean,
    Normalize,
    PatchEmbedding,
)
from systolith.compiler.heads import emit_attention
from systolith.compiler.images import emit_patches
from systolith.compiler.norms import emit_norm
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.patches import PatchGrid
from systolith.compiler.pooled import emit_mean, emit_normalize, take_moments
from systolith.compiler.qgraph import Epilogue, Input, Output, QGraph
from systolith.compiler.steps import fused_linear, make_table, residual_of
from systolith.numerics import Format


def quantize(
    graph: Graph,
    ranges: Ranges,
    *,
    seq_len: int,
    options: QuantizeOptions,
    result: str,
    others: Mapping[str, str] | None = None,
    masked: bool = True,
    fitted: Fitted | None = None,
    patches: PatchGrid | None = None,
    run: int = 1,
) -> QGraph:
    """Quantize a graph.

    Args:
        graph: legalized.
        ranges: of all its tensors.
        seq_len: rows of every tensor.
        options: the user's choices.
        result: name of the output tensor in the quantized graph; the input keeps its own.
        others: names of the graph's other outputs there.
        masked: whether the graph depends on the run-time length.
        fitted: weights that were fitted to inputs; None to round them as they are.
        patches: how the input falls into patches, if it is an image.
        run: columns that runs of an image begin at a multiple of.

    Raises:
        CompileError: something cannot be expressed in the core's integers.
    """
    results = {graph.output: result, **(others or {})}
    quantizer = Quantizer(graph, ranges, seq_len, options, results, fitted or Fitted())
    if patches is None:
        quantizer.input()
    else:
        emit_patches(quantizer, patches, run)
    quantizer.run()
    return QGraph(
        tensors=quantizer.tensors,
        operators=tuple(quantizer.operators),
        length="rows" if masked else "none",
        notes=tuple(quantizer.notes),
    )


class Quantizer(Forms):
    """Emits the operators of a graph, node by node."""

    def run(self) -> None:
        """Emit all operators behind the input."""
        for node in self.graph.nodes:
            match node:
                case Linear():
                    self._linear(node)
                case LayerNorm():
                    emit_norm(self, node)
                case Add():
                    self._add(node)
                case Activation():
                    self._activation(node)
                case Attention():
                    emit_attention(self, node)
                case PatchEmbedding():
                    self.copy(node.out, node.layer)
                case Embedding():
                    emit_lookup(self, node)
                    self.copy(node.out, node.layer)
                case First():
                    self._first(node)
                case Mean():
                    emit_mean(self, node)
                case Normalize():
                    emit_normalize(self, node)
                case _:
                    raise CompileError(f"a {type(node).__name__} cannot be quantized")
            if node.out in self.graph.others:
                self.operators.append(Output(x=self.wide(node.out).tensor, layer="output"))
        self.operators.append(Output(x=self.wide(self.graph.output).tensor, layer="output"))

    def input(self) -> None:
        """Emit what brings in the graph's input; lists of rows' numbers come with their tables."""
        name = self.graph.input
        if any(isinstance(node, Embedding) for node in self.graph.consumers[name]):
            return
        view = self.make_wide(name, name, "embeddings")
        self.operators.append(Input(out=view.tensor, layer="embeddings"))
        take_moments(self, name, view, "embeddings")
        self.copy(name, "embeddings")

    def _linear(self, node: Linear) -> None:
        if self.deferred(node):
            return
        out = self.make_wide(node.out, f"{node.layer}.{self.part(node)}", node.layer)
        step = self.wide_steps[node.out]
        kept = self.keep(node.out, out)
        self.matmul(
            out,
            node,
            step,
            lambda columns: Epilogue(
                columns=columns, statistic=kept.statistic, statistic_name=kept.name
            ),
        )
        self.copy(node.out, node.layer)

    def _add(self, node: Add) -> None:
        part = self.part(node)
        out = self.make_wide(node.out, f"{node.layer}.{part}", node.layer)
        step = self.wide_steps[node.out]
        residual = self.wide(residual_of(self.graph, node))
        kept = self.keep(node.out, out)
        linear = fused_linear(self.graph, node)
        if linear is not None:
            self.matmul(
                out,
                linear,
                step,
                lambda columns: Epilogue(
                    columns=columns,
                    residual=residual,
                    statistic=kept.statistic,
                    statistic_name=kept.name,
                ),
            )
        else:
            other = node.a if residual_of(self.graph, node) == node.b else node.b
            columns = encode_columns(self.wide_steps[other] / step, scratchpad=True, name=node.out)
            epilogue = Epilogue(
                columns=columns,
                residual=residual,
                statistic=kept.statistic,
                statistic_name=kept.name,
            )
            self.map(out, self.wide(other), epilogue, layer=node.layer, part=part)
        self.copy(node.out, node.layer)

    def _activation(self, node: Activation) -> None:
        low, high = (
            float(f()) for f in (self.ranges.low[node.x].min, self.ranges.high[node.x].max)
        )
        wide = self.needs_wide(node.out)
        step = self.wide_steps[node.out] if wide else None
        table = make_table(node.function, low, high, step=step)
        part = self.part(node)
        label = f"{node.layer}.{part}"
        if wide:
            out = self.make_wide(node.out, label, node.layer)
        else:
            out = self.tensor(
                label,
                self.graph.widths[node.out],
                Format.U8,
                layer=node.layer,
                source=node.out,
                step=table.step,
                zero=table.zero,
            )
            self.set_narrow(node.out, out)
        kept = self.keep(node.out, out) if wide else Kept()
        linear = self.graph.producers.get(node.x)
        if isinstance(linear, Linear) and self.deferred(linear):
            self.matmul(
                out,
                linear,
                table.index_step,
                lambda columns: Epilogue(
                    columns=columns,
                    table=table.entries,
                    statistic=kept.statistic,
                    statistic_name=kept.name,
                ),
                low=table.low,
            )
        else:
            x = self.wide(node.x)
            columns = encode_columns(
                self.wide_steps[node.x] / table.index_step,
                -table.low / table.index_step,
                scratchpad=True,
                name=node.out,
            )
            epilogue = Epilogue(
                columns=columns,
                table=table.entries,
                statistic=kept.statistic,
                statistic_name=kept.name,
            )
            self.map(out, x, epilogue, layer=node.layer, part=part)
        if wide:
            self.copy(node.out, node.layer)

    def _first(self, node: First) -> None:
        x, step = self.wide(node.x), self.wide_steps[node.x]
        label = f"{node.layer}.first"
        if self.needs_wide(node.out):
            out = self.make_wide(node.out, label, node.layer)
            kept = self.keep(node.out, out)
            epilogue = Epilogue(
                columns=encode_columns(step / self.wide_steps[node.out], scratchpad=True),
                statistic=kept.statistic,
                statistic_name=kept.name,
            )
            self.map(out, x, epilogue, layer=node.layer, part="first")
            self.copy(node.out, node.layer)
            return
        out, narrow = self.make_narrow(node.out, label, node.layer)
        columns = encode_columns(step / narrow, scratchpad=True, name=out.tensor)
        self.map(out, x, Epilogue(columns=columns), layer=node.layer, part="first")

    def copy(self, name: str, layer: str) -> None:
        """Make the s8 form of a wide tensor, if a matmul reads it."""
        if not self.needs_narrow(name):
            return
        x = self.wide(name)
        out, step = self.make_narrow(name, f"{x.tensor}.s8", layer)
        columns = encode_columns(self.wide_steps[name] / step, scratchpad=True, name=out.tensor)
        self.map(out, x, Epilogue(columns=columns), layer=layer, part="norm_copy")
