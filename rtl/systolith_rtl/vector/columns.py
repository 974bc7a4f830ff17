"""Column records: the memory, and the registers that hold those of the current group."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.numerics import COLUMN_OFF_WIDTH, FRACTION, MANT_WIDTH, SHIFT_WIDTH
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.vector.affine import COLUMN_LAYOUT

EXP_MANT = 1 << FRACTION - 1
"""Mantissa of 1.0 at shift `FRACTION`, which takes an element of the scratchpad as it is."""

COLUMNS_PER_COPY = 2
"""Columns whose registers are loaded by one bit."""


class ColumnRecords(wiring.Component):
    """Loads the C records of the next group, one per cycle, while the current one is in use.

    The registers of the next group are a shift register, so no record is broadcast to the lanes.
    A record that all columns share is shifted in C times, and stays. EXP has none: it is given
    one that lets the distance to the row's maximum pass, doubled where scores count double.

    The earliest take is in the cycle C after `start`, and after a take in the cycle C later.

    Members:
        write: `In(1)`, write half a record.
        write_address: `In(range(2 * column_slots))`, in units of 32 bits: slot and half.
        write_data: `In(32)`.
        start: `In(1)`, load the first group.
        slot: `In(range(column_slots))`, of the first record.
        shared: `In(1)`, one record for all columns.
        exp: `In(1)`, the record of EXP; with `shared`.
        unit: `In(1)`, for EXP.
        soon: `Out(1)`, the next group may be taken in the next cycle, unless there is a take or a
            start in this one.
        take: `In(1)`, the next group's registers are going to be taken over; load one more.
        swap: `In(1)`, take them over; `SWAP_LATENCY` cycles after `take`.
        records: `Out`, C records, from the cycle after `swap` on.
    """

    SWAP_LATENCY = 3

    write: Signal
    write_address: Signal
    write_data: Signal
    start: Signal
    slot: Signal
    shared: Signal
    exp: Signal
    unit: Signal
    soon: Signal
    take: Signal
    swap: Signal
    records: data.View

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "write": In(1),
                "write_address": In(range(2 * config.column_slots)),
                "write_data": In(32),
                "start": In(1),
                "slot": In(range(config.column_slots)),
                "shared": In(1),
                "exp": In(1),
                "unit": In(1),
                "soon": Out(1),
                "take": In(1),
                "swap": In(1),
                "records": Out(data.ArrayLayout(COLUMN_LAYOUT, config.columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory in its two halves, the counter that reads it, the registers."""
        m = Module()
        config = self.config
        scale_width = MANT_WIDTH + SHIFT_WIDTH
        m.submodules.scales = scales = BlockRam(width=scale_width, depth=config.column_slots)
        m.submodules.offs = offs = BlockRam(width=COLUMN_OFF_WIDTH, depth=config.column_slots)
        for half, ram in enumerate((scales, offs)):
            m.d.comb += [
                ram.write_address.eq(self.write_address[1:]),
                ram.write_data.eq(self.write_data),
                ram.write_enable.eq(self.write & (self.write_address[0] == half)),
            ]

        # A register can be shifted into in the very cycle in which it is swapped, so the first
        # address may follow a take at once, and the last one may coincide with the next take.
        assert self.SWAP_LATENCY == 1 + BlockRam.LATENCY
        address = Signal(range(config.column_slots), reset_less=True)
        missing = Signal(range(config.columns + 1))
        refill = Signal()
        more = Signal()
        reading = refill | more
        read = Signal(BlockRam.LATENCY - 1)
        few = Signal(init=1)  # That `missing` is at most 2.
        m.d.sync += few.eq(Mux(refill, config.columns <= 3, missing <= 3))
        m.d.comb += self.soon.eq(Mux(refill, config.columns <= 2, few))
        m.d.sync += read.eq(Cat(reading, read))
        # In the cycle of `refill`, all are missing.
        m.d.sync += refill.eq(self.start | (self.take & ~self.shared))
        with m.If(refill):
            m.d.sync += [missing.eq(config.columns - 1), more.eq(1)]
        with m.Elif(more):
            m.d.sync += [missing.eq(missing - 1), more.eq(missing != 1)]
        with m.If(self.start):
            m.d.sync += address.eq(self.slot)
        with m.Elif(reading & ~self.shared):
            m.d.sync += address.eq(address + 1)
        for ram in (scales, offs):
            m.d.comb += [ram.read_address.eq(address), ram.read_enable.eq(reading)]

        exp = data.View(COLUMN_LAYOUT, Signal(COLUMN_LAYOUT.size, name="exp_record"))
        m.d.comb += [exp.mant.eq(EXP_MANT), exp.shift.eq(FRACTION - self.unit), exp.off.eq(0)]
        record = Mux(self.exp, exp.as_value(), Cat(scales.read_data, offs.read_data))
        upcoming = Signal(config.columns * COLUMN_LAYOUT.size, reset_less=True)
        current = Signal.like(upcoming, name="current", reset_less=True)
        # A copy for each few columns, which are far from each other.
        size = COLUMN_LAYOUT.size
        following = Cat(upcoming[size:], record)
        for first in range(0, config.columns, COLUMNS_PER_COPY):
            part = slice(size * first, size * (first + COLUMNS_PER_COPY))
            shift = Signal(name=f"shift{first}", attrs={"keep": 1})
            m.d.sync += shift.eq(read[-1])
            with m.If(shift):
                m.d.sync += upcoming[part].eq(following[part])
        with m.If(self.swap):
            m.d.sync += current.eq(upcoming)
        m.d.comb += self.records.as_value().eq(current)
        return m
