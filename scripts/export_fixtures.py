"""Exports the small encoders of `tests/data/exported` with PyTorch's own exporters.

    pip install torch==2.15.0 transformers==5.23.0 onnx==1.23.2 onnxscript==0.7.2
    python scripts/export_fixtures.py tests/data/exported [name ...]

Tests read the files, so they need none of these packages. The versions are those that wrote the
files. Weights are random with fixed seeds, but of a size at which attention chooses and activations
saturate: with those that the libraries begin training with, rounding would hardly show.

`torchscript` is the exporter that traces (`dynamo=False`), `dynamo` the one that captures the
program (`dynamo=True`). `eager` writes attention as two products and a softmax, `sdpa` calls
PyTorch's `scaled_dot_product_attention`, which either exporter takes apart in its own way, and
which is one operator, Attention, from opset 23 on. `scripts/quantize_fixtures.py` quantizes some
of the files.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from quantize_fixtures import strip

Module = Any
"""A `torch.nn.Module`; the type checker need not have PyTorch."""

HIDDEN, HEADS, LAYERS, FFN = 32, 4, 2, 48
VOCABULARY, POSITIONS, TOKENS = 100, 40, 12
IMAGE, PATCH = 16, 4

COMMON = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": FFN,
}
TEXT = {**COMMON, "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
DISTIL = {
    "dim": HIDDEN,
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "hidden_dim": FFN,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
}
ALBERT = {**TEXT, "embedding_size": 16, "hidden_act": "gelu_new"}
VIT = {**COMMON, "image_size": IMAGE, "patch_size": PATCH, "num_channels": 3}


@dataclass(frozen=True)
class Export:
    """One file.

    Attributes:
        model: a key of `MODELS`.
        attention: how the model computes it; "" for a model without the choice.
        exporter: which of the two.
        opset: which to ask for.
        dynamic: whether batch and length are.
    """

    model: str
    attention: Literal["", "eager", "sdpa"]
    exporter: Literal["torchscript", "dynamo"]
    opset: int
    dynamic: bool = True

    @property
    def name(self) -> str:
        """Of the file, without its ending."""
        parts = [self.model, self.attention, self.exporter, str(self.opset)]
        return "-".join(part for part in parts if part) + ("" if self.dynamic else "-fixed")


class Wrapper(torch.nn.Module):
    """A model of `transformers` that takes and returns tensors by position."""

    def __init__(self, model: Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output


class Plain(Wrapper):
    """A model of tokens and their mask."""

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return the model's first output."""
        return getattr(self.model(input_ids=input_ids, attention_mask=attention_mask), self.output)


class Typed(Wrapper):
    """The same with token types."""

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        """Return the model's first output."""
        return getattr(
            self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ),
            self.output,
        )


class Picture(Wrapper):
    """A model of images."""

    def forward(self, pixel_values: Any) -> Any:
        """Return the model's first output."""
        return getattr(self.model(pixel_values=pixel_values), self.output)


