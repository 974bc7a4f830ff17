"""Encoders of any shape, from ONNX file to bits: golden model = instruction simulator = RTL."""

from functools import cache

import numpy as np
import onnxruntime as ort
import pytest

from systolith.compiler import compile_model
from systolith.compiler.options import QuantizeOptions
from systolith.config import PRESETS
from systolith.host.inference import HostParts
from systolith.program import Program
from systolith_sim.check import captured_run, check_tensors, first_difference, golden_tensors
from systolith_sim.models import BertShape, make_bert, make_tokens
from systolith_sim.verilator import VerilatorDevice

TOKENS = 11

SHAPES = {
    "heads of 12, no whole word": BertShape(
        hidden=36, heads=3, ffn=50, pre_norm=True, activation="relu"
    ),
    "ten heads of 3": BertShape(hidden=30, heads=10, ffn=200, layers=2, pre_norm=True),
    "one head of 20, few channels": BertShape(
        hidden=20, heads=1, ffn=7, pre_norm=True, activation="gelu_tanh"
    ),
    "seven heads of 11, post-norm": BertShape(hidden=77, heads=7, ffn=33, activation="silu"),
    "one channel of FFN": BertShape(hidden=13, heads=1, ffn=1, activation="tanh"),
    "fused projection": BertShape(
        hidden=40, heads=4, ffn=72, pre_norm=True, fused_qkv=True, activation="sigmoid"
    ),
    "causal": BertShape(hidden=48, heads=4, causal=True, pre_norm=True),
    "biases of positions": BertShape(hidden=48, heads=4, relative="alone"),
    "causal with biases": BertShape(hidden=36, heads=3, relative="joined", causal=True),
    "shared layers": BertShape(layers=3, shared=True),
    "pooler and classifier": BertShape(classifier=3),
}

ON_THE_RTL = ["heads of 12, no whole word", "causal with biases", "pooler and classifier"]


@cache
def compiled(name: str, preset: str, options: QuantizeOptions) -> Program:
    shape = SHAPES[name]
    return compile_model(
        make_bert(shape).SerializeToString(),
        config=PRESETS[preset],
        seq_len=TOKENS,
        calibration=make_tokens(shape, [TOKENS, 7, 3, TOKENS] * 5),
        options=options,
    )


def codes_of(name: str, program: Program) -> tuple[dict[str, np.ndarray], int, np.ndarray]:
    """Codes of an input of 7 tokens, its length, and what the float model makes of it."""
    (sample,) = make_tokens(SHAPES[name], [7], seed=4)
    padded, length = HostParts(program).pad(sample)
    model = ort.InferenceSession(
        make_bert(SHAPES[name]).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    exact = np.asarray(model.run(None, {key: value[None] for key, value in sample.items()})[0])
    return HostParts(program).prologue(padded), length, exact[0]


@pytest.mark.parametrize("preset", ["tiny", "ecp5-25k", "ecp5-85k"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_on_the_instruction_simulator(name: str, preset: str) -> None:
    """Every tensor equal, and the result near that of the unmodified file."""
    program = compiled(name, preset, QuantizeOptions())
    codes, length, exact = codes_of(name, program)
    assert check_tensors(program, codes, length, {}) is None
    (binding,) = program.outputs
    golden = golden_tensors(program, codes, length)
    real = (golden[binding.name][:length] * binding.step).reshape(exact.shape)
    cosine = (real * exact).sum() / np.linalg.norm(real) / np.linalg.norm(exact)
    # Models so narrow average little of the rounding; a wrong product would leave 0.9.
    assert cosine > 0.985


@pytest.mark.parametrize("preset", ["ecp5-25k-sdram", "ecp5-85k"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_with_weights_of_4_bits(name: str, preset: str) -> None:
    program = compiled(name, preset, QuantizeOptions(weights="int4"))
    codes, length, _ = codes_of(name, program)
    assert check_tensors(program, codes, length, {}) is None


def test_causal_attention_does_not_look_ahead() -> None:
    """Bit for bit: what comes later changes nothing before it."""
    program = compiled("causal with biases", "ecp5-85k", QuantizeOptions())
    (binding,) = program.outputs
    (sample,) = make_tokens(SHAPES["causal with biases"], [TOKENS], seed=4)
    results = []
    for change in (0, 1):
        sample["input_ids"][6] = (sample["input_ids"][6] + change) % 100
        padded, length = HostParts(program).pad(sample)
        golden = golden_tensors(program, HostParts(program).prologue(padded), length)
        results.append(golden[binding.name])
    np.testing.assert_array_equal(results[0][:6], results[1][:6])
    assert (results[0][6:] != results[1][6:]).any(1).all()


@pytest.mark.parametrize("name", ON_THE_RTL)
def test_shapes_on_the_rtl(name: str) -> None:
    program = compiled(name, "ecp5-85k", QuantizeOptions())
    codes, length, _ = codes_of(name, program)
    device = VerilatorDevice(program.config, probed=True)
    found = captured_run(device, program, codes, length)
    device.close()
    levels = {"golden": golden_tensors(program, codes, length), "rtl": found}
    assert first_difference(program, levels) is None
