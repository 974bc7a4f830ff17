"""The options that choose formats of weights and what runs where; the formats as a table."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from systolith.cli.exits import UsageError
from systolith.compiler.options import PLACES, POOLINGS, WEIGHTS, QuantizeOptions, WeightFormat
from systolith.program import Program


def add_weight_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Options of commands that quantize; with `several`, `--weights` takes a list with commas."""
    how: dict[str, Any] = {"metavar": "FORMAT,..."} if several else {"choices": WEIGHTS}
    parser.add_argument(
        "--weights",
        **how,
        default="int8",
        help="format of the weights: int8 (default); int4, at twice the rate and half the bytes; "
        "mixed, int4 where measurements on the calibration inputs say that it costs least",
    )
    parser.add_argument(
        "--max-bytes",
        metavar="N|P%",
        help="mixed: the weights' size at most, in bytes or as a share of int8's (default 70%%, "
        "if no --max-loss is given)",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="X",
        help="mixed: loss at most, 1 - cosine of the output's tokens to floating point, as far as "
        "int4 is to blame (such as 0.01)",
    )
    parser.add_argument(
        "--embedding",
        choices=PLACES,
        default="host",
        help="where tokens are looked up: host (default), or npu, by DMA, from tables in the "
        "core's memory with words in s8",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        default="model",
        help="what becomes of the tokens' embeddings, on the core: model, what the model does with "
        "them; mean, the mean of the valid tokens instead, or cls, the first token; "
        "host, what the model does, but on the host (default %(default)s)",
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="with --pooling mean or cls: bring the result to unit length",
    )


def weight_options(options: argparse.Namespace) -> QuantizeOptions:
    """From parsed options.

    Raises:
        UsageError: they contradict one another, or make no sense.
    """
    return _quantization(options, options.weights)


def listed_weights(options: argparse.Namespace) -> tuple[list[WeightFormat], QuantizeOptions]:
    """The formats of a list, and the options of those that are mixed.

    Raises:
        UsageError: as in `weight_options`.
    """
    words = [word.strip() for word in options.weights.split(",")]
    known: dict[str, WeightFormat] = {name: name for name in WEIGHTS}
    if not known.keys() >= set(words):
        raise UsageError(f"--weights takes some of {', '.join(WEIGHTS)}: {options.weights!r}")
    formats: list[WeightFormat] = [known[word] for word in words]
    return formats, _quantization(options, "mixed" if "mixed" in formats else formats[0])


def _quantization(options: argparse.Namespace, weights: WeightFormat) -> QuantizeOptions:
    try:
        return QuantizeOptions(
            weights=weights,
            max_bytes=_size(options.max_bytes),
            max_loss=options.max_loss,
            embedding=options.embedding,
            pooling=options.pooling,
            normalize=bool(options.normalize),
        )
    except ValueError as error:
        message = str(error).replace("max_", "--max-").replace("normalize is", "--normalize is")
        raise UsageError(message) from None


def _size(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if not 0 < share <= 1:
                raise ValueError
            return share
        size = int(text)
    except ValueError:
        raise UsageError(
            f"--max-bytes takes a share such as 70% or a number of bytes: {text!r}"
        ) from None
    if size < 2:
        raise UsageError(f"--max-bytes {size} is too little: give a share such as 70%, or bytes")
    return float(size)


@contextmanager
def fitting(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar that shows how far the fit of the weights is, once it has begun."""
    if quiet:
        yield None
        return
    with tqdm(desc="fitting weights", unit="matrix", file=sys.stderr, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def precision_table(program: Program) -> str:
    """The formats of a program's weights, a line for each matrix, largest loss first."""
    lines = [f"  {'layer':<12}{'matrix':<34}{'bits':>5}{'bytes':>12}{'loss in int4':>14}"]
    for row in sorted(program.precision, key=lambda each: -each["loss"]):
        lines.append(
            f"  {row['layer']:<12}{row['tensor']:<34}{row['bits']:>5}{row['bytes']:>12,}"
            f"{row['loss']:>14.2e}"
        )
    size = sum(row["bytes"] for row in program.precision)
    whole = sum(row["bytes_int8"] for row in program.precision)
    lines.append(f"  all: {size:,} bytes, {size / max(whole, 1):.1%} of those in int8")
    return "\n".join(lines)