class Encoder(torch.nn.Module):
    """PyTorch's own encoder with an embedding in front."""

    def __init__(self, pre_norm: bool) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(
            HIDDEN,
            HEADS,
            FFN,
            activation="relu",
            batch_first=True,
            norm_first=pre_norm,
        )
        self.embedding = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.position = torch.nn.Parameter(torch.zeros(POSITIONS, HIDDEN))
        norm = torch.nn.LayerNorm(HIDDEN) if pre_norm else None
        self.encoder = torch.nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return the last hidden state."""
        x = self.embedding(input_ids) + self.position[: input_ids.shape[1]]
        return self.encoder(x, src_key_padding_mask=attention_mask == 0)


def _pretrained(
    kind: str, config: dict[str, Any], output: str, wrapper: type[Wrapper] = Plain, **more: Any
) -> Callable[[str], Module]:
    def make(attention: str) -> Module:
        family = getattr(transformers, kind)
        settings = family.config_class(**config, **more, attn_implementation=attention)
        return wrapper(family(settings), output)

    return make


MODELS: dict[str, Callable[[str], Module]] = {
    "bert": _pretrained("BertModel", TEXT, "last_hidden_state", Typed),
    "bert_classifier": _pretrained(
        "BertForSequenceClassification", TEXT, "logits", Typed, num_labels=3
    ),
    "roberta": _pretrained(
        "RobertaModel", {**TEXT, "type_vocab_size": 1}, "last_hidden_state", pad_token_id=1
    ),
    "distilbert": _pretrained("DistilBertModel", DISTIL, "last_hidden_state"),
    "albert": _pretrained("AlbertModel", ALBERT, "last_hidden_state"),
    "mpnet": _pretrained("MPNetModel", TEXT, "last_hidden_state"),
    "vit": _pretrained("ViTForImageClassification", VIT, "logits", Picture, num_labels=5),
    "deit": _pretrained("DeiTModel", VIT, "last_hidden_state", Picture),
    "encoder": lambda _: Encoder(False),
    "encoder_pre_norm": lambda _: Encoder(True),
}

EXPORTS = [
    Export("bert", "eager", "torchscript", 13),
    Export("bert", "sdpa", "torchscript", 14),
    Export("bert", "sdpa", "torchscript", 17, dynamic=False),
    Export("bert", "eager", "dynamo", 18),
    Export("bert", "sdpa", "dynamo", 18),
    Export("bert", "sdpa", "dynamo", 20, dynamic=False),
    Export("bert", "sdpa", "dynamo", 23),
    Export("bert_classifier", "sdpa", "torchscript", 17),
    Export("bert_classifier", "sdpa", "dynamo", 18),
    Export("roberta", "sdpa", "dynamo", 18),
    Export("distilbert", "eager", "torchscript", 11),
    Export("distilbert", "eager", "dynamo", 18),
    Export("albert", "sdpa", "torchscript", 17),
    Export("albert", "sdpa", "dynamo", 24),
    Export("mpnet", "eager", "torchscript", 17),
    Export("vit", "eager", "torchscript", 13),
    Export("vit", "sdpa", "dynamo", 18),
    Export("vit", "sdpa", "dynamo", 23),
    Export("deit", "sdpa", "torchscript", 17),
    # This exporter writes the example's length into the encoder.
    Export("encoder", "", "torchscript", 17, dynamic=False),
    Export("encoder", "", "dynamo", 18),
    Export("encoder_pre_norm", "", "dynamo", 20),
]


def randomize(model: Module, seed: int) -> None:
    """Give a model weights with which it is no near-identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                is_scale = name.endswith("weight")
                weight.copy_(1 + 0.2 * noise if is_scale else 0.2 * noise)
            elif "embedding" in name and weight.shape[-1] != PATCH:
                weight.copy_(noise)
            else:
                weight.copy_(1.4 * noise / weight[0].numel() ** 0.5)


def export(each: Export, path: Path) -> None:
    """Write one file."""
    model = MODELS[each.model](each.attention).eval()
    randomize(model, seed=1)
    if each.model in ("vit", "deit"):
        arguments = (torch.randn(1, 3, IMAGE, IMAGE),)
        names, axes, output = ["pixel_values"], {0: "batch"}, {0: "batch"}
    else:
        # Two inputs, since the new exporter takes a batch of one for a constant.
        ids = torch.randint(2, VOCABULARY, (2 if each.dynamic else 1, TOKENS))
        arguments = (ids, torch.ones_like(ids), torch.zeros_like(ids))
        names = ["input_ids", "attention_mask", "token_type_ids"]
        arguments = arguments[: 3 if each.model.startswith("bert") else 2]
        names = names[: len(arguments)]
        axes = {0: "batch", 1: "sequence"}
        output = {0: "batch"} if each.model == "bert_classifier" else axes
    result = "logits" if each.model in ("bert_classifier", "vit") else "last_hidden_state"
    settings: dict[str, Any] = {}
    if each.dynamic and each.exporter == "torchscript":
        settings["dynamic_axes"] = {**dict.fromkeys(names, axes), result: output}
    elif each.dynamic:
        dims = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
        settings["dynamic_shapes"] = tuple(dims for _ in names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with torch.no_grad():
            torch.onnx.export(
                model,
                arguments,
                str(file),
                input_names=names,
                output_names=[result],
                opset_version=each.opset,
                dynamo=each.exporter == "dynamo",
                external_data=False,
                **settings,
            )
        written = onnx.load(file)
    strip(written)
    onnx.save(written, path)


def main() -> None:
    """Write the files that are named, or all."""
    parser = argparse.ArgumentParser(description="Exports the fixtures of the front end's tests.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    # The exporters do not know the fused layer that PyTorch's encoder takes where it can.
    torch.backends.mha.set_fastpath_enabled(False)
    for each in EXPORTS:
        if not arguments.names or each.name in arguments.names:
            path = arguments.folder / f"{each.name}.onnx"
            export(each, path)
            print(f"{path.stat().st_size:9,} bytes  {path}", flush=True)


if __name__ == "__main__":
    main()
