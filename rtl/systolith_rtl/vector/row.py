"""ROW engine: statistics of rows in, row records out, exact to the last bit.

`numerics.layer_norm_row`, `rms_norm_row` and `recip` are the definition. Nothing here multiplies
or looks up: products, roots and quotients come one bit at a time, which costs some hundred LUTs
and is as fast as rows are needed.
"""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from systolith.config import CoreConfig
from systolith.isa import Opcode, RowOperation
from systolith.numerics import (
    EXP_WIDTH,
    MANT_WIDTH,
    SQUARES_WIDTH,
    STATISTIC_WIDTH,
    TOTAL_SUM_WIDTH,
)
from systolith_rtl.interfaces import ROW_READ_LATENCY, EngineSignature, RowFileSignature
from systolith_rtl.pipeline import unless_idle
from systolith_rtl.reset import without_reset
from systolith_rtl.vector.beat import Beat
from systolith_rtl.vector.row_products import LENGTH_WIDTH, products

PERIOD = TOTAL_SUM_WIDTH + 2
"""Cycles of a beat, for which each stage has a row: the total's square, and two more."""

BEGIN_PHASE = PERIOD - 3 - ROW_READ_LATENCY
"""Cycle of a beat in which a row begins: its statistics are registered just before the next."""

NORMALISE_STEPS = 9
"""The longest shift is 54: six times 8 and three times 2."""

QUOTIENT_WIDTH = MANT_WIDTH + 1
"""Bits of the quotient, which is at most `2**MANT_WIDTH`."""


