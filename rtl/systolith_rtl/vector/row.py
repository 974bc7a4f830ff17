"""ROW engine: statistics of rows in, row records out, exact to the last bit.

`numerics.layer_norm_row`, `rms_norm_row` and `recip` are the definition. Nothing here multiplies
or looks up: products, roots and quotients come a bit at a time, which costs some hundred LUTs and
is as fast as rows are needed.
"""

from types import SimpleNamespace

from amaranth.hdl import C, Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from systolith.config import CoreConfig
from systolith.isa import Opcode, RowOperation
from systolith.numerics import (
    EXP_WIDTH,
    MANT_WIDTH,
    MAX_NORM_LENGTH,
    ROW_OFF_WIDTH,
    SQUARES_WIDTH,
    STATISTIC_WIDTH,
    TOTAL_SUM_WIDTH,
)
from systolith_rtl.interfaces import ROW_READ_LATENCY, EngineSignature, RowFileSignature

PERIOD = 31
"""Cycles of a beat: each stage has a row for so long. The square of the total sets it."""

FETCH_PHASE = PERIOD - 2 - ROW_READ_LATENCY
"""Cycle of a beat in which a row is begun, so that its statistics come in the last one."""

LENGTH_WIDTH = MAX_NORM_LENGTH.bit_length()
"""Bits of n."""

NORMALISE_STEPS = 9
"""The longest shift is 54: six times 8 and three times 2."""

WRITE_PHASE = MANT_WIDTH + 1
"""Cycle of a beat in which the quotient, `MANT_WIDTH + 1` bits, is complete."""


