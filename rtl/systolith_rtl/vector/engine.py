"""The vector engine: everything between accumulators or scratchpad and the result in the latter.

Instructions do not overlap; their element groups do. A group of C elements is issued when all
that it takes is there, and then goes through a pipeline that never waits::

    cycle  0  issue: a row of an accumulator is enabled, or a group popped from the fetch
           3  their data, the row's record, and the column records of the group meet
           4  lanes (affine)
          15  result; for tables and the exponential, five cycles more
          16  words as they are stored; row statistics branch off
          18  write, unless it is transposed
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import Opcode
from systolith.numerics import (
    ACC_WIDTH,
    FRACTION,
    MASKED,
    NO_ROW,
    WORD_WIDTH,
    Format,
)
from systolith_rtl.interfaces import (
    ACC_READ_LATENCY,
    ROW_LAYOUT,
    SIDE_LAYOUT,
    SIDE_SIGNATURE,
    DrainSignature,
    EngineSignature,
    ReadSignature,
    RowFileSignature,
    WriteSignature,
)
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.pipeline import unless_idle
from systolith_rtl.settings import SCALAR, Settings, SettingSignature
from systolith_rtl.vector.columns import ColumnRecords
from systolith_rtl.vector.fetch import POP_LATENCY, OperandFetch
from systolith_rtl.vector.finish import PLACE, Finish
from systolith_rtl.vector.issue import Issue
from systolith_rtl.vector.lanes import FEW_LANES, Lanes
from systolith_rtl.vector.row_file import RowFile
from systolith_rtl.vector.sequence import Sequence
from systolith_rtl.vector.statistics import RowStatistics
from systolith_rtl.vector.store import Store
from systolith_rtl.vector.tables import Tables

MEETING = 3
"""Cycles from the issue to all operands."""

LANES_AT = MEETING + 1
"""Cycles from the issue to the lanes' operands."""

RESULT_AT = LANES_AT + Lanes.LATENCY
"""Cycles from the issue to the affine result."""

TABLE_AT = RESULT_AT + Tables.LATENCY
"""Cycles from the issue to the result of a table or of the exponential."""

assert MEETING == ACC_READ_LATENCY == POP_LATENCY == ColumnRecords.SWAP_LATENCY
assert MEETING == 1 + BlockRam.LATENCY  # of row records and maxima, with their slot in a register

_NO_ROW = ROW_LAYOUT.const(NO_ROW._asdict())  # pyright: ignore[reportArgumentType]


