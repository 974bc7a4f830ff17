"""Small synthetic encoders as ONNX files, written as exporters write them, for tests.

Weights are random, but shaped like a trained model's: activations neither vanish nor explode,
and a few channels are wide. A model has dynamic batch and length, an attention mask input, and
the shape arithmetic that PyTorch's exporter leaves in the graph.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from systolith_sim.onnx_writer import OnnxWriter


@dataclass(frozen=True, kw_only=True)
class BertShape:
    """What to write.

    Attributes:
        hidden: width of the residual.
        heads: attention heads; `hidden` is a multiple of it.
        layers: encoder layers.
        ffn: width of the feed-forward part.
        vocabulary: tokens.
        positions: largest length.
        activation: of the feed-forward part.
        pooling: whether the graph ends in a masked mean, normalised to unit length.
        half: whether weights and arithmetic are float16.
        pre_norm: norms in front of attention and feed-forward part, and one at the end.
        fused_qkv: one projection for Q, K and V, split afterwards.
        old: opset 14, which has no LayerNormalization: norms are seven nodes.
        causal: whether a token sees only those before it.
        relative: whether a bias of each head by distance is added to the scores: by itself, or
            joined with the mask.
        classifier: classes of a head of the first token, behind a pooler with Tanh; 0 for none.
        shared: whether all layers have the same weights.
        seed: of the weights.
    """

    hidden: int = 64
    heads: int = 2
    layers: int = 1
    ffn: int = 128
    vocabulary: int = 100
    positions: int = 64
    activation: Literal["gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh"] = "gelu"
    pooling: bool = False
    half: bool = False
    pre_norm: bool = False
    fused_qkv: bool = False
    old: bool = False
    causal: bool = False
    relative: Literal["", "alone", "joined"] = ""
    classifier: int = 0
    shared: bool = False
    seed: int = 0


def make_bert(shape: BertShape | None = None) -> onnx.ModelProto:
    """Return the model: `input_ids`, `attention_mask`, `token_type_ids` to `last_hidden_state`.

    With pooling, the output is `sentence_embedding`, with a classifier `logits`.
    Inputs are int64 `[batch, sequence]`.
    """
    return _Writer(shape or BertShape()).model()


def write_bert(path: Path, shape: BertShape | None = None, *, external: bool = False) -> Path:
    """Write the model to a file, on request with its weights in a second one; return `path`."""
    model = make_bert(shape)
    if external:
        onnx.save(
            model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0
        )
    else:
        onnx.save(model, path)
    return path


def make_tokens(
    shape: BertShape, lengths: list[int], *, seed: int = 1
) -> list[dict[str, npt.NDArray[np.int64]]]:
    """Return inputs of the model, one sample for each length, not padded."""
    random = np.random.default_rng(seed)
    return [
        {
            "input_ids": random.integers(0, shape.vocabulary, length),
            "attention_mask": np.ones(length, np.int64),
            "token_type_ids": np.zeros(length, np.int64),
        }
        for length in lengths
    ]


class _Writer(OnnxWriter):
    def __init__(self, shape: BertShape) -> None:
        super().__init__(shape.seed, np.float16 if shape.half else np.float32)
        self.shape = shape

    def model(self) -> onnx.ModelProto:
        shape = self.shape
        x = self.embeddings()
        mask = self.mask()
        for index in range(shape.layers):
            state = self.random.bit_generator.state
            x = self.layer(f"encoder.layer.{index}", x, mask)
            if shape.shared:
                self.random.bit_generator.state = state
        if shape.pre_norm:
            x = self.norm("encoder.norm", x)
        name, dims = "last_hidden_state", ["batch", "sequence", shape.hidden]
        if shape.pooling:
            x = self.pool(x)
            name, dims = "sentence_embedding", ["batch", shape.hidden]
        if shape.classifier:
            x = self.classify(x)
            name, dims = "logits", ["batch", shape.classifier]
        self.node("Identity", [x], "output", output=name)
        ints = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        kind = TensorProto.FLOAT16 if shape.half else TensorProto.FLOAT
        output = helper.make_tensor_value_info(name, kind, dims)
        return self.export(ints, output, opset=14 if shape.old else 17)

    def weight(self, name: str, array: npt.ArrayLike) -> str:
        """Add a floating-point initializer, unless layers share it and it is there."""
        if self.shape.shared:
            name = re.sub(r"layer\.\d+", "layer", name)
            if any(each.name == name for each in self.weights):
                return name
        return super().weight(name, array)

    def dimension(self, x: str, axis: int, name: str) -> str:
        """Take one dimension of a tensor's shape as a one-element tensor."""
        index = self.node(
            "Gather",
            [self.node("Shape", [x], name), self.constant(np.int64(axis), name)],
            name,
            axis=0,
        )
        return self.node("Unsqueeze", [index, self.constant([0], name)], name)

    def embeddings(self) -> str:
        shape, name = self.shape, "embeddings"
        tables = {
            "word": (shape.vocabulary, "input_ids"),
            "position": (shape.positions, None),
            "token_type": (2, "token_type_ids"),
        }
        total = None
        for kind, (rows, ids) in tables.items():
            table = self.weight(
                f"{name}.{kind}_embeddings.weight", self.random.normal(0, 0.5, (rows, shape.hidden))
            )
            if ids is None:
                every = self.constant(np.arange(rows)[None], name)
                length = self.dimension("input_ids", 1, name)
                zero, one = self.constant([0], name), self.constant([1], name)
                ids = self.node("Slice", [every, zero, length, one, one], name)
            rows_of = self.node("Gather", [table, ids], f"{name}.{kind}_embeddings", axis=0)
            total = rows_of if total is None else self.node("Add", [total, rows_of], name)
        assert total is not None
        return total if shape.pre_norm else self.norm(f"{name}.LayerNorm", total)

    def mask(self) -> str:
        """1 and 0 to 0 and the most negative number, [batch, 1, 1, sequence].

        With what else tells queries apart, it is [batch, 1 or heads, sequence, sequence].
        """
        name = "mask"
        x = self.node("Unsqueeze", ["attention_mask", self.constant([1], name)], name)
        x = self.node("Unsqueeze", [x, self.constant([2], name)], name)
        kind = TensorProto.FLOAT16 if self.shape.half else TensorProto.FLOAT
        x = self.node("Cast", [x], name, to=kind)
        x = self.node("Sub", [self.constant(1.0, name), x], name)
        low = self.constant(np.finfo(self.dtype).min, name)
        x = self.node("Mul", [x, low], name)
        if self.shape.causal:
            column, row = self.positions(name)
            seen = self.node("LessOrEqual", [row, column], name)
            hidden = self.node("Where", [seen, self.constant(0.0, name), low], name)
            x = self.node("Min", [x, hidden], name)
        if self.shape.relative == "joined":
            x = self.node("Add", [self.distances(name), x], name)
        return x

    def layer(self, name: str, x: str, mask: str) -> str:
        if self.shape.pre_norm:
            y = self.attention(f"{name}.attention", self.norm(f"{name}.norm1", x), mask)
            x = self.node("Add", [x, y], f"{name}.attention")
            y = self.feed_forward(name, self.norm(f"{name}.norm2", x))
            return self.node("Add", [x, y], name)
        y = self.attention(f"{name}.attention", x, mask)
        x = self.norm(
            f"{name}.attention.output.LayerNorm",
            self.node("Add", [y, x], f"{name}.attention.output"),
        )
        y = self.feed_forward(name, x)
        return self.norm(f"{name}.output.LayerNorm", self.node("Add", [y, x], f"{name}.output"))

    def feed_forward(self, name: str, x: str) -> str:
        shape = self.shape
        h = self.linear(f"{name}.intermediate.dense", x, shape.hidden, shape.ffn)
        g = self.activation(f"{name}.intermediate", h)
        return self.linear(f"{name}.output.dense", g, shape.ffn, shape.hidden)

    def attention(self, name: str, x: str, mask: str) -> str:
        shape = self.shape
        if shape.fused_qkv:
            fused = self.linear(f"{name}.qkv", x, shape.hidden, 3 * shape.hidden)
            split = helper.make_node(
                "Split",
                [fused, self.constant([shape.hidden] * 3, name)],
                [f"{name}.{part}" for part in "qkv"],
                axis=-1,
                name=f"/{name}/Split",
            )
            self.nodes.append(split)
            q, k, v = split.output
        else:
            q, k, v = (
                self.linear(f"{name}.self.{part}", x, shape.hidden, shape.hidden, gain=gain)
                for part, gain in (("query", 2.0), ("key", 2.0), ("value", 1.0))
            )
        q, v = self.split(name, q, [0, 2, 1, 3]), self.split(name, v, [0, 2, 1, 3])
        k = self.split(name, k, [0, 2, 3, 1])
        s = self.node("MatMul", [q, k], name)
        s = self.node("Div", [s, self.constant((shape.hidden / shape.heads) ** 0.5, name)], name)
        if shape.relative == "alone":
            s = self.node("Add", [s, self.distances(name)], name)
        s = self.node("Add", [s, mask], name)
        context = self.node("MatMul", [self.node("Softmax", [s], name, axis=-1), v], name)
        context = self.node("Transpose", [context], name, perm=[0, 2, 1, 3])
        dims = [self.dimension(context, axis, name) for axis in (0, 1)]
        target = self.node("Concat", [*dims, self.constant([shape.hidden], name)], name, axis=0)
        context = self.node("Reshape", [context, target], name)
        return self.linear(f"{name}.output.dense", context, shape.hidden, shape.hidden)

    def split(self, name: str, x: str, perm: list[int]) -> str:
        """[batch, tokens, channels] to heads."""
        shape = self.shape
        dims = [self.dimension(x, axis, name) for axis in (0, 1)]
        widths = [self.constant([n], name) for n in (shape.heads, shape.hidden // shape.heads)]
        target = self.node("Concat", [*dims, *widths], name, axis=0)
        return self.node("Transpose", [self.node("Reshape", [x, target], name)], name, perm=perm)

    def activation(self, name: str, x: str) -> str:
        kind = self.shape.activation
        if kind in ("relu", "sigmoid", "tanh"):
            return self.node(kind.capitalize(), [x], name)
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], name)], name)
        if kind == "gelu_tanh":
            cube = self.node("Pow", [x, self.constant(3.0, name)], name)
            inner = self.node(
                "Add", [x, self.node("Mul", [cube, self.constant(0.044715, name)], name)], name
            )
            inner = self.node("Mul", [inner, self.constant((2 / np.pi) ** 0.5, name)], name)
            z = self.node("Tanh", [inner], name)
        else:
            z = self.node("Erf", [self.node("Div", [x, self.constant(2**0.5, name)], name)], name)
        z = self.node("Add", [z, self.constant(1.0, name)], name)
        z = self.node("Mul", [x, z], name)
        return self.node("Mul", [z, self.constant(0.5, name)], name)

    def classify(self, x: str) -> str:
        """A head as of cross-encoders: first token, pooler, classes."""
        shape = self.shape
        x = self.node("Gather", [x, self.constant(np.int64(0), "pooler")], "pooler", axis=1)
        x = self.gemm("pooler.dense", x, shape.hidden, shape.hidden)
        x = self.node("Tanh", [x], "pooler")
        return self.gemm("classifier", x, shape.hidden, shape.classifier)

    def positions(self, name: str) -> tuple[str, str]:
        """Numbers of the tokens, as a column and as a row."""
        length = self.node("Shape", ["input_ids"], name)
        length = self.node("Gather", [length, self.constant(np.int64(1), name)], name, axis=0)
        ends = [self.constant(np.int64(n), name) for n in (0, 1)]
        numbers = self.node("Range", [ends[0], length, ends[1]], name)
        column, row = (
            self.node("Unsqueeze", [numbers, self.constant([axis], name)], name) for axis in (1, 0)
        )
        return column, row

    def distances(self, name: str) -> str:
        """A bias of each head for each distance, the farthest ones together."""
        farthest = 5
        column, row = self.positions(name)
        apart = self.node("Sub", [row, column], name)
        limits = [self.constant(np.int64(n), name) for n in (-farthest, farthest)]
        apart = self.node("Clip", [apart, *limits], name)
        apart = self.node("Add", [apart, limits[1]], name)
        table = self.random.normal(0, 1, (2 * farthest + 1, self.shape.heads))
        bias = self.node("Gather", [self.weight(f"{name}.distances", table), apart], name, axis=0)
        bias = self.node("Transpose", [bias], name, perm=[2, 0, 1])
        return self.node("Unsqueeze", [bias, self.constant([0], name)], name)

    def pool(self, x: str) -> str:
        name = "pooling"
        mask = self.node("Unsqueeze", ["attention_mask", self.constant([-1], name)], name)
        kind = TensorProto.FLOAT16 if self.shape.half else TensorProto.FLOAT
        mask = self.node("Cast", [mask], name, to=kind)
        axis = self.constant([1], name)
        total = self.node("ReduceSum", [self.node("Mul", [x, mask], name), axis], name, keepdims=0)
        count = self.node("ReduceSum", [mask, axis], name, keepdims=0)
        mean = self.node("Div", [total, count], name)
        length = self.node("ReduceL2", [mean], name, axes=[1], keepdims=1)
        return self.node("Div", [mean, length], name)

    def norm(self, name: str, x: str) -> str:
        gamma = self.weight(f"{name}.weight", self.random.uniform(0.7, 1.3, self.shape.hidden))
        beta = self.weight(f"{name}.bias", self.random.normal(0, 0.1, self.shape.hidden))
        eps = 1e-5 if self.shape.half else 1e-12
        if not self.shape.old:
            return self.node("LayerNormalization", [x, gamma, beta], name, axis=-1, epsilon=eps)
        mean = self.node("ReduceMean", [x], name, axes=[-1])
        centred = self.node("Sub", [x, mean], name)
        square = self.node("Pow", [centred, self.constant(2.0, name)], name)
        variance = self.node("ReduceMean", [square], name, axes=[-1])
        variance = self.node("Add", [variance, self.constant(eps, name)], name)
        y = self.node("Div", [centred, self.node("Sqrt", [variance], name)], name)
        return self.node("Add", [self.node("Mul", [y, gamma], name), beta], name)
