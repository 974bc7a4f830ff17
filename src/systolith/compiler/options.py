"""What a user may choose about quantization, and about what runs on the core."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

WeightFormat = Literal["int8", "int4", "mixed"]
"""What weights may be."""

Pooling = Literal["model", "mean", "cls", "host"]
"""What may become of the tokens that a model makes."""

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

Place = Literal["host", "npu"]
"""Where something may run."""

PLACES: tuple[Place, ...] = get_args(Place)

WEIGHTS: tuple[WeightFormat, ...] = get_args(WeightFormat)


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Choices of the quantizer; the defaults are the measured best of MiniLM on STS-B's dev part.

    Attributes:
        weights: "int8", "int4", or "mixed": 4 bits where it costs least, under a budget.
        max_bytes: of the weights, if mixed: as a share of what they take in s8 (up to 1), or in
            bytes; None for no limit, or 0.7 if there is none of the loss either.
        max_loss: if mixed, of the output: one minus its tokens' mean cosine to real numbers, as
            far as it comes from weights of 4 bits; None for no limit.
        alpha: SmoothQuant's exponent, 0 to 1: how much of the activations' spread over channels
            the weights take over.
        alpha_int4: the same where weights of 4 bits read.
        headroom: how far s16 tensors may go beyond their calibrated range before they saturate.
        max_chunk: most channels of a feed-forward chunk, so that one fits the scratchpad.
        wide_channels: channels of largest range that get a chunk of their own; None for a
            number that suits the width.
        pooling: "model": the pooling that the model has, on the core where the core can; "host":
            the same, but on the host; "mean" of the valid tokens or "cls", the first token: in
            place of what the model makes of its tokens, on the core.
        embedding: where tokens are looked up; on the core, words are s8.
        normalize: whether "mean" or "cls" brings the result to unit length.
    """

    weights: WeightFormat = "int8"
    max_bytes: float | None = None
    max_loss: float | None = None
    alpha: float = 0.75
    alpha_int4: float = 0.35
    headroom: float = 2.0
    max_chunk: int = 1536
    wide_channels: int | None = None
    embedding: Place = "host"
    pooling: Pooling = "model"
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, not {self.weights!r}")
        if self.embedding not in PLACES:
            raise ValueError(
                f"embedding must be one of {', '.join(PLACES)}, not {self.embedding!r}"
            )
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {self.pooling!r}")
        if self.normalize and self.pooling not in ("mean", "cls"):
            raise ValueError(f"normalize is for pooling mean or cls, and this is {self.pooling}")
        for name in ("max_bytes", "max_loss"):
            value = getattr(self, name)
            if value is not None and self.weights != "mixed":
                raise ValueError(f"{name} is for mixed weights, and these are {self.weights}")
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, but is {value}")
        for name in ("alpha", "alpha_int4"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, but is {value}")
        if not 1 <= self.headroom <= 16:
            raise ValueError(f"headroom must be from 1 to 16, but is {self.headroom}")
        if self.max_chunk < 16:
            raise ValueError(f"max_chunk must be at least 16, but is {self.max_chunk}")
        if self.wide_channels is not None and self.wide_channels < 0:
            raise ValueError(f"wide_channels must not be negative, but is {self.wide_channels}")

    def with_weights(self, weights: WeightFormat) -> "QuantizeOptions":
        """The same choices for another format; limits are for mixed weights alone."""
        if weights == "mixed":
            return replace(self, weights=weights)
        return replace(self, weights=weights, max_bytes=None, max_loss=None)

    def chunks(self, width: int) -> list[int]:
        """Sizes of the chunks of a feed-forward width, the one of wide channels last.

        The others are multiples of 64, or in narrow models of 16, as far as it goes, so that the
        array is full.
        """
        unit, few = (64, 32) if width >= 1024 else (16, 16)
        wide = self.wide_channels
        if wide is None:
            wide = few if width >= 4 * few else 0
        wide = min(wide, width)
        rest = width - wide
        count = -(-rest // max(unit, self.max_chunk // unit * unit))
        sizes: list[int] = []
        while rest:
            # An equal part of what is left, in whole units.
            part = -(-rest // (count - len(sizes)))
            sizes.append(min(rest, -(-part // unit) * unit))
            rest -= sizes[-1]
        return [*sizes, wide] if wide else sizes
