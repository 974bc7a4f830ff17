"""The address walk of LOAD and STORE: from an instruction to checked runs of bytes."""

from collections.abc import Sequence
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import COLUMN_RECORD_BYTES, CoreConfig
from systolith.isa import OFFSET_WIDTH, Fill, Opcode, Space
from systolith_rtl.dma.bounds import (
    ENTRY_BYTES,
    GRANULE_WIDTH,
    check_runs,
    raw_layout,
    size_width,
    walk_layout,
)
from systolith_rtl.interfaces import ReadSignature, operand_layout
from systolith_rtl.settings import BASE, BASE_HIGH, LIMIT, MEMORIES, SCALAR, LookupSignature
from systolith_rtl.skid import Skid

INDEX_BYTES = 4
"""Bytes of an entry of an index list."""


class Walker(wiring.Component):
    """Walk over the blocks and runs of one instruction after the other.

    Runs come one per cycle, those of a GATHER as fast as their indices can be read and multiplied:
    products are formed by adding and shifting, one bit of the multiplier per cycle, until no bit
    is left. After a refused run the walker stops for good.

    Members:
        command: operands.
        lookup: the settings.
        o: runs.
        read: reads of index lists; left open for a STORE.
        drained: `In(1)`, all earlier instructions are retired; a GATHER waits for it, since they
            may have loaded its list.
        halt: `In(1)`, take no command and read no index.
    """

    command: stream.Interface
    lookup: Sequence[wiring.PureInterface]
    o: stream.Interface
    read: wiring.PureInterface
    drained: Signal
    halt: Signal

    def __init__(self, config: CoreConfig, opcode: Opcode) -> None:
        self.config = config
        self.is_load = opcode is Opcode.LOAD
        super().__init__(
            {
                "command": In(stream.Signature(operand_layout(opcode))),
                "lookup": Out(LookupSignature()).array(MEMORIES),
                "o": Out(stream.Signature(walk_layout(config))),
                "read": Out(ReadSignature(config)),
                "drained": In(1),
                "halt": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One state machine in front of a pipeline of checks."""
        m = Module()
        command = Signal(self.command.payload.shape(), reset_less=True)
        raw = stream.Signature(raw_layout()).create(path=("raw",))
        checked = stream.Signature(walk_layout(self.config)).create(path=("checked",))
        facts = self._facts(m, command)  # pyright: ignore[reportArgumentType]
        depth = check_runs(
            m,
            self.config,
            i=raw,
            o=checked,
            command=command,  # pyright: ignore[reportArgumentType]
            facts=facts,
            is_load=self.is_load,
        )

        # The constants of a command must not change while the pipeline holds its runs.
        checking = Signal(range(depth + 1))
        m.d.sync += checking.eq(
            checking + (raw.valid & raw.ready) - (checked.valid & checked.ready)
        )
        refused = Signal()
        with m.If(checked.valid & checked.p.refused):
            m.d.sync += refused.eq(1)
        # All registers of the checks depend on whether a run is taken.
        m.submodules.skid = skid = Skid(walk_layout(self.config))
        wiring.connect(m, checked, skid.i)
        wiring.connect(m, skid.o, wiring.flipped(self.o))
        may_take = Signal()
        m.d.comb += may_take.eq((checking == 0) & ~refused & ~self.halt)
        self._walk(m, command, facts, raw, may_take)  # pyright: ignore[reportArgumentType]
        return m

    def _facts(self, m: Module, command: data.View) -> SimpleNamespace:
        """Registers of what an instruction says indirectly, loaded while `setup` is high."""
        facts = SimpleNamespace(
            setup=Signal(),
            base=Signal(self.config.axi_address_bits, reset_less=True),
            limit=Signal(32, reset_less=True),
            # Where what may be accessed ends.
            end=Signal(self.config.axi_address_bits, reset_less=True),
            # Bytes of a run, less one; granules, slots or entries of it, less one, and whether they
            # are more than that.
            more_bytes=Signal(size_width(self.config), reset_less=True),
            more=Signal(GRANULE_WIDTH, reset_less=True),
            huge=Signal(reset_less=True),
            # Whether the first place has more bits than places are walked in.
            far=Signal(reset_less=True),
            zero=Signal(),
            gather=Signal(),
            side=Signal(),
            tables=Signal(),
        )
        more = Value.cast(command.n0 - 1)[:32]
        units = more >> exact_log2(self.config.columns)
        if self.is_load:
            m.d.comb += [
                facts.zero.eq(command.fill == Fill.ZERO),
                facts.gather.eq(command.fill == Fill.GATHER),
                facts.side.eq(command.space != Space.SCRATCHPAD),
                facts.tables.eq(command.space == Space.TABLES),
            ]
            records = Mux(
                facts.tables,
                more[exact_log2(ENTRY_BYTES) :],
                more[exact_log2(COLUMN_RECORD_BYTES) :],
            )
            units = Mux(facts.side, records, units)
        # Base (low word) and scalar are read while `setup` is high, limit and high word behind it.
        low, high = self.lookup
        base = command.base[:3]
        m.d.comb += [
            low.place.eq(Mux(facts.setup, BASE + base, LIMIT + base)),
            high.place.eq(Mux(facts.setup, SCALAR + (command.scalar - 1)[:2], BASE_HIGH + base)),
        ]
        with m.If(facts.setup):
            m.d.sync += [
                facts.base[:32].eq(low.value),
                facts.more.eq(units),
                facts.more_bytes.eq(more),
            ]
            m.d.sync += facts.huge.eq(units[GRANULE_WIDTH:].any())
        with m.Else():
            m.d.sync += [facts.limit.eq(low.value), facts.base[32:].eq(high.value)]
        # Two cycles late, which is early enough for the first run.
        m.d.sync += [
            facts.end.eq(facts.base + facts.limit),
            facts.far.eq(command.address[GRANULE_WIDTH:].any()),
        ]
        return facts

    def _walk(
        self,
        m: Module,
        command: data.View,
        facts: SimpleNamespace,
        raw: stream.Interface,
        may_take: Signal,
    ) -> None:
        """Blocks, runs, and for each as many steps of a product as it needs."""
        offset = Signal(OFFSET_WIDTH, reset_less=True)
        block_offset = Signal(OFFSET_WIDTH, reset_less=True)
        granule = Signal(GRANULE_WIDTH, reset_less=True)
        block_granule = Signal(GRANULE_WIDTH, reset_less=True)
        # How many are left, this one included.
        runs = Signal(16, reset_less=True)
        blocks = Signal(16, reset_less=True)
        multiplier = Signal(32, reset_less=True)
        # While nothing is multiplied, the stride from run to run: one adder does both.
        addend = Signal(OFFSET_WIDTH, reset_less=True)
        unlisted = Signal()
        # Entries of an index list lie on granules, so a small granule holds half of one.
        piece_bytes = min(self.config.columns, INDEX_BYTES)
        piece_bits = exact_log2(self.config.columns // piece_bytes)
        word_bits = exact_log2(self.config.rows // piece_bytes)
        # Up to the first piece beyond the scratchpad; bits above are those of `index`.
        inside_bits = exact_log2(self.config.granules) + piece_bits
        piece = Signal(inside_bits + 1, reset_less=True)
        halves = Signal()
        # Whether `piece` lies beyond the scratchpad: found out while it is set, since the way from
        # here through the scratchpad's arbiters is long enough.
        beyond = Signal()
        m.d.comb += [
            self.read.address.eq(piece[word_bits:]),
            raw.p.offset.eq(offset),
            raw.p.granule.eq(granule),
            raw.p.last.eq((runs == 1) & (blocks == 1)),
            raw.p.unlisted.eq(unlisted),
        ]

        following = (offset + addend)[:OFFSET_WIDTH]

        def multiply() -> None:
            m.d.sync += [multiplier.eq(multiplier >> 1), addend.eq(addend << 1)]
            with m.If(multiplier[0]):
                m.d.sync += offset.eq(following)

        def begin() -> None:
            m.d.sync += [granule.eq(block_granule), runs.eq(command.n1)]
            m.next = "RUN"
            if self.is_load:
                m.d.sync += [
                    piece.eq(command.index << piece_bits),
                    beyond.eq(command.index[inside_bits - piece_bits :].any()),
                ]
                with m.If(facts.gather):
                    m.next = "INDEX"

        with m.FSM():
            with m.State("TAKE"):
                waits = (self.command.p.fill == Fill.GATHER) & ~self.drained if self.is_load else 0
                m.d.comb += self.command.ready.eq(may_take & ~waits)
                with m.If(self.command.valid & self.command.ready):
                    m.d.sync += command.eq(self.command.payload)
                    m.next = "SETUP"
            with m.State("SETUP"):
                m.d.comb += facts.setup.eq(1)
                m.d.sync += [
                    offset.eq(command.dram_offset),
                    block_granule.eq(command.address),
                    blocks.eq(command.n2),
                    multiplier.eq(Mux(command.scalar == 0, 0, self.lookup[1].value)),
                    addend.eq(command.scalar_stride),
                    unlisted.eq(0),
                ]
                m.next = "SCALAR"
            with m.State("SCALAR"):
                multiply()
                with m.If(multiplier == 0):
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.sync += [block_offset.eq(offset), addend.eq(command.dram_stride1)]
                begin()
            with m.State("BLOCK"):
                m.d.sync += offset.eq(block_offset)
                begin()
            with m.State("RUN"):
                m.d.comb += raw.valid.eq(1)
                with m.If(raw.ready):
                    m.d.sync += [
                        runs.eq(runs - 1),
                        offset.eq(following),
                        granule.eq(granule + command.stride1),
                    ]
                    if self.is_load:
                        with m.If(facts.gather):
                            m.d.sync += offset.eq(block_offset)
                            m.next = "INDEX"
                    with m.If(runs == 1):
                        m.d.sync += [
                            blocks.eq(blocks - 1),
                            block_offset.eq(block_offset + command.dram_stride2),
                            block_granule.eq(block_granule + command.stride2),
                        ]
                        m.next = "BLOCK"
                        with m.If(blocks == 1):
                            m.next = "TAKE"
                    with m.If(unlisted):
                        m.next = "TAKE"
            if self.is_load:
                with m.State("INDEX"):
                    m.d.comb += self.read.valid.eq(~beyond & ~self.halt)
                    with m.If(beyond):
                        m.d.sync += [
                            unlisted.eq(1),
                            granule.eq(
                                Cat(
                                    piece[piece_bits:],
                                    command.index[inside_bits + 1 - piece_bits :],
                                )
                            ),
                        ]
                        m.next = "RUN"
                    with m.Elif(self.read.valid & self.read.ready):
                        m.next = "AWAIT"
                with m.State("AWAIT"), m.If(self.read.data_valid):
                    part = self.read.data.word_select(piece[:word_bits], 8 * piece_bytes)
                    m.d.sync += [
                        piece.eq(piece + 1),
                        beyond.eq(piece[:inside_bits].all()),
                        multiplier.eq(Cat(multiplier, part)[8 * piece_bytes :]),
                        addend.eq(command.dram_stride1),
                        halves.eq(~halves),
                    ]
                    m.next = "PRODUCT"
                    if piece_bytes < INDEX_BYTES:
                        with m.If(~halves):
                            m.next = "INDEX"
                with m.State("PRODUCT"):
                    multiply()
                    with m.If(multiplier == 0):
                        m.next = "RUN"