class RowEngine(wiring.Component):
    """Make row records of row statistics: a row every `PERIOD` cycles, in three stages.

    ::

        products: n * squares + eps - total**2, and the mean by long division
        root:     normalise, then the square root, unless for a reciprocal
        quotient: 2**43 // divisor, normalised to 28 bits

    All stages start their rows together, on a beat of `PERIOD` cycles. An RMS norm is a layer
    norm of total 0, and a reciprocal takes the total for the squares of one element. An idle
    engine writes the first record `FIRST_LATENCY` cycles after it has taken a command, and the
    others follow, `PERIOD` cycles apart; so do those of a next command that is there in time.
    `retire` comes a cycle after the last write. What `numerics` refuses, and a total that no n
    words can have, give an undefined record.

    Members:
        engine: `Out(EngineSignature(Opcode.ROW))`. It never faults and never stalls.
        rows: `Out(RowFileSignature(config))`.
    """

    FIRST_LATENCY = (PERIOD - BEGIN_PHASE) + 2 * PERIOD + QUOTIENT_WIDTH + 2

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
        beat = Beat(m, period=PERIOD, wait_at=BEGIN_PHASE)
        row = self._fetch(m, platform, beat)
        product = products(m, beat, row)
        root = _root(m, beat, product)
        quotient = self._quotient(m, beat, root)

        engine = self.engine
        working = product.valid | root.valid | quotient.valid
        m.d.comb += [
            beat.waiting.eq(~row.pending & ~working),
            engine.busy.eq(row.pending | row.valid | working | self.rows.write | engine.retire),
            engine.idle.eq(engine.halt & ~self.rows.read & ~self.rows.write),
        ]
        return m

    def _fetch(self, m: Module, platform: object, beat: Beat) -> SimpleNamespace:
        """Take commands, and read the statistics of their rows one after the other."""
        command = self.engine.command
        rows = self.rows
        remaining = Signal(range(self.config.row_slots + 1))
        operation = Signal(RowOperation, reset_less=True)
        n = Signal(LENGTH_WIDTH, reset_less=True)
        eps = Signal.like(command.p.eps_mantissa, reset_less=True)
        eps_shift = Signal(range(40), reset_less=True)
        source = Signal.like(rows.read_slot, reset_less=True)
        slot = Signal.like(rows.write_slot, reset_less=True)
        next_slot = Signal.like(slot, reset_less=True)
        last = Signal(reset_less=True)
        without_reset(rows.read_slot, rows.write_slot, rows.record)
        valid = Signal(name="fetch_valid")
        total = Signal(signed(TOTAL_SUM_WIDTH), reset_less=True)
        squares = Signal(SQUARES_WIDTH, reset_less=True)

        pending = Signal()
        only_one = Signal(reset_less=True)  # That `remaining` is 1.
        # The row takes the operands with it on the beat; until then, they must stay. Dispatch has
        # more to do with `ready`, so it is made of a register of its own: else a gate over there,
        # which has the way back in it, decides here, too.
        vacant, open_, is_ready = (
            Signal(name=name, init=1, attrs={"keep": 1}) for name in ("vacant", "open", "is_ready")
        )
        taken = command.valid & open_ & ~self.engine.halt & command.p.rows.any()
        m.d.comb += command.ready.eq(is_ready & ~self.engine.halt)
        stays = Mux(open_, ~taken, beat.last & ~pending)
        m.d.sync += [copy.eq(stays) for copy in (vacant, open_, is_ready)]
        m.d.sync += pending.eq(taken | (pending & ~(beat.begins & only_one)))
        # Whether there is a command is known late, and this goes to all operands.
        with m.If(vacant):
            is_reciprocal = command.p.operation == RowOperation.RECIPROCAL
            m.d.sync += [
                only_one.eq(command.p.rows == 1),
                operation.eq(command.p.operation),
                n.eq(Mux(is_reciprocal, 1, command.p.n)),
                eps.eq(Mux(is_reciprocal, 0, command.p.eps_mantissa)),
                eps_shift.eq(command.p.eps_shift),
            ]
        # The next row begins a beat later.
        with m.Else():
            m.d.sync += only_one.eq(remaining == 1)
        # When rows begin, whether one does matters to `valid` alone: until the next beat nobody
        # looks at what goes with it, and counters are loaded before the next command's first row.
        with m.If(vacant | beat.begins):
            m.d.sync += [
                remaining.eq(Mux(vacant, command.p.rows, remaining - 1)),
                source.eq(Mux(vacant, command.p.source, source + 1)),
                next_slot.eq(Mux(vacant, command.p.destination, next_slot + 1)),
            ]
        with m.If(beat.begins):
            m.d.sync += [rows.read_slot.eq(source), slot.eq(next_slot), last.eq(only_one)]
            m.d.sync += valid.eq(pending)
        with m.Elif(beat.last):
            m.d.sync += valid.eq(0)
        # Behind a halt there is a reset, so nothing else need stop.
        m.d.sync += rows.read.eq(beat.begins & pending & ~self.engine.halt)

        statistics = rows.statistics
        is_reciprocal = operation == RowOperation.RECIPROCAL
        with m.If(unless_idle(platform, valid)):
            m.d.sync += [
                total.eq(Mux(operation == RowOperation.LAYER_NORM, statistics.total, 0)),
                squares.eq(Mux(is_reciprocal, statistics.total.as_unsigned(), statistics.squares)),
            ]
        return SimpleNamespace(
            pending=pending,
            valid=valid,
            slot=slot,
            last=last,
            reciprocal=is_reciprocal,
            n=n,
            eps=Mux(eps_shift[0], eps.shift_left(1), eps),
            eps_pairs=eps_shift[1:],
            total=total,
            squares=squares,
        )

    def _quotient(self, m: Module, beat: Beat, root: SimpleNamespace) -> SimpleNamespace:
        """Divide, a bit per cycle, and write the record.

        The divisor is from [2**27, 2**28), so the quotient is from (2**15, 2**16]. A divisor
        without its highest bit is 0.
        """
        s = beat.stage("quotient", root, slot=root.slot, last=root.last, off=root.off, exp=root.exp)
        width = len(root.divisor)
        divisor = beat.load(s, root.divisor, name="divisor")
        remainder = beat.load(s, Const(1 << width - 1, width + 1), name="quotient_remainder")
        quotient = beat.load(s, Const(0, QUOTIENT_WIDTH), name="quotient")

        difference = Signal(signed(width + 2))
        m.d.comb += difference.eq(remainder - divisor)
        fits = ~difference[-1]
        with m.If(beat.window("divide", root, 0, QUOTIENT_WIDTH)):
            m.d.sync += [
                remainder.eq(Cat(0, Mux(fits, difference[:width], remainder[:width]))),
                quotient.eq(Cat(fits, quotient)),
            ]

        rows = self.rows
        write = beat.window("write", s, QUOTIENT_WIDTH, QUOTIENT_WIDTH + 1)
        # One mantissa, 2**16, has a bit too many.
        overflow = quotient[-1]
        nonzero = divisor[-1]
        with m.If(write):
            m.d.sync += [
                s.valid.eq(0),
                rows.write_slot.eq(s.slot),
                rows.record.off.eq(s.off),
                rows.record.mant.eq(Mux(nonzero, Cat(quotient[:-2], 1), 0)),
                rows.record.exp.eq(Mux(nonzero, s.exp + overflow, 0)),
            ]
        m.d.sync += rows.write.eq(write & ~self.engine.halt)
        m.d.sync += self.engine.retire.eq(rows.write & s.last)
        return s


