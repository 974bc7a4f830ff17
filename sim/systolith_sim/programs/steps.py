"""The operators of random programs: what may come next."""

import numpy as np

from systolith.isa import Opcode, WeightSource
from systolith.numerics import Format
from systolith.program import IMAGE_BASE
from systolith_sim.golden.gemm import gemm as gemm_sums
from systolith_sim.golden.gemm import int4_gemm, int4_ring_words, ring_words
from systolith_sim.iss.machine import HALVES
from systolith_sim.programs.builder import Builder, Tensor
from systolith_sim.programs.passes import (
    elementwise,
    exponentials,
    prepare,
    put_pass,
    row_records,
    rows_for_records,
)
from systolith_sim.programs.transfers import append, fill_zero, gather, load_tensor, store_some


def add_step(b: Builder, largest: int) -> None:
    """Add one of all operators that what there is allows."""
    choices = [matmul_from_ring] * 5 + [load_tensor] * 2 + [elementwise] * 8
    choices += [append, fill_zero, gather] + [store_some] * 3
    if any(each.format == Format.S8 for each in b.tensors):
        choices += [matmul_from_scratchpad] * 4
    if any(each.kind == "maximum" and each.tensor for each in b.slots):
        choices += [exponentials] * 6
    if any(each.kind in ("sum", "moments") for each in b.slots):
        choices += [row_records] * 10
    b.random.choice(choices)(b, largest)


def _operand(b: Builder, largest: int, formats: tuple[Format, ...]) -> Tensor:
    """A tensor that a GEMM can read."""
    unit = b.config.word_granules
    fits = [
        each
        for each in b.tensors
        if each.format in formats and each.address % unit == 0 and each.row % unit == 0
    ]
    while not fits:
        t = load_tensor(b, largest, format=b.random.choice(formats))
        fits = [t] if t.address % unit == 0 and t.row % unit == 0 else []
    return b.random.choice(fits)


def matmul_from_ring(b: Builder, largest: int) -> None:
    """STREAM, GEMM and VECTOR."""
    config = b.config
    a = _operand(b, largest, (Format.S8, Format.U8))
    m = rows_for_records(b, min(a.m, config.accumulator_rows))
    k, n = b.random.randint(1, a.n), b.random.randint(1, largest)
    x = b.machine.tensor(a.address, a.row, (m, k), a.format)
    shape = {"rows": config.rows, "columns": config.columns}
    source, channels = WeightSource.RING_S8, config.columns
    weights = np.frombuffer(b.bytes(n * k), np.int8).reshape(n, k)
    if config.int4 and b.random.random() < 0.5:
        source, channels = WeightSource.RING_S4, 2 * config.columns
        weights = weights >> 4
        blocks = -(-k // config.rows)
        exponents = np.frombuffer(b.bytes(n * blocks), np.uint8).reshape(n, blocks) & 3
        ring = int4_ring_words(weights, exponents, **shape).tobytes()
        sums = int4_gemm(x, weights, exponents, rows=config.rows)
    else:
        ring = ring_words(weights, **shape).tobytes()
        sums = gemm_sums(x, weights)
    halves = -(-n // channels)
    with b.pin(a):
        p = prepare(b, m, n, sums, None, largest, a if halves == 1 else None)
    b.put(
        Opcode.STREAM,
        [],
        [],
        base=IMAGE_BASE,
        dram_offset=b.append(IMAGE_BASE, ring, config.axi_bytes),
        size=len(ring),
    )
    # A feeder that ends alone may be waited for, which is of no use.
    alone = len(ring) <= config.ring_bytes and b.random.random() < 0.2
    _put_gemm(b, a, source, m, n, k, step=0 if alone else 1)
    put_pass(b, p, step=1 if alone and halves <= HALVES else 2)


def matmul_from_scratchpad(b: Builder, largest: int) -> None:
    """GEMM and VECTOR, with both operands from the scratchpad."""
    config = b.config
    weights = _operand(b, largest, (Format.S8,))
    with b.pin(weights):
        a = _operand(b, largest, (Format.S8, Format.U8))
    m = rows_for_records(b, min(a.m, config.accumulator_rows))
    n = b.random.randint(1, weights.m)
    k = b.random.randint(1, min(a.n, weights.n))
    x = b.machine.tensor(a.address, a.row, (m, k), a.format)
    y = b.machine.tensor(weights.address, weights.row, (n, k), Format.S8)
    free = b.random.choice([a, weights]) if n <= config.columns else None
    with b.pin(a, weights):
        p = prepare(b, m, n, gemm_sums(x, y), None, largest, free)
    _put_gemm(b, a, weights, m, n, k)
    put_pass(b, p, step=int(n > HALVES * config.columns or b.random.random() < 0.8))


def _put_gemm(
    b: Builder, a: Tensor, weights: Tensor | WeightSource, m: int, n: int, k: int, step: int = 0
) -> None:
    width = -(-k // b.config.rows) * b.config.word_granules
    fields = {"a_address": a.address, "a_row": a.row, "a_format": a.format}
    reads = [b.words(a.address, a.row, m, width)]
    if isinstance(weights, WeightSource):
        fields["b_source"] = weights
    else:
        fields |= {"b_address": weights.address, "b_row": weights.row}
        fields["b_source"] = WeightSource.SCRATCHPAD
        reads.append(b.words(weights.address, weights.row, n, width))
    b.put(Opcode.GEMM, reads, [], step=step, m=m, n=n, k=k, **fields)
