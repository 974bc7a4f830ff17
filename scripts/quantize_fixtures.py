"""Quantizes some of the small encoders of `tests/data/exported` by ONNX Runtime.

    pip install onnxruntime==1.31.1 onnx==1.23.2
    python scripts/quantize_fixtures.py tests/data/exported [name ...]

The versions are those that wrote the files. Calibration inputs are random, with a fixed seed.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as ortq
from onnxruntime.quantization.shape_inference import quant_pre_process

IMAGE, VOCABULARY, TOKENS = 16, 100, 12
"""Of the models, as `scripts/export_fixtures.py` makes them."""


@dataclass(frozen=True)
class Quantized:
    """A file that ONNX Runtime quantizes.

    Attributes:
        source: name of the file.
        suffix: what is added to its name.
        settings: of `quantize_static`; or, with `dynamic`, of `quantize_dynamic`.
        dynamic: which of the two.
        prepared: whether ONNX Runtime simplifies the file before, as it asks one to.
    """

    source: str
    suffix: str
    settings: dict[str, Any]
    dynamic: bool = False
    prepared: bool = True

    @property
    def name(self) -> str:
        """Of the file, without its ending."""
        return f"{self.source}-{self.suffix}"


S8, U8 = ortq.QuantType.QInt8, ortq.QuantType.QUInt8
PRODUCTS = ["MatMul", "Gemm", "Gather", "Conv"]
"""What people quantize: all operators, masks among them, leave nothing of a model."""

QUANTIZED = [
    Quantized(
        "bert-sdpa-torchscript-14",
        "qdq-s8-channels",
        {
            "per_channel": True,
            "activation_type": S8,
            "weight_type": S8,
            "op_types_to_quantize": PRODUCTS,
            "extra_options": {"ActivationSymmetric": True},
        },
    ),
    Quantized(
        "bert-sdpa-dynamo-18",
        "qdq-u8s8",
        {"activation_type": U8, "weight_type": S8, "op_types_to_quantize": PRODUCTS},
    ),
    Quantized(
        "bert_classifier-sdpa-torchscript-17",
        "qdq-u8u8",
        {"activation_type": U8, "weight_type": U8, "op_types_to_quantize": PRODUCTS},
    ),
    Quantized(
        "encoder-torchscript-17-fixed",
        "qdq-relu",
        {
            "activation_type": U8,
            "weight_type": S8,
            "per_channel": True,
            # Behind an Add that is quantized, too, a Relu becomes part of the rounding.
            "op_types_to_quantize": [*PRODUCTS, "Add", "Relu"],
            "nodes_to_exclude": [f"/encoder/layers.{n}/self_attn/Add_2" for n in (0, 1)],
        },
        prepared=False,
    ),
    Quantized(
        "vit-sdpa-dynamo-18",
        "qdq-all",
        {"activation_type": S8, "weight_type": S8, "per_channel": True},
    ),
    Quantized("bert-eager-torchscript-13", "dynamic-s8", {"weight_type": S8}, dynamic=True),
    Quantized(
        "vit-eager-torchscript-13",
        "dynamic-u8-channels",
        {"weight_type": U8, "per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]},
        dynamic=True,
    ),
]


class Samples(ortq.CalibrationDataReader):
    """Random inputs of a file."""

    def __init__(self, path: Path) -> None:
        self._samples = self._make(onnx.load(path))

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the next input, or None behind the last one."""
        return next(self._samples, None)

    @staticmethod
    def _make(model: onnx.ModelProto) -> Iterator[dict[str, np.ndarray]]:
        random = np.random.default_rng(2)
        names = [value.name for value in model.graph.input]
        for _ in range(64):
            if names == ["pixel_values"]:
                image = random.normal(0, 1, (1, 3, IMAGE, IMAGE))
                yield {"pixel_values": image.astype(np.float32)}
                continue
            ids = random.integers(2, VOCABULARY, (1, TOKENS))
            made = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            yield {name: made[name] for name in names}


def quantize(each: Quantized, folder: Path) -> None:
    """Write one quantized file from another one in the same folder."""
    source, path = folder / f"{each.source}.onnx", folder / f"{each.name}.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        prepared = source
        if each.prepared:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if each.dynamic:
            ortq.quantize_dynamic(prepared, path, **each.settings)
        else:
            ortq.quantize_static(
                prepared,
                path,
                Samples(source),
                quant_format=ortq.QuantFormat.QDQ,
                **each.settings,
            )
    written = onnx.load(path)
    strip(written)
    onnx.save(written, path)


def strip(model: onnx.ModelProto) -> None:
    """Drop what tells where a node came from: source lines, most of a small file's bytes."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]


def main() -> None:
    """Write the files that are named, or all."""
    parser = argparse.ArgumentParser(description="Quantizes fixtures of the front end's tests.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for each in QUANTIZED:
        if not arguments.names or each.name in arguments.names:
            quantize(each, arguments.folder)
            path = arguments.folder / f"{each.name}.onnx"
            print(f"{path.stat().st_size:9,} bytes  {path}", flush=True)


if __name__ == "__main__":
    main()
