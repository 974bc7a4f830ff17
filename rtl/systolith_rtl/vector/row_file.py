"""The row file: what is known of each row of a tensor, addressed by slots."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.interfaces import (
    ROW_LAYOUT,
    ROW_READ_LATENCY,
    STATISTICS_LAYOUT,
    RowFileSignature,
)
from systolith_rtl.memory.block_ram import BlockRam

EXTREMES_LAYOUT = data.StructLayout(
    {name: STATISTICS_LAYOUT[name].shape for name in ("maximum", "absmax")}
)
"""What the statistic MAX replaces."""

SUMS_LAYOUT = data.StructLayout(
    {name: STATISTICS_LAYOUT[name].shape for name in ("total", "squares")}
)
"""What SUM and MOMENTS replace."""


class SlotReadSignature(wiring.Signature):
    """A reader's view of one memory of slots: data is there `BlockRam.LATENCY` cycles later."""

    def __init__(self, config: CoreConfig, layout: data.StructLayout) -> None:
        super().__init__({"read": Out(1), "slot": Out(range(config.row_slots)), "data": In(layout)})


class SlotWriteSignature(wiring.Signature):
    """A writer's view of one memory of slots; the next cycle reads what it writes."""

    def __init__(self, config: CoreConfig, layout: data.StructLayout) -> None:
        super().__init__(
            {"write": Out(1), "slot": Out(range(config.row_slots)), "data": Out(layout)}
        )


class RowFile(wiring.Component):
    """Statistics that VECTOR writes and records that ROW writes, for each slot.

    The statistics are kept twice, so that VECTOR's read of what it accumulates, which is deep in
    a pipeline that cannot wait, and ROW's reads at any time never meet. The copies are six ECP5
    block RAMs at 1,024 slots; for them, nobody ever waits for the row file.

    Members:
        rows: `In(RowFileSignature(config))`, for ROW.
        extremes: `In`, VECTOR's reads of maximum and absmax.
        sums: `In`, VECTOR's reads of total and squares.
        record: `In`, VECTOR's reads of row records.
        extremes_write: `In`, VECTOR's writes of maximum and absmax.
        sums_write: `In`, VECTOR's writes of total and squares.
    """

    rows: wiring.PureInterface
    extremes: wiring.PureInterface
    sums: wiring.PureInterface
    record: wiring.PureInterface
    extremes_write: wiring.PureInterface
    sums_write: wiring.PureInterface

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "rows": In(RowFileSignature(config)),
                "extremes": In(SlotReadSignature(config, EXTREMES_LAYOUT)),
                "sums": In(SlotReadSignature(config, SUMS_LAYOUT)),
                "record": In(SlotReadSignature(config, ROW_LAYOUT)),
                "extremes_write": In(SlotWriteSignature(config, EXTREMES_LAYOUT)),
                "sums_write": In(SlotWriteSignature(config, SUMS_LAYOUT)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the five memories."""
        m = Module()
        rows = self.rows
        read = Signal()
        slot = Signal.like(rows.read_slot, reset_less=True)
        assert ROW_READ_LATENCY == 1 + BlockRam.LATENCY
        m.d.sync += read.eq(rows.read)
        with m.If(rows.read):
            m.d.sync += slot.eq(rows.read_slot)

        for name, layout, reader, writer in (
            ("extremes", EXTREMES_LAYOUT, self.extremes, self.extremes_write),
            ("sums", SUMS_LAYOUT, self.sums, self.sums_write),
        ):
            own, copy = (self._memory(m, f"{name}{index}", layout, writer) for index in range(2))
            _connect(m, own, reader)
            m.d.comb += [copy.read_address.eq(slot), copy.read_enable.eq(read)]
            seen = layout(copy.read_data)
            m.d.comb += [
                rows.statistics[member].eq(seen[member])
                for member, _ in layout  # in its place
            ]

        m.submodules.records = records = BlockRam(
            width=ROW_LAYOUT.size, depth=self.config.row_slots
        )
        m.d.comb += [
            records.write_address.eq(rows.write_slot),
            records.write_data.eq(rows.record),
            records.write_enable.eq(rows.write),
        ]
        _connect(m, records, self.record)
        return m

    def _memory(
        self, m: Module, name: str, layout: data.StructLayout, writer: wiring.PureInterface
    ) -> BlockRam:
        ram = BlockRam(width=layout.size, depth=self.config.row_slots)
        m.submodules[name] = ram
        m.d.comb += [
            ram.write_address.eq(writer.slot),
            ram.write_data.eq(writer.data),
            ram.write_enable.eq(writer.write),
        ]
        return ram


def _connect(m: Module, ram: BlockRam, reader: wiring.PureInterface) -> None:
    m.d.comb += [
        ram.read_address.eq(reader.slot),
        ram.read_enable.eq(reader.read),
        reader.data.eq(ram.read_data),
    ]
