"""One pass over a program that proves what no simulation can: that no timing changes its result."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from systolith.config import TABLE_ENTRIES, CoreConfig
from systolith.isa import Engine, Opcode, XFormat
from systolith.numerics import Format
from systolith.program import CODE_BASE, IMAGE_BASE, INPUT_BASE
from systolith_sim.checker.accesses import Access, accesses
from systolith_sim.checker.clashes import count_clashes
from systolith_sim.checker.clocks import Clocks, clock_program
from systolith_sim.checker.listing import CheckError, Listing, list_program
from systolith_sim.checker.memory import Memory, overlap, overlaps_itself

__all__ = ["CheckError", "Report", "check_program"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a program that passed.

    Attributes:
        instructions: by engine.
        clashes: pairs of instructions that may be under way together and use the same port of a
            scratchpad bank, by operands: `("GEMM a", "VECTOR x")`.
        written: bytes of each base up to the last one that is written.
    """

    instructions: Mapping[Engine, int]
    clashes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    written: Mapping[int, int] = field(default_factory=dict)


def check_program(
    code: bytes,
    config: CoreConfig,
    *,
    limits: Mapping[int, int],
    scalars: Mapping[int, int] | None = None,
    initialised: Collection[int] = (CODE_BASE, IMAGE_BASE, INPUT_BASE),
) -> Report:
    """Prove that a program ends, and gives the same result however its engines interleave.

    Args:
        code: instructions, 64 bytes each.
        config: the core.
        limits: bytes that may be accessed from each base on.
        scalars: run-time scalars that DRAM addresses depend on, by number.
        initialised: bases whose memory the host has written.

    Raises:
        CheckError: an instruction is illegal; a STREAM, its GEMM and its VECTOR are not adjacent
            or do not fit each other; a wait may never end; an access is out of bounds, reads what
            was never written, or is not ordered with another one to the same place; a VECTOR
            overwrites what it has yet to read. The message names both instructions.
    """
    listing = list_program(code, config)
    clocks = clock_program(listing)
    indices = range(len(listing.instructions))
    all_accesses = [_accesses_of(listing, index, limits, scalars or {}) for index in indices]
    memories = _memories(config, all_accesses, initialised)
    for index in indices:
        _check_bounds(listing, index, all_accesses[index], memories, limits)
        _check_self(listing, index, all_accesses[index])
        _check_order(listing, index, all_accesses[index], memories, clocks)
    return Report(
        instructions={engine: len(indices) for engine, indices in listing.of_engine.items()},
        clashes=count_clashes(listing, clocks, all_accesses),
        written={
            int(name.removeprefix("dram")): max(
                each.cells.end
                for some in all_accesses
                for each in some
                if each.write and each.memory == name
            )
            for name in memories
            if name.startswith("dram")
        },
    )


def _accesses_of(
    listing: Listing, index: int, limits: Mapping[int, int], scalars: Mapping[int, int]
) -> list[Access]:
    try:
        return accesses(listing.instructions[index], listing.config, limits, scalars)
    except KeyError as error:
        raise CheckError(
            f"{listing.name(index)} has an address that depends on scalar {error}, whose value is "
            f"not given",
            index,
        ) from None


def _memories(
    config: CoreConfig, all_accesses: list[list[Access]], initialised: Collection[int]
) -> dict[str, Memory]:
    """All memories on the core, and the bases that the program writes, as far as it uses them."""
    memories = {
        "scratchpad": Memory(config.granules, word=config.word_granules, grain=config.columns),
        "columns": Memory(config.column_slots),
        "entries": Memory(config.table_slots * TABLE_ENTRIES),
        **{name: Memory(config.row_slots) for name in ("maximum", "sum", "squares", "record")},
    }
    in_dram = [each for some in all_accesses for each in some if each.memory.startswith("dram")]
    # A base that nobody writes needs no record: reads do not conflict.
    for name in sorted({each.memory for each in in_dram if each.write}):
        size = max(each.cells.end for each in in_dram if each.memory == name)
        known = int(name.removeprefix("dram")) in initialised
        memories[name] = Memory(size, known=known)
    for name in {each.memory for each in in_dram} - set(memories):
        if int(name.removeprefix("dram")) not in initialised:
            memories[name] = Memory(0)
    return memories


