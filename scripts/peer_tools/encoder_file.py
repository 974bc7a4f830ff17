"""The encoder as an INT8 TFLite file: its shapes, with random weights.

It goes from the embeddings to the last layer norm. TFLite has GELU and softmax, and no layer norm:
here it is eight operators, elementwise ones and means, one after another. There is no attention
mask.
"""

import numpy as np

from peer_tools.encoder import Encoder
from peer_tools.tflite import SCALE, Graph, Op, Tensor, flag, real


class EncoderFile:
    """The TFLite graph of an encoder.

    Arguments:
        encoder: Its sizes.
        seq_len: Tokens.
        seed: Of the weights, which change no cycles.
    """

    def __init__(self, encoder: Encoder, seq_len: int, seed: int = 0) -> None:
        self.encoder = encoder
        self.seq_len = seq_len
        self.graph = Graph()
        self._random = np.random.default_rng(seed)
        self.input = self.graph.activation("embeddings", (seq_len, encoder.width))
        x = self.input
        for n in range(encoder.layers):
            x = self._layer(x, f"layer{n}")
        self.output = x

    def serialize(self) -> bytes:
        """Return the contents of the file."""
        return self.graph.serialize([self.input], [self.output])

    def _layer(self, x: Tensor, name: str) -> Tensor:
        attention = self._attention(x, f"{name}.attention")
        x = self._norm(self._sum(x, attention, f"{name}.residual1"), f"{name}.norm1")
        hidden = self._dense(x, self.encoder.hidden, f"{name}.up")
        hidden = self.graph.add(Op.GELU, [hidden], f"{name}.gelu", hidden.shape, {0: flag(False)})
        down = self._dense(hidden, self.encoder.width, f"{name}.down")
        return self._norm(self._sum(x, down, f"{name}.residual2"), f"{name}.norm2")

    def _attention(self, x: Tensor, name: str) -> Tensor:
        e, t, add = self.encoder, self.seq_len, self.graph.add
        by_head, by_token = (1, e.heads, t, e.head), (1, t, e.heads, e.head)
        q, k, v = (
            self._transposed(
                self._reshaped(self._dense(x, e.width, f"{name}.{part}"), by_token), by_head
            )
            for part in ("q", "k", "v")
        )
        # The division by the root of a head's width lies in the scale of the scores.
        square = (1, e.heads, t, t)
        scores = add(Op.BATCH_MATMUL, [q, k], f"{name}.scores", square, {1: flag(True)})
        weights = add(Op.SOFTMAX, [scores], f"{name}.softmax", square, {0: real(1.0)})
        context = add(Op.BATCH_MATMUL, [weights, v], f"{name}.context", by_head)
        rows = self._reshaped(self._transposed(context, by_token), (t, e.width))
        return self._dense(rows, e.width, f"{name}.out")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        add, rows = self.graph.add, (x.shape[0], 1)
        axis = self.graph.constant(f"{name}.axis", np.array([1], np.int32))
        keep = {0: flag(True)}
        mean = add(Op.MEAN, [x, axis], f"{name}.mean", rows, keep)
        centred = add(Op.SUB, [x, mean], f"{name}.centred", x.shape)
        square = add(Op.MUL, [centred, centred], f"{name}.square", x.shape)
        variance = add(Op.MEAN, [square, axis], f"{name}.variance", rows, keep)
        inverse = add(Op.RSQRT, [variance], f"{name}.inverse", rows)
        unit = add(Op.MUL, [centred, inverse], f"{name}.unit", x.shape)
        gain = self._weights(f"{name}.gain", (1, x.shape[1]))
        scaled = add(Op.MUL, [unit, gain], f"{name}.scaled", x.shape)
        offset = self._weights(f"{name}.offset", (1, x.shape[1]))
        return add(Op.ADD, [scaled, offset], f"{name}.out", x.shape)

    def _dense(self, x: Tensor, width: int, name: str) -> Tensor:
        weights = self._weights(f"{name}.weights", (width, x.shape[1]))
        assert weights.scale is not None
        zeros = np.zeros(width, np.int32)
        bias = self.graph.constant(f"{name}.bias", zeros, SCALE * weights.scale)
        shape = (x.shape[0], width)
        return self.graph.add(Op.FULLY_CONNECTED, [x, weights, bias], name, shape)

    def _sum(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return self.graph.add(Op.ADD, [x, y], name, x.shape)

    def _reshaped(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        wanted = self.graph.constant(f"{x.name}.shape", np.array(shape, np.int32))
        return self.graph.add(Op.RESHAPE, [x, wanted], f"{x.name}.reshaped", shape)

    def _transposed(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Swap tokens and heads."""
        order = self.graph.constant(f"{x.name}.order", np.array([0, 2, 1, 3], np.int32))
        return self.graph.add(Op.TRANSPOSE, [x, order], f"{x.name}.transposed", shape)

    def _weights(self, name: str, shape: tuple[int, ...]) -> Tensor:
        data = np.clip(np.rint(self._random.normal(0, 32, shape)), -127, 127)
        return self.graph.constant(name, data.astype(np.int8), 1 / 128)
