"""Files of PyTorch's exporters, old and new, and what ONNX Runtime's quantizers make of them.

`scripts/export_fixtures.py` and `scripts/quantize_fixtures.py` wrote the files.
"""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from systolith.compiler import compile_model
from systolith.compiler.execute import run_float
from systolith.compiler.frontend import LoadedModel, load_model
from systolith.compiler.graph import Activation, Attention
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith.config import PRESETS
from systolith.host.inference import HostParts
from systolith.program import Program
from systolith_sim.check import captured_run, check_tensors, first_difference, golden_tensors
from systolith_sim.verilator import VerilatorDevice

FOLDER = Path(__file__).parents[1] / "data" / "exported"

TOKENS = 12

Sample = dict[str, np.ndarray]

BERT = {"Linear": 12, "Attention": 2, "Add": 4, "LayerNorm": 5, "Activation": 2}
PATCHES = BERT | {"PatchEmbedding": 1}
"""Of two layers: everything that computes, on the core."""

EXPORTED = {
    "bert-eager-torchscript-13": BERT,
    "bert-sdpa-torchscript-14": BERT,
    "bert-sdpa-torchscript-17-fixed": BERT,
    "bert-eager-dynamo-18": BERT,
    "bert-sdpa-dynamo-18": BERT,
    "bert-sdpa-dynamo-20-fixed": BERT,
    "bert-sdpa-dynamo-23": BERT,
    "bert_classifier-sdpa-torchscript-17": BERT | {"Linear": 14, "Activation": 3, "First": 1},
    "bert_classifier-sdpa-dynamo-18": BERT | {"Linear": 14, "Activation": 3, "First": 1},
    "roberta-sdpa-dynamo-18": BERT,
    "distilbert-eager-torchscript-11": BERT,
    "distilbert-eager-dynamo-18": BERT,
    "albert-sdpa-torchscript-17": BERT | {"Linear": 13},
    "albert-sdpa-dynamo-24": BERT | {"Linear": 13},
    "mpnet-eager-torchscript-17": BERT,
    "vit-eager-torchscript-13": PATCHES | {"Linear": 13, "First": 1},
    "vit-sdpa-dynamo-18": PATCHES | {"Linear": 13, "First": 1},
    "vit-sdpa-dynamo-23": PATCHES | {"Linear": 13, "First": 1},
    "deit-sdpa-torchscript-17": PATCHES,
    "encoder-torchscript-17-fixed": BERT | {"LayerNorm": 4},
    "encoder-dynamo-18": BERT | {"LayerNorm": 4},
    "encoder_pre_norm-dynamo-20": BERT,
}

QUANTIZED = {
    "bert-sdpa-torchscript-14-qdq-s8-channels": BERT,
    "bert-sdpa-dynamo-18-qdq-u8s8": BERT,
    "bert_classifier-sdpa-torchscript-17-qdq-u8u8": EXPORTED["bert_classifier-sdpa-torchscript-17"],
    "encoder-torchscript-17-fixed-qdq-relu": EXPORTED["encoder-torchscript-17-fixed"],
    "vit-sdpa-dynamo-18-qdq-all": EXPORTED["vit-sdpa-dynamo-18"],
    "bert-eager-torchscript-13-dynamic-s8": BERT,
    "vit-eager-torchscript-13-dynamic-u8-channels": EXPORTED["vit-eager-torchscript-13"],
}

ALL = EXPORTED | QUANTIZED

ON_THE_RTL = [
    "bert-eager-torchscript-13",
    "bert-sdpa-dynamo-23",
    "mpnet-eager-torchscript-17",
    "vit-sdpa-dynamo-18",
    "encoder-torchscript-17-fixed-qdq-relu",
    "bert-eager-torchscript-13-dynamic-s8",
]

COMPUTES = {"MatMul", "Gemm", "Conv", "LayerNormalization", "Softmax", "Attention", "Erf", "Gelu"}
"""What no prologue has to compute."""


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.onnx"


def length_of(name: str) -> int | None:
    """What to compile for; an image has as many tokens as its model makes of it."""
    return None if name.startswith(("vit", "deit")) else TOKENS


def inputs_of(name: str) -> list[str]:
    graph = onnx.load(path_of(name)).graph
    return [value.name for value in graph.input]


def samples(name: str, lengths: list[int], seed: int) -> list[Sample]:
    """Random inputs without a batch; an image for each length."""
    random = np.random.default_rng(seed)
    names = inputs_of(name)
    if names == ["pixel_values"]:
        return [
            {"pixel_values": random.normal(0, 1, (3, 16, 16)).astype(np.float32)} for _ in lengths
        ]
    made = []
    for length in lengths:
        ids = random.integers(2, 100, length)
        every = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        made.append({key: every[key] for key in names})
    return made


def run_file(name: str, sample: Sample) -> np.ndarray:
    """What ONNX Runtime makes of a sample by the file as it is."""
    return run_session(session_of(path_of(name).read_bytes()), name, sample)


@cache
def session_of(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: ort.InferenceSession, name: str, sample: Sample) -> np.ndarray:
    length = len(next(iter(sample.values())))
    if "fixed" in name:
        sample, _ = pad_inputs(sample, TOKENS, "attention_mask")
    else:
        sample = {key: value[None] for key, value in sample.items()}
    result = np.asarray(session.run(None, sample)[0])
    return result[:, :length] if result.shape[1:2] == (TOKENS,) else result


@cache
def loaded(name: str) -> LoadedModel:
    return load_model(path_of(name), length_of(name))


