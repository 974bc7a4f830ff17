"""What users give: text with a tokenizer, or arrays. What the model takes: arrays by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from systolith.cli.exits import UsageError

Sample = dict[str, np.ndarray]
"""One input: arrays of shape `[tokens]` by name, or one image `[channels, height, width]`."""

IMAGE_DIMENSIONS = (3, 4)
"""Of an array that holds one image, or several."""


def is_image(sample: Sample) -> bool:
    """Whether an input is an image."""
    return next(iter(sample.values())).ndim == IMAGE_DIMENSIONS[0]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`; it neither pads nor cuts.

    Raises:
        UsageError: it is no tokenizer.
    """
    if not path.is_file():
        raise UsageError(f"there is no tokenizer {path}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise UsageError(f"{path} is no tokenizer.json: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[Sample]:
    """Turn sentences into the inputs of a BERT-like model."""
    samples = []
    for encoding in tokenizer.encode_batch(list(sentences)):
        ids = np.array(encoding.ids, np.int64)
        samples.append(
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
        )
    return samples


def load_arrays(path: Path) -> list[Sample]:
    """Read inputs from an `.npz`: an array for each model input, `[tokens]` or `[inputs, tokens]`.

    An `attention_mask` tells which tokens of a padded row count. Images are one array `[channels,
    height, width]` or `[images, channels, height, width]`.

    Raises:
        UsageError: it is no such file, or its arrays do not fit together.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: np.atleast_2d(file[name]) for name in file.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no .npz file of plain arrays") from error
    if not arrays:
        raise UsageError(f"{path} holds no arrays")
    name, first = next(iter(arrays.items()))
    if len(arrays) == 1 and first.ndim in IMAGE_DIMENSIONS:
        images = first.reshape(-1, *first.shape[-3:]).astype(np.float32)
        if not images.size:
            raise UsageError(f"{path} holds no inputs")
        return [{name: image} for image in images]
    shapes = {name: value.shape for name, value in arrays.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise UsageError(
            f"the arrays of {path} must all have one shape, [tokens] or [inputs, tokens]: {shapes}"
        )
    count, total = next(iter(shapes.values()))
    if not count or not total:
        raise UsageError(f"{path} holds no inputs")
    mask = arrays.get("attention_mask", np.ones((count, total), np.int64))
    samples = []
    for row in range(count):
        length = int(mask[row].sum())
        if not (mask[row] == (np.arange(total) < length)).all() or not length:
            raise UsageError(
                f"row {row} of attention_mask in {path} must be ones followed by zeros"
            )
        samples.append({name: value[row, :length] for name, value in arrays.items()})
    return samples


def load_samples(path: Path, tokenizer: Tokenizer | None) -> list[Sample]:
    """Read inputs from an `.npz`, or sentences, one a line, from any other file.

    Raises:
        UsageError: text without a tokenizer, or an empty or unreadable file.
    """
    if path.suffix == ".npz":
        return load_arrays(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        sentences = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is neither an .npz file nor UTF-8 text") from error
    if not sentences:
        raise UsageError(f"{path} holds no sentences")
    if tokenizer is None:
        raise UsageError(f"{path} is text, so give the model's tokenizer.json by --tokenizer")
    return tokenize(tokenizer, sentences)
