"""What random programs are put together with: memory to use, waits to set, values to look at.

The builder carries out every instruction at once on a `Machine` of its own. So whoever adds the
next one can scale it by the values that it will meet, and nothing overflows unseen.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import numpy as np
import numpy.typing as npt

from systolith.config import TABLE_ENTRIES, CoreConfig
from systolith.isa import BASES, Engine, Instruction, Opcode, make
from systolith.numerics import Format
from systolith.program import OUTPUT_BASE, SCRATCH_BASE
from systolith_sim.iss.machine import Machine
from systolith_sim.iss.operators import OPERATORS

REGION = 1 << 18
"""Bytes of DRAM behind each base while a program is built."""

WRITTEN_BASES = OUTPUT_BASE, SCRATCH_BASE
"""Bases that programs write to."""

Cells = npt.NDArray[np.int64]
Accesses = Sequence[tuple[str, Cells]]
"""Memories and which cells of them are touched: words of the scratchpad, bytes of DRAM, slots."""


class RoomError(ValueError):
    """Tensors or data do not fit where they have to."""


@dataclass(kw_only=True, eq=False)
class Tensor:
    """A tensor in the scratchpad: rows start at granule `address + m * row`."""

    address: int
    row: int
    m: int
    n: int
    format: Format

    @property
    def element_bytes(self) -> int:
        """Bytes of an element."""
        return 2 if self.format == Format.S16 else 1


@dataclass(kw_only=True, eq=False)
class Slots:
    """What lies in slots of the row file, and for which tensor or length it was made.

    Attributes:
        kind: `maximum`, `sum`, `moments` or `record`.
        first, count: slots.
        n: elements of a row.
        tensor: whose maxima they are.
        off: whether records have an offset.
    """

    kind: str
    first: int
    count: int
    n: int = 1
    tensor: Tensor | None = None
    off: bool = False


@dataclass
class _Tracker:
    """Counts at which engines last touched cells: what a wait has to name."""

    sizes: dict[str, int]
    wrote: dict[str, np.ndarray] = field(default_factory=dict)
    read: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, size in self.sizes.items():
            self.wrote[name] = np.zeros((len(Engine), size), np.int64)
            self.read[name] = np.zeros((len(Engine), size), np.int64)

    def needed(self, reads: Accesses, writes: Accesses) -> np.ndarray:
        counts = np.zeros(len(Engine), np.int64)
        for name, cells in (*reads, *writes):
            np.maximum(counts, self.wrote[name][:, cells].max(1, initial=0), out=counts)
        for name, cells in writes:
            np.maximum(counts, self.read[name][:, cells].max(1, initial=0), out=counts)
        return counts

    def note(self, engine: Engine, count: int, reads: Accesses, writes: Accesses) -> None:
        for name, cells in reads:
            self.read[name][engine, cells] = count
        for name, cells in writes:
            self.wrote[name][engine, cells] = count


class Builder:
    """A program under construction, with all that it has made so far.

    Args:
        config: the core.
        random: makes all choices.
        scalars: the run-time scalars.
        arena: granules that tensors are put into; few of them make many hazards.

    Attributes:
        instructions: so far.
        tensors: that can be read.
        pinned: those whose place must not be used, whatever happens.
        slots: of the row file, as far as they hold something.
        machine: what the instructions so far have made.
        used: bytes of each base.
        stored: first byte and end of what was stored to scratch memory.
        written: bytes of each base that the program writes.
    """

    def __init__(
        self, config: CoreConfig, random: Random, scalars: Sequence[int], arena: int
    ) -> None:
        self.config = config
        self.random = random
        self.instructions: list[Instruction] = []
        self.tensors: list[Tensor] = []
        self.slots: list[Slots] = []
        self.machine = Machine(config, np.zeros(BASES * REGION, np.uint8))
        self.machine.bases = [base * REGION for base in range(BASES)]
        self.machine.limits = [REGION] * BASES
        self.machine.scalars = list(scalars)
        self.used = dict.fromkeys(range(BASES), 0)
        self.pinned: list[Tensor] = []
        self.stored: list[tuple[int, int]] = []
        self.written = {base: np.zeros(REGION, bool) for base in WRITTEN_BASES}
        arena = min(arena, config.granules)
        unit = 2 * config.word_granules
        first = random.randrange(0, config.granules - arena + 1) // unit * unit
        self._arena = range(first, first + arena)
        self._counts = [0] * len(Engine)
        self._seen = np.zeros((len(Engine), len(Engine)), np.int64)
        self._tracker = _Tracker(
            {
                "scratchpad": config.words,
                "columns": config.column_slots,
                "entries": config.table_slots * TABLE_ENTRIES,
                **dict.fromkeys(("maximum", "sum", "record"), config.row_slots),
                **{f"dram{base}": REGION for base in WRITTEN_BASES},
            }
        )

    def put(
        self,
        opcode: Opcode,
        reads: Accesses,
        writes: Accesses,
        *,
        step: int = 0,
        **fields: int,
    ) -> None:
        """Add an instruction, with the waits it needs and some that it does not.

        Args:
            opcode: the operator.
            reads: what it reads.
            writes: what it writes.
            step: instructions of the same step that come before it: it waits for none of them.
            **fields: its operands.
        """
        engine = opcode.engine
        needed = self._tracker.needed(reads, writes)
        earlier = list(self._counts)
        for other in self.instructions[len(self.instructions) - step :]:
            assert other.engine is not None
            earlier[other.engine] -= 1
        waits = np.minimum(needed, earlier)
        if engine is not None:
            waits[engine] = 0
            # What an earlier instruction of the engine has waited for needs no second wait.
            implied = waits <= self._seen[engine]
            waits[implied & (self.random.random() < 0.7)] = 0
            np.maximum(self._seen[engine], waits, out=self._seen[engine])
        for other in Engine:
            if self.random.random() < 0.1:
                waits[other] = max(waits[other], self.random.randint(0, earlier[other]))
        instruction = make(
            opcode,
            self.config,
            waits={other: int(waits[other]) for other in Engine},
            tag=self.random.getrandbits(16),
            **fields,
        )
        self.instructions.append(instruction)
        if engine is None:
            return
        self._counts[engine] += 1
        self._tracker.note(engine, self._counts[engine], reads, writes)
        for condition in OPERATORS[opcode](self.machine, instruction, False):
            assert not condition()

    def append(self, base: int, data: bytes, alignment: int = 1) -> int:
        """Put bytes into the DRAM that the host writes, and return their offset."""
        offset = -(-self.used[base] // alignment) * alignment
        self.used[base] = offset + len(data)
        if self.used[base] > REGION:
            raise RoomError("the program needs too much DRAM")
        self.machine.dram_run(base, offset, len(data))[:] = np.frombuffer(data, np.uint8)
        return offset

    def reserve(self, base: int, size: int) -> int:
        """Set DRAM aside that the program writes, with a gap, and return its offset."""
        offset = self.used[base] + self.random.randrange(0, 9)
        self.used[base] = offset + size
        if self.used[base] > REGION:
            raise RoomError("the program needs too much DRAM")
        return offset

    def bytes(self, size: int) -> bytes:
        """Random bytes."""
        return self.random.randbytes(size)

    def allocate(self, m: int, n: int, element: Format, *, aligned: bool = True) -> Tensor:
        """Find room for a tensor, at the cost of others if need be.

        Args:
            m: rows.
            n: columns.
            element: their format.
            aligned: whether a GEMM may read it.

        Raises:
            RoomError: there is no room.
        """
        config, size = self.config, 2 if element == Format.S16 else 1
        unit = max(size, config.word_granules) if aligned else size
        width = -(-n // config.columns) * size
        row = -(-width // unit) * unit
        if m * (row + 2 * unit) <= len(self._arena) // 4:
            row += self.random.choice([0, 0, 1, 2]) * unit
        highest = len(self._arena) - m * row
        for attempt in range(200 if highest >= 0 else 0):
            if attempt % 5 == 4:
                others = [each for each in self.tensors if each not in self.pinned]
                if others:
                    self.drop(self.random.choice(others))
            address = self._arena.start + self.random.randrange(0, highest // unit + 1) * unit
            tensor = Tensor(address=address, row=row, m=m, n=n, format=element)
            if not any(self._collide(tensor, other) for other in (*self.tensors, *self.pinned)):
                self.tensors.append(tensor)
                return tensor
        raise RoomError(f"there is no room for {m} rows of {row} granules")

    @contextmanager
    def pin(self, *tensors: Tensor) -> Iterator[None]:
        """Keep the places of tensors."""
        before = list(self.pinned)
        self.pinned += tensors
        yield
        self.pinned = before

    @staticmethod
    def _collide(one: Tensor, two: Tensor) -> bool:
        return (
            one.address < two.address + two.m * two.row
            and two.address < one.address + one.m * one.row
        )

    def words(self, address: int, row: int, rows: int, granules: int) -> tuple[str, Cells]:
        """The scratchpad words of `rows` runs of granules."""
        starts = address + row * np.arange(rows)
        cells = starts[:, None] + np.arange(granules)
        return "scratchpad", np.unique(cells // self.config.word_granules)

    def drop(self, tensor: Tensor) -> None:
        """Forget a tensor: its place is free."""
        if tensor in self.tensors:
            self.tensors.remove(tensor)
        for slots in self.slots:
            if slots.tensor is tensor:
                slots.tensor = None

    def new_slots(self, slots: Slots) -> None:
        """Remember what lies in slots now; what was there is gone."""
        family = {"maximum": 0, "sum": 1, "moments": 1, "record": 2}
        self.slots = [
            each
            for each in self.slots
            if family[each.kind] != family[slots.kind]
            or each.first + each.count <= slots.first
            or slots.first + slots.count <= each.first
        ]
        self.slots.append(slots)

    def free_slot(self, count: int) -> int:
        """The first of some slots, from few enough that they are used again and again."""
        highest = min(self.config.row_slots, 4 * count + 8) - count
        return self.random.randint(0, highest)


def cells(first: int, count: int) -> Cells:
    """Neighbouring cells."""
    return np.arange(first, first + count)
