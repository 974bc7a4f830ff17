"""Inputs and expected outputs of a program, for test benches and firmware that only compare."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from systolith.bindings import Binding
from systolith.compiler.schedule import schedule
from systolith.config import CoreConfig
from systolith.host.session import Session
from systolith.program import Program
from systolith_sim.graphs import gemm
from systolith_sim.iss import IssDevice

SPREAD = 11
"""How many standard deviations of random codes fit on either side of zero."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Codes by name, `[rows, columns]`: what goes in, and what must come out."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

    @property
    def all(self) -> dict[str, np.ndarray]:
        """Both together."""
        return {**self.inputs, **self.outputs}


def small_program(config: CoreConfig) -> Program:
    """A program that every engine has a part in: a layer norm and a product, in 11 instructions.

    Its 54 bytes of output end within a beat of any width.
    """
    return schedule(gemm(6, 9, 16), config, name="selftest", seq_len=6)


def vectors_of(program: Program, *, seed: int = 1) -> Vectors:
    """Random inputs, and what the instruction simulator makes of them.

    Raises:
        DeviceError: the program faults, or leaves the numbers that it was calibrated for.
    """
    random = np.random.default_rng(seed)
    inputs = {each.name: _codes(each, random) for each in program.inputs}
    needed = sum(size + 4096 for size in program.base_bytes.values())
    device = IssDevice(program.config, memory_bytes=needed)
    outputs = Session(device, program).run(inputs, length=program.seq_len)
    return Vectors(inputs=inputs, outputs=outputs)


def _codes(binding: Binding, random: np.random.Generator) -> np.ndarray:
    shape = binding.rows, binding.columns
    low, high = binding.range
    if binding.limits:
        return random.integers(0, high, shape, endpoint=True).astype(binding.dtype)
    center = (low + high + 1) / 2
    codes = random.normal(center, (high - center) / SPREAD, shape)
    return np.clip(np.rint(codes), low, high).astype(binding.dtype)
