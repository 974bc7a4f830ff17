"""Checks of LOAD's and STORE's runs: against the limit in DRAM, against what the core has."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
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
    """Bits of the bytes of a run that has been checked: it fits the memory on the core."""
    return bits_for(
        max(
            config.scratchpad_bytes,
            config.column_slots * COLUMN_RECORD_BYTES,
            config.table_slots * TABLE_ENTRIES * ENTRY_BYTES,
        )
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

    With `refused`, the walk ends here: the run lies beyond the limit if `outside`, else beyond the
    core's memory, and `address` is the first byte or granule (slot, entry) that does.
    """
    return data.StructLayout(
        {
            "address": config.axi_address_bits,
            "more": size_width(config),
            "place": place_width(config),
            "zero": 1,
            "side": 1,
            "tables": 1,
            "last": 1,
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
    command: data.View,
    facts: SimpleNamespace,
    is_load: bool,
) -> int:
    """Add, compare, select: check runs in a pipeline of one stage each.

    Args:
        m: the module to build it in.
        config: of the core.
        i: runs of `raw_layout`.
        o: runs of `walk_layout`.
        command: their instruction's operands, steady while any run is in the pipeline.
        facts: what a `Walker` derives from them.
        is_load: whether it is a LOAD, which has more places to go to.

    Returns:
        How many runs the pipeline holds at most.
    """
    pipe = Pipeline(m, i=i, o=o)
    s = pipe.stage(
        "sum",
        address=(facts.base + i.p.offset[: len(facts.base)])[: len(facts.base)],
        # What is left up to the limit; its sign is set if the run begins beyond.
        room=(facts.limit - i.p.offset)[: OFFSET_WIDTH + 1],
        granule=i.p.granule,
        last_granule=i.p.granule + facts.more,
        last=i.p.last,
        unlisted=i.p.unlisted,
    )
    starts_outside = s.room[OFFSET_WIDTH]
    # A place that does not fit here is that of the first run, or of an index.
    exact = facts.far | s.unlisted
    beyond = s.last_granule[exact_log2(config.granules) :].any()
    first_beyond = _at_least(s.granule, config.granules, exact)
    high = command.address[GRANULE_WIDTH:]
    if is_load:
        slots = s.last_granule[exact_log2(config.column_slots) :].any()
        table_entries = config.table_slots * TABLE_ENTRIES
        entries = _reaches(s.last_granule, table_entries)
        beyond = Mux(facts.side, Mux(facts.tables, entries, slots), beyond)
        first_beyond = Mux(
            facts.side,
            Mux(
                facts.tables,
                Mux(_reaches(s.granule, table_entries) | exact, s.granule, table_entries),
                _at_least(s.granule, config.column_slots, exact),
            ),
            first_beyond,
        )
        high = Mux(s.unlisted, command.index[GRANULE_WIDTH:], high)
    s = pipe.stage(
        "verdict",
        address=s.address,
        # A run that begins within the limit leaves it at the limit.
        at_limit=~starts_outside,
        granule=s.granule,
        first_beyond=Cat(first_beyond[:GRANULE_WIDTH], high),
        outside=(starts_outside | (command.n0 > s.room[:OFFSET_WIDTH])) & ~facts.zero & ~s.unlisted,
        beyond=beyond | facts.far | facts.huge | s.unlisted,
        last=s.last,
    )
    at_fault = Mux(s.outside, Mux(s.at_limit, facts.end, s.address), s.first_beyond)
    s = pipe.stage(
        "run",
        address=Mux(s.outside | s.beyond, at_fault, s.address)[: len(facts.base)],
        place=s.granule[: place_width(config)],
        outside=s.outside,
        refused=s.outside | s.beyond,
        last=s.last,
    )
    run = Signal(walk_layout(config))
    m.d.comb += [
        run.address.eq(s.address),
        run.place.eq(s.place),
        run.more.eq(facts.more_bytes),
        run.zero.eq(facts.zero),
        run.side.eq(facts.side),
        run.tables.eq(facts.tables),
        run.last.eq(s.last),
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


def _at_least(value: Value, bound: int, exact: Value) -> Value:
    """Return the larger of a value and a power of two, or if `exact`, the value."""
    return Mux(value[exact_log2(bound) :].any() | exact, value, bound)