class VectorEngine(wiring.Component):
    """Carries out VECTOR instructions, one after the other.

    Members:
        engine: `Out(EngineSignature(Opcode.VECTOR))`.
        x, r: `Out(ReadSignature(config))`, the operands; refused as it pleases the scratchpad.
        y: `Out(WriteSignature(config))`, the result. It must never be refused.
        drain: `Out(DrainSignature(config))`, the accumulators.
        side: `In(SIDE_SIGNATURE)`, writes into column records and tables; never refused.
        rows: `In(RowFileSignature(config))`, the row file.
        change: `In(SettingSignature())`, of the settings, of which it reads the scalars.

    Attributes:
        settings: the scalars, for test benches to fill.
    """

    engine: wiring.PureInterface
    x: wiring.PureInterface
    r: wiring.PureInterface
    y: wiring.PureInterface
    drain: wiring.PureInterface
    side: wiring.PureInterface
    rows: wiring.PureInterface
    change: wiring.PureInterface

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.settings = Settings([1])
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.VECTOR)),
                "x": Out(ReadSignature(config)),
                "r": Out(ReadSignature(config)),
                "y": Out(WriteSignature(config)),
                "drain": Out(DrainSignature(config)),
                "side": In(SIDE_SIGNATURE),
                "rows": In(RowFileSignature(config)),
                "change": In(SettingSignature()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts in the order in which an element meets them."""
        m = Module()
        config = self.config
        m.submodules.x_fetch = x_fetch = OperandFetch(config)
        m.submodules.r_fetch = r_fetch = OperandFetch(config)
        m.submodules.columns = columns = ColumnRecords(config)
        m.submodules.row_file = row_file = RowFile(config)
        m.submodules.issue = issue = Issue(config)
        m.submodules.lanes = lanes = Lanes(config)
        m.submodules.tables = tables = Tables(config)
        m.submodules.finish = finish = Finish(config)
        m.submodules.statistics = statistics = RowStatistics(config)
        m.submodules.store = store = Store(config)

        m.submodules.sequence = sequence = Sequence(config)
        wiring.connect(m, sequence.engine, wiring.flipped(self.engine))
        op = sequence.op
        start = sequence.start
        for index, part in enumerate((x_fetch, r_fetch, store)):
            m.d.comb += sequence.fault[index].eq(part.fault)
            m.d.comb += sequence.fault_address[index].eq(part.fault_address)
        m.d.comb += sequence.final.eq(store.final)
        flags = sequence.flags
        drained = flags.x_drained
        is_exp = flags.exp
        for part in (x_fetch, r_fetch, issue):
            m.d.comb += part.extent.eq(sequence.extent)
        for part in (columns, issue, finish, store):
            m.d.comb += part.start.eq(start)
        for part in (x_fetch, r_fetch, issue, store):
            m.d.comb += part.stop.eq(sequence.stop)

        # Operands from the scratchpad.
        wiring.connect(m, x_fetch.port, wiring.flipped(self.x))
        wiring.connect(m, r_fetch.port, wiring.flipped(self.r))
        m.d.comb += [
            x_fetch.start.eq(start & ~drained),
            x_fetch.unused.eq(drained),
            x_fetch.address.eq(op.x_address),
            x_fetch.stride.eq(op.x_row),
            x_fetch.words.eq(flags.x_words),
            x_fetch.signed.eq(flags.x_signed),
            x_fetch.pop.eq(issue.pops_x),
            r_fetch.start.eq(start & flags.r_used),
            r_fetch.unused.eq(~flags.r_used),
            r_fetch.address.eq(op.r_address),
            r_fetch.stride.eq(op.r_row),
            r_fetch.words.eq(1),
            r_fetch.pop.eq(issue.issue & flags.r_used),
        ]

        # Column records and tables, written by LOAD.
        written = Signal()
        side = Signal(SIDE_LAYOUT, reset_less=True)
        m.d.comb += self.side.ready.eq(1)
        m.d.sync += written.eq(self.side.valid)
        with m.If(self.side.valid):
            m.d.sync += side.eq(self.side.payload)
        m.d.comb += [
            columns.write.eq(written & ~side.tables),
            columns.write_address.eq(side.address),
            columns.write_data.eq(side.data),
            columns.slot.eq(op.column),
            columns.shared.eq(flags.shared),
            columns.exp.eq(is_exp),
            columns.unit.eq(op.unit),
            columns.take.eq(issue.issue & issue.first_row),
            tables.write.eq(written & side.tables),
            tables.write_address.eq(side.address),
            tables.write_data.eq(side.data),
        ]

        # Issue. Bit k of `valid` is k cycles behind it.
        chain = Signal(TABLE_AT)
        valid = Cat(issue.issue, chain)
        first_row = Signal(MEETING)
        m.d.sync += chain.eq(valid)
        # Whether it is sent is known late, and looked at a cycle later.
        m.d.sync += first_row.eq(Cat(issue.first_row, first_row[0] & valid[1], first_row[1:]))
        wiring.connect(m, issue.drain, wiring.flipped(self.drain))
        m.d.comb += [
            issue.m.eq(op.m),
            issue.drained.eq(drained),
            issue.two_writes.eq(flags.y_words & (config.word_granules == 1)),
            issue.transpose.eq(op.transpose),
            issue.statistic.eq(flags.statistic),
            issue.x_more.eq(x_fetch.more),
            issue.x_held.eq(x_fetch.held),
            issue.r_more.eq(r_fetch.more),
            issue.r_held.eq(r_fetch.held),
            issue.columns.eq(columns.soon),
            issue.shared.eq(flags.shared),
            columns.swap.eq(first_row[-1]),
        ]

        # The row's record, or its maximum.
        wiring.connect(m, wiring.flipped(self.rows), row_file.rows)
        slot = Signal(range(config.row_slots), reset_less=True)
        with m.If(unless_idle(platform, issue.issue)):
            m.d.sync += slot.eq(op.row_in + issue.row)
        m.d.comb += [
            row_file.record.read.eq(valid[1] & op.use_row[0]),
            row_file.record.slot.eq(slot),
            # EXP takes no maximum, so nobody else reads.
            row_file.extremes.read.eq(Mux(is_exp, valid[1], statistics.extremes.read)),
            row_file.extremes.slot.eq(Mux(is_exp, slot, statistics.extremes.slot)),
            statistics.extremes.data.eq(row_file.extremes.data),
        ]
        self._operands(m, platform, valid[MEETING], sequence, x_fetch, r_fetch, row_file, lanes)
        m.d.comb += lanes.valid.eq(valid[LANES_AT:RESULT_AT])
        m.d.comb += lanes.column.eq(columns.records)
        m.d.comb += [
            lanes.product.eq(flags.product),
            lanes.out_format.eq(Mux(is_exp, Format.S16, Mux(flags.affine, op.y_format, Format.U8))),
        ]

        # From results to words.
        early = Mux(flags.affine, valid[RESULT_AT - 2], valid[TABLE_AT - 2])
        m.d.sync += finish.coming.eq(early)
        # With bits beside them, whose registers cost less than one more loop.
        places = [Signal(PLACE, name="place0", reset_less=True)]
        m.d.comb += [places[0][name].eq(getattr(issue, name)) for name in PLACE.members]
        for stage in range(1, TABLE_AT - 1):
            places.append(Signal(PLACE, name=f"place{stage}", reset_less=True))
            m.d.sync += places[stage].eq(places[stage - 1])
        place = Signal(PLACE, reset_less=True)
        m.d.comb += finish.place.eq(place)
        m.d.sync += place.eq(Mux(flags.affine, places[RESULT_AT - 2], places[TABLE_AT - 2]))
        m.submodules.settings = settings = self.settings
        wiring.connect(m, wiring.flipped(self.change), settings.change)
        m.d.comb += [
            tables.valid.eq(valid[RESULT_AT:TABLE_AT] & (~flags.affine).replicate(Tables.LATENCY)),
            tables.word.eq(lanes.value),
            tables.exp.eq(is_exp),
            tables.table.eq(op.table),
            tables.out_format.eq(op.y_format),
            finish.tail.eq(sequence.extent.tail),
            finish.masked.eq(flags.masked),
            settings.read[0].place.eq(SCALAR + op.length[:2]),
            finish.length.eq(settings.read[0].value),
            finish.stat_out.eq(op.stat_out),
            finish.transpose.eq(op.transpose),
            finish.results.eq(Mux(flags.affine, lanes.value.as_value(), tables.value.as_value())),
        ]

        # Statistics and the way into the scratchpad. What goes to all lanes has a copy for them.
        y_words = Signal()
        m.d.sync += y_words.eq(flags.y_words)
        wiring.connect(m, statistics.sums, row_file.sums)
        wiring.connect(m, statistics.extremes_write, row_file.extremes_write)
        wiring.connect(m, statistics.sums_write, row_file.sums_write)
        wiring.connect(m, store.y, wiring.flipped(self.y))
        m.d.comb += [
            statistics.valid.eq(finish.valid),
            statistics.words.eq(finish.words),
            statistics.counted.eq(finish.counted),
            statistics.slot.eq(finish.slot),
            statistics.first.eq(finish.first_group),
            statistics.kind.eq(op.statistic),
            lanes.lend.eq(flags.moments),
            lanes.square_valid.eq(statistics.square_valid),
            lanes.word.eq(statistics.word),
            statistics.square.eq(lanes.square),
            store.address.eq(op.y_address),
            store.stride.eq(op.y_row),
            store.wide.eq(y_words),
            store.transpose.eq(op.transpose),
            store.rows.eq(finish.rows),
            store.turns.eq(finish.turns),
            store.words.eq(finish.words),
            store.column.eq(finish.column),
            store.last_row.eq(finish.last_row),
            store.last_group.eq(finish.last_group),
        ]

        # Who is waited for: the array, or whoever has had the scratchpad's bank.
        starved = Signal()
        late = Signal(config.read_latency + 1)
        m.d.sync += [
            sequence.engine.stall.input.eq(issue.unfilled),
            starved.eq(issue.starved),
            late.eq(Cat(x_fetch.late | r_fetch.late, late)),
        ]
        m.d.comb += sequence.engine.stall.bank.eq(starved & late[-1])
        return m

    def _operands(
        self,
        m: Module,
        platform: object,
        valid: Value,
        sequence: Sequence,
        x_fetch: OperandFetch,
        r_fetch: OperandFetch,
        row_file: RowFile,
        lanes: Lanes,
    ) -> None:
        """Register what the lanes get."""
        flags = sequence.flags
        registers = {
            name: Signal(getattr(lanes, name).shape(), name=name, reset_less=True)
            for name in ("x", "factor", "residual")
        }
        x, factor, residual = registers.values()
        # Lanes are far from each other, and a row is the same for all: few share a register of it,
        # and of where x comes from.
        sharing = 2 if self.config.columns <= FEW_LANES else 1
        rows = [
            Signal(ROW_LAYOUT, name=f"row{first}", reset_less=True, attrs={"keep": 1})
            for first in range(0, self.config.columns, sharing)
        ]
        drained = Signal(len(rows), reset_less=True, attrs={"keep": 1})
        m.d.sync += drained.eq(flags.x_drained.replicate(len(rows)))
        masks = Signal(attrs={"keep": 1})
        m.d.sync += masks.eq(flags.exp)
        with m.If(unless_idle(platform, valid)):
            for lane in range(self.config.columns):
                fetched = Signal(signed(ACC_WIDTH), name=f"fetched{lane}")
                second = Mux(flags.adds, r_fetch.group[lane], 0)
                # A masked score gets a residual below every distance, and so a numerator of 0,
                # even in a row in which all are masked.
                masked = masks & x_fetch.masked[lane]
                m.d.comb += fetched.eq(x_fetch.group[lane].shift_left(FRACTION))
                source = drained[lane // sharing]
                m.d.sync += x[lane].eq(Mux(source, self.drain.data[lane], fetched))
                m.d.sync += factor[lane].eq(r_fetch.group[lane])
                m.d.sync += residual[lane].eq(Mux(masked, MASKED, second)[:WORD_WIDTH])
            for row in rows:
                m.d.sync += row.eq(_NO_ROW)
                with m.If(sequence.op.use_row[0]):
                    m.d.sync += row.eq(row_file.record.data)
                # Accumulators have none, whatever the record says.
                m.d.sync += row.off.eq(Mux(flags.row_off, row_file.record.data.off, 0))
                with m.If(flags.exp):
                    m.d.sync += row.off.eq(row_file.extremes.data.maximum.shift_left(FRACTION))
        m.d.comb += [getattr(lanes, name).eq(value) for name, value in registers.items()]
        m.d.comb += [
            lanes.row[lane].eq(rows[lane // sharing]) for lane in range(self.config.columns)
        ]
