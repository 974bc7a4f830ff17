"""The C affine lanes side by side, with one chain of valid bits between them."""

from types import SimpleNamespace

from amaranth.hdl import Const, Module, Signal, Value, ValueLike, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.numerics import ACC_WIDTH, WORD_WIDTH, Format, Source
from systolith_rtl.interfaces import ROW_LAYOUT
from systolith_rtl.multiplier import Multiplier
from systolith_rtl.pipeline import unless_idle
from systolith_rtl.vector.affine import COLUMN_LAYOUT, AffineConfig, Loan, affine_stages

SQUARE_WIDTH = 2 * WORD_WIDTH - 1
"""Bits of the unsigned square of a word: at most 2**30."""


class Lanes(wiring.Component):
    """Computes `numerics.affine` of C elements a cycle, `LATENCY` cycles later.

    Nothing is ever refused, and what is the same for a whole instruction (source, format) comes
    from registers that stay as they are while elements are on their way. A stage that has nothing
    valid before it may hold its registers (`unless_idle`).

    Members:
        valid: `In(LATENCY)`, bit k is high if stage k has elements before it; bit 0 belongs to
            the operands, and each bit follows the one below it a cycle later.
        x: `In`, C accumulators or elements.
        r: `In`, C second operands.
        column: `In`, C records.
        row: `In`, the row's record.
        source: `In(Source)`; steady from a cycle before the first operands on.
        out_format: `In(Format)`.
        value: `Out`, C results.
        lend: `In(1)`, the auxiliary multipliers square words for somebody else.
        square_valid: `In(1)`, there are words.
        word: `In`, C words.
        square: `Out`, their squares two cycles later; undefined if `lend` is low.
    """

    LATENCY = AffineConfig().latency

    valid: Signal
    x: data.View
    r: data.View
    column: data.View
    row: data.View
    source: Signal
    out_format: Signal
    value: data.View
    lend: Signal
    square_valid: Signal
    word: data.View
    square: data.View

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        lanes = config.columns
        super().__init__(
            {
                "valid": In(self.LATENCY),
                "x": In(data.ArrayLayout(signed(ACC_WIDTH), lanes)),
                "r": In(data.ArrayLayout(signed(WORD_WIDTH), lanes)),
                "column": In(data.ArrayLayout(COLUMN_LAYOUT, lanes)),
                "row": In(ROW_LAYOUT),
                "source": In(Source),
                "out_format": In(Format),
                "value": Out(data.ArrayLayout(signed(WORD_WIDTH), lanes)),
                "lend": In(1),
                "square_valid": In(1),
                "word": In(data.ArrayLayout(signed(WORD_WIDTH), lanes)),
                "square": Out(data.ArrayLayout(unsigned(SQUARE_WIDTH), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the lanes."""
        m = Module()
        # The multipliers' two registers share an enable, so a word keeps it up for two cycles.
        second = Signal()
        m.d.sync += second.eq(self.square_valid)
        squaring = self.square_valid | second
        valid = unless_idle(platform, self.valid)
        is_product, is_scratchpad = Signal(), Signal()
        m.d.sync += is_product.eq(self.source == Source.PRODUCT)
        m.d.sync += is_scratchpad.eq(self.source == Source.SCRATCHPAD)
        for lane in range(self.config.columns):
            operands = SimpleNamespace(
                x=self.x[lane],
                r=self.r[lane],
                column=self.column[lane],
                row=self.row,
                is_product=is_product,
                is_scratchpad=is_scratchpad,
                out_format=self.out_format,
            )
            pipe = LaneStages(m, f"lane{lane}", valid, {"aux": squaring})
            loan = Loan(active=self.lend, word=self.word[lane])
            result = affine_stages(pipe, operands, auxiliary=True, loan=loan)
            assert pipe.depth == self.LATENCY
            m.d.comb += self.value[lane].eq(result.value)
            m.d.comb += self.square[lane].eq(result.aux[:SQUARE_WIDTH])
        return m


class LaneStages:
    """The stages of one lane, enabled by valid bits that all lanes share.

    Args:
        m: where to build.
        prefix: of the registers' names.
        valid: bit k enables stage k.
        also: what else enables a multiplier, by its name.
    """

    def __init__(self, m: Module, prefix: str, valid: Value, also: dict[str, Value]) -> None:
        self.depth = 0
        self._m = m
        self._prefix = prefix
        self._valid = valid
        self._also = also

    def stage(self, name: str, **values: ValueLike) -> SimpleNamespace:
        """Register `values` if they are valid; see `Pipeline.stage`."""
        registers = {}
        with self._m.If(self._valid[self.depth]):
            for key, value in values.items():
                shape = Value.cast(value).shape()
                name_of_it = f"{self._prefix}_{name}_{key}"
                registers[key] = Signal(shape, name=name_of_it, reset_less=True)
                self._m.d.sync += registers[key].eq(value)
        self.depth += 1
        return SimpleNamespace(**registers)

    def multiply(self, name: str, a: Value, b: Value) -> Signal:
        """Multiply beside the next two stages; see `Pipeline.multiply`."""
        a_width, b_width = (
            len(value) if value.shape().signed else len(value) + 1 for value in (a, b)
        )
        multiplier = Multiplier(a_width, b_width)
        self._m.submodules[f"{self._prefix}_{name}"] = multiplier
        # One enable for both registers: the early or late update of the other does no harm,
        # since the product is read in the cycle after its own valid bit.
        stages = self._valid[self.depth : self.depth + Multiplier.LATENCY]
        self._m.d.comb += [
            multiplier.a.eq(a),
            multiplier.b.eq(b),
            multiplier.enable.eq(stages.any() | self._also.get(name, Const(0))),
        ]
        return multiplier.product
