"""The encoder whose cycles are compared: MiniLM-L6's shapes, and the products in them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Matmul:
    """A product `[m, k] @ [k, n]` that an encoder holds several times."""

    name: str
    m: int
    n: int
    k: int
    count: int
    """How often, in the whole encoder."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all of them."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Sizes of a BERT encoder; the defaults are those of all-MiniLM-L6-v2.

    Raises:
        ValueError: the heads do not divide the width.
    """

    layers: int = 6
    width: int = 384
    heads: int = 12
    hidden: int = 1536

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    def matmuls(self, seq_len: int) -> list[Matmul]:
        """All products for `seq_len` tokens, in the order of their first use."""
        each_head = self.layers * self.heads
        projection = Matmul(
            name="projection", m=seq_len, n=self.width, k=self.width, count=4 * self.layers
        )
        scores = Matmul(name="scores", m=seq_len, n=seq_len, k=self.head, count=each_head)
        context = Matmul(name="context", m=seq_len, n=self.head, k=seq_len, count=each_head)
        up = Matmul(name="up", m=seq_len, n=self.hidden, k=self.width, count=self.layers)
        down = Matmul(name="down", m=seq_len, n=self.width, k=self.hidden, count=self.layers)
        return [projection, scores, context, up, down]

    def macs(self, seq_len: int) -> int:
        """Multiply-accumulates of all products: no norm, no softmax, no embedding."""
        return sum(each.macs for each in self.matmuls(seq_len))
