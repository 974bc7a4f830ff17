"""The ROW engine's first stage: what its root is taken of, and the mean, a bit per cycle."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from systolith.numerics import MAX_NORM_LENGTH, ROW_OFF_WIDTH, STATISTIC_WIDTH, TOTAL_SUM_WIDTH
from systolith_rtl.vector.beat import Beat

LENGTH_WIDTH = MAX_NORM_LENGTH.bit_length()
"""Bits of n."""

BITS_PER_COPY = 16
"""Bits of a long sum that one register chooses the operand of."""


def products(m: Module, beat: Beat, row: SimpleNamespace) -> SimpleNamespace:
    """Compute the operand of the root, and the mean.

    The mean, floor((512 * total + n) / 2n), is floor((256 * total + n // 2) / n), since floors
    nest. What is above the quotient's other bits is the rest of its first one, the sign's.
    """
    s = beat.stage("products", row, slot=row.slot, last=row.last, reciprocal=row.reciprocal)
    n = beat.load(s, row.n, name="n")
    squares = beat.load(s, row.squares, name="squares")
    # What is loaded over a sum is 0, and outermost: a reset, and no LUT behind the carry.
    product = Signal(len(row.n) + len(squares), reset_less=True)
    multiplies = beat.window("multiply", row, 0, LENGTH_WIDTH)
    adds = _lowest(m, "product", product, row.n, s.loading, multiplies, len(squares))
    with m.If(multiplies):
        m.d.sync += product.eq(_multiply(product, squares, adds))
    with m.If(s.loading):
        m.d.sync += product.eq(Cat(row.n, Const(0, len(squares))))

    total = beat.load(s, row.total, name="total")
    square = Signal(2 * TOTAL_SUM_WIDTH + 1, reset_less=True)
    # The last step is that of the total's sign.
    last_step = beat.window("add", s, TOTAL_SUM_WIDTH - 1, TOTAL_SUM_WIDTH)
    subtracts = _spread(m, "subtracts", len(total))
    soon = beat.window("add_soon", s, TOTAL_SUM_WIDTH - 2, TOTAL_SUM_WIDTH - 1)
    m.d.sync += [copy.eq(soon) for copy in subtracts.copies]
    multiplies = beat.window("square", row, 0, TOTAL_SUM_WIDTH)
    adds = _lowest(m, "square", square, row.total, s.loading, multiplies, len(total))
    with m.If(multiplies):
        m.d.sync += square.eq(_multiply_signed(square, total, adds, subtracts.bits))
    with m.If(s.loading):
        m.d.sync += square.eq(Cat(row.total, Const(0, TOTAL_SUM_WIDTH + 1)))

    eps = Signal(STATISTIC_WIDTH, reset_less=True)
    eps_pairs = Signal.like(row.eps_pairs, name="eps_pairs", reset_less=True)
    more = Signal()
    with m.If(s.loading):
        m.d.sync += more.eq(row.eps_pairs.any())
    with m.Elif(more):
        m.d.sync += more.eq(eps_pairs != 1)
    # Both in one, of which Yosys makes an enable.
    with m.If(s.loading | more):
        m.d.sync += [
            eps.eq(Mux(s.loading, row.eps, eps.shift_left(2))),
            eps_pairs.eq(Mux(s.loading, row.eps_pairs, eps_pairs - 1)),
        ]

    dividend = (row.total.shift_left(8) + row.n[1:])[: ROW_OFF_WIDTH - 1 + LENGTH_WIDTH]
    mean = beat.load(s, dividend, name="mean")
    below, rest = mean[: ROW_OFF_WIDTH - 1], mean[ROW_OFF_WIDTH - 1 :]
    fits = ~rest[-1]
    with m.If(beat.window("mean_divide", row, 0, ROW_OFF_WIDTH - 1)):
        m.d.sync += mean.eq(Cat(fits, below[:-1], _divide_step(rest, below[-1], n)))

    # Each sum has registers of its own, and a cycle for each half: 56 bits of carry are half a
    # path. Product and eps have stood for long before the last step, and the square's lower half is
    # then where it will be but for a shift.
    half = TOTAL_SUM_WIDTH - 1
    positive_low = Signal(half + 1, reset_less=True)
    positive_high = Signal(STATISTIC_WIDTH - half, reset_less=True)
    m.d.sync += [
        positive_low.eq(product[:half] + eps[:half]),
        # A bit in front of the others makes a carry of it.
        positive_high.eq((Cat(positive_low[-1], product[half:]) + Cat(1, eps[half:]))[1:]),
    ]
    value_low = Signal(half + 1, reset_less=True)
    value_high = Signal.like(positive_high, reset_less=True)
    with m.If(last_step):
        m.d.sync += value_low.eq(positive_low[:half] - square[1 : half + 1])
    with m.If(beat.window("subtract", s, TOTAL_SUM_WIDTH, TOTAL_SUM_WIDTH + 1)):
        high = square[half:STATISTIC_WIDTH]
        m.d.sync += value_high.eq((Cat(0, positive_high) - Cat(value_low[-1], high))[1:])
    s.value = Cat(value_low[:half], value_high)
    # The first bit is that of the sign.
    s.off = Cat(fits, below[:-1], ~below[-1]).as_signed()
    return s


def _divide_step(rest: Value, digit: Value, divisor: Value) -> Value:
    """Return the rest behind one more digit of the dividend; the quotient's bit is 0 if it is < 0.

    A negative rest is one from which the divisor should not have been subtracted. Instead of being
    restored, which puts a choice behind the carry, it gets the divisor added in the next step:
    2 * (rest + divisor) - divisor. The rest is from -divisor to below the divisor.
    """
    subtracts = ~rest[-1]
    term = divisor ^ subtracts.replicate(len(divisor))
    # A bit in front of the others makes a carry of what two's complement is short of.
    return (Cat(1, digit, rest[:-1]) + Cat(subtracts, term))[1 : len(rest) + 1]


def _spread(m: Module, name: str, width: int) -> SimpleNamespace:
    """Return copies of a register, and as many of their bits as a sum's operand has."""
    copies = [
        Signal(name=f"{name}{first}", reset_less=True, attrs={"keep": 1})
        for first in range(0, width, BITS_PER_COPY)
    ]
    bits = Cat(copies[index // BITS_PER_COPY] for index in range(width))
    return SimpleNamespace(copies=copies, bits=bits)


def _lowest(
    m: Module, name: str, product: Value, loaded: Value, loads: Value, steps: Value, width: int
) -> Value:
    """Return `width` times the lowest bit of a product, from registers along the factor's sum."""
    lowest = _spread(m, f"{name}_lowest", width)
    with m.If(loads | steps):
        m.d.sync += [copy.eq(Mux(loads, loaded[0], product[1])) for copy in lowest.copies]
    return lowest.bits


def _multiply(product: Value, factor: Value, adds: Value) -> Value:
    """Do a step of a multiplication, lowest bit of the other factor first.

    `factor` is added to the upper part if that bit, which `adds` has for each bit of it, is set,
    and all moves right by one, the bit out of the lower part.
    """
    cut = len(product) - len(factor)
    return Cat(product[1:cut], product[cut:] + (factor & adds))


def _multiply_signed(product: Value, factor: Value, adds: Value, subtracts: Value) -> Value:
    """Do a step of a signed multiplication, in which the bit of the sign is subtracted.

    The upper part has a bit more than the factor, since it holds its negative.
    """
    cut = len(product) - len(factor) - 1
    term = (factor.as_unsigned() ^ subtracts) & adds
    # A bit in front of the others makes a carry of what two's complement is short of.
    ones = Cat(adds[0] & subtracts[0], term).as_signed() + Cat(1, product[cut:]).as_signed()
    return Cat(product[1:cut], ones[1:])