def _root(m: Module, beat: Beat, before: SimpleNamespace) -> SimpleNamespace:
    """Normalise by pairs of bits, and take the square root of the 32 highest, a bit per pair."""
    s = beat.stage(
        "root",
        before,
        slot=before.slot,
        last=before.last,
        off=before.off,
        reciprocal=before.reciprocal,
    )
    value = Signal(STATISTIC_WIDTH, reset_less=True)
    by_byte = value.shift_left(8)[:STATISTIC_WIDTH]
    by_pair = value.shift_left(2)[:STATISTIC_WIDTH]
    stop = NORMALISE_STEPS + MANT_WIDTH
    extract = beat.window("extract", s, NORMALISE_STEPS, stop, unless=s.reciprocal)
    soon = beat.window("extract_soon", s, NORMALISE_STEPS - 1, stop - 1, unless=s.reciprocal)
    # What moves all bits is known a cycle ahead. `NORMALISE_STEPS` suffice; of a value of 0, which
    # takes more, nothing counts.
    no_byte, shifts_byte = (Signal(name=name, attrs={"keep": 1}) for name in ("no_byte", "shifts"))
    no_pair, moves = Signal(), Signal()
    byte, pair = (
        Mux(
            s.loading,
            ~before.value[-bits:].any(),
            Mux(no_byte, ~by_byte[-bits:].any(), no_pair & ~by_pair[-bits:].any()),
        )
        for bits in (8, 2)
    )
    m.d.sync += [no_byte.eq(byte), shifts_byte.eq(byte), no_pair.eq(pair), moves.eq(pair | soon)]
    with m.If(s.loading | shifts_byte | moves):
        m.d.sync += value.eq(Mux(s.loading, before.value, Mux(shifts_byte, by_byte, by_pair)))
    pairs = Signal(6, reset_less=True)
    with m.If(s.loading):
        m.d.sync += pairs.eq(0)
    with m.Elif(no_byte | no_pair):
        m.d.sync += pairs.eq(pairs + Mux(no_byte, 4, 1))

    # Before the last step, the root has 15 bits, and the remainder is at most twice the root.
    root = beat.load(s, Const(0, MANT_WIDTH), name="root")
    remainder = beat.load(s, Const(0, MANT_WIDTH), name="root_remainder")
    rest = Cat(value[-2:], remainder)
    difference = rest - Cat(Const(1, 2), root[:-1])
    fits = ~difference[-1]
    with m.If(extract):
        m.d.sync += [
            root.eq(Cat(fits, root)),
            remainder.eq(Mux(fits, difference, rest)),
        ]

    # A reciprocal's operand has 28 bits at most. They are the highest of the value, or the next
    # ones if there is a single bit left to shift by.
    width = TOTAL_SUM_WIDTH
    short = ~value[-1]
    operand = Mux(short, value[-width - 1 : -1], value[-width:])
    s.divisor = Mux(s.reciprocal, operand, Cat(Const(0, width - MANT_WIDTH), root))
    exp = Mux(s.reciprocal, Cat(short, pairs), pairs) - Mux(
        s.reciprocal, STATISTIC_WIDTH, STATISTIC_WIDTH // 2
    )
    s.exp = exp[:EXP_WIDTH].as_signed()
    return s
