"""The TFLite file of the encoder, read back by its bytes, without the library that wrote it."""

import struct
from collections import Counter
from dataclasses import dataclass
from math import prod

import pytest

from peer_tools.encoder import Encoder
from peer_tools.encoder_file import EncoderFile

ADD, FULLY_CONNECTED, MUL, RESHAPE, SOFTMAX = 0, 9, 18, 22, 25
TRANSPOSE, MEAN, SUB, RSQRT, BATCH_MATMUL, GELU = 39, 40, 41, 76, 126, 150
INT32, INT8 = 2, 9


@dataclass(frozen=True)
class Table:
    """A FlatBuffer's table: where it starts is where its list of field positions is given."""

    data: bytes
    at: int

    def field(self, slot: int) -> int | None:
        """Where a field is; None if it has its default."""
        fields = self.at - self.number("<i", self.at)
        if 4 + 2 * slot >= self.number("<H", fields):
            return None
        offset = self.number("<H", fields + 4 + 2 * slot)
        return self.at + offset if offset else None

    def scalar(self, slot: int, kind: str) -> int:
        """A number of a `struct` kind; 0 if it has its default."""
        at = self.field(slot)
        return 0 if at is None else self.number(kind, at)

    def table(self, slot: int) -> "Table":
        """The table that a field points at."""
        at = self.field(slot)
        assert at is not None
        return Table(self.data, at + self.number("<I", at))

    def vector(self, slot: int, kind: str) -> list[int]:
        """The numbers that a field points at; none if it has its default."""
        at, count = self.contents(slot)
        return list(struct.unpack_from(f"<{count}{kind}", self.data, at))

    def tables(self, slot: int) -> list["Table"]:
        """The tables that a field points at."""
        at, count = self.contents(slot)
        places = range(at, at + 4 * count, 4)
        return [Table(self.data, place + self.number("<I", place)) for place in places]

    def contents(self, slot: int) -> tuple[int, int]:
        """Where a vector's first element is, and how many there are."""
        at = self.field(slot)
        if at is None:
            return 0, 0
        at += self.number("<I", at)
        return at + 4, self.number("<I", at)

    def number(self, kind: str, at: int) -> int:
        """A number anywhere in the file."""
        return struct.unpack_from(kind, self.data, at)[0]


@dataclass(frozen=True)
class Node:
    """An operator, with the numbers of its tensors."""

    code: int
    inputs: list[int]
    outputs: list[int]
    options: Table | None


SMALL = Encoder(layers=2, width=8, heads=2, hidden=16)


def read(encoder: Encoder, seq_len: int) -> tuple[Table, list[Table], list[Node]]:
    data = EncoderFile(encoder, seq_len).serialize()
    assert data[4:8] == b"TFL3"
    model = Table(data, struct.unpack_from("<I", data)[0])
    assert model.scalar(0, "<I") == 3
    codes = [each.scalar(3, "<i") for each in model.tables(1)]
    (subgraph,) = model.tables(2)
    nodes = [
        Node(
            code=codes[each.scalar(0, "<I")],
            inputs=each.vector(1, "i"),
            outputs=each.vector(2, "i"),
            options=None if each.field(4) is None else each.table(4),
        )
        for each in subgraph.tables(3)
    ]
    return model, subgraph.tables(0), nodes


@pytest.mark.parametrize(("encoder", "seq_len"), [(Encoder(), 32), (SMALL, 3), (SMALL, 16)])
def test_products_of_the_file_are_those_of_the_encoder(encoder: Encoder, seq_len: int) -> None:
    _, tensors, nodes = read(encoder, seq_len)
    macs = 0
    for node in nodes:
        if node.code not in (FULLY_CONNECTED, BATCH_MATMUL):
            continue
        left, right = (tensors[n].vector(0, "i") for n in node.inputs[:2])
        # Depth is last in both: dense weights are [out, in], and keys are transposed.
        transposed = node.code == FULLY_CONNECTED
        if node.code == BATCH_MATMUL:
            assert node.options is not None
            transposed = bool(node.options.scalar(1, "<B"))
        depth, width = (right[-1], right[-2]) if transposed else (right[-2], right[-1])
        assert left[-1] == depth
        out = tensors[node.outputs[0]].vector(0, "i")
        assert out == [*left[:-1], width]
        macs += prod(out) * depth
    assert macs == encoder.macs(seq_len)


def test_operators_are_those_of_an_encoder() -> None:
    _, _, nodes = read(SMALL, 4)
    each_layer = {
        FULLY_CONNECTED: 6,
        BATCH_MATMUL: 2,
        SOFTMAX: 1,
        GELU: 1,
        RESHAPE: 4,
        TRANSPOSE: 4,
        ADD: 2 + 2,
        MEAN: 2 * 2,
        SUB: 2,
        MUL: 2 * 3,
        RSQRT: 2,
    }
    assert Counter(node.code for node in nodes) == {
        code: SMALL.layers * count for code, count in each_layer.items()
    }


def test_every_operator_reads_what_is_there_and_nothing_is_lost() -> None:
    model, tensors, nodes = read(SMALL, 4)
    (subgraph,) = model.tables(2)
    inputs, outputs = subgraph.vector(1, "i"), subgraph.vector(2, "i")
    constants = {n for n, tensor in enumerate(tensors) if tensor.scalar(2, "<I")}
    known = {*inputs, *constants}
    used = set(outputs)
    for node in nodes:
        assert known.issuperset(node.inputs)
        assert known.isdisjoint(node.outputs)
        known.update(node.outputs)
        used.update(node.inputs)
    assert known == used == set(range(len(tensors)))
    for n in (*inputs, *outputs):
        assert tensors[n].vector(0, "i") == [4, SMALL.width]


def test_constants_are_whole_aligned_and_quantized() -> None:
    model, tensors, _ = read(SMALL, 4)
    buffers = model.tables(4)
    assert buffers[0].contents(0) == (0, 0)
    for tensor in tensors:
        kind = tensor.scalar(1, "<b")
        buffer = tensor.scalar(2, "<I")
        if buffer:
            at, size = buffers[buffer].contents(0)
            assert at % 16 == 0
            assert size == prod(tensor.vector(0, "i")) * {INT8: 1, INT32: 4}[kind]
        if kind == INT8:
            assert tensor.table(4).vector(2, "f")[0] > 0
            assert tensor.table(4).vector(3, "q") == [0]


def test_weights_are_random_and_repeat() -> None:
    first, again = (EncoderFile(SMALL, 4).serialize() for _ in range(2))
    assert first == again
    assert EncoderFile(SMALL, 4, seed=1).serialize() != first
