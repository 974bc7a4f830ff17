"""The forms in which float tensors are stored: what the quantizer keeps track of.

A float tensor has up to two. Residuals, sums and norms are *wide*: s16 with one step. What a
matmul reads is *narrow*: s8 with a step for each channel (SmoothQuant), or the u8 of a table.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from systolith.compiler.calibrate import Ranges
from systolith.compiler.fit import Fitted
from systolith.compiler.formats import (
    Floats,
    check_accumulator,
    decoded,
    encode_columns,
    quantize_weight,
)
from systolith.compiler.gptq import Int4Fit
from systolith.compiler.graph import (
    Activation,
    Add,
    Attention,
    Graph,
    LayerNorm,
    Linear,
    Node,
    Normalize,
    PatchEmbedding,
)
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.qgraph import (
    Columns,
    Epilogue,
    Int4Weights,
    Map,
    Matmul,
    Operator,
    Tensor,
    View,
)
from systolith.compiler.steps import fused_linear, narrow_steps, needs_wide, wide_steps
from systolith.isa import Statistic
from systolith.numerics import Format


class Kept(NamedTuple):
    """Which statistic an operator keeps of what it stores, and what it is called."""

    statistic: Statistic = Statistic.NONE
    name: str = ""


class Forms:
    """Tensors and operators of a quantized graph in the making.

    Attributes:
        graph: the operator graph.
        ranges: of all its tensors.
        seq_len: rows of the tensors.
        options: the user's choices.
        tensors: so far, by name.
        operators: so far.
        notes: so far.
        wide_steps: the step of each float tensor's wide form.
        across: forms with tokens side by side, s8, by float tensor: see `pooled`.
    """

    def __init__(
        self,
        graph: Graph,
        ranges: Ranges,
        seq_len: int,
        options: QuantizeOptions,
        results: Mapping[str, str],
        fitted: Fitted,
    ) -> None:
        self.graph = graph
        self.ranges = ranges
        self.seq_len = seq_len
        self.options = options
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.notes: list[str] = []
        self.wide_steps = wide_steps(graph, ranges, options.headroom)
        self.across: dict[str, View] = {}
        self._results = results
        self._fitted = fitted
        self._wide: dict[str, str] = {}
        self._narrow: dict[str, str] = {}
        self._moments: dict[str, str] = {}

    def needs_narrow(self, name: str) -> bool:
        """Whether a matmul reads a tensor."""
        return any(isinstance(node, Linear) for node in self.graph.consumers[name])

    def needs_wide(self, name: str) -> bool:
        """Whether something else does, or the host."""
        return needs_wide(self.graph, name)

    def deferred(self, linear: Linear) -> bool:
        """Whether a linear operator's only reader makes it part of itself."""
        readers = self.graph.consumers[linear.out]
        if len(readers) != 1 or linear.out in self.graph.outputs:
            return False
        reader = readers[0]
        return isinstance(reader, Activation | Attention) or (
            isinstance(reader, Add) and fused_linear(self.graph, reader) is linear
        )

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
            rows=self.rows(source) if rows is None else rows,
            columns=columns,
            format=format_,
            layer=layer,
            step=step,
            zero=zero,
            source=source,
        )
        return View(tensor=unique, first=0, columns=columns)

    def rows(self, name: str) -> int:
        """Rows of a float tensor: tokens, unless it is the first ones."""
        return self.graph.rows.get(name, self.seq_len)

    def make_wide(self, name: str, label: str, layer: str) -> View:
        """Make a float tensor's s16 form."""
        label = self._results.get(name, label)
        step = self.wide_steps[name]
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

    def replace_wide(self, name: str, view: View) -> None:
        """Say that another tensor is now a float tensor's s16 form."""
        self._wide[name] = view.tensor

    def set_narrow(self, name: str, view: View) -> None:
        """Say which tensor is a float tensor's 8-bit form."""
        self._narrow[name] = view.tensor

    def _whole(self, name: str) -> View:
        return View(tensor=name, first=0, columns=self.tensors[name].columns)

    def keep(self, name: str, view: View) -> Kept:
        """What to keep of a float tensor's wide form: its moments, if a norm reads it."""
        if not any(isinstance(node, LayerNorm | Normalize) for node in self.graph.consumers[name]):
            return Kept()
        self._moments[name] = f"{view.tensor}.moments"
        return Kept(Statistic.MOMENTS, self._moments[name])

    def moments(self, name: str) -> str:
        """What `keep` called a float tensor's moments."""
        return self._moments[name]

    def make_narrow(self, name: str, label: str, layer: str) -> tuple[View, Floats]:
        """Make a float tensor's s8 form; return it and its steps."""
        step = self.narrow_step(name)
        view = self.tensor(
            label, self.graph.widths[name], Format.S8, layer=layer, source=name, step=step
        )
        self.set_narrow(name, view)
        return view, step

    def narrow_step(self, name: str) -> Floats:
        """Steps of a float tensor's s8 form: those that weights were fitted for, if they were."""
        if name in self._fitted.steps:
            return self._fitted.steps[name]
        node = self.graph.producers.get(name)
        return narrow_steps(self.graph, node, name, self.ranges, self.options.alpha)

    def map(self, out: View, x: View, epilogue: Epilogue, *, layer: str, part: str) -> None:
        """Emit a pass over a tensor."""
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
        weight, weight_step = self._weight(linear, rows, np.asarray(tensor.step))
        values = weight.values() if isinstance(weight, Int4Weights) else weight
        check_accumulator(values, tensor.format, out.tensor)
        scale = decoded(encode_columns(weight_step / step, name=out.tensor))
        # What the zero point of a adds to every sum is taken off again.
        off = (linear.bias[rows] - low) / step - tensor.zero * values.sum(1, dtype=np.int64) * scale
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
                macs=self._macs(linear, rows),
            )
        )

    def _macs(self, linear: Linear, rows: slice) -> int | None:
        """Multiply-accumulates for a token, if heads on either side are padded."""
        n, k = linear.weight[rows].shape
        true_n, true_k = n, k
        source = self.graph.producers.get(linear.x)
        if isinstance(source, Attention):
            true_k -= source.heads * source.padding
        for reader in self.graph.consumers[linear.out]:
            if isinstance(reader, Attention) and reader.padding:
                own = len(linear.weight) // reader.heads
                true_n -= n // own * reader.padding
        return None if (n, k) == (true_n, true_k) else true_n * true_k

    def _weight(
        self, linear: Linear, rows: slice, step: Floats
    ) -> tuple[npt.NDArray[np.int8] | Int4Weights, Floats]:
        """Some rows of the weights in integers, for an operand in `step`; and their steps."""
        fitted = self._fitted.weights.get(linear.out, linear.weight)
        if not isinstance(fitted, Int4Fit):
            return quantize_weight(fitted[rows] * step)
        # Weights that read a table's u8 were fitted for real numbers, all others for codes.
        return fitted.weights.part(rows), fitted.step[rows] * (
            1.0 if linear.x in self._fitted.steps else step
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
            case PatchEmbedding():
                return "patches"
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
