"""Loads and stores of random programs."""

from random import Random

import numpy as np

from systolith.config import TABLE_ENTRIES
from systolith.isa import BASE_ALIGNMENT, Fill, Opcode, Space
from systolith.numerics import Format
from systolith.program import IMAGE_BASE, INPUT_BASE, OUTPUT_BASE, SCRATCH_BASE
from systolith_sim.programs.builder import Accesses, Builder, Tensor, cells


def pool(b: Builder, largest: int) -> None:
    """Put the random bytes into memory that loads take their data from."""
    b.append(INPUT_BASE, b.bytes(16 * largest * largest + 2048))


def _source(b: Builder, runs: tuple[int, int, int]) -> tuple[dict[str, int], Accesses]:
    """Where the DRAM runs [n2, n1, n0] of a LOAD come from, with strides of either sign."""
    base, low, high = INPUT_BASE, 0, b.used[INPUT_BASE]
    if b.stored and b.random.random() < 0.3:
        base = SCRATCH_BASE
        low, high = b.random.choice(b.stored)
    n2, n1, n0 = runs
    for _ in range(20):
        spread = n0 + 5
        stride1, stride2 = (b.random.randint(-spread, spread) for _ in range(2))
        if b.random.random() < 0.5:
            stride2 = n1 * stride1
        spans = ((n1 - 1) * stride1, (n2 - 1) * stride2)
        before = -sum(min(0, span) for span in spans)
        after = sum(max(0, span) for span in spans) + n0
        if low + before <= high - after:
            start = b.random.randint(low + before, high - after)
            break
    else:
        return _source(b, runs) if base == SCRATCH_BASE else _fixed(b, runs)
    scalar, scalar_stride = _scalar(b)
    fields = {
        "base": base,
        "dram_offset": _offset(b, start, scalar, scalar_stride),
        "dram_stride1": stride1,
        "dram_stride2": stride2,
        "scalar": scalar,
        "scalar_stride": scalar_stride,
    }
    reads = [(f"dram{base}", cells(start - before, before + after))] if base != INPUT_BASE else []
    return fields, reads


def _fixed(b: Builder, runs: tuple[int, int, int]) -> tuple[dict[str, int], Accesses]:
    """Every run from the same place."""
    highest = b.used[INPUT_BASE] - runs[2]
    return {"base": INPUT_BASE, "dram_offset": b.random.randint(0, highest)}, []


def _scalar(b: Builder) -> tuple[int, int]:
    """A scalar that moves an address, in a third of all cases, and by how much: anything."""
    if b.random.random() > 0.33:
        return 0, b.random.choice([0, 0, 7])
    far = 1 << b.random.choice([6, 20, 31])
    return b.random.randint(1, 4), b.random.randint(-far, far - 1)


def _offset(b: Builder, start: int, scalar: int, scalar_stride: int) -> int:
    """The operand with which an access begins at `start`, modulo `2**32`."""
    return (start - (b.machine.scalars[scalar - 1] * scalar_stride if scalar else 0)) % (1 << 32)


def _split(random: Random, m: int) -> tuple[int, int]:
    """Rows as blocks of runs."""
    blocks = random.choice([each for each in range(1, m + 1) if m % each == 0])
    return blocks, m // blocks


