"""Calibration: the range of every tensor, per channel, over sample inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from systolith.compiler.execute import run_float
from systolith.compiler.graph import Floats, Graph
from systolith.compiler.patches import PatchGrid
from systolith.compiler.prologue import HostModel, pad_inputs, take_image

BATCH_TOKENS = 2048
"""Tokens that are run at once: enough for fast products, few enough for the caches' sake."""

Sample = Mapping[str, npt.ArrayLike]
"""Inputs of a model by name, `[L, ...]` or `[1, L, ...]`, L at most the compiled length."""


@dataclass
class Ranges:
    """Smallest and largest element of each tensor: `[channels]`; of scores, one number."""

    low: dict[str, Floats] = field(default_factory=dict)
    high: dict[str, Floats] = field(default_factory=dict)

    def see(self, name: str, x: Floats) -> None:
        """Widen the range of a tensor; the observer of `run_float`."""
        flat = x.reshape(-1, x.shape[-1] if x.ndim == 3 else 1)
        low, high = flat.min(0), flat.max(0)
        if name in self.low:
            low, high = np.minimum(low, self.low[name]), np.maximum(high, self.high[name])
        self.low[name], self.high[name] = low, high

    def absmax(self, name: str) -> npt.NDArray[np.float64]:
        """Largest magnitude of each channel."""
        return np.maximum(-self.low[name], self.high[name]).astype(np.float64)


def embed(
    prologue: HostModel,
    samples: Sequence[Sample],
    *,
    name: str,
    seq_len: int,
    mask_input: str | None,
    patches: PatchGrid | None = None,
) -> list[Floats]:
    """Run the prologue; return each sample's input tensor, `[valid tokens, channels]`.

    Images are unfolded into their patches; numbers of rows of tables are `[valid tokens, lists]`.
    """
    result = []
    if patches is not None:
        image, *_ = prologue.inputs
        for sample in samples:
            feeds = take_image(sample, image, prologue.shapes[image])
            (made,) = prologue.run(feeds).values()
            result.append(patches.unfold(made))
        return result
    for sample in samples:
        feeds, length = pad_inputs(sample, seq_len, mask_input)
        x = prologue.run(feeds)[name]
        # Numbers of rows come list by list.
        lists = x.dtype.kind == "i"
        x = x.reshape(-1, seq_len).T.astype(np.float32) if lists else x.reshape(seq_len, -1)
        result.append(x[:length])
    return result


def calibrate(graph: Graph, inputs: Sequence[Floats]) -> Ranges:
    """Run a graph on input tensors `[tokens, channels]` of any lengths, and note all ranges."""
    ranges = Ranges()
    for batch in batches(inputs):
        run_float(graph, batch, ranges.see)
    return ranges


def batches(inputs: Sequence[Floats]) -> list[Floats]:
    """Stack inputs of equal length, at most `BATCH_TOKENS` tokens in a batch."""
    groups: dict[int, list[Floats]] = {}
    for x in inputs:
        groups.setdefault(len(x), []).append(x)
    result = []
    for length, group in sorted(groups.items()):
        size = max(1, BATCH_TOKENS // length)
        result += [np.stack(group[n : n + size]) for n in range(0, len(group), size)]
    return result
