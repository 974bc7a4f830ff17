"""Compares a run level by level, tensor by tensor: golden model, instruction simulator, RTL."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from systolith import isa
from systolith.assembler import disassemble_instruction
from systolith.compiler.graph_file import from_bytes
from systolith.host.device import Device
from systolith.host.session import Session
from systolith.program import Program, WatchPoint
from systolith_sim.golden.qgraph import run_qgraph
from systolith_sim.iss import IssDevice

Tensors = Mapping[str, np.ndarray]
"""Codes `[rows, columns]` by name."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first element in which two levels differ.

    Attributes:
        levels: their names.
        point: the tensor.
        row, column: where in it.
        values: what both have there.
        instruction: the instruction that completes the tensor, disassembled.
    """

    levels: tuple[str, str]
    point: WatchPoint
    row: int
    column: int
    values: tuple[int, int]
    instruction: str

    def __str__(self) -> str:
        first, second = self.levels
        return (
            f"{first} and {second} differ first in {self.point.name} ({self.point.layer}), row "
            f"{self.row}, column {self.column}: {self.values[0]} and {self.values[1]}, written by "
            f"instruction {self.point.instruction}: {self.instruction}"
        )


class MissingTensorError(Exception):
    """A level did not capture a tensor that the program is supposed to make."""


def first_difference(program: Program, levels: Mapping[str, Tensors]) -> Difference | None:
    """Compare every level with the first one, in the order in which tensors are made.

    Raises:
        MissingTensorError: a level lacks a tensor; nothing is skipped.
    """
    (reference, expected), *others = levels.items()
    for point in sorted(program.watch, key=lambda each: each.instruction):
        for level, found in others:
            for name, tensors in ((reference, expected), (level, found)):
                if not {point.name, point.tensor} & tensors.keys():
                    raise MissingTensorError(f"{name} has no tensor {point.name}")
            wanted, got = (_elements(point, tensors) for tensors in (expected, found))
            if wanted.shape != got.shape:
                raise MissingTensorError(
                    f"{point.name} is {wanted.shape} in {reference} and {got.shape} in {level}"
                )
            different = np.argwhere(wanted != got)
            if len(different):
                row, column = (int(index) for index in different[0])
                return Difference(
                    levels=(reference, level),
                    point=point,
                    row=row,
                    column=column,
                    values=(int(wanted[row, column]), int(got[row, column])),
                    instruction=_instruction(program, point.instruction),
                )
    return None


def _elements(point: WatchPoint, tensors: Tensors) -> np.ndarray:
    """What a level has of a point: captured by its name, or a part of a whole tensor."""
    found = tensors[point.name] if point.name in tensors else point.part_of(tensors)
    return np.asarray(found, np.int64)


def golden_tensors(program: Program, codes: Tensors, length: int) -> dict[str, np.ndarray]:
    """What the golden model makes of inputs.

    Raises:
        ValueError: the program was saved without its graph.
    """
    if not program.graph:
        raise ValueError(f"{program.name} was saved without its graph: compile it again")
    return run_qgraph(from_bytes(program.graph), dict(codes), length)


def iss_tensors(program: Program, codes: Tensors, length: int) -> dict[str, np.ndarray]:
    """What the instruction simulator makes of inputs."""
    device = IssDevice(program.config)
    return captured_run(device, program, codes, length)


def captured_run(
    device: Device, program: Program, codes: Tensors, length: int
) -> dict[str, np.ndarray]:
    """Run on a device that can be looked into, and return all tensors."""
    session = Session(device, program)
    device.watch(program.watch)
    session.run(codes, length=length)
    return dict(device.captured)


def check_tensors(
    program: Program, codes: Tensors, length: int, captured: Mapping[str, Tensors]
) -> Difference | None:
    """Hold what devices captured in a run to the golden model and the instruction simulator."""
    levels: dict[str, Tensors] = {
        "golden": golden_tensors(program, codes, length),
        "iss": iss_tensors(program, codes, length),
        **captured,
    }
    return first_difference(program, levels)


def check_outputs(
    program: Program, codes: Tensors, length: int, outputs: Mapping[str, Tensors]
) -> Difference | None:
    """Hold the outputs of devices that cannot be looked into to the golden model.

    Raises:
        MissingTensorError: the program does not say where its outputs come from.
    """
    names = {binding.name for binding in program.outputs}
    watch = tuple(point for point in program.watch if {point.name, point.tensor} & names)
    if not watch:
        raise MissingTensorError(f"{program.name} has no tensors to compare its outputs by")
    levels: dict[str, Tensors] = {"golden": golden_tensors(program, codes, length), **outputs}
    return first_difference(replace(program, watch=watch), levels)


def _instruction(program: Program, index: int) -> str:
    start = index * isa.INSTRUCTION_BYTES
    image = program.code[start : start + isa.INSTRUCTION_BYTES]
    return disassemble_instruction(isa.decode(image, program.config))
