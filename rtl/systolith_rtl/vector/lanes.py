"""The C affine lanes side by side, with one chain of valid bits between them."""

from collections.abc import Iterable
from types import SimpleNamespace

from amaranth.hdl import Const, Module, Signal, Value, ValueLike, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.numerics import ACC_WIDTH, FRACTION, WORD_WIDTH, Format
from systolith_rtl.interfaces import ROW_LAYOUT
from systolith_rtl.multiplier import Multiplier
from systolith_rtl.pipeline import unless_idle
from systolith_rtl.vector.affine import COLUMN_LAYOUT, AffineConfig, Loan, affine_stages

SQUARE_WIDTH = 2 * WORD_WIDTH - 1
"""Bits of the unsigned square of a word: at most 2**30."""


FEW_LANES = 4
"""With more, their multipliers are far from the words that they square."""


def square_latency(config: CoreConfig) -> int:
    """Cycles from words to their squares, which have a register on a long way."""
    return Multiplier.LATENCY + (config.columns > FEW_LANES)


class Lanes(wiring.Component):
    """Computes `numerics.affine` of C elements a cycle, `LATENCY` cycles later.

    Nothing is ever refused, and what is the same for a whole instruction stays as it is while
    elements are on their way; each lane has its own copy. A stage that has nothing valid before it
    may hold its registers (`unless_idle`).

    Members:
        valid: `In(LATENCY)`, bit k is high if stage k has elements before it; bit 0 belongs to
            the operands, and each bit follows the one below it a cycle later.
        x: `In`, C accumulators, or elements shifted by `FRACTION`.
        factor: `In`, C second operands of a product.
        residual: `In`, C residuals.
        column: `In`, C records.
        row: `In`, for each lane the row's record, with an offset of 0 for accumulators.
        product: `In(1)`, each element is multiplied with its factor; steady from a cycle before the
            first operands on, as are `out_format` and `lend`.
        out_format: `In(Format)`.
        value: `Out`, C results.
        lend: `In(1)`, the auxiliary multipliers square words for somebody else.
        square_valid: `In(1)`, there are words.
        word: `In`, C words.
        square: `Out`, their squares `square_latency` cycles later; undefined if `lend` is low.
    """

    LATENCY = AffineConfig().latency

    valid: Signal
    x: data.View
    factor: data.View
    residual: data.View
    column: data.View
    row: data.View
    product: Signal
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
                "factor": In(data.ArrayLayout(signed(WORD_WIDTH), lanes)),
                "residual": In(data.ArrayLayout(signed(WORD_WIDTH), lanes)),
                "column": In(data.ArrayLayout(COLUMN_LAYOUT, lanes)),
                "row": In(data.ArrayLayout(ROW_LAYOUT, lanes)),
                "product": In(1),
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
        squared, square_valid = self.word, self.square_valid
        if square_latency(self.config) > Multiplier.LATENCY:
            squared = Signal.like(self.word, name="squared", reset_less=True)
            square_valid = Signal(name="squared_valid")
            m.d.sync += [squared.eq(self.word), square_valid.eq(self.square_valid)]
        second = Signal()
        m.d.sync += second.eq(square_valid)
        squaring = square_valid | second
        valid = unless_idle(platform, self.valid)
        for lane in range(self.config.columns):
            steady = {}
            for name in ("product", "lend", "out_format"):
                source = Value.cast(getattr(self, name))
                # Else Yosys makes one register of all lanes'.
                copy = Signal(
                    source.shape(), name=f"lane{lane}_{name}", reset_less=True, attrs={"keep": 1}
                )
                m.d.sync += copy.eq(source)
                steady[name] = copy
            element = self.x[lane][FRACTION : FRACTION + WORD_WIDTH].as_signed()
            operands = SimpleNamespace(
                x=self.x[lane],
                factors=(element, self.factor[lane]),
                residual=self.residual[lane],
                column=self.column[lane],
                row=self.row[lane],
                is_product=steady["product"],
                out_format=steady["out_format"],
            )
            pipe = LaneStages(m, f"lane{lane}", valid, {"aux": squaring}, steady.values())
            loan = Loan(active=steady["lend"], word=squared[lane])
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
        steady: signals that stay as they are, and need no registers.
    """

    def __init__(
        self,
        m: Module,
        prefix: str,
        valid: Value,
        also: dict[str, Value],
        steady: Iterable[Signal],
    ) -> None:
        self.depth = 0
        self._m = m
        self._prefix = prefix
        self._valid = valid
        self._also = also
        self._steady = {id(signal) for signal in steady}

    def stage(self, name: str, **values: ValueLike) -> SimpleNamespace:
        """Register `values` if they are valid; see `Pipeline.stage`."""
        registers = {}
        with self._m.If(self._valid[self.depth]):
            for key, value in values.items():
                if id(value) in self._steady:
                    registers[key] = value
                    continue
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
