"""VECTOR and ROW instructions of random programs."""

from dataclasses import dataclass, field, replace

import numpy as np

from systolith.config import TABLE_ENTRIES
from systolith.isa import Function, Opcode, RowOperation, Second, Statistic, XFormat
from systolith.numerics import Format
from systolith_sim.iss.machine import COLUMN_DTYPE
from systolith_sim.programs.builder import Builder, Slots, Tensor, cells
from systolith_sim.programs.transfers import load_columns, load_table, load_tensor

OUT_BITS = {Format.S8: 7, Format.U8: 8, Format.S16: 15}
"""Bits of a result's magnitude."""


@dataclass(kw_only=True)
class View:
    """Part of a tensor: rows from `first` on, columns from a group on."""

    tensor: Tensor
    address: int
    values: np.ndarray


def _view(b: Builder, t: Tensor, m: int, n: int) -> View:
    c = b.config.columns
    first = b.random.randint(0, t.m - m)
    g = b.random.randint(0, (t.n - n) // c)
    address = t.address + first * t.row + g * t.element_bytes
    values = b.machine.tensor(address, t.row, (m, n), t.format).astype(np.int64)
    return View(tensor=t, address=address, values=values)


def _read(b: Builder, view: View, m: int, n: int) -> tuple[str, np.ndarray]:
    groups = -(-n // b.config.columns)
    t = view.tensor
    return b.words(view.address, t.row, m, groups * t.element_bytes)


@dataclass(kw_only=True)
class Pass:
    """A VECTOR to be: its fields and accesses, and what it leaves behind."""

    fields: dict[str, int] = field(default_factory=dict)
    reads: list[tuple[str, np.ndarray]] = field(default_factory=list)
    writes: list[tuple[str, np.ndarray]] = field(default_factory=list)
    gone: list[Tensor] = field(default_factory=list)
    y: Tensor | None = None
    slots: Slots | None = None


def prepare(
    b: Builder,
    m: int,
    n: int,
    x: np.ndarray,
    view: View | None,
    largest: int,
    free: Tensor | None = None,
) -> Pass:
    """Choose everything about an AFFINE or TABLE pass over [m, n] elements, and load its records.

    Args:
        b: the builder.
        m: rows.
        n: columns.
        x: the elements' values.
        view: where they are; None for accumulators.
        largest: of tensors.
        free: a tensor that y may replace, since it has been read when y is written.
    """
    random = b.random
    p = Pass()
    f = p.fields
    f["m"], f["n"] = m, n
    y_format = Format(random.choice([0, 1, 2, 2]))
    table = random.random() < 0.25
    statistic = Statistic(random.choice([0, 1, 1, 2, 3]))
    second = Second.NONE
    second_view = None
    if not table and random.random() < 0.5:
        second_view = _second(b, m, n, view, largest)
        second = Second.ADD
        if view is not None and statistic != Statistic.MOMENTS and random.random() < 0.4:
            second = Second.MULTIPLY
    slots = None
    if second != Second.MULTIPLY and statistic != Statistic.MOMENTS:
        slots = _row_slots(b, m, offsets=view is not None)
    bits = int(np.abs(x).max(initial=0)).bit_length() + (8 if view is not None else 0)
    if second_view is not None:
        r = second_view.values
        if second == Second.MULTIPLY:
            bits = int(np.abs(x * r).max(initial=0)).bit_length()
        p.reads.append(_read(b, second_view, m, n))
        f["r_address"], f["r_row"] = second_view.address, second_view.tensor.row
    f["second"] = second
    exponent = 0
    if slots is not None:
        f["row_in"] = slots.first + random.randint(0, slots.count - m)
        f["use_row"] = 1
        p.reads.append(("record", cells(f["row_in"], m)))
        exponent = int(np.median(b.machine.records.exp[f["row_in"] : f["row_in"] + m]))
    if table:
        f["function"] = Function.TABLE
        f["table"] = load_table(b, OUT_BITS[y_format])
        first = f["table"] * TABLE_ENTRIES
        p.reads.append(("entries", cells(first, TABLE_ENTRIES)))
    f["broadcast"] = random.choice([0, 0, 1])
    count = 1 if f["broadcast"] else n
    out_bits = 8 if table else OUT_BITS[y_format]
    f["column"] = load_columns(b, _records(b, count, bits, out_bits, exponent))
    p.reads.append(("columns", cells(f["column"], count)))
    if y_format == Format.S16 and not table and random.random() < 0.4:
        f["mask"], f["length"] = 1, random.randrange(4)
    if view is not None:
        f["x_address"], f["x_row"] = view.address, view.tensor.row
        f["x_format"] = XFormat(view.tensor.format)
        p.reads.append(_read(b, view, m, n))
    else:
        f["x_format"] = XFormat.ACCUMULATOR
    f["y_format"] = y_format
    _place_y(b, p, m, n, y_format, view, second_view, free)
    _take(b, p, statistic, m, n)
    return p


def _second(b: Builder, m: int, n: int, view: View | None, largest: int) -> View:
    """An s16 operand: x itself, some other tensor, or a new one."""
    if view is not None and view.tensor.format == Format.S16 and b.random.random() < 0.4:
        return view
    fits = [
        each
        for each in b.tensors
        if each.format == Format.S16 and each.m >= m and each.n >= n and each not in b.pinned
    ]
    if fits and b.random.random() < 0.7:
        return _view(b, b.random.choice(fits), m, n)
    return _view(b, load_tensor(b, largest, m=m, n=n, format=Format.S16), m, n)


def _row_slots(b: Builder, m: int, *, offsets: bool) -> Slots | None:
    """Row records that fit, if there are any."""
    fits = [
        each
        for each in b.slots
        if each.kind == "record" and each.count >= m and (offsets or not each.off)
    ]
    return b.random.choice(fits) if fits and b.random.random() < 0.9 else None


def rows_for_records(b: Builder, highest: int) -> int:
    """A number of rows, often one for which there are row records."""
    highest = min(highest, b.config.row_slots // 2)
    counts = [min(highest, each.count) for each in b.slots if each.kind == "record"]
    if counts and b.random.random() < 0.6:
        return b.random.choice(counts)
    return b.random.choice([highest, b.random.randint(1, highest)])


def _place_y(
    b: Builder,
    p: Pass,
    m: int,
    n: int,
    y_format: Format,
    view: View | None,
    second: View | None,
    free: Tensor | None,
) -> None:
    """Find a place for y: a new one, transposed or not, or that of an operand."""
    random, c = b.random, b.config.columns
    size = 2 if y_format == Format.S16 else 1
    width = -(-n // c) * size
    place = random.choice(["new", "new", "x", "r", "free"])
    over = {"x": view, "r": second}.get(place)
    if over is not None and _may_replace(over, view, second, size):
        t = over.tensor
        p.y = Tensor(address=over.address, row=t.row, m=m, n=n, format=y_format)
        p.gone.append(t)
    elif place == "free" and free is not None and free.address % size == 0:
        unit = max(size, b.config.word_granules)
        row = -(-width // unit) * unit
        if row * m <= free.row * free.m:
            p.y = Tensor(address=free.address, row=row, m=m, n=n, format=y_format)
            p.gone.append(free)
    if p.y is None:
        p.fields["transpose"] = int(size == 1 and random.random() < 0.4)
        with b.pin(*(each.tensor for each in (view, second) if each is not None)):
            rows, columns = (n, m) if p.fields["transpose"] else (m, n)
            p.y = b.allocate(rows, columns, y_format)
    if p.fields.get("transpose"):
        p.writes.append(b.words(p.y.address, p.y.row, n, -(-m // c)))
    else:
        p.writes.append(b.words(p.y.address, p.y.row, m, width))
    p.fields["y_address"], p.fields["y_row"] = p.y.address, p.y.row


def _may_replace(over: View, view: View | None, second: View | None, size: int) -> bool:
    """Whether y of some element size may take the place of an operand."""
    if over is second and size == 1:
        return False
    one_tensor = view is not None and second is not None and view.tensor is second.tensor
    if one_tensor and view is not second:
        # The other operand would be hit.
        return False
    return over.tensor.element_bytes >= size


def _take(b: Builder, p: Pass, statistic: Statistic, m: int, n: int) -> None:
    p.fields["statistic"] = statistic
    if statistic == Statistic.NONE:
        return
    kind = {Statistic.MAX: "maximum", Statistic.SUM: "sum", Statistic.MOMENTS: "moments"}[statistic]
    first = b.free_slot(m)
    p.fields["stat_out"] = first
    p.slots = Slots(kind=kind, first=first, count=m, n=n)
    if statistic == Statistic.MAX and p.fields["y_format"] == Format.S16:
        p.slots.tensor = p.y
    p.writes.append(("maximum" if statistic == Statistic.MAX else "sum", cells(first, m)))


def put_pass(b: Builder, p: Pass, step: int = 0) -> None:
    """Add the VECTOR, and remember what it leaves behind."""
    b.put(Opcode.VECTOR, p.reads, p.writes, step=step, **p.fields)
    for tensor in p.gone:
        b.drop(tensor)
    assert p.y is not None
    if p.y not in b.tensors:
        b.tensors.append(p.y)
    # The zeros behind a row's end are elements like any others from now on.
    p.y.n = -(-p.y.n // b.config.columns) * b.config.columns
    if p.slots is not None:
        b.new_slots(p.slots)


def elementwise(b: Builder, largest: int) -> None:
    """A VECTOR from the scratchpad."""
    t = b.random.choice(b.tensors)
    m, n = rows_for_records(b, t.m), b.random.choice([t.n, b.random.randint(1, t.n)])
    view = _view(b, t, m, n)
    with b.pin(t):
        p = prepare(b, m, n, view.values, view, largest)
    put_pass(b, p)


def exponentials(b: Builder, largest: int) -> None:
    """A VECTOR that exponentiates scores whose maxima are known."""
    slots = b.random.choice([each for each in b.slots if each.kind == "maximum" and each.tensor])
    t = slots.tensor
    assert t is not None
    m, n = b.random.randint(1, t.m), b.random.randint(1, slots.n)
    view = _view(b, replace(t, n=slots.n), m, n)
    view.tensor = t
    first = (view.address - t.address) // t.row
    p = Pass(fields={"m": m, "n": n, "x_format": XFormat.S16, "y_format": Format.U8})
    p.fields |= {"function": Function.EXP, "unit": b.random.randrange(2)}
    p.fields |= {"x_address": view.address, "x_row": t.row, "row_in": slots.first + first}
    p.reads = [_read(b, view, m, n), ("maximum", cells(slots.first + first, m))]
    _place_y(b, p, m, n, Format.U8, view, None, None)
    _take(b, p, b.random.choice([Statistic.NONE, Statistic.SUM, Statistic.SUM]), m, n)
    put_pass(b, p)


def row_records(b: Builder, largest: int) -> None:
    """A ROW on sums that have been taken."""
    slots = b.random.choice([each for each in b.slots if each.kind in ("sum", "moments")])
    rows = b.random.choice([slots.count, slots.count, b.random.randint(1, slots.count)])
    source = slots.first + b.random.randint(0, slots.count - rows)
    operations = []
    if min(b.machine.statistics["total"][source : source + rows]) >= 0:
        operations.append(RowOperation.RECIPROCAL)
    if slots.kind == "moments":
        operations += [RowOperation.LAYER_NORM, RowOperation.RMS_NORM]
    if not operations:
        return
    operation = b.random.choice(operations)
    destination = b.free_slot(rows)
    b.put(
        Opcode.ROW,
        [("sum", cells(source, rows))],
        [("record", cells(destination, rows))],
        operation=operation,
        source=source,
        destination=destination,
        rows=rows,
        n=slots.n,
        eps_mantissa=b.random.choice([0, 1, b.random.randrange(1 << 16)]),
        eps_shift=b.random.choice([0, b.random.randint(0, 36)]),
    )
    off = operation == RowOperation.LAYER_NORM
    b.new_slots(Slots(kind="record", first=destination, count=rows, off=off))


def _records(b: Builder, count: int, in_bits: int, out_bits: int, exponent: int) -> np.ndarray:
    """Column records that bring numbers of some bits near to the result's, some of them wild."""
    records = np.zeros(count, COLUMN_DTYPE)
    for record in records:
        bits = b.random.choice([15, 15, 15, b.random.randint(0, 15)])
        mant = b.random.choice([-1, 1]) * b.random.randint((1 << bits) // 2, (1 << bits) - 1)
        shift = in_bits + bits + 1 - 8 - out_bits + exponent + b.random.randint(-1, 4)
        off = b.random.randint(-1 << out_bits + 8, 1 << out_bits + 8) // b.random.choice([1, 2, 99])
        if b.random.random() < 0.05:
            mant, shift = b.random.randint(-32768, 32767), b.random.randint(-128, 127)
            off = b.random.randint(-1 << 31, (1 << 31) - 1)
        record["mant"], record["off"] = mant, off
        record["shift"] = max(-128, min(127, shift))
    return records
