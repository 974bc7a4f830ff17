"""Token lookup on the core: what is recognized in front of a model, and what it gives."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from systolith.cli.layers import layer_errors
from systolith.cli.prepare import Calibration
from systolith.compiler.errors import CompileError
from systolith.compiler.execute import run_float
from systolith.compiler.frontend import LoadedModel, load_model
from systolith.compiler.graph import Embedding
from systolith.compiler.lookup import move_lookup
from systolith.compiler.model import build_qgraph
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.prologue import HostModel, pad_inputs
from systolith.compiler.qgraph import Constant, Lookup
from systolith.config import PRESETS
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.models import BertShape, make_bert, make_tokens, write_bert
from systolith_sim.vision_models import make_vit

TOKENS = 12
NPU = QuantizeOptions(embedding="npu")
SHAPE = BertShape()


def moved(model: onnx.ModelProto, seq_len: int = TOKENS) -> tuple[LoadedModel, Embedding]:
    loaded = move_lookup(load_model(model.SerializeToString(), seq_len), NPU)
    (node,) = loaded.graph.consumers[loaded.graph.input]
    assert isinstance(node, Embedding)
    return loaded, node


def sample_of(length: int, seed: int = 4) -> dict[str, np.ndarray]:
    """Tokens of both types."""
    (sample,) = make_tokens(SHAPE, [length], seed=seed)
    sample["token_type_ids"] = (np.arange(length) > length // 2).astype(np.int64)
    return sample


@pytest.mark.parametrize(
    "shape",
    [SHAPE, BertShape(half=True), BertShape(pre_norm=True), BertShape(old=True)],
    ids=["plain", "half", "pre-norm", "old"],
)
def test_it_looks_up_what_the_file_does(shape: BertShape) -> None:
    """Whatever the types, in real numbers."""
    model = make_bert(shape)
    before = load_model(model.SerializeToString(), TOKENS)
    after, node = moved(model)
    assert [len(table) for table in node.tables] == [shape.vocabulary, 2 * TOKENS]
    assert not any("Gather" in line for line in after.host)
    for length in (1, 5, TOKENS):
        feeds, _ = pad_inputs(sample_of(length), TOKENS, before.mask_input)
        wanted = HostModel(before.prologue).run(feeds)[before.graph.input][0, :length]
        numbers = HostModel(after.prologue).run(feeds)[after.graph.input]
        assert numbers.shape == (2, TOKENS)
        x = numbers.T[None, :length].astype(np.float32)
        seen: dict[str, np.ndarray] = {}
        run_float(after.graph, x, lambda name, value, seen=seen: seen.update({name: value}))
        np.testing.assert_allclose(seen[before.graph.input][0], wanted, rtol=1e-6, atol=1e-6)


def renamed_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with tokens of one type, as files without `token_type_ids` have them."""
    position = next(n for n, value in enumerate(model.graph.input) if "type" in value.name)
    del model.graph.input[position]
    zeros = numpy_helper.from_array(np.zeros((1, 1), np.int64), "token_type_ids")
    model.graph.initializer.append(zeros)
    return model


def test_what_never_changes_is_one_constant() -> None:
    _, node = moved(renamed_types(make_bert(SHAPE)))
    (words,) = node.tables
    assert len(words) == SHAPE.vocabulary
    assert node.added.shape == (TOKENS, SHAPE.hidden)
    compiled = build_qgraph(
        renamed_types(make_bert(SHAPE)).SerializeToString(),
        TOKENS,
        [{key: x for key, x in sample_of(9).items() if "type" not in key}],
        NPU,
    )
    kinds = [type(each) for each in compiled.qgraph.operators]
    assert kinds.count(Lookup) == kinds.count(Constant) == 1


