"""Vision transformers as ONNX files, written as exporters write them.

Weights are given, or random, but shaped like a trained model's, as in `systolith_sim.models`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from systolith_sim.onnx_writer import OnnxWriter


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """What to write.

    Attributes:
        image: channels, height and width.
        patch: height and width of a patch.
        hidden: width of the residual.
        heads: attention heads; `hidden` is a multiple of it.
        layers: encoder layers.
        ffn: width of the feed-forward part.
        classes: of the head; 0 for none: the output is the last norm's.
        tokens: in front of the patches: 1 for the class, 2 if there is one for distillation.
        pooling: what the head reads.
        activation: of the feed-forward part.
        normalized: whether the graph takes mean and deviation off the image.
        fused: one projection for Q, K and V, cut apart head by head; only Q is scaled.
        seed: of the weights.
    """

    image: tuple[int, int, int] = (3, 32, 32)
    patch: tuple[int, int] = (8, 8)
    hidden: int = 48
    heads: int = 3
    layers: int = 2
    ffn: int = 96
    classes: int = 10
    tokens: int = 1
    pooling: Literal["first", "mean"] = "first"
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    normalized: bool = False
    fused: bool = False
    seed: int = 0

    @property
    def length(self) -> int:
        """Tokens."""
        _, height, width = self.image
        return self.tokens + height // self.patch[0] * (width // self.patch[1])


DEIT_TINY = VitShape(
    image=(3, 224, 224), patch=(16, 16), hidden=192, heads=3, layers=12, ffn=768, classes=1000
)
DEIT_SMALL = VitShape(
    image=(3, 224, 224), patch=(16, 16), hidden=384, heads=6, layers=12, ffn=1536, classes=1000
)


def make_vit(
    shape: VitShape | None = None, weights: Mapping[str, npt.NDArray] | None = None
) -> onnx.ModelProto:
    """Return the model: `pixel_values` `[batch, channels, height, width]` to `logits`.

    Args:
        shape: what to write.
        weights: by name, each as large as the random ones that it stands for; None for those.

    Raises:
        ValueError: a weight is missing, too many, or of another shape.
    """
    return _Writer(shape or VitShape(), weights).model()


def vit_weights(shape: VitShape) -> dict[str, npt.NDArray[np.float32]]:
    """Return the random weights of a model by name, as training may start from them."""
    return {each.name: numpy_helper.to_array(each) for each in make_vit(shape).graph.initializer}


def make_images(
    shape: VitShape, count: int, *, seed: int = 1
) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Return inputs of the model: smooth random images, not all of one contrast."""
    random = np.random.default_rng(seed)
    channels, height, width = shape.image
    samples = []
    for _ in range(count):
        coarse = random.normal(0, 1, (channels, height // 4 + 1, width // 4 + 1))
        fine = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width]
        image = fine * random.uniform(0.5, 1.5) + random.normal(0, 0.2, shape.image)
        samples.append({"pixel_values": np.clip(image, -2.5, 2.5).astype(np.float32)})
    return samples


class _Writer(OnnxWriter):
    def __init__(self, shape: VitShape, given: Mapping[str, npt.NDArray] | None) -> None:
        super().__init__(shape.seed)
        self.shape = shape
        self.given = given

    def model(self) -> onnx.ModelProto:
        shape = self.shape
        x = self.embeddings("pixel_values")
        for index in range(shape.layers):
            x = self.layer(f"encoder.layer.{index}", x)
        x = self.norm("layernorm", x)
        if shape.classes:
            x = self.head(x)
        self.node("Identity", [x], "output", output="logits")
        unknown = set(self.given or ()) - {each.name for each in self.weights}
        if unknown:
            raise ValueError(f"the model has no weights {', '.join(sorted(unknown))}")
        dims = ["batch", shape.classes] if shape.classes else ["batch", shape.length, shape.hidden]
        images = helper.make_tensor_value_info(
            "pixel_values", TensorProto.FLOAT, ["batch", *shape.image]
        )
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, dims)
        return self.export([images], output)

    def weight(self, name: str, array: npt.ArrayLike) -> str:
        array = np.asarray(array, np.float32)
        if self.given is not None:
            found = np.asarray(self.given.get(name, ()), np.float32)
            if found.shape != array.shape:
                raise ValueError(f"{name} must have shape {array.shape}, but has {found.shape}")
            array = found
        return super().weight(name, array)

    def embeddings(self, x: str) -> str:
        shape, name = self.shape, "embeddings"
        channels = shape.image[0]
        if shape.normalized:
            mean = self.constant(np.linspace(0.1, 0.3, channels)[:, None, None], name)
            deviation = self.constant(np.linspace(0.8, 1.2, channels)[:, None, None], name)
            x = self.node("Div", [self.node("Sub", [x, mean], name), deviation], name)
        area = channels * shape.patch[0] * shape.patch[1]
        kernel = (shape.hidden, channels, *shape.patch)
        weight = self.weight("projection.weight", self.random.normal(0, area**-0.5, kernel))
        bias = self.weight("projection.bias", self.random.normal(0, 0.1, shape.hidden))
        x = self.node(
            "Conv",
            [x, weight, bias],
            name,
            kernel_shape=list(shape.patch),
            strides=list(shape.patch),
            pads=[0] * 4,
            dilations=[1, 1],
            group=1,
        )
        batch = self.batch(x, name)
        flat = self.node("Concat", [batch, self.constant([shape.hidden, -1], name)], name, axis=0)
        x = self.node("Reshape", [x, flat], name)
        x = self.node("Transpose", [x], name, perm=[0, 2, 1])
        fronts = []
        for number in range(shape.tokens):
            token = self.random.normal(0, 0.5, (1, 1, shape.hidden))
            token = self.weight(f"token.{number}", token)
            target = self.node("Concat", [batch, self.constant([-1, -1], name)], name, axis=0)
            ones = self.constant([1, 1, 1], name)
            target = self.node(
                "Where",
                [
                    self.node("Equal", [target, self.constant([-1, -1, -1], name)], name),
                    ones,
                    target,
                ],
                name,
            )
            fronts.append(self.node("Expand", [token, target], name))
        if fronts:
            x = self.node("Concat", [*fronts, x], name, axis=1)
        positions = self.random.normal(0, 0.3, (1, shape.length, shape.hidden))
        return self.node("Add", [x, self.weight("positions", positions)], name)

    def batch(self, x: str, name: str) -> str:
        """The first dimension of a tensor's shape, one element."""
        index = self.node(
            "Gather", [self.node("Shape", [x], name), self.constant(np.int64(0), name)], name
        )
        return self.node("Unsqueeze", [index, self.constant([0], name)], name)

    def layer(self, name: str, x: str) -> str:
        y = self.attention(f"{name}.attention", self.norm(f"{name}.before", x))
        x = self.node("Add", [y, x], f"{name}.attention")
        y = self.feed_forward(name, self.norm(f"{name}.after", x))
        return self.node("Add", [y, x], name)

    def attention(self, name: str, x: str) -> str:
        shape = self.shape
        if shape.fused:
            return self.fused_attention(name, x)
        q, k, v = (
            self.heads(name, self.linear(f"{name}.{part}", x, shape.hidden, shape.hidden, gain=g))
            for part, g in (("query", 1.5), ("key", 1.5), ("value", 1.0))
        )
        # As of scaled_dot_product_attention: both operands take the root of the scale.
        root = self.constant((shape.hidden / shape.heads) ** -0.25, name)
        k = self.node("Transpose", [k], name, perm=[0, 1, 3, 2])
        q, k = (self.node("Mul", [each, root], name) for each in (q, k))
        p = self.node("Softmax", [self.node("MatMul", [q, k], name)], name, axis=-1)
        context = self.node("MatMul", [p, v], name)
        context = self.node("Transpose", [context], name, perm=[0, 2, 1, 3])
        target = self.constant([0, 0, shape.hidden], name)
        context = self.node("Reshape", [context, target], name)
        return self.linear(f"{name}.output", context, shape.hidden, shape.hidden)

    def fused_attention(self, name: str, x: str) -> str:
        shape, width = self.shape, self.shape.hidden // self.shape.heads
        fused = self.linear(f"{name}.qkv", x, shape.hidden, 3 * shape.hidden, gain=1.5)
        target = self.constant([0, 0, 3, shape.heads, width], name)
        fused = self.node("Reshape", [fused, target], name)
        fused = self.node("Transpose", [fused], name, perm=[2, 0, 3, 1, 4])
        q, k, v = (
            self.node("Gather", [fused, self.constant(np.int64(n), name)], name, axis=0)
            for n in range(3)
        )
        q = self.node("Mul", [q, self.constant(width**-0.5, name)], name)
        k = self.node("Transpose", [k], name, perm=[0, 1, 3, 2])
        p = self.node("Softmax", [self.node("MatMul", [q, k], name)], name, axis=-1)
        context = self.node(
            "Transpose", [self.node("MatMul", [p, v], name)], name, perm=[0, 2, 1, 3]
        )
        context = self.node("Reshape", [context, self.constant([0, 0, shape.hidden], name)], name)
        return self.linear(f"{name}.output", context, shape.hidden, shape.hidden)

    def heads(self, name: str, x: str) -> str:
        shape = self.shape
        target = self.constant([0, 0, shape.heads, shape.hidden // shape.heads], name)
        return self.node(
            "Transpose", [self.node("Reshape", [x, target], name)], name, perm=[0, 2, 1, 3]
        )

    def feed_forward(self, name: str, x: str) -> str:
        shape = self.shape
        h = self.linear(f"{name}.intermediate", x, shape.hidden, shape.ffn)
        if shape.activation == "quick_gelu":
            z = self.node("Mul", [h, self.constant(1.702, name)], name)
            h = self.node("Mul", [h, self.node("Sigmoid", [z], name)], name)
            return self.linear(f"{name}.output", h, shape.ffn, shape.hidden)
        if shape.activation == "gelu":
            z = self.node("Erf", [self.node("Div", [h, self.constant(2**0.5, name)], name)], name)
        else:
            cube = self.node("Pow", [h, self.constant(3.0, name)], name)
            cube = self.node("Mul", [cube, self.constant(0.044715, name)], name)
            z = self.node("Add", [h, cube], name)
            z = self.node("Mul", [z, self.constant((2 / np.pi) ** 0.5, name)], name)
            z = self.node("Tanh", [z], name)
        z = self.node("Add", [z, self.constant(1.0, name)], name)
        h = self.node("Mul", [self.node("Mul", [h, z], name), self.constant(0.5, name)], name)
        return self.linear(f"{name}.output", h, shape.ffn, shape.hidden)

    def head(self, x: str) -> str:
        shape = self.shape
        if shape.pooling == "first":
            x = self.node("Gather", [x, self.constant(np.int64(0), "head")], "head", axis=1)
        else:
            x = self.node("ReduceMean", [x], "head", axes=[1], keepdims=0)
        return self.gemm("classifier", x, shape.hidden, shape.classes)

    def norm(self, name: str, x: str) -> str:
        gamma = self.weight(f"{name}.weight", self.random.uniform(0.7, 1.3, self.shape.hidden))
        beta = self.weight(f"{name}.bias", self.random.normal(0, 0.1, self.shape.hidden))
        return self.node("LayerNormalization", [x, gamma, beta], name, axis=-1, epsilon=1e-6)
