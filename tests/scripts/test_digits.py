"""Accuracy of the trained vision transformer, as docs/results.md says it."""

import numpy as np
import onnx

import digits
from systolith_sim.vision_models import make_vit


def test_integers_lose_little() -> None:
    """All test images, on the golden model, against floating point."""
    exact, int8, int4 = digits.run(["int8", "int4"], "ecp5-85k")
    assert exact["images"] == 600
    assert exact["accuracy"] > 98
    assert int8["accuracy"] >= exact["accuracy"] - 0.2
    assert int4["accuracy"] >= exact["accuracy"] - 0.5


def test_the_file_is_what_the_writer_writes() -> None:
    """The graph that was trained is the writer's, with other weights."""
    file = onnx.load(digits.DATA / "digits_vit.onnx")
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in file.graph.initializer}
    shape = digits.SHAPE
    written = make_vit(shape, weights)
    assert written.SerializeToString() == file.SerializeToString()
    assert np.std(weights["positions"]) > 0
