"""The quantizer: an operator graph and its calibrated ranges to a graph of integers.

Tensors have up to two forms. Residuals, sums and norms are *wide*: s16 with one step. What a
matmul reads is *narrow*: s8 with a step for each channel (SmoothQuant), or the u8 of a table. A
linear operator has no result of its own where its drain can do what comes next: the residual
addition, the table, a head's format.
"""

from collections.abc import Callable

import numpy as np

from systolith.compiler.calibrate import Ranges
from systolith.compiler.errors import CompileError
from systolith.compiler.formats import (
    check_accumulator,
    decoded,
    encode_columns,
    encode_epsilon,
    quantize_weight,
)
from systolith.compiler.graph import (
    Activation,
    Add,
    Attention,
    Floats,
    Graph,
    LayerNorm,
    Linear,
    Node,
)
from systolith.compiler.heads import emit_attention
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.qgraph import (
    Columns,
    Epilogue,
    Input,
    Map,
    Matmul,
    Operator,
    Output,
    QGraph,
    RowRecords,
    Tensor,
    View,
)
from systolith.compiler.steps import (
    fused_linear,
    make_table,
    narrow_steps,
    residual_of,
    wide_steps,
)
from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format


def quantize(
    graph: Graph,
    ranges: Ranges,
    *,
    seq_len: int,
    options: QuantizeOptions,
    result: str,
    masked: bool = True,
) -> QGraph:
    """Quantize a graph.

    Args:
        graph: legalized.
        ranges: of all its tensors.
        seq_len: rows of every tensor.
        options: the user's choices.
        result: name of the output tensor in the quantized graph; the input keeps its own.
        masked: whether the graph depends on the run-time length.

    Raises:
        CompileError: something cannot be expressed in the core's integers.
    """
    quantizer = Quantizer(graph, ranges, seq_len, options, result)
    quantizer.run()
    return QGraph(
        tensors=quantizer.tensors,
        operators=tuple(quantizer.operators),
        length="rows" if masked else "none",
        notes=tuple(quantizer.notes),
    )