def _check_bounds(
    listing: Listing,
    index: int,
    some: list[Access],
    memories: Mapping[str, Memory],
    limits: Mapping[int, int],
) -> None:
    for access in some:
        if access.memory.startswith("dram"):
            base = int(access.memory.removeprefix("dram"))
            size = limits.get(base, 0)
            if access.write and base == CODE_BASE:
                raise CheckError(f"{listing.name(index)} overwrites the program", index)
        else:
            size = memories[access.memory].size
        if access.cells.first < 0 or access.cells.end > size:
            raise CheckError(
                f"{listing.name(index)}: {access.operand} reaches from {access.cells.first} to "
                f"{access.cells.end - 1} of {access.memory}, which ends at {size - 1}",
                index,
            )


def _check_self(listing: Listing, index: int, some: list[Access]) -> None:
    """An instruction writes nothing twice, and nothing that it has yet to read."""
    i = listing.instructions[index]
    for write in some:
        if not write.write:
            continue
        if overlaps_itself(write.cells):
            raise CheckError(f"{listing.name(index)}: {write.operand} has runs that overlap", index)
        for read in some:
            if read.write or read.memory != write.memory:
                continue
            if i.opcode == Opcode.VECTOR and _in_place(listing, index, read, write):
                continue
            at = overlap(read.cells, write.cells)
            if at is not None:
                raise CheckError(
                    f"{listing.name(index)}: {write.operand} overlaps {read.operand} at {at} of "
                    f"{read.memory}, and is not written behind it",
                    index,
                    index,
                )


def _in_place(listing: Listing, index: int, read: Access, write: Access) -> bool:
    """Whether groups of y are written only where x or r has been read."""
    i = listing.instructions[index]
    if i.transpose or read.operand not in ("x", "r") or write.operand != "y":
        return False
    if (read.cells.start, read.cells.stride) != (write.cells.start, write.cells.stride):
        return False
    wide_in = read.operand == "r" or i.x_format == XFormat.S16
    wide_out = i.y_format == Format.S16
    return wide_in == wide_out or (read.operand == "x" and wide_in)


def _check_order(
    listing: Listing,
    index: int,
    some: list[Access],
    memories: Mapping[str, Memory],
    clocks: Clocks,
) -> None:
    engine = listing.instructions[index].engine
    if engine is None:
        return
    for access in some:
        memory = memories.get(access.memory)
        if memory is None:
            continue
        clock = clocks.writes[index] if access.write else clocks.reads[index]
        if not memory.size or (not access.write and memory.unwritten(access) is not None):
            at = memory.unwritten(access) if memory.size else access.cells.first
            unit = "byte " if access.memory == "scratchpad" else ""
            raise CheckError(
                f"{listing.name(index)}: {access.operand} reads {unit}{at} of {access.memory}, "
                f"which was never written",
                index,
            )
        found = memory.conflict(access, engine, clock)
        if found is not None:
            other, count, wrote, at = found
            culprit = listing.of_engine[other][count - 1]
            raise CheckError(
                f"{listing.name(index)}: {access.operand} {'writes' if access.write else 'reads'} "
                f"{_place(listing, access, at)}, which {listing.name(culprit)} "
                f"{'writes' if wrote else 'reads'}, and nothing orders the two",
                index,
                culprit,
            )
    for access in some:
        memory = memories.get(access.memory)
        if memory is not None:
            memory.note(access, engine, listing.counts[index])


def _place(listing: Listing, access: Access, at: int) -> str:
    if access.memory != "scratchpad":
        return f"{at} of {access.memory}"
    c = listing.config.columns
    return f"granule {at:#x} of the scratchpad (bytes {at * c:#x} to {at * c + c - 1:#x})"
