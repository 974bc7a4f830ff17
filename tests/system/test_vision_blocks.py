"""Images, biases and heads in blocks of rows: models that `tiny` has no room for as a whole."""

from functools import cache

import numpy as np
import pytest

from systolith.compiler import compile_model
from systolith.compiler.estimate import Memory, estimate
from systolith.config import PRESETS
from systolith.host.figures import roofline_fraction
from systolith.host.inference import HostParts
from systolith.program import (
    Program,
)
from systolith_sim.check import captured_run, check_tensors
from systolith_sim.checker import check_program
from systolith_sim.models import BertShape, make_bert, make_tokens
from systolith_sim.verilator import VerilatorDevice
from systolith_sim.vision_models import (
    DEIT_SMALL,
    DEIT_TINY,
    VitShape,
    make_images,
    make_vit,
)

IMAGES = {
    "two tokens, padded runs": VitShape(patch=(4, 5), tokens=2, normalized=True),
    "blocks that begin within a row of patches": VitShape(patch=(4, 4)),
    "a mean": VitShape(image=(1, 30, 60), patch=(5, 5), hidden=36, pooling="mean"),
    "no head": VitShape(classes=0, tokens=0, patch=(4, 4)),
}

SENTENCES = {
    "causal": BertShape(hidden=48, heads=4, causal=True, pre_norm=True),
    "biases": BertShape(hidden=48, heads=4, relative="joined", causal=True),
    "classifier": BertShape(classifier=3),
}

TOKENS = 64


@cache
def compiled(name: str) -> tuple[Program, dict[str, np.ndarray], int]:
    """A program, codes of an input, and its length."""
    if name in IMAGES:
        shape = IMAGES[name]
        program = compile_model(
            make_vit(shape).SerializeToString(),
            config=PRESETS["tiny"],
            calibration=make_images(shape, 8),
        )
        (sample,) = make_images(shape, 1, seed=9)
    else:
        shape = SENTENCES[name]
        program = compile_model(
            make_bert(shape).SerializeToString(),
            config=PRESETS["tiny"],
            seq_len=TOKENS,
            calibration=make_tokens(shape, [TOKENS, TOKENS // 2] * 3),
        )
        (sample,) = make_tokens(shape, [TOKENS - 7], seed=9)
    host = HostParts(program)
    padded, length = host.pad(sample)
    return program, host.prologue(padded), length


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "bandwidth", "least"),
    [
        (DEIT_TINY, 8, 0.955),
        (DEIT_TINY, 4, 0.95),
        (DEIT_SMALL, 8, 0.975),
        (DEIT_SMALL, 4, 0.97),
    ],
)
def test_deit_comes_near_its_roofline(shape: VitShape, bandwidth: float, least: float) -> None:
    program = compile_model(
        make_vit(shape).SerializeToString(),
        config=PRESETS["ecp5-85k"],
        calibration=make_images(shape, 2),
    )
    memory = Memory(bandwidth=bandwidth, latency=30)
    cycles = estimate(program.code, program.config, memory).cycles
    assert roofline_fraction(program, cycles, bandwidth) > least


@pytest.mark.parametrize("name", [*IMAGES, *SENTENCES])
def test_blocks_on_the_instruction_simulator(name: str) -> None:
    """Every tensor is the uncut graph's, and engines may interleave as they like."""
    program, codes, length = compiled(name)
    assert any("blocks of" in note for note in program.notes)
    assert check_tensors(program, codes, length, {}) is None
    check_program(
        program.code,
        program.config,
        limits=program.base_bytes,
        scalars={0: length},
    )


@pytest.mark.parametrize("name", ["two tokens, padded runs", "biases"])
def test_blocks_on_the_rtl(name: str) -> None:
    program, codes, length = compiled(name)
    device = VerilatorDevice(program.config, probed=True)
    found = captured_run(device, program, codes, length)
    device.close()
    assert check_tensors(program, codes, length, {"rtl": found}) is None