class Quantizer:
    """The state of quantizing a graph; `tensors`, `operators` and `notes` are its result."""

    def __init__(
        self, graph: Graph, ranges: Ranges, seq_len: int, options: QuantizeOptions, result: str
    ) -> None:
        self.graph = graph
        self.ranges = ranges
        self.seq_len = seq_len
        self.options = options
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.notes: list[str] = []
        self._result = result
        self._wide_steps = wide_steps(graph, ranges, options.headroom)
        self._wide: dict[str, str] = {}
        self._narrow: dict[str, str] = {}
        self._statistics: dict[str, str] = {}

    def run(self) -> None:
        """Emit all operators."""
        self._input()
        for node in self.graph.nodes:
            match node:
                case Linear():
                    self._linear(node)
                case LayerNorm():
                    self._norm(node)
                case Add():
                    self._add(node)
                case Activation():
                    self._activation(node)
                case Attention():
                    emit_attention(self, node)
                case _:
                    raise CompileError(f"a {type(node).__name__} cannot be quantized")
        self.operators.append(Output(x=self._wide[self.graph.output], layer="output"))

    # --- who needs what -----------------------------------------------------------------------

    def needs_narrow(self, name: str) -> bool:
        """Whether a matmul reads a tensor."""
        return any(isinstance(node, Linear) for node in self.graph.consumers[name])

    def needs_wide(self, name: str) -> bool:
        """Whether something else does, or the host."""
        readers = self.graph.consumers[name]
        return name == self.graph.output or any(not isinstance(node, Linear) for node in readers)

    def _deferred(self, linear: Linear) -> bool:
        """Whether a linear operator's only reader makes it part of itself."""
        readers = self.graph.consumers[linear.out]
        if len(readers) != 1 or linear.out == self.graph.output:
            return False
        reader = readers[0]
        return isinstance(reader, Activation | Attention) or (
            isinstance(reader, Add) and fused_linear(self.graph, reader) is linear
        )

    # --- tensors ------------------------------------------------------------------------------

    def tensor(
        self,
        name: str,
        columns: int,
        format_: Format,
        *,
        layer: str,
        source: str = "",
        step: float | Floats = 0.0,
        zero: int = 0,
        rows: int | None = None,
    ) -> View:
        """Make a tensor of a new name; return all of it."""
        unique, count = name, 1
        while unique in self.tensors:
            count += 1
            unique = f"{name}.{count}"
        self.tensors[unique] = Tensor(
            name=unique,
            rows=self.seq_len if rows is None else rows,
            columns=columns,
            format=format_,
            layer=layer,
            step=step,
            zero=zero,
            source=source,
        )
        return View(tensor=unique, first=0, columns=columns)

    def _make_wide(self, name: str, label: str, layer: str) -> View:
        """Make a float tensor's s16 form."""
        label = self._result if name == self.graph.output else label
        step = self._wide_steps[name]
        view = self.tensor(
            label, self.graph.widths[name], Format.S16, layer=layer, source=name, step=step
        )
        self._wide[name] = view.tensor
        return view

    def wide(self, name: str) -> View:
        """A float tensor's s16 form, which exists by now."""
        return self._whole(self._wide[name])

    def narrow(self, name: str) -> View:
        """A float tensor's 8-bit form, which exists by now."""
        return self._whole(self._narrow[name])

    def set_narrow(self, name: str, view: View) -> None:
        """Say which tensor is a float tensor's 8-bit form."""
        self._narrow[name] = view.tensor

    def _whole(self, name: str) -> View:
        return View(tensor=name, first=0, columns=self.tensors[name].columns)

    def _moments(self, name: str, view: View) -> dict[str, object]:
        """What an epilogue must keep of a wide tensor: its moments, if a norm reads it."""
        if any(isinstance(node, LayerNorm) for node in self.graph.consumers[name]):
            self._statistics[name] = f"{view.tensor}.moments"
            return {"statistic": Statistic.MOMENTS, "statistic_name": self._statistics[name]}
        return {}

    # --- operators ----------------------------------------------------------------------------

    def _input(self) -> None:
        name = self.graph.input
        view = self._make_wide(name, name, "embeddings")
        self.operators.append(Input(out=view.tensor, layer="embeddings"))
        kept = self._moments(name, view)
        if kept:
            # The host's codes have no statistics yet: a pass that changes nothing takes them.
            copy = self.tensor(
                f"{name}.copy",
                view.columns,
                Format.S16,
                layer="embeddings",
                source=name,
                step=self._wide_steps[name],
            )
            self._wide[name] = copy.tensor
            epilogue = Epilogue(columns=encode_columns(1.0, scratchpad=True), **kept)
            self._map(copy, view, epilogue, layer="embeddings", part="stats")
        self._copy(name, "embeddings")

    def _linear(self, node: Linear) -> None:
        if self._deferred(node):
            return
        out = self._make_wide(node.out, f"{node.layer}.{self.part(node)}", node.layer)
        step = self._wide_steps[node.out]
        kept = self._moments(node.out, out)
        self.matmul(out, node, step, lambda columns: Epilogue(columns=columns, **kept))
        self._copy(node.out, node.layer)

    def _add(self, node: Add) -> None:
        part = self.part(node)
        out = self._make_wide(node.out, f"{node.layer}.{part}", node.layer)
        step = self._wide_steps[node.out]
        residual = self.wide(residual_of(self.graph, node))
        kept = self._moments(node.out, out)
        linear = fused_linear(self.graph, node)
        if linear is not None:
            self.matmul(
                out,
                linear,
                step,
                lambda columns: Epilogue(columns=columns, residual=residual, **kept),
            )
        else:
            other = node.a if residual_of(self.graph, node) == node.b else node.b
            columns = encode_columns(self._wide_steps[other] / step, scratchpad=True, name=node.out)
            epilogue = Epilogue(columns=columns, residual=residual, **kept)
            self._map(out, self.wide(other), epilogue, layer=node.layer, part=part)
        self._copy(node.out, node.layer)

    def _activation(self, node: Activation) -> None:
        low, high = (
            float(f()) for f in (self.ranges.low[node.x].min, self.ranges.high[node.x].max)
        )
        wide = self.needs_wide(node.out)
        step = self._wide_steps[node.out] if wide else None
        table = make_table(node.function, low, high, step=step)
        part = self.part(node)
        label = f"{node.layer}.{part}"
        if wide:
            out = self._make_wide(node.out, label, node.layer)
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
        kept = self._moments(node.out, out) if wide else {}
        linear = self.graph.producers.get(node.x)
        if isinstance(linear, Linear) and self._deferred(linear):
            self.matmul(
                out,
                linear,
                table.index_step,
                lambda columns: Epilogue(columns=columns, table=table.entries, **kept),
                low=table.low,
            )
        else:
            x = self.wide(node.x)
            columns = encode_columns(
                self._wide_steps[node.x] / table.index_step,
                -table.low / table.index_step,
                scratchpad=True,
                name=node.out,
            )
            epilogue = Epilogue(columns=columns, table=table.entries, **kept)
            self._map(out, x, epilogue, layer=node.layer, part=part)
        if wide:
            self._copy(node.out, node.layer)

    def _norm(self, node: LayerNorm) -> None:
        x, n = self.wide(node.x), self.graph.widths[node.x]
        label = f"{node.layer}.norm"
        wide = self.needs_wide(node.out)
        if wide:
            out = self._make_wide(node.out, label, node.layer)
            step: float | Floats = self._wide_steps[node.out]
        else:
            out, step = self._make_narrow(node.out, label, node.layer)
        mantissa, shift = encode_epsilon(
            node.eps, n=n, step=self._wide_steps[node.x], name=out.tensor
        )
        rows = f"{out.tensor}.rows"
        self.operators.append(
            RowRecords(
                out=rows,
                source=self._statistics[node.x],
                operation=RowOperation.LAYER_NORM,
                rows=self.seq_len,
                n=n,
                eps_mantissa=mantissa,
                eps_shift=shift,
                layer=node.layer,
                part="norm_rows",
            )
        )
        # A row's factor is 1 / (n * deviation), in steps of x, which cancel.
        columns = encode_columns(
            node.gamma * n / step, node.beta / step, scratchpad=True, rows=True, name=out.tensor
        )
        kept = self._moments(node.out, out) if wide else {}
        epilogue = Epilogue(columns=columns, rows=rows, **kept)
        self._map(out, x, epilogue, layer=node.layer, part="norm")
        if wide:
            self._copy(node.out, node.layer)

    def _make_narrow(self, name: str, label: str, layer: str) -> tuple[View, Floats]:
        step = narrow_steps(
            self.graph, self.graph.producers.get(name), name, self.ranges, self.options
        )
        view = self.tensor(
            label, self.graph.widths[name], Format.S8, layer=layer, source=name, step=step
        )
        self.set_narrow(name, view)
        return view, step

    def _copy(self, name: str, layer: str) -> None:
        """Make the s8 form of a wide tensor, if a matmul reads it."""
        if not self.needs_narrow(name):
            return
        x = self.wide(name)
        out, step = self._make_narrow(name, f"{x.tensor}.s8", layer)
        columns = encode_columns(self._wide_steps[name] / step, scratchpad=True, name=out.tensor)
        self._map(out, x, Epilogue(columns=columns), layer=layer, part="norm_copy")

    def _map(self, out: View, x: View, epilogue: Epilogue, *, layer: str, part: str) -> None:
        self.operators.append(Map(out=out, x=x, epilogue=epilogue, layer=layer, part=part))

    def matmul(
        self,
        out: View,
        linear: Linear,
        step: float | Floats,
        epilogue: Callable[[Columns], Epilogue],
        *,
        low: float = 0.0,
        rows: slice = slice(None),
        transpose: bool = False,
        head: int | None = None,
        part: str = "",
    ) -> None:
        """Emit a product with weights.

        Args:
            out: where to.
            linear: weights and bias.
            step: of the result.
            epilogue: makes the epilogue from the column records.
            low: real value of the result's code 0.
            rows: which of the weights' rows.
            transpose: as in `Matmul`.
            head: as in `Matmul`.
            part: as in `Matmul`; by default what the graph says.
        """
        a = self.narrow(linear.x)
        tensor = self.tensors[a.tensor]
        weight, weight_step = quantize_weight(linear.weight[rows] * np.asarray(tensor.step))
        check_accumulator(weight, tensor.format, out.tensor)
        scale = decoded(encode_columns(weight_step / step, name=out.tensor))
        # What the zero point of a adds to every sum is taken off again.
        off = (linear.bias[rows] - low) / step - tensor.zero * weight.sum(1, dtype=np.int64) * scale
        self.operators.append(
            Matmul(
                out=out,
                a=a,
                b=weight,
                epilogue=epilogue(encode_columns(scale, off, name=out.tensor)),
                transpose=transpose,
                layer=linear.layer,
                head=head,
                part=part or self.part(linear),
            )
        )

    def part(self, node: Node) -> str:
        """Which part of a layer a node is, for the scheduler and for reports."""
        match node:
            case Add():
                linear = fused_linear(self.graph, node)
                return self.part(linear) if linear is not None else "add"
            case Activation():
                linear = self.graph.producers.get(node.x)
                return "ffn_up" if isinstance(linear, Linear) else "activation"
            case Linear():
                producer = self.graph.producers.get(node.x)
                if isinstance(producer, Attention):
                    return "attention_output"
                if isinstance(producer, Activation):
                    return "ffn_down"
                readers = self.graph.consumers[node.out]
                if any(isinstance(each, Activation) for each in readers):
                    return "ffn_up"
        return "linear"
