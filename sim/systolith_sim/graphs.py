"""Small quantized graphs with random weights: every kind of layer, for tests of all levels.

Scales are chosen so that values fill their formats without saturating everywhere; otherwise the
numbers mean nothing. Nothing but tests and benchmarks imports this module.
"""

import math

import numpy as np

from systolith.compiler.qgraph import (
    Columns,
    Epilogue,
    Exp,
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
from systolith.isa import RowOperation, Statistic
from systolith.numerics import Format

SPREAD = 40.0
"""Standard deviation of bytes that a random scale aims at."""


class GraphBuilder:
    """Builds a graph operator by operator; each method returns the name of its result.

    Args:
        tokens: rows of every tensor.
        seed: of all weights and scales.
    """

    def __init__(self, tokens: int, seed: int) -> None:
        self.tokens = tokens
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.layer = "layer 0"

    def finish(self) -> QGraph:
        """Return the graph."""
        return QGraph(tensors=self.tensors, operators=tuple(self.operators))

    def tensor(self, name: str, columns: int, form: Format, rows: int | None = None) -> str:
        """Declare a tensor."""
        self.tensors[name] = Tensor(
            name=name,
            rows=rows or self.tokens,
            columns=columns,
            format=form,
            layer=self.layer,
            step=1.0,
        )
        return name

    def whole(self, name: str) -> View:
        """All columns of a tensor."""
        return View(tensor=name, first=0, columns=self.tensors[name].columns)

    def columns(self, scale: float, n: int, *, scratchpad: bool = False, off: int = 40) -> Columns:
        """Records of about this scale, every column a little different."""
        scales = scale * self.random.uniform(0.7, 1.3, n) * self.random.choice([1, 1, 1, -1], n)
        mant, exponent = np.frexp(scales)
        return Columns(
            mant=np.clip(np.rint(mant * 32768), -32767, 32767).astype(np.int64),
            shift=(8 - exponent + (8 if scratchpad else 0)).astype(np.int64),
            off=self.random.integers(-off * 256, off * 256, n),
        )

    def weights(self, n: int, k: int) -> np.ndarray:
        """Random weights `[n, k]`."""
        return np.clip(np.rint(self.random.normal(0, SPREAD, (n, k))), -128, 127).astype(np.int8)

    def input(self, name: str, columns: int) -> str:
        """An s16 tensor from the host."""
        self.tensor(name, columns, Format.S16)
        self.operators.append(Input(out=name, layer=self.layer))
        return name

    def output(self, name: str) -> None:
        """Hand a tensor to the host."""
        self.operators.append(Output(x=name, layer=self.layer))

    def norm(self, x: str, name: str, *, statistic: str) -> tuple[str, str]:
        """A layer norm of `x`, whose moments are there: an s16 tensor and its s8 copy."""
        n = self.tensors[x].columns
        self.operators.append(
            RowRecords(
                out=f"{name}.rows",
                source=statistic,
                operation=RowOperation.LAYER_NORM,
                rows=self.tokens,
                n=n,
                eps_mantissa=3,
                eps_shift=4,
                layer=self.layer,
                part="norm_rows",
            )
        )
        wide = self.tensor(f"{name}.s16", n, Format.S16)
        self.operators.append(
            Map(
                out=self.whole(wide),
                x=self.whole(x),
                epilogue=Epilogue(
                    columns=self.columns(3000.0 * n, n, scratchpad=True, off=500),
                    rows=f"{name}.rows",
                ),
                layer=self.layer,
                part="norm",
            )
        )
        narrow = self.tensor(f"{name}.s8", n, Format.S8)
        self.operators.append(
            Map(
                out=self.whole(narrow),
                x=self.whole(wide),
                epilogue=Epilogue(columns=self.columns(SPREAD / 3000, n, scratchpad=True, off=2)),
                layer=self.layer,
                part="norm_copy",
            )
        )
        return wide, narrow

    def moments(self, x: str) -> str:
        """Copy an s16 tensor and take its moments; returns the copy, its name also theirs."""
        n = self.tensors[x].columns
        copy = self.tensor(f"{x}.copy", n, Format.S16)
        ones = Columns(mant=np.array([1 << 14]), shift=np.array([15]), off=np.array([0]))
        self.operators.append(
            Map(
                out=self.whole(copy),
                x=self.whole(x),
                epilogue=Epilogue(columns=ones, statistic=Statistic.MOMENTS, statistic_name=copy),
                layer=self.layer,
                part="stats",
            )
        )
        return copy

    def linear(
        self,
        x: str,
        out: View,
        *,
        part: str,
        residual: str | None = None,
        table: tuple[int, ...] | None = None,
        head: int | None = None,
        transpose: bool = False,
        statistic_name: str = "",
    ) -> str:
        """A matmul with random weights."""
        k = self.tensors[x].columns
        n = self.tensors[out.tensor].rows if transpose else out.columns
        spread = 500.0 if residual else SPREAD
        self.operators.append(
            Matmul(
                out=out,
                a=self.whole(x),
                b=self.weights(n, k),
                epilogue=Epilogue(
                    columns=self.columns(
                        spread / (math.sqrt(k) * SPREAD * SPREAD), n, off=128 if table else 20
                    ),
                    residual=self.whole(residual) if residual else None,
                    table=table,
                    statistic=Statistic.MOMENTS if statistic_name else Statistic.NONE,
                    statistic_name=statistic_name,
                ),
                transpose=transpose,
                layer=self.layer,
                head=head,
                part=part,
            )
        )
        return out.tensor

    def attention(self, x: str, context: str, *, heads: int, width: int) -> None:
        """All heads of an attention, into a tensor of heads side by side."""
        for head in range(heads):
            name = f"{self.layer}.{head}"
            q = self.tensor(f"{name}.q", width, Format.S8)
            k = self.tensor(f"{name}.k", width, Format.S8)
            v = self.tensor(f"{name}.v", self.tokens, Format.S8, rows=width)
            self.linear(x, self.whole(q), part="q", head=head)
            self.linear(x, self.whole(k), part="k", head=head)
            self.linear(x, self.whole(v), part="v", head=head, transpose=True)
            scores = self.tensor(f"{name}.scores", self.tokens, Format.S16)
            self.operators.append(
                Matmul(
                    out=self.whole(scores),
                    a=self.whole(q),
                    b=self.whole(k),
                    epilogue=Epilogue(
                        columns=self.columns(600 / (math.sqrt(width) * SPREAD * SPREAD), 1, off=1),
                        mask_length=True,
                        statistic=Statistic.MAX,
                        statistic_name=f"{name}.maximum",
                    ),
                    layer=self.layer,
                    head=head,
                    part="scores",
                )
            )
            p = self.tensor(f"{name}.p", self.tokens, Format.U8)
            self.operators.append(
                Exp(
                    out=self.whole(p),
                    x=self.whole(scores),
                    maximum=f"{name}.maximum",
                    total=f"{name}.total",
                    layer=self.layer,
                    head=head,
                    part="exp",
                )
            )
            self.operators.append(
                RowRecords(
                    out=f"{name}.reciprocal",
                    source=f"{name}.total",
                    operation=RowOperation.RECIPROCAL,
                    rows=self.tokens,
                    layer=self.layer,
                    head=head,
                    part="softmax_rows",
                )
            )
            self.operators.append(
                Matmul(
                    out=View(tensor=context, first=head * width, columns=width),
                    a=self.whole(p),
                    b=self.whole(v),
                    epilogue=Epilogue(
                        columns=self.columns(1.5, width, off=2), rows=f"{name}.reciprocal"
                    ),
                    layer=self.layer,
                    head=head,
                    part="context",
                )
            )

    def table(self) -> tuple[int, ...]:
        """A random monotone table of u8 values, a little like GELU."""
        return tuple(np.sort(self.random.integers(0, 256, 256)).tolist())

    def encoder_layer(
        self, wide: str, narrow: str, *, heads: int, chunks: tuple[int, ...]
    ) -> tuple[str, str]:
        """A post-norm encoder layer from residual stream and its s8 copy to the next ones."""
        width = self.tensors[wide].columns
        name = self.layer
        context = self.tensor(f"{name}.context", width, Format.S8)
        self.attention(narrow, context, heads=heads, width=width // heads)
        r1 = self.tensor(f"{name}.r1", width, Format.S16)
        self.linear(
            context,
            self.whole(r1),
            part="attention_output",
            residual=wide,
            statistic_name=r1,
        )
        y16, y8 = self.norm(r1, f"{name}.norm1", statistic=r1)
        stream = y16
        for index, chunk in enumerate(chunks):
            g = self.tensor(f"{name}.g{index}", chunk, Format.U8)
            self.linear(y8, self.whole(g), part="ffn_up", table=self.table())
            r2 = self.tensor(f"{name}.r2.{index}", width, Format.S16)
            is_last = index == len(chunks) - 1
            self.linear(
                g,
                self.whole(r2),
                part="ffn_down",
                residual=stream,
                statistic_name=r2 if is_last else "",
            )
            stream = r2
        return self.norm(stream, f"{name}.norm2", statistic=stream)


def encoder(
    tokens: int,
    *,
    width: int = 64,
    heads: int = 2,
    chunks: tuple[int, ...] = (96, 32),
    layers: int = 1,
    seed: int = 0,
) -> QGraph:
    """A post-norm encoder: input, first norm, layers, output."""
    builder = GraphBuilder(tokens, seed)
    builder.layer = "embeddings"
    x = builder.moments(builder.input("input", width))
    wide, narrow = builder.norm(x, "norm0", statistic=x)
    for index in range(layers):
        builder.layer = f"layer {index}"
        wide, narrow = builder.encoder_layer(wide, narrow, heads=heads, chunks=chunks)
    builder.output(wide)
    return builder.finish()


def gemm(m: int, n: int, k: int, *, seed: int = 0) -> QGraph:
    """One norm and one matmul on it: the smallest graph with a GEMM."""
    builder = GraphBuilder(m, seed)
    x = builder.moments(builder.input("input", k))
    _, narrow = builder.norm(x, "norm", statistic=x)
    out = builder.tensor("out", n, Format.S8)
    builder.linear(narrow, builder.whole(out), part="linear")
    builder.output(out)
    return builder.finish()


def inputs_for(graph: QGraph, seed: int) -> dict[str, np.ndarray]:
    """Random codes for every input of a graph."""
    random = np.random.default_rng(seed)
    return {
        operator.out: np.clip(
            np.rint(random.normal(0, 3000, (tensor.rows, tensor.columns))), -32768, 32767
        ).astype(np.int16)
        for operator in graph.operators
        if isinstance(operator, Input)
        for tensor in (graph.tensors[operator.out],)
    }
