"""The front end on images: patches, tokens in front of them, and heads of the first token."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from systolith.compiler.errors import CompileError
from systolith.compiler.execute import run_float
from systolith.compiler.frontend import LoadedModel, load_model
from systolith.compiler.graph import First, Linear, PatchEmbedding
from systolith.compiler.model import prepare_model
from systolith.compiler.patches import PatchGrid
from systolith.compiler.prologue import HostModel
from systolith_sim.vision_models import VitShape, make_images, make_vit

SHAPES = {
    "plain": VitShape(),
    "two tokens": VitShape(patch=(4, 8), tokens=2, normalized=True),
    "mean": VitShape(image=(1, 30, 20), patch=(5, 5), hidden=36, pooling="mean"),
    "no head": VitShape(classes=0, tokens=0, activation="gelu_tanh"),
    "fused": VitShape(fused=True, activation="quick_gelu"),
    "edge": VitShape(image=(2, 35, 33), patch=(8, 8)),
}


def load(model: onnx.ModelProto) -> LoadedModel:
    return load_model(model.SerializeToString())


def conv_of(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Conv")


@pytest.mark.parametrize("name", SHAPES)
def test_graph_computes_what_the_file_computes(name: str) -> None:
    shape = SHAPES[name]
    model = make_vit(shape)
    loaded = load(model)
    assert loaded.seq_len == shape.length
    assert loaded.patches is not None
    session = ort.InferenceSession(model.SerializeToString())
    for sample in make_images(shape, 3):
        feeds = {key: value[None] for key, value in sample.items()}
        expected = np.asarray(session.run(None, feeds)[0])
        (image,) = HostModel(loaded.prologue).run(feeds).values()
        y = run_float(loaded.graph, loaded.patches.unfold(image)[None])
        if loaded.epilogue:
            host = HostModel(loaded.epilogue)
            (taken,) = host.inputs
            y = host.run({taken: y.reshape(host.shapes[taken])})["logits"]
        np.testing.assert_allclose(y, expected, atol=3e-5)


def test_patches_are_what_a_convolution_reads() -> None:
    """Held to slices of the image, one at a time; the last columns and rows are left over."""
    grid = PatchGrid(channels=2, height=7, width=11, patch=(3, 4), lead=1)
    image = np.arange(2 * 7 * 11, dtype=np.float32).reshape(1, 2, 7, 11)
    rows = grid.unfold(image)
    assert rows.shape == (grid.rows, grid.columns) == (5, 24)
    assert not rows[0].any()
    np.testing.assert_array_equal(rows[1], image[0, :, 0:3, 0:4].reshape(-1))
    np.testing.assert_array_equal(rows[4], image[0, :, 3:6, 4:8].reshape(-1))


def test_the_head_is_the_cores() -> None:
    """The classifier reads the first row of the norm; nothing is left for the host to compute."""
    loaded = load(make_vit())
    (first,) = (node for node in loaded.graph.nodes if isinstance(node, First))
    assert first.rows == 1
    last = loaded.graph.producers[loaded.graph.output]
    assert isinstance(last, Linear)
    assert last.x == first.out
    assert loaded.graph.rows == {first.out: 1, last.out: 1}
    assert loaded.host == ()


def test_a_mean_is_the_hosts() -> None:
    loaded = load(make_vit(SHAPES["mean"]))
    assert loaded.host == ("epilogue: 1 Gemm, 1 ReduceMean",)
    assert not loaded.graph.rows


def test_arithmetic_in_front_of_the_patches_is_the_hosts() -> None:
    assert load(make_vit(SHAPES["two tokens"])).host == ("prologue: 1 Div, 1 Sub",)


def test_positions_and_tokens_are_one_table() -> None:
    shape = VitShape(tokens=2)
    weights = {each.name: numpy_helper.to_array(each) for each in make_vit(shape).graph.initializer}
    graph = load(make_vit(shape)).graph
    (embedding,) = (node for node in graph.nodes if isinstance(node, PatchEmbedding))
    positions = weights["positions"][0]
    np.testing.assert_allclose(embedding.table[1], weights["token.1"][0, 0] + positions[1])
    np.testing.assert_allclose(embedding.table[5], weights["projection.bias"] + positions[5])


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_dynamic_image_has_the_size_of_its_positions(tokens: int) -> None:
    """As some exporters write it: every dimension of the image is dynamic."""
    model = make_vit(VitShape(tokens=tokens))
    for dim, name in zip(
        model.graph.input[0].type.tensor_type.shape.dim, ("n", "c", "h", "w"), strict=True
    ):
        dim.dim_param = name
    loaded = load(model)
    assert loaded.seq_len == 16 + tokens
    assert loaded.patches is not None
    assert (loaded.patches.channels, loaded.patches.height, loaded.patches.width) == (3, 32, 32)


def refused_pads(model: onnx.ModelProto) -> None:
    attribute = next(each for each in conv_of(model).attribute if each.name == "pads")
    attribute.ints[:] = [0, 0, 8, 8]
    # The positions have to suit the larger grid.
    for tensor in model.graph.initializer:
        if tensor.name == "positions":
            grown = np.zeros((1, 26, 48), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(grown, "positions"))


def refused_strides(model: onnx.ModelProto) -> None:
    attribute = next(each for each in conv_of(model).attribute if each.name == "strides")
    attribute.ints[:] = [6, 6]
    for tensor in model.graph.initializer:
        if tensor.name == "positions":
            grown = np.zeros((1, 26, 48), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(grown, "positions"))


def refused_size(model: onnx.ModelProto) -> None:
    """A dynamic width, and positions for no square."""
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    for tensor in model.graph.initializer:
        if tensor.name == "positions":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((1, 16, 48), np.float32), "positions"))
            tensor.dims[:] = [16, 48]


def refused_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("other", 1, ["batch", 4]))


def refused_order(model: onnx.ModelProto) -> None:
    concat = next(n for n in model.graph.node if n.output[0] == "/embeddings/Concat#2_output_0")
    concat.input[:] = reversed(list(concat.input))


def refused_relu(model: onnx.ModelProto) -> None:
    """A convolution of anything but the image: the second of a stem."""
    conv = conv_of(model)
    position = list(model.graph.node).index(conv)
    stem = helper.make_node(
        "Conv", ["pixel_values", "stem"], ["stemmed"], name="stem", kernel_shape=[1, 1]
    )
    weight = np.eye(3, dtype=np.float32)[:, :, None, None]
    model.graph.initializer.append(numpy_helper.from_array(weight, "stem"))
    relu = helper.make_node("Relu", ["stemmed"], ["stemmed.relu"], name="stem.relu")
    conv.input[0] = "stemmed.relu"
    model.graph.node.insert(position, relu)
    model.graph.node.insert(position, stem)


@pytest.mark.parametrize(
    ("change", "reason", "accepted"),
    [
        (refused_pads, r"its pads is \(0, 0, 8, 8\)", r"pads \(0, 0, 0, 0\)"),
        (refused_strides, r"its strides is \(6, 6\)", r"strides \(8, 8\)"),
        (refused_size, "the image's width dimension is dynamic", "export the model for one"),
        (refused_input, "an image and 1 more inputs", "one image"),
        (refused_order, "does not put constants in front of an image's patches", "and then"),
        (refused_relu, "not tokens by channels", "shape"),
    ],
)
def test_refusals(change: Callable[[onnx.ModelProto], None], reason: str, accepted: str) -> None:
    model = make_vit()
    change(model)
    with pytest.raises(CompileError, match=f"{reason}.*{accepted}"):
        load(model)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"pixel_values": np.zeros((3, 32, 31))}, r"the image has shape \[3, 32, 31\]"),
        ({"pixels": np.zeros((3, 32, 32))}, "inputs are pixels"),
    ],
)
def test_images_that_do_not_fit(sample: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(CompileError, match=reason):
        prepare_model(make_vit().SerializeToString(), calibration=[sample])


def test_random_images_stand_in_for_missing_ones() -> None:
    prepared = prepare_model(make_vit(VitShape(layers=1)).SerializeToString())
    assert any("random images" in note for note in prepared._notes)