def run_graph(model: LoadedModel, sample: Sample) -> np.ndarray:
    """What the operator graph makes of it in real numbers."""
    if model.patches is not None:
        (image,) = (
            HostModel(model.prologue).run({"pixel_values": sample["pixel_values"][None]}).values()
        )
        return run_float(model.graph, model.patches.unfold(image)[None])
    feeds, length = pad_inputs(sample, model.seq_len, model.mask_input)
    return run_float(
        model.graph, HostModel(model.prologue).run(feeds)[model.graph.input][:, :length]
    )


@cache
def compiled(name: str) -> Program:
    return compile_model(
        path_of(name),
        config=PRESETS["tiny"],
        seq_len=length_of(name),
        calibration=samples(name, [TOKENS, 7, 3, TOKENS] * 8, seed=0),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(ALL)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.onnx")) < 3_000_000


@pytest.mark.parametrize("name", EXPORTED)
def test_graph_computes_what_the_file_computes(name: str) -> None:
    for sample in samples(name, [1, 7, TOKENS], seed=1):
        expected = run_file(name, sample)
        found = run_graph(loaded(name), sample).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_host_looks_up_and_the_core_computes(name: str) -> None:
    model = loaded(name)
    assert Counter(type(node).__name__ for node in model.graph.nodes) == ALL[name]
    assert all(line.startswith("prologue: ") for line in model.host)
    operators = {node.op_type for node in onnx.load_from_string(model.prologue).graph.node}
    assert not operators & COMPUTES
    assert not model.epilogue or model.graph.rows
    if model.patches is None:
        assert model.mask_input == "attention_mask"
    attention = [node for node in model.graph.nodes if isinstance(node, Attention)]
    assert {node.heads for node in attention} == {4}
    assert [node.bias is not None for node in attention] == [name.startswith("mpnet")] * 2
    assert bool(model.notes) == (name in QUANTIZED)


@pytest.mark.parametrize("name", ALL)
def test_bits_on_the_instruction_simulator(name: str) -> None:
    """Golden model = instruction simulator, and the result is near the unmodified file's."""
    program = compiled(name)
    host = HostParts(program)
    (binding,) = program.outputs
    cosines = []
    for count, sample in enumerate(samples(name, [7, TOKENS, 1, 11], seed=2)):
        padded, length = host.pad(sample)
        codes = host.prologue(padded)
        if not count:
            assert check_tensors(program, codes, length, {}) is None
        result = {binding.name: golden_tensors(program, codes, length)[binding.name]}
        (found,) = host.epilogue(result, padded, length).values()
        expected = run_file(name, sample)
        cosines.append(cosine(found.reshape(expected.shape), expected))
    # A quantized file's own rounding of activations is in its results, and not in ours.
    assert np.mean(cosines) > (0.985 if name in QUANTIZED else 0.995)


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_of_quantized_files_are_taken_exactly(name: str) -> None:
    """As if the file before quantization had weights that are rounded as the other file's are."""
    source, _, _ = name.partition("-qdq" if "-qdq" in name else "-dynamic")
    model, quantized = (onnx.load(path_of(each)) for each in (source, name))
    changed = 0
    for tensor in model.graph.initializer:
        real = dequantized(quantized.graph, tensor.name)
        if real is not None:
            # Gemm's weights are transposed where they become MatMulInteger's.
            real = real if real.shape == tuple(tensor.dims) else real.T
            tensor.CopyFrom(numpy_helper.from_array(real, tensor.name))
            changed += 1
    assert changed >= ALL[name]["Linear"]
    session = session_of(model.SerializeToString())
    for sample in samples(name, [7, TOKENS], seed=3):
        expected = run_session(session, source, sample)
        found = run_graph(loaded(name), sample).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=3e-5)


def dequantized(graph: onnx.GraphProto, name: str) -> np.ndarray | None:
    """Weights by the names that the quantizer gives to their codes, scales and zero points."""
    arrays = {each.name: each for each in graph.initializer if each.name.startswith(name)}
    if f"{name}_quantized" not in arrays:
        return None
    base = f"{name}_quantized" if f"{name}_quantized_scale" in arrays else name
    names = (f"{name}_quantized", f"{base}_scale", f"{base}_zero_point")
    codes, scale, zero = (numpy_helper.to_array(arrays[each]).astype(np.float64) for each in names)
    (reader,) = (node for node in graph.node if names[0] in node.input)
    axis = next((each.i for each in reader.attribute if each.name == "axis"), -1)
    if scale.size > 1:
        shape = [1] * codes.ndim
        shape[axis] = scale.size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((codes - zero) * scale).astype(np.float32)


def test_a_relu_that_the_quantizer_left_out() -> None:
    name = "encoder-torchscript-17-fixed-qdq-relu"
    assert not any(node.op_type == "Relu" for node in onnx.load(path_of(name)).graph.node)
    functions = [each.function for each in loaded(name).graph.nodes if isinstance(each, Activation)]
    assert functions == ["relu"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_THE_RTL)
def test_bits_on_the_rtl(name: str) -> None:
    program = compiled(name)
    host = HostParts(program)
    (sample,) = samples(name, [7], seed=2)
    padded, length = host.pad(sample)
    codes = host.prologue(padded)
    device = VerilatorDevice(program.config, probed=True)
    found = captured_run(device, program, codes, length)
    device.close()
    levels = {"golden": golden_tensors(program, codes, length), "rtl": found}
    assert first_difference(program, levels) is None
