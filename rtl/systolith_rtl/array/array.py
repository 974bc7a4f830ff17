"""The systolic array: R x C processing elements, weights at rest, activations passing by."""

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.array.pe import (
    ACTIVATION_WIDTH,
    WEIGHT_WIDTH,
    Pe,
    bus_weight,
    int4_partial_width,
    partial_width,
)
from systolith_rtl.pipeline import register, unless_idle

SHARING = 6
"""Columns whose PEs are told by the same registers what to do. A row of ECP5's multipliers holds
three or six of them (`floorplan.py`), and four multipliers side by side have four enables."""


class SystolicArray(wiring.Component):
    """Multiply rows of R activations with a stationary R x C tile of weights.

    The sum of column c for the row that came in cycle t stands on `sums[c]` in cycle
    `t + latency + c`, for one cycle, with `latency = R + 4`: one cycle to enter, one per row, and
    what a PE takes beyond one. Array row r works r cycles later than row 0; the delays are in
    here. But without INT4, rows 0 and 1 work at the same time, row 1 adds the product of row 0, and
    the cycle that this saves is for a register between the array and whoever is far from it.

    Weights come column by column: `weights` holds the R bytes of the column whose bit of `capture`
    is set, and they pass along their rows, one PE a cycle. Every PE keeps its byte in a shadow
    register until the row with `swap`, which is the first to be multiplied with the new tile.
    A tile that is used from cycle t on must have been sent by cycle t - 1, and the next one may be
    sent from t on: loading follows the swap through the array, and costs no time.

    With `config.int4`, a byte may be two INT4 weights, `int4_weights`, and then the rows that are
    multiplied with it, `int4`, have two sums for each column: `sums` of the low weights, `high` of
    the high ones, both at the same time. Tiles of either kind follow each other as any do.

    Members:
        row: `In(8 * R)`, activations, row 0 in the lowest byte.
        is_signed: `In(1)`, they are s8, else u8.
        valid: `In(1)`, there is a row in this cycle.
        swap: `In(1)`, with `valid`: it is the first one of a tile.
        weights: `In(8 * R)`.
        capture: `In(C)`, one bit set if `weights` has a column.
        sums: `Out(ArrayLayout(signed(partial_width(R)), C))`.
        int4: `In(1)`, with `valid`; only with `config.int4`, like the following.
        int4_weights: `In(1)`, with `capture`.
        high: `Out(ArrayLayout(signed(int4_partial_width(R)), C))`; undefined for INT8.
    """

    row: Signal
    is_signed: Signal
    valid: Signal
    swap: Signal
    weights: Signal
    capture: Signal
    sums: data.View
    int4: Signal
    int4_weights: Signal
    high: data.View

    def __init__(self, config: CoreConfig) -> None:
        self.rows = config.rows
        self.columns = config.columns
        self.latency = config.rows + Pe.LATENCY
        self.with_int4 = config.int4
        # So many rows begin at the same time.
        self.together = 1 if config.int4 else 2
        assert config.rows >= self.together
        high = data.ArrayLayout(signed(int4_partial_width(config.rows)), config.columns)
        extra = {"int4": In(1), "int4_weights": In(1), "high": Out(high)}
        super().__init__(
            {
                "row": In(8 * config.rows),
                "is_signed": In(1),
                "valid": In(1),
                "swap": In(1),
                "weights": In(8 * config.rows),
                "capture": In(config.columns),
                "sums": Out(data.ArrayLayout(signed(partial_width(config.rows)), config.columns)),
                **(extra if config.int4 else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Delay by rows, pass along rows, add down columns."""
        m = Module()
        rows, columns = self.rows, self.columns

        extended = Cat(
            Cat(byte, byte[-1] & self.is_signed)
            for byte in (self.row.word_select(r, 8) for r in range(rows))
        )
        together = self.together
        activations = _skew(m, "activation", extended, ACTIVATION_WIDTH, together=together)
        weights = _skew(m, "weight", self.weights, WEIGHT_WIDTH, together=together)
        int4_valid = list[Value]()
        if self.with_int4:
            packed = Signal(rows)
            m.d.sync += packed.eq(Cat(self.int4_weights, packed))
            int4_valid = self._diagonals(m, "int4_valid", self.valid & self.int4, stages=Pe.LATENCY)
            weights = [bus_weight(byte, packed[r]) for r, byte in enumerate(weights)]
        # The PEs of a diagonal work in step: bit r + c is for a row r cycles late and column c.
        valid = Signal(rows + columns + Pe.LATENCY - 2)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        swap = self._diagonals(m, "swap", self.swap, stages=1)

        # Tags reach column c with the bytes that row 0 passes along, then go down with the rows.
        tags = Cat(_skew(m, "tag", self.capture, 1, together=1, reset_less=False))
        partials: list[Value] = [Const(0)] * columns
        highs: list[Value] = [Const(0)] * columns
        for r in range(rows):
            # What PE c takes in this cycle, PE c + 1 takes in the next one.
            line = _along(m, f"activations{r}", activations[r], columns)
            bus = _along(m, f"weights{r}", weights[r], columns)
            late = max(r + 1 - together, 0)
            if late:
                below = Signal(columns, name=f"tags{r}")
                m.d.sync += below.eq(tags)
                tags = below
            for c in range(columns):
                m.submodules[f"pe{r}_{c}"] = pe = Pe(
                    rows=r + 1, int4=self.with_int4, adds=self.with_int4 or r > 0
                )
                m.d.comb += [
                    pe.a.eq(line[c]),
                    pe.valid.eq(valid[late + c :][: Pe.LATENCY]),
                    pe.swap.eq(swap[c][late]),
                    pe.weight.eq(bus[c]),
                    pe.capture.eq(tags[c]),
                    pe.partial_i.eq(partials[c]),
                ]
                partials[c] = pe.partial_o
                if self.with_int4:
                    m.d.comb += [
                        pe.int4_valid.eq(int4_valid[c][r:][: Pe.LATENCY]),
                        pe.high_i.eq(highs[c]),
                    ]
                    highs[c] = pe.high_o
        if self.with_int4:
            m.d.comb += [self.high[c].eq(highs[c]) for c in range(columns)]
        else:
            comes = unless_idle(platform, valid[rows + Pe.LATENCY - 2 :])
            partials = [
                register(m, f"sum{c}", partial, comes[c]) for c, partial in enumerate(partials)
            ]
        m.d.comb += [self.sums[c].eq(partials[c]) for c in range(columns)]
        return m

    def _diagonals(self, m: Module, name: str, bit: Value, *, stages: int) -> list[Value]:
        """Return a bit as each column sees it, its row 0 first: bit i is i + 1 cycles late there.

        `SHARING` columns have registers in common, since a diagonal is as long as the chip is wide.
        """
        columns = range(self.columns)
        views = list[Value]()
        for first in columns[::SHARING]:
            sharing = columns[first:][:SHARING]
            # Yosys would merge what is equal.
            keep = {"keep": 1} if len(columns) > SHARING else {}
            length = len(sharing) - 1 + self.rows - self.together + stages
            line = Signal(length, name=f"{name}{first}", attrs=keep)
            m.d.sync += line.eq(Cat(bit, line))
            views += [line[c - first :] for c in sharing]
            bit = line[SHARING - 1]
        return views


def _skew(
    m: Module, name: str, word: Value, width: int, *, together: int, reset_less: bool = True
) -> list[Value]:
    """Return the parts of a word, the first `together` a cycle late, each further one one more.

    The register of a stage holds all parts that are not yet there: few wide registers simulate
    faster than many narrow ones, and cost the same.
    """
    parts = []
    leaves = together
    while len(word):
        stage = Signal(len(word), name=f"{name}_skew{len(parts)}", reset_less=reset_less)
        m.d.sync += stage.eq(word)
        parts += [stage[i * width :][:width] for i in range(leaves)]
        word = stage[leaves * width :]
        leaves = 1
    return parts


def _along(m: Module, name: str, part: Value, columns: int) -> list[Value]:
    """Return `part` as each PE of a row sees it: PE c as many cycles later."""
    width = len(part)
    line = Signal((columns - 1) * width, name=name, reset_less=True)
    m.d.sync += line.eq(Cat(part, line))
    return [part, *(line[c * width :][:width] for c in range(columns - 1))]