@pytest.mark.parametrize("length", [1, 7, TOKENS])
def test_the_sum_is_within_the_rounding_of_its_tables(length: int) -> None:
    samples = [sample_of(n, seed=n) for n in (TOKENS, 7, 3)]
    compiled = build_qgraph(make_bert(SHAPE).SerializeToString(), TOKENS, samples * 4, NPU)
    (node,) = (each for each in compiled.graph.nodes if isinstance(each, Embedding))
    feeds, _ = pad_inputs(sample_of(length), TOKENS, compiled.mask_input)
    numbers = HostModel(compiled.prologue).run(feeds)[compiled.input]
    values = run_qgraph(compiled.qgraph, {compiled.input: numbers}, length)
    tensor = compiled.qgraph.tensors["embeddings.sum"]
    got = values["embeddings.sum"].astype(np.float64) * tensor.step
    exact = node.tables[0][numbers[0]] + node.tables[1][numbers[1]]
    words = np.abs(node.tables[0]).max(0) / 127
    assert (np.abs(got - exact) <= 0.501 * words + 1.01 * tensor.step).all()
    # The bytes of the list are those that the core's DMA reads.
    raw = values[f"{compiled.input}.0"].astype(np.uint8).tobytes()
    np.testing.assert_array_equal(np.frombuffer(raw, "<u4"), numbers[0])


def test_another_length_changes_no_number() -> None:
    """A graph of fewer tokens has rows of the same tables."""
    samples = [sample_of(n, seed=n) for n in (TOKENS, 7, 3)]
    compiled = build_qgraph(make_bert(SHAPE).SerializeToString(), TOKENS, samples * 4, NPU)
    feeds, _ = pad_inputs(sample_of(5), TOKENS, compiled.mask_input)
    numbers = HostModel(compiled.prologue).run(feeds)[compiled.input]
    whole = run_qgraph(compiled.qgraph, {compiled.input: numbers}, 5)
    padded = run_qgraph(compiled.qgraph, {compiled.input: numbers[:, :5]}, 5)
    for name in ("embeddings.sum", compiled.output):
        np.testing.assert_array_equal(whole[name][:5], padded[name][:5])


def test_what_the_core_cannot_look_up_is_refused() -> None:
    with pytest.raises(CompileError, match="the model's input is an image"):
        move_lookup(load_model(make_vit().SerializeToString()), NPU)
    model = make_bert(SHAPE)
    scaled = next(
        node
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[1] == "input_ids"
    )
    out = scaled.output[0]
    scaled.output[0] = "words"
    position = list(model.graph.node).index(scaled) + 1
    model.graph.node.insert(position, helper.make_node("Tanh", ["words"], [out], name="tanh"))
    with pytest.raises(CompileError, match="depends on the input, and is no row of a table"):
        moved(model)


def test_options_and_calibration_on_random_tokens() -> None:
    with pytest.raises(ValueError, match="embedding must be one of host, npu"):
        QuantizeOptions(embedding="core")  # pyright: ignore[reportArgumentType]
    compiled = build_qgraph(make_bert(SHAPE).SerializeToString(), TOKENS, None, NPU)
    # Tokens all the same would have no range to speak of.
    assert compiled.qgraph.tensors["embeddings.sum"].step > 1e-5
    assert "token lookup on the core: 100 rows of 64" in compiled.notes[0]
    session = ort.InferenceSession(compiled.prologue)
    assert {value.name for value in session.get_inputs()} >= {"input_ids", "token_type_ids"}


def test_errors_are_listed_by_layer(tmp_path) -> None:
    write_bert(tmp_path / "model.onnx", SHAPE)
    samples = [sample_of(n, seed=n) for n in (TOKENS, 7, 3)]
    table = layer_errors(
        tmp_path / "model.onnx",
        config=PRESETS["tiny"],
        seq_len=TOKENS,
        calibrated=Calibration(samples=samples, source="test"),
        quantization=NPU,
        samples=samples[:2],
    )
    (row,) = (line.split() for line in table.splitlines() if line.startswith("embeddings.sum "))
    assert float(row[2]) > 0.999