class RowEngine(wiring.Component):
    """Make row records of row statistics: a row every `PERIOD` cycles, in three stages.

    ::

        products: n * squares + eps - total**2, and the mean by long division
        root:     normalise, then the square root, unless for a reciprocal
        quotient: 2**43 // divisor, normalised to 28 bits

    All stages start their rows together, on a beat of `PERIOD` cycles. RMS norms are layer norms
    of total 0, and a reciprocal takes the total for the squares of one element. The first record
    is written `FIRST_LATENCY` cycles after an idle engine has taken a command, each further one
    `PERIOD` cycles later, those of the next command too if it is there in time. `retire` follows
    the last write by a cycle. What `numerics` refuses, and a total that no n words can have,
    gives an undefined record.

    Members:
        engine: `Out(EngineSignature(Opcode.ROW))`. It never faults and never stalls.
        rows: `Out(RowFileSignature(config))`.
    """

    FIRST_LATENCY = 2 + ROW_READ_LATENCY + 2 * PERIOD + WRITE_PHASE + 2

    engine: wiring.PureInterface
    rows: wiring.PureInterface

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.ROW)),
                "rows": Out(RowFileSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the beat, and the stages in the order of the class docstring."""
        m = Module()
        phase = Signal(range(PERIOD), init=FETCH_PHASE)
        beat = Signal()
        working = Signal()
        m.d.comb += beat.eq(phase == PERIOD - 1)

        row = self._fetch(m, phase, beat)
        products = _products(m, phase, beat, row)
        root = _root(m, phase, beat, products)
        quotient = self._quotient(m, phase, beat, root)

        # Without work, the beat waits where a row may begin.
        m.d.comb += working.eq(products.valid | root.valid | quotient.valid)
        with m.If(beat):
            m.d.sync += phase.eq(0)
        with m.Elif((phase != FETCH_PHASE) | row.begin | working):
            m.d.sync += phase.eq(phase + 1)

        engine = self.engine
        m.d.comb += [
            engine.busy.eq(row.pending | row.valid | working | self.rows.write | engine.retire),
            engine.idle.eq(engine.halt & ~self.rows.read & ~self.rows.write),
        ]
        return m

    def _fetch(self, m: Module, phase: Value, beat: Value) -> SimpleNamespace:
        """Take commands, and read the statistics of their rows one after the other."""
        command = self.engine.command
        remaining = Signal(range(self.config.row_slots + 1))
        operation = Signal(RowOperation)
        n = Signal(LENGTH_WIDTH)
        eps = Signal.like(command.p.eps_mantissa)
        eps_shift = Signal(range(40))
        source = Signal.like(self.rows.read_slot)
        slot = Signal.like(self.rows.write_slot)
        begin = Signal()
        valid = Signal(name="fetch_valid")
        last = Signal(name="fetch_last")

        pending = remaining.any()
        m.d.comb += begin.eq((phase == FETCH_PHASE) & pending & ~self.engine.halt)
        # A row takes the operands with it on the beat; until then, they must stay.
        m.d.comb += command.ready.eq(~pending & ~valid & ~self.engine.halt)
        with m.If(command.valid & command.ready):
            is_reciprocal = command.p.operation == RowOperation.RECIPROCAL
            m.d.sync += [
                remaining.eq(command.p.rows),
                operation.eq(command.p.operation),
                n.eq(Mux(is_reciprocal, 1, command.p.n)),
                eps.eq(Mux(is_reciprocal, 0, command.p.eps_mantissa)),
                eps_shift.eq(command.p.eps_shift),
                source.eq(command.p.source),
                slot.eq(command.p.destination - 1),
            ]
        with m.If(begin):
            m.d.sync += [
                remaining.eq(remaining - 1),
                source.eq(source + 1),
                slot.eq(slot + 1),
                last.eq(remaining == 1),
                self.rows.read_slot.eq(source),
                valid.eq(1),
            ]
        with m.Elif(beat):
            m.d.sync += valid.eq(0)
        m.d.sync += self.rows.read.eq(begin)

        statistics = self.rows.statistics
        is_reciprocal = operation == RowOperation.RECIPROCAL
        return SimpleNamespace(
            begin=begin,
            pending=pending,
            valid=valid,
            total=Mux(operation == RowOperation.LAYER_NORM, statistics.total, 0),
            squares=Mux(is_reciprocal, statistics.total.as_unsigned(), statistics.squares),
            n=n,
            eps=eps,
            eps_shift=eps_shift,
            reciprocal=is_reciprocal,
            slot=slot,
            last=last,
        )

    def _quotient(
        self, m: Module, phase: Value, beat: Value, root: SimpleNamespace
    ) -> SimpleNamespace:
        """Divide, and write the record.

        The divisor lies in [2**27, 2**28), so the quotient lies in (2**15, 2**16]: 17 bits. A
        divisor without its highest bit is 0.
        """
        width = TOTAL_SUM_WIDTH
        s = _stage("quotient", slot=root.slot, last=1, off=root.off, exp=signed(EXP_WIDTH))
        divisor = Signal(width, reset_less=True)
        remainder = Signal(width + 1, reset_less=True)
        quotient = Signal(MANT_WIDTH + 1, reset_less=True)
        difference = Signal(signed(width + 2))
        m.d.comb += difference.eq(remainder - divisor)
        fits = ~difference[-1]

        rows = self.rows
        write = s.valid & (phase == WRITE_PHASE)
        with m.If(s.valid & (phase < WRITE_PHASE)):
            m.d.sync += [
                remainder.eq(Cat(0, Mux(fits, difference[:width], remainder[:width]))),
                quotient.eq(Cat(fits, quotient)),
            ]
        with m.If(write):
            overflow = quotient[-1]
            zero = ~divisor[-1]
            m.d.sync += [
                s.valid.eq(0),
                rows.write_slot.eq(s.slot),
                rows.record.off.eq(s.off),
                rows.record.mant.eq(Mux(zero, 0, Cat(quotient[:-2], quotient[-2] | overflow))),
                rows.record.exp.eq(Mux(zero, 0, s.exp + overflow)),
            ]
        with m.If(beat):
            m.d.sync += s.valid.eq(root.valid)
            with m.If(root.valid):
                m.d.sync += [
                    s.slot.eq(root.slot),
                    s.last.eq(root.last),
                    s.off.eq(root.off),
                    s.exp.eq(root.exp),
                    divisor.eq(root.divisor),
                    remainder.eq(1 << width - 1),
                    quotient.eq(0),
                ]
        m.d.sync += rows.write.eq(write & ~self.engine.halt)
        m.d.sync += self.engine.retire.eq(rows.write & s.last)
        return s


def _products(m: Module, phase: Value, beat: Value, row: SimpleNamespace) -> SimpleNamespace:
    """Compute the operand of the root, and the mean.

    A product takes a bit of one factor in each cycle, lowest first: the other factor is added to
    the upper half, and everything moves right by one, the spent bit out of the lower half.

    The mean, floor((512 * total + n) / 2n), is floor((256 * total + n // 2) / n), since floors
    nest. Its dividend grows by 2**23 * n, so that it is not negative, and the quotient by 2**23.
    """
    s = _stage("products", slot=row.slot, last=1, reciprocal=1)
    n = Signal(LENGTH_WIDTH, reset_less=True)
    squares = Signal(SQUARES_WIDTH, reset_less=True)
    product = Signal(STATISTIC_WIDTH, reset_less=True)
    total = Signal(signed(TOTAL_SUM_WIDTH), reset_less=True)
    square = Signal(2 * TOTAL_SUM_WIDTH, reset_less=True)
    eps = Signal(STATISTIC_WIDTH, reset_less=True)
    eps_shift = Signal.like(row.eps_shift, name="eps_count", reset_less=True)
    mean = Signal(ROW_OFF_WIDTH + LENGTH_WIDTH - 1, reset_less=True)

    magnitude = Mux(total[-1], -total, total)[:TOTAL_SUM_WIDTH]
    with m.If(s.valid):
        with m.If(phase == 0):
            half = Cat(n[1:], Const(0, ROW_OFF_WIDTH - LENGTH_WIDTH), n)
            m.d.sync += [
                # Its lowest value, -2**27, is a magnitude of as many bits.
                total.eq(magnitude),
                square.eq(magnitude),
                mean.eq(Cat(Const(0, 8), total).as_signed() + half),
            ]
        with m.Elif(phase <= TOTAL_SUM_WIDTH):
            m.d.sync += square.eq(_multiply(square, total.as_unsigned()))
        with m.If((phase >= 1) & (phase <= LENGTH_WIDTH)):
            m.d.sync += product.eq(_multiply(product, squares))
        with m.If(phase == TOTAL_SUM_WIDTH):
            m.d.sync += product.eq(product + eps)
        with m.If(phase == TOTAL_SUM_WIDTH + 1):
            m.d.sync += product.eq(product - square)
        with m.If(eps_shift[1:].any()):
            m.d.sync += [eps.eq(eps.shift_left(2)), eps_shift.eq(eps_shift - 2)]
        with m.Elif(eps_shift[0]):
            m.d.sync += [eps.eq(eps.shift_left(1)), eps_shift.eq(0)]
        with m.If((phase >= 1) & (phase <= ROW_OFF_WIDTH)):
            rest = mean[ROW_OFF_WIDTH - 1 :]
            difference = rest - n
            fits = ~difference[-1]
            m.d.sync += mean.eq(
                Cat(
                    fits,
                    mean[: ROW_OFF_WIDTH - 1],
                    Mux(fits, difference, rest)[: LENGTH_WIDTH - 1],
                )
            )
    with m.If(beat):
        m.d.sync += s.valid.eq(row.valid)
        with m.If(row.valid):
            m.d.sync += [
                s.slot.eq(row.slot),
                s.last.eq(row.last),
                s.reciprocal.eq(row.reciprocal),
                n.eq(row.n),
                product.eq(row.n),
                squares.eq(row.squares),
                total.eq(row.total),
                eps.eq(row.eps),
                eps_shift.eq(row.eps_shift),
            ]
    # Less the 2**23 of above.
    s.off = Cat(mean[: ROW_OFF_WIDTH - 1], ~mean[ROW_OFF_WIDTH - 1]).as_signed()
    s.value = product
    return s


def _root(m: Module, phase: Value, beat: Value, products: SimpleNamespace) -> SimpleNamespace:
    """Normalise by pairs of bits, and take the square root of the 32 highest, a bit per pair."""
    s = _stage("root", slot=products.slot, last=1, reciprocal=1, off=products.off)
    value = Signal(STATISTIC_WIDTH, reset_less=True)
    pairs = Signal(6, reset_less=True)
    root = Signal(MANT_WIDTH, reset_less=True)
    remainder = Signal(MANT_WIDTH, reset_less=True)

    # Before the last step, root has 15 bits, and the remainder is at most twice the root.
    rest = Cat(value[-2:], remainder)
    difference = rest - Cat(C(1, 2), root[:-1])
    fits = ~difference[-1]
    with m.If(s.valid):
        with m.If(phase < NORMALISE_STEPS):
            with m.If(~value[-8:].any()):
                m.d.sync += [value.eq(value.shift_left(8)), pairs.eq(pairs + 4)]
            with m.Elif(~value[-2:].any()):
                m.d.sync += [value.eq(value.shift_left(2)), pairs.eq(pairs + 1)]
        with m.Elif((phase < NORMALISE_STEPS + MANT_WIDTH) & ~s.reciprocal):
            m.d.sync += [
                value.eq(value.shift_left(2)),
                root.eq(Cat(fits, root)),
                remainder.eq(Mux(fits, difference, rest)),
            ]
    with m.If(beat):
        m.d.sync += s.valid.eq(products.valid)
        with m.If(products.valid):
            m.d.sync += [
                s.slot.eq(products.slot),
                s.last.eq(products.last),
                s.reciprocal.eq(products.reciprocal),
                s.off.eq(products.off),
                value.eq(products.value),
                pairs.eq(0),
                root.eq(0),
                remainder.eq(0),
            ]
    # A reciprocal's operand has 28 bits at most, so they are the highest of the value, or the
    # next ones where a single bit is left to shift by.
    width = TOTAL_SUM_WIDTH
    short = ~value[-1]
    s.divisor = Mux(
        s.reciprocal,
        Mux(short, value[-width - 1 : -1], value[-width:]),
        root.shift_left(width - MANT_WIDTH),
    )
    s.exp = Mux(
        s.reciprocal,
        Cat(short, pairs) - STATISTIC_WIDTH,
        pairs - STATISTIC_WIDTH // 2,
    )
    return s


def _multiply(product: Value, factor: Value) -> Value:
    """Add `factor` to the upper part of a product if its lowest bit is set, and move right."""
    upper = product[len(product) - len(factor) :]
    lower = product[1 : len(product) - len(factor)]
    return Cat(lower, upper + Mux(product[0], factor, 0))


def _stage(name: str, **members: Value | Shape | int) -> SimpleNamespace:
    """Make what goes with a row: registers of the shape given or like the value given."""
    registers = {
        key: Signal(
            member.shape() if isinstance(member, Value) else member,
            name=f"{name}_{key}",
            reset_less=True,
        )
        for key, member in members.items()
    }
    return SimpleNamespace(valid=Signal(name=f"{name}_valid"), **registers)
