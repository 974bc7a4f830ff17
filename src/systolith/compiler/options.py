"""What a user may choose about quantization."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Choices of the quantizer; the defaults are the measured best of MiniLM on STS-B's dev part.

    Attributes:
        alpha: SmoothQuant's exponent, 0 to 1: how much of the activations' spread over channels
            the weights take over.
        headroom: how far s16 tensors may go beyond their calibrated range before they saturate.
        max_chunk: most channels of a feed-forward chunk, so that one fits the scratchpad.
        wide_channels: channels of largest range that get a chunk of their own; None for a
            number that suits the width.
    """

    alpha: float = 0.75
    headroom: float = 2.0
    max_chunk: int = 1536
    wide_channels: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, but is {self.alpha}")
        if not 1 <= self.headroom <= 16:
            raise ValueError(f"headroom must be from 1 to 16, but is {self.headroom}")
        if self.max_chunk < 16:
            raise ValueError(f"max_chunk must be at least 16, but is {self.max_chunk}")
        if self.wide_channels is not None and self.wide_channels < 0:
            raise ValueError(f"wide_channels must not be negative, but is {self.wide_channels}")

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
