"""A program as a list: who follows whom, and the rules that make it free of deadlock."""

from dataclasses import dataclass

from systolith.assembler import disassemble_instruction
from systolith.config import CoreConfig
from systolith.isa import (
    INSTRUCTION_BYTES,
    MAX_PER_ENGINE,
    Engine,
    IllegalInstructionError,
    Instruction,
    Opcode,
    WeightSource,
    XFormat,
    decode,
)
from systolith_sim.iss.machine import HALVES
from systolith_sim.iss.weights import accumulator_halves, stream_bytes


class CheckError(Exception):
    """A program that must not be run.

    Attributes:
        index: the instruction at fault.
        other: the instruction that it is at odds with, or None.
    """

    def __init__(self, message: str, index: int, other: int | None = None) -> None:
        super().__init__(message)
        self.index = index
        self.other = other


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Instructions and how they relate.

    Attributes:
        config: the core.
        instructions: all of them, HALT last.
        counts: what each engine's retired count becomes by the instruction; 0 for HALT.
        feeder: index of a GEMM's STREAM and of a draining VECTOR's GEMM; None for all others.
        of_engine: indices of each engine's instructions.
    """

    config: CoreConfig
    instructions: tuple[Instruction, ...]
    counts: tuple[int, ...]
    feeder: tuple[int | None, ...]
    of_engine: dict[Engine, list[int]]

    def name(self, index: int) -> str:
        """An instruction as an error names it."""
        return f"instruction {index} ({disassemble_instruction(self.instructions[index])})"


def list_program(code: bytes, config: CoreConfig) -> Listing:
    """Decode a program, and hold it to the rules of steps and waits.

    Raises:
        CheckError: an instruction is illegal, HALT is not the last, an engine has too many, a
            step is incomplete, or a wait may never end.
    """
    instructions = list[Instruction]()
    decoded: dict[bytes, Instruction] = {}
    for at in range(0, len(code), INSTRUCTION_BYTES):
        image = code[at : at + INSTRUCTION_BYTES]
        if image not in decoded:
            try:
                decoded[image] = decode(image, config)
            except IllegalInstructionError as error:
                index = at // INSTRUCTION_BYTES
                raise CheckError(f"instruction {index}: {error}", index) from None
        instructions.append(decoded[image])
    of_engine: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    counts = list[int]()
    for index, instruction in enumerate(instructions):
        engine = instruction.engine
        if engine is None:
            counts.append(0)
            continue
        of_engine[engine].append(index)
        counts.append(len(of_engine[engine]))
        if counts[-1] > MAX_PER_ENGINE:
            raise CheckError(f"{engine.name} has more than {MAX_PER_ENGINE} instructions", index)
    listing = Listing(
        config=config,
        instructions=tuple(instructions),
        counts=tuple(counts),
        feeder=tuple(_feeder(instructions, index) for index in range(len(instructions))),
        of_engine=of_engine,
    )
    _check_end(listing)
    for index in range(len(instructions)):
        _check_step(listing, index)
        _check_waits(listing, index)
    return listing


def halves_filled(listing: Listing, gemm: int) -> int:
    """Accumulator halves that a GEMM fills."""
    return accumulator_halves(listing.config, listing.instructions[gemm])


def _feeder(instructions: list[Instruction], index: int) -> int | None:
    i = instructions[index]
    from_ring = i.opcode == Opcode.GEMM and i.b_source != WeightSource.SCRATCHPAD
    drains = i.opcode == Opcode.VECTOR and i.x_format == XFormat.ACCUMULATOR
    if index and (from_ring or drains):
        wanted = Opcode.STREAM if from_ring else Opcode.GEMM
        return index - 1 if instructions[index - 1].opcode == wanted else None
    return None


def _check_end(listing: Listing) -> None:
    instructions = listing.instructions
    halts = [at for at, each in enumerate(instructions) if each.opcode == Opcode.HALT]
    if not halts:
        raise CheckError("the program has no HALT", len(instructions))
    if halts[0] != len(instructions) - 1:
        after = halts[0] + 1
        raise CheckError(f"{listing.name(after)} comes after HALT", after, halts[0])


def _check_step(listing: Listing, index: int) -> None:
    """STREAM, its GEMM and its VECTOR are neighbours, and fit each other."""
    i, name = listing.instructions[index], listing.name(index)
    feeder = listing.feeder[index]
    following = index + 1
    if i.opcode in (Opcode.STREAM, Opcode.GEMM):
        user = Opcode.GEMM if i.opcode == Opcode.STREAM else Opcode.VECTOR
        if listing.feeder[following] != index:
            raise CheckError(
                f"{name} must be followed by the {user.name} that it feeds, but is followed by "
                f"{listing.name(following)}",
                index,
                following,
            )
    if i.opcode == Opcode.GEMM and i.b_source != WeightSource.SCRATCHPAD:
        if feeder is None:
            raise CheckError(f"{name} must come right after the STREAM of its weights", index)
        _check_stream(listing, index, feeder)
    if i.opcode == Opcode.VECTOR and i.x_format == XFormat.ACCUMULATOR:
        if feeder is None:
            raise CheckError(f"{name} must come right after the GEMM that it drains", index)
        gemm = listing.instructions[feeder]
        if (gemm.m, gemm.n) != (i.m, i.n):
            raise CheckError(
                f"{name} must have the m and n of {listing.name(feeder)}", index, feeder
            )


def _check_stream(listing: Listing, index: int, feeder: int) -> None:
    size = stream_bytes(listing.config, listing.instructions[index])
    if listing.instructions[feeder].size != size:
        raise CheckError(
            f"{listing.name(feeder)} must stream exactly the {size} bytes of {listing.name(index)}",
            feeder,
            index,
        )


def _check_waits(listing: Listing, index: int) -> None:
    """Waits name earlier instructions that can end without this one."""
    for engine, count in listing.instructions[index].waits.items():
        indices = listing.of_engine[engine]
        earlier = sum(1 for each in indices[:count] if each < index)
        if earlier < count:
            late = indices[count - 1] if count <= len(indices) else None
            what = "which never happens" if late is None else f"by {listing.name(late)}"
            raise CheckError(
                f"{listing.name(index)} waits for {count} of {engine.name}, {what}, and only "
                f"{earlier} of them come earlier",
                index,
                late,
            )
        target = indices[count - 1]
        if target in _own_step(listing, index) and not _ends_alone(listing, target):
            raise CheckError(
                f"{listing.name(index)} waits for {listing.name(target)}, which cannot end before "
                f"it has begun",
                index,
                target,
            )


def _own_step(listing: Listing, index: int) -> list[int]:
    """What feeds an instruction, directly or not."""
    feeders = list[int]()
    at = listing.feeder[index]
    while at is not None:
        feeders.append(at)
        at = listing.feeder[at]
    return feeders


def _ends_alone(listing: Listing, feeder: int) -> bool:
    """Whether ring and accumulators hold all that an instruction makes."""
    i = listing.instructions[feeder]
    if i.opcode == Opcode.STREAM:
        return i.size <= listing.config.ring_bytes
    return halves_filled(listing, feeder) <= HALVES