def load_tensor(b: Builder, largest: int, *, fill: Fill = Fill.MEMORY, **shape: int) -> Tensor:
    """LOAD a tensor of random bytes; `shape` may fix its m, n and format."""
    m, n = (shape.get(name) or b.random.randint(1, largest) for name in ("m", "n"))
    element = Format(shape.get("format", b.random.randrange(3)))
    aligned = b.random.random() < 0.8
    t = b.allocate(m, n, element, aligned=aligned)
    n2, n1 = _split(b.random, t.m)
    n0 = n * t.element_bytes
    fields, reads = _source(b, (n2, n1, n0)) if fill == Fill.MEMORY else ({}, [])
    b.put(
        Opcode.LOAD,
        reads,
        [b.words(t.address, t.row, t.m, -(-n0 // b.config.columns))],
        fill=fill,
        address=t.address,
        n0=n0,
        n1=n1,
        n2=n2,
        stride1=t.row,
        stride2=n1 * t.row,
        **fields,
    )
    return t


def fill_zero(b: Builder, largest: int) -> None:
    """LOAD zeros."""
    load_tensor(b, largest, fill=Fill.ZERO)


def append(b: Builder, largest: int) -> None:
    """LOAD into the middle of a tensor's rows, as a cache grows."""
    t = b.random.choice(b.tensors)
    size = t.n * t.element_bytes
    g = b.random.randrange(-(-size // b.config.columns))
    n0 = b.random.randint(1, size - g * b.config.columns)
    first = b.random.randrange(t.m)
    rows = b.random.randint(1, t.m - first)
    n2, n1 = _split(b.random, rows)
    fields, reads = _source(b, (n2, n1, n0))
    address = t.address + first * t.row + g
    for slots in b.slots:
        if slots.tensor is t:
            slots.tensor = None
    b.put(
        Opcode.LOAD,
        reads,
        [b.words(address, t.row, rows, -(-n0 // b.config.columns))],
        address=address,
        n0=n0,
        n1=n1,
        n2=n2,
        stride1=t.row,
        stride2=n1 * t.row,
        **fields,
    )


def gather(b: Builder, largest: int) -> None:
    """LOAD an index list, then the rows that it names."""
    c = b.config.columns
    t = b.allocate(
        b.random.randint(1, largest), b.random.randint(1, largest), Format(b.random.randrange(3))
    )
    rows, n0 = t.m, t.n * t.element_bytes
    n2, n1 = _split(b.random, rows)
    with b.pin(t):
        index = b.allocate(1, 4 * n1, Format.U8, aligned=False)
    stride1, stride2 = b.random.randint(1, n0 + 3), b.random.randint(0, 9)
    entries = (b.used[INPUT_BASE] - n0 - n2 * stride2) // stride1
    # A list of far entries, from so far before the base: offsets wrap around.
    far = b.random.choice([0, 0, 1 << 20, (1 << 32) - 301])
    numbers = [far + b.random.randint(0, min(entries, 300)) for _ in range(n1)]
    offset = b.append(INPUT_BASE, np.array(numbers, "<u4").tobytes())
    index_words = b.words(index.address, 0, 1, -(-4 * n1 // c))
    b.put(
        Opcode.LOAD,
        [],
        [index_words],
        base=INPUT_BASE,
        dram_offset=offset,
        address=index.address,
        n0=4 * n1,
        n1=1,
        n2=1,
    )
    b.put(
        Opcode.LOAD,
        [index_words],
        [b.words(t.address, t.row, rows, -(-n0 // c))],
        fill=Fill.GATHER,
        base=INPUT_BASE,
        index=index.address,
        dram_offset=-far * stride1 % (1 << 32),
        address=t.address,
        n0=n0,
        n1=n1,
        n2=n2,
        stride1=t.row,
        stride2=n1 * t.row,
        dram_stride1=stride1,
        dram_stride2=stride2,
    )
    b.drop(index)


def store_some(b: Builder, largest: int) -> None:
    """STORE a tensor to the outputs, or where a LOAD can bring it back from."""
    store(b, b.random.choice(b.tensors), b.random.choice([OUTPUT_BASE, SCRATCH_BASE]))


def store(b: Builder, t: Tensor, base: int) -> None:
    """STORE a tensor, rows in either order, with gaps between them or without."""
    n2, n1 = _split(b.random, t.m)
    n0 = t.n * t.element_bytes
    gap = b.random.choice([0, 0, 1, 3]) if base == OUTPUT_BASE else 0
    pitch = n0 + gap
    size = t.m * pitch
    offset = b.reserve(base, size)
    stride1, stride2 = pitch, n1 * pitch
    start = offset
    if b.random.random() < 0.3:
        start, stride1 = start + (n1 - 1) * pitch, -pitch
    if b.random.random() < 0.3:
        start, stride2 = start + (n2 - 1) * n1 * pitch, -n1 * pitch
    scalar, scalar_stride = _scalar(b)
    b.put(
        Opcode.STORE,
        [b.words(t.address, t.row, t.m, -(-n0 // b.config.columns))],
        [(f"dram{base}", cells(offset, size))],
        base=base,
        scalar=scalar,
        scalar_stride=scalar_stride,
        dram_offset=_offset(b, start, scalar, scalar_stride),
        dram_stride1=stride1,
        dram_stride2=stride2,
        address=t.address,
        n0=n0,
        n1=n1,
        n2=n2,
        stride1=t.row,
        stride2=n1 * t.row,
    )
    rows = offset + pitch * np.arange(t.m)
    b.written[base][(rows[:, None] + np.arange(n0)).reshape(-1)] = True
    if base == SCRATCH_BASE:
        b.stored.append((offset, offset + size))


def load_columns(b: Builder, records: np.ndarray) -> int:
    """LOAD column records, and return their first slot."""
    count = len(records)
    first = b.random.randint(0, min(b.config.column_slots, 4 * count + 8) - count)
    _load_side(b, Space.COLUMNS, "columns", first, records.tobytes(), count)
    return first


def load_table(b: Builder, bits: int) -> int:
    """LOAD a function table, in one or two parts, and return its number."""
    table = b.random.randrange(b.config.table_slots)
    entries = np.array(
        [b.random.randint(-1 << bits, (1 << bits) - 1) for _ in range(TABLE_ENTRIES)], "<i2"
    )
    cut = 4 * b.random.choice([0, 0, b.random.randrange(1, TABLE_ENTRIES // 4)])
    for first, end in ((0, cut), (cut, TABLE_ENTRIES)):
        if first < end:
            part = entries[first:end]
            at = table * TABLE_ENTRIES + first
            _load_side(b, Space.TABLES, "entries", at, part.tobytes(), len(part))
    return table


def _load_side(b: Builder, space: Space, memory: str, first: int, data: bytes, count: int) -> None:
    base = b.random.choice([IMAGE_BASE, INPUT_BASE])
    b.put(
        Opcode.LOAD,
        [],
        [(memory, cells(first, count))],
        space=space,
        base=base,
        dram_offset=b.append(base, data, BASE_ALIGNMENT),
        address=first,
        n0=len(data),
        n1=1,
        n2=1,
    )
