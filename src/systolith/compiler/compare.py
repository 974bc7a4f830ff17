"""Where a quantized model loses accuracy: its tensors against the float graph's, layer by layer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systolith.compiler.execute import run_float
from systolith.compiler.graph import Floats, Graph
from systolith.compiler.qgraph import QGraph, Tensor

_SOURCE = re.compile(r"(?P<name>.*?)(\[(?P<first>\d+):(?P<end>\d+)\])?(?P<transposed>\.T)?")
"""A tensor's source: a float tensor's name, some of its columns, and whether it is transposed."""


@dataclass(frozen=True, kw_only=True)
class TensorError:
    """How far integers are from the real numbers they stand for, over several samples.

    Attributes:
        layer: of the model.
        tensor: its name in the quantized graph.
        snr: signal to noise, dB: mean square of the real numbers over that of the errors.
        cosine: between both, all elements in one vector.
        largest: largest error, real.
        saturated: fraction of the elements that are at a limit of their format.
    """

    layer: str
    tensor: str
    snr: float
    cosine: float
    largest: float
    saturated: float


def float_tensors(graph: Graph, x: Floats) -> dict[str, Floats]:
    """All tensors of one sample.

    Args:
        graph: what to run.
        x: `[valid tokens, channels]`, the input tensor.

    Returns:
        `[tokens, channels]` by name; the scores of each head under `<scores>[head]`.
    """
    tensors: dict[str, Floats] = {}

    def see(name: str, array: Floats) -> None:
        if array.ndim == 4:
            tensors.update({f"{name}[{head}]": part for head, part in enumerate(array[0])})
        else:
            tensors[name] = array[0]

    run_float(graph, x[None], see)
    return tensors


def compare_tensors(
    qgraph: QGraph,
    samples: Sequence[tuple[Mapping[str, npt.NDArray], Mapping[str, Floats]]],
) -> list[TensorError]:
    """Compare every stored tensor that stands for a float tensor, in the order of the graph.

    Args:
        qgraph: the quantized graph.
        samples: for each sample the integers, `[rows, columns]` by name, and the float tensors
            as `float_tensors` returns them. Padding is left out, since the floats have none.
    """
    errors: list[TensorError] = []
    for tensor in qgraph.tensors.values():
        pairs = [
            (codes[tensor.name], real)
            for codes, floats in samples
            if tensor.name in codes and (real := _real(tensor, floats)) is not None
        ]
        if not pairs:
            continue
        low, high = tensor.format.limits
        signal = noise = product = power = largest = 0.0
        limits = count = 0
        for codes, real in pairs:
            stored = codes.astype(np.float64)
            # Not [:rows, :columns] of the product: a step may belong to rows or to columns.
            value = ((stored - tensor.zero) * tensor.step)[: real.shape[0], : real.shape[1]]
            stored = stored[: real.shape[0], : real.shape[1]]
            error = value - real
            signal += float(np.sum(real**2))
            noise += float(np.sum(error**2))
            power += float(np.sum(value**2))
            product += float(np.sum(value * real))
            largest = max(largest, float(np.abs(error).max()))
            limits += int(np.sum((stored == low) | (stored == high)))
            count += stored.size
        errors.append(
            TensorError(
                layer=tensor.layer,
                tensor=tensor.name,
                snr=float("inf") if noise == 0 else 10 * np.log10(max(signal, 1e-300) / noise),
                cosine=product / max((signal * power) ** 0.5, 1e-300),
                largest=largest,
                saturated=limits / count,
            )
        )
    return errors


def format_errors(errors: Sequence[TensorError]) -> str:
    """Lay errors out as a table, heads of a layer together by their worst."""
    rows = [("tensor", "SNR dB", "cosine", "largest", "at limit")]
    for name, group in _grouped(errors).items():
        worst = min(group, key=lambda each: each.snr)
        rows.append(
            (
                name,
                f"{worst.snr:.1f}",
                f"{worst.cosine:.5f}",
                f"{worst.largest:.3g}",
                f"{max(each.saturated for each in group):.3%}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _real(tensor: Tensor, floats: Mapping[str, Floats]) -> Floats | None:
    """The float tensor's elements that a tensor stands for."""
    if tensor.source in floats:
        return floats[tensor.source]
    match = _SOURCE.fullmatch(tensor.source)
    assert match is not None  # The pattern takes any string.
    if not tensor.source or match["name"] not in floats:
        return None
    real = floats[match["name"]]
    if match["first"]:
        real = real[:, int(match["first"]) : int(match["end"])]
    return real.T if match["transposed"] else real


def _grouped(errors: Sequence[TensorError]) -> dict[str, list[TensorError]]:
    groups: dict[str, list[TensorError]] = {}
    for error in errors:
        groups.setdefault(re.sub(r"\.head\.\d+\.", ".head.*.", error.tensor), []).append(error)
    return groups
