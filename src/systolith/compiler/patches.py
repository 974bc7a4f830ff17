"""Images as rows of patches: what a convolution whose stride is its kernel multiplies.

An image lies in memory as the model takes it, channel by channel, row by row. The core's DMA
brings each run of a patch to its place in the operand, so nobody rearranges the image.
"""

from dataclasses import dataclass

import numpy as np

from systolith.compiler.graph import Floats


@dataclass(frozen=True, kw_only=True)
class PatchGrid:
    """How an image falls into patches; what is left over at its right and lower edge is not read.

    Attributes:
        channels, height, width: of the image.
        patch: height and width of a patch.
        lead: rows of zeros in front of the patches, for tokens that the model puts there.
    """

    channels: int
    height: int
    width: int
    patch: tuple[int, int]
    lead: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Patches, from top to bottom and from left to right."""
        return self.height // self.patch[0], self.width // self.patch[1]

    @property
    def rows(self) -> int:
        """Of the operand: one for each patch, and those in front."""
        return self.lead + self.grid[0] * self.grid[1]

    @property
    def columns(self) -> int:
        """Of the operand: pixels of a patch, by channel, row and column."""
        return self.channels * self.patch[0] * self.patch[1]

    def unfold(self, image: Floats) -> Floats:
        """The operand `[rows, columns]` of an image `[1, channels, height, width]`."""
        (down, right), (high, wide) = self.grid, self.patch
        cut = image.reshape(self.channels, self.height, self.width)
        cut = cut[:, : down * high, : right * wide]
        parts = cut.reshape(self.channels, down, high, right, wide).transpose(1, 3, 0, 2, 4)
        patches = parts.reshape(down * right, self.columns)
        return np.pad(patches, ((self.lead, 0), (0, 0)))
