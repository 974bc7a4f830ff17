"""Checks of LOAD's and STORE's runs: against the limit in DRAM, against what the core has."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, stream
from amaranth.utils import bits_for, exact_log2

from systolith.config import COLUMN_RECORD_BYTES, TABLE_ENTRIES, CoreConfig
from systolith.isa import OFFSET_WIDTH
from systolith_rtl.pipeline import Pipeline

GRANULE_WIDTH = 17
"""Bits of a place on the core while runs are walked.

Places that exist have 16, and so have strides: a step from one of them does not wrap around, and
what comes behind a run that is refused does not matter.
"""

ENTRY_BYTES = 2
"""Bytes of a table entry."""


def size_width(config: CoreConfig) -> int:
    """Bits of the bytes behind the first of a run that has been checked: the core has as many."""
    return bits_for(
        max(
            config.scratchpad_bytes,
            config.column_slots * COLUMN_RECORD_BYTES,
            config.table_slots * TABLE_ENTRIES * ENTRY_BYTES,
        )
        - 1
    )


def place_width(config: CoreConfig) -> int:
    """Bits of a place on the core that has been checked: granule, slot or table entry."""
    return max(
        exact_log2(config.granules),
        exact_log2(config.column_slots),
        bits_for(config.table_slots * TABLE_ENTRIES - 1),
    )


def walk_layout(config: CoreConfig) -> data.StructLayout:
    """A checked run: where in DRAM, bytes behind the first one, granule (slot, entry) on the core.

    `lane` is that of its first byte in a beat of the core's, 0 if beside the scratchpad. It `reads`
    from memory unless it is of zeros. With `refused`, the walk ends here: the run lies
    beyond the limit if `outside`, else beyond the core's memory, and `address` is the first byte or
    granule (slot, entry) that does.
    """
    return data.StructLayout(
        {
            "address": config.axi_address_bits,
            "more": size_width(config),
            "place": place_width(config),
            "lane": exact_log2(config.axi_bytes),
            "zero": 1,
            "side": 1,
            "tables": 1,
            "last": 1,
            "reads": 1,
            "refused": 1,
            "outside": 1,
        }
    )


def raw_layout() -> data.StructLayout:
    """A run before it is checked: wherever the arithmetic leads.

    It may be the last of its instruction, or be `unlisted`: its index lies beyond the scratchpad,
    at `granule` (the lower bits of it).
    """
    return data.StructLayout(
        {"offset": OFFSET_WIDTH, "granule": GRANULE_WIDTH, "last": 1, "unlisted": 1}
    )


def check_runs(
    m: Module,
    config: CoreConfig,
    *,
    i: stream.Interface,
    o: stream.Interface,
    enable: Value,
    facts: SimpleNamespace,
    is_load: bool,
) -> int:
    """Add, compare, select: check runs in a pipeline of one stage each.

    Args:
        m: the module to build it in.
        config: of the core.
        i: runs of `raw_layout`.
        o: runs of `walk_layout`.
        enable: a copy of `o.ready`.
        facts: what a `Walker` derives from their instruction's operands, steady while any run is in
            the pipeline.
        is_load: whether it is a LOAD, which has more places to go to.

    Returns:
        How many runs the pipeline holds at most.
    """
    pipe = Pipeline(m, i=i, o=o, enable=enable)
    table_entries = config.table_slots * TABLE_ENTRIES
    # A place that does not fit here is that of the first run, or of an index.
    places = _places(
        facts,
        i.p.granule[exact_log2(config.granules) :].any(),
        i.p.granule[exact_log2(config.column_slots) :].any(),
        _reaches(i.p.granule, table_entries),
        is_load=is_load,
    )
    s = pipe.stage(
        "sum",
        address=(facts.base + i.p.offset[: len(facts.base)])[: len(facts.base)],
        # What is left up to the limit; its sign is set if the run begins beyond.
        room=(facts.limit - i.p.offset)[: OFFSET_WIDTH + 1],
        granule=i.p.granule,
        last_granule=i.p.granule + facts.more,
        exact=places | facts.far | i.p.unlisted,
        last=i.p.last,
        unlisted=i.p.unlisted,
    )
    starts_outside = s.room[OFFSET_WIDTH]
    beyond = _places(
        facts,
        s.last_granule[exact_log2(config.granules) :].any(),
        s.last_granule[exact_log2(config.column_slots) :].any(),
        _reaches(s.last_granule, table_entries),
        is_load=is_load,
    )
    end = _places(facts, config.granules, config.column_slots, table_entries, is_load=is_load)
    high = Mux(s.unlisted, facts.high_index, facts.high) if is_load else facts.high
    s = pipe.stage(
        "verdict",
        address=s.address,
        # A run that begins within the limit leaves it at the limit.
        at_limit=~starts_outside,
        # The sign of a difference, since a comparison has a gate behind its carries.
        too_long=(s.room[:OFFSET_WIDTH] - facts.size)[-1],
        within=facts.zero | s.unlisted,
        granule=s.granule,
        first_beyond=Cat(Mux(s.exact, s.granule, end)[:GRANULE_WIDTH], high),
        beyond=beyond | facts.far | facts.huge | s.unlisted,
        last=s.last,
    )
    outside = (s.too_long | ~s.at_limit) & ~s.within
    at_limit = s.too_long & s.at_limit & ~s.within
    byte = Cat(Const(0, exact_log2(config.columns)), s.granule)
    address = Mux(s.beyond & ~outside, s.first_beyond, Mux(at_limit, facts.end, s.address))
    s = pipe.stage(
        "run",
        address=address[: len(facts.base)],
        place=s.granule[: place_width(config)],
        lane=Mux(facts.side, 0, byte[: exact_log2(config.axi_bytes)]),
        outside=outside,
        refused=outside | s.beyond,
        reads=~(outside | s.beyond | facts.zero),
        last=s.last,
    )
    run = Signal(walk_layout(config))
    m.d.comb += [
        run.address.eq(s.address),
        run.place.eq(s.place),
        run.lane.eq(s.lane),
        run.more.eq(facts.more_bytes),
        run.zero.eq(facts.zero),
        run.side.eq(facts.side),
        run.tables.eq(facts.tables),
        run.last.eq(s.last),
        run.reads.eq(s.reads),
        run.refused.eq(s.refused),
        run.outside.eq(s.outside),
    ]
    pipe.drive(run)
    return pipe.depth


def _reaches(value: Value, bound: int) -> Value:
    """Compare a long value with a multiple of many, which takes no carry chain."""
    low = (bound & -bound).bit_length() - 1
    high = bound.bit_length()
    return value[high:].any() | (value[low:high] >= bound >> low)


def _places(
    facts: SimpleNamespace,
    scratchpad: ValueLike,
    columns: ValueLike,
    tables: ValueLike,
    *,
    is_load: bool,
) -> ValueLike:
    """Return what applies to the memory that the run goes to."""
    if not is_load:
        return scratchpad
    return Mux(facts.side, Mux(facts.tables, tables, columns), scratchpad)
