"""Vision transformers from ONNX file to bits: golden model = instruction simulator = RTL."""

from functools import cache

import numpy as np
import onnxruntime as ort
import pytest

from systolith.compiler import compile_model
from systolith.compiler.graph_file import from_bytes
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.qgraph import Input
from systolith.config import PRESETS
from systolith.host.inference import HostParts, InputError, Model
from systolith.program import Program
from systolith_sim.check import check_tensors, first_difference, golden_tensors
from systolith_sim.checker import check_program
from systolith_sim.iss import IssDevice
from systolith_sim.model_bench import run_on_the_rtl
from systolith_sim.vision_models import VitShape, make_images, make_vit

SHAPES = {
    "plain": VitShape(),
    "joint projection": VitShape(fused=True, activation="quick_gelu", layers=1),
    "short runs, two tokens": VitShape(patch=(8, 5), tokens=2, normalized=True),
    "one channel, mean": VitShape(image=(1, 30, 20), patch=(5, 5), hidden=36, pooling="mean"),
    "no head": VitShape(classes=0, tokens=0, activation="gelu_tanh"),
    "channels one by one": VitShape(image=(3, 48, 33), patch=(16, 16)),
}


@cache
def compiled(name: str, preset: str, options: QuantizeOptions) -> Program:
    return compile_model(
        make_vit(SHAPES[name]).SerializeToString(),
        config=PRESETS[preset],
        calibration=make_images(SHAPES[name], 32),
        options=options,
    )


def codes_of(name: str, program: Program) -> dict[str, np.ndarray]:
    (sample,) = make_images(SHAPES[name], 1, seed=9)
    host = HostParts(program)
    padded, _ = host.pad(sample)
    return host.prologue(padded)


@pytest.mark.parametrize("preset", ["tiny", "ecp5-25k", "ecp5-85k"])
@pytest.mark.parametrize("name", SHAPES)
def test_images_on_the_instruction_simulator(name: str, preset: str) -> None:
    """All tensors equal, and the outputs near those of the unmodified file."""
    program = compiled(name, preset, QuantizeOptions())
    assert check_tensors(program, codes_of(name, program), program.seq_len, {}) is None
    (sample,) = make_images(SHAPES[name], 1, seed=9)
    outcome = Model(IssDevice(program.config), program).run(sample)
    model = ort.InferenceSession(make_vit(SHAPES[name]).SerializeToString())
    exact = np.asarray(model.run(None, {key: value[None] for key, value in sample.items()})[0])
    found = outcome.outputs["logits"]
    assert found.shape == exact.shape
    cosine = (found * exact).sum() / np.linalg.norm(found) / np.linalg.norm(exact)
    assert cosine > 0.98


@pytest.mark.parametrize("name", SHAPES)
def test_programs_give_one_result_in_any_order(name: str) -> None:
    program = compiled(name, "ecp5-85k", QuantizeOptions())
    check_program(
        program.code,
        program.config,
        limits=program.base_bytes,
        scalars={0: program.seq_len},
    )


def test_weights_of_4_bits() -> None:
    program = compiled("plain", "ecp5-85k", QuantizeOptions(weights="int4"))
    assert check_tensors(program, codes_of("plain", program), program.seq_len, {}) is None


@pytest.mark.parametrize("name", ["short runs, two tokens", "channels one by one"])
def test_images_on_the_rtl(name: str) -> None:
    program = compiled(name, "ecp5-85k", QuantizeOptions())
    codes = codes_of(name, program)
    found = run_on_the_rtl(program, codes, program.seq_len)
    golden = golden_tensors(program, codes, program.seq_len)
    assert first_difference(program, {"golden": golden, "rtl": found.tensors}) is None
    assert abs(found.estimated - found.cycles) < 0.03 * found.cycles


def test_the_image_is_not_rearranged_by_the_host() -> None:
    """The host's tensor is the image as the model takes it, rounded to s8, channel by channel."""
    name = "channels one by one"
    program = compiled(name, "ecp5-85k", QuantizeOptions())
    (binding,) = program.inputs
    assert (binding.rows, binding.columns, binding.dtype.itemsize) == (3 * 48, 33, 1)
    (sample,) = make_images(SHAPES[name], 1, seed=9)
    real = codes_of(name, program)[binding.name] * binding.step
    image = sample["pixel_values"].reshape(real.shape)
    inside = np.abs(image) < 127 * np.asarray(binding.step)
    assert np.abs(real - image)[inside].max() <= np.max(binding.step) / 2 * 1.001
    groups = [each for each in from_bytes(program.graph).operators if isinstance(each, Input)]
    assert [each.patches.first for each in groups] == [0, 1, 2]


def test_a_program_file_keeps_the_image(tmp_path) -> None:
    program = compiled("plain", "tiny", QuantizeOptions())
    program.save(tmp_path / "vit.systolith")
    again = Program.load(tmp_path / "vit.systolith")
    codes = codes_of("plain", again)
    for name, values in codes_of("plain", program).items():
        np.testing.assert_array_equal(codes[name], values)
    assert check_tensors(again, codes, again.seq_len, {}) is None


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"pixel_values": np.zeros((3, 32, 16))}, r"must have shape \[3, 32, 32\]"),
        ({"pixels": np.zeros((3, 32, 32))}, "takes one image, 'pixel_values'"),
    ],
)
def test_inputs_that_are_no_image(inputs: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        HostParts(compiled("plain", "tiny", QuantizeOptions())).pad(inputs)
