"""What a walk must know: the facts of its instruction, and the indices that this one lists."""

from collections.abc import Sequence
from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.utils import exact_log2

from systolith.config import COLUMN_RECORD_BYTES, CoreConfig
from systolith.isa import INDEX_BYTES, Fill, Space
from systolith_rtl.dma.bounds import ENTRY_BYTES, GRANULE_WIDTH, size_width
from systolith_rtl.settings import BASE, BASE_HIGH, LIMIT, SCALAR


def look_up(
    m: Module,
    config: CoreConfig,
    *,
    taken: data.View,
    command: data.View,
    lookup: Sequence[wiring.PureInterface],
    state: SimpleNamespace,
    is_load: bool,
) -> SimpleNamespace:
    """Registers of what an instruction says, loaded in its second cycle and steady from then on.

    The command itself changes as soon as the next one may be taken.

    Args:
        m: the module to build it in.
        config: the core.
        taken: the operands of a command that may be taken now.
        command: the same of the one that was taken.
        lookup: the settings.
        state: the walker's.
        is_load: whether it is a LOAD, which has more places to go to.

    Returns:
        The registers.
    """
    facts = SimpleNamespace(
        base=Signal(config.axi_address_bits, reset_less=True),
        limit=Signal(32, reset_less=True),
        # Where what may be accessed ends.
        end=Signal(config.axi_address_bits, reset_less=True),
        # Bytes of a run, less one; granules, slots or entries of it, less one, and whether they
        # are more than that.
        size=Signal(command.n0.shape(), reset_less=True),
        more_bytes=Signal(size_width(config)),
        more=Signal(GRANULE_WIDTH, reset_less=True),
        huge=Signal(reset_less=True),
        # Whether the first place has more bits than places are walked in.
        far=Signal(reset_less=True),
        # The bits above of the first place, and of the first place of an index list.
        high=Signal(32 - GRANULE_WIDTH, reset_less=True),
        high_index=Signal(32 - GRANULE_WIDTH, reset_less=True),
        single_run=Signal(reset_less=True),
        zero=Signal(reset_less=True),
        gather=Signal(reset_less=True),
        side=Signal(reset_less=True),
        tables=Signal(reset_less=True),
    )
    # Beyond what any memory on the core has, only whether there is anything counts.
    inner = GRANULE_WIDTH + exact_log2(max(config.columns, COLUMN_RECORD_BYTES))
    low_more = Signal(inner + 1, reset_less=True)
    high = facts.size[inner:]
    beyond = high[1:].any() | (high[0] ^ low_more[inner])
    more = Cat(low_more[:inner], beyond)
    units = more >> exact_log2(config.columns)
    places = []
    if is_load:
        # A bit of an operand tells, since control refuses whatever is no `Space` or `Fill`.
        side, tables = command.space[:2].any(), command.space[Space.TABLES - 1]
        places = [
            facts.zero.eq(command.fill[Fill.ZERO - 1]),
            facts.gather.eq(command.fill[Fill.GATHER - 1]),
            facts.side.eq(side),
            facts.tables.eq(tables),
            facts.high_index.eq(command.index[GRANULE_WIDTH:]),
        ]
        records = Mux(
            facts.tables,
            more[exact_log2(ENTRY_BYTES) :],
            more[exact_log2(COLUMN_RECORD_BYTES) :],
        )
        units = Mux(facts.side, records, units)
    # Base (low word) and scalar are read in the second cycle, limit and high word in the third.
    # The places are registers, since there is something to be done with a scalar.
    low, high = lookup
    low_place, high_place = (
        Signal.like(port.place, name=f"{name}_place", reset_less=True)
        for name, port in (("low", low), ("high", high))
    )
    m.d.comb += [low.place.eq(low_place), high.place.eq(high_place)]
    base = command.base[:3]
    with m.If(state.take):
        m.d.sync += [
            low_place.eq(BASE + taken.base[:3]),
            high_place.eq(SCALAR + (taken.scalar - 1)[:2]),
        ]
    with m.Else():
        m.d.sync += [low_place.eq(LIMIT + base), high_place.eq(BASE_HIGH + base)]
    with m.If(state.sets):
        m.d.sync += [
            facts.base[:32].eq(low.value),
            facts.size.eq(command.n0),
            facts.far.eq(command.address[GRANULE_WIDTH:].any()),
            facts.high.eq(command.address[GRANULE_WIDTH:]),
            facts.single_run.eq(command.n1 == 1),
            *places,
        ]
    with m.If(state.scalar):
        m.d.sync += [facts.limit.eq(low.value), facts.base[32:].eq(high.value)]
    # These are two and three cycles late, which is early enough for the first run.
    m.d.sync += [
        low_more.eq(facts.size[:inner] - 1),
        facts.more.eq(units),
        facts.huge.eq(units[GRANULE_WIDTH:].any()),
        facts.end.eq(facts.base + facts.limit),
    ]
    m.d.comb += facts.more_bytes.eq(more)
    return facts


def read_index(
    m: Module,
    config: CoreConfig,
    *,
    read: wiring.PureInterface,
    command: data.View,
    state: SimpleNamespace,
    blocked: Signal,
) -> SimpleNamespace:
    """Read entries of an index list, one after the other.

    Args:
        m: the module to build it in.
        config: the core.
        read: the scratchpad.
        command: the operands of the instruction.
        state: the walker's.
        blocked: nothing is to be read.

    Returns:
        That there is no next one in the scratchpad (`missing`), at which `place`; that it is
        `asked` for; that a `part` of it has `come`, the `whole` or only `half` of it.
    """
    # Entries of an index list lie on granules, so a small granule holds half of one.
    piece_bytes = min(config.columns, INDEX_BYTES)
    piece_bits = exact_log2(config.columns // piece_bytes)
    word_bits = exact_log2(config.rows // piece_bytes)
    # Up to the first piece beyond the scratchpad; bits above are those of `index`.
    inside_bits = exact_log2(config.granules) + piece_bits
    piece = Signal(inside_bits + 1, reset_less=True)
    halves = Signal()
    # Whether `piece` lies beyond the scratchpad: found out while it is set, since the way from
    # here through the scratchpad's arbiters is long enough.
    beyond = Signal(reset_less=True)
    come = state.awaits & read.data_valid
    is_half = ~halves if piece_bytes < INDEX_BYTES else Const(0, 1)
    m.d.comb += [
        read.valid.eq(state.index & ~beyond & ~blocked),
        read.address.eq(piece[word_bits:]),
    ]
    with m.If(state.begins):
        m.d.sync += [
            piece.eq(command.index << piece_bits),
            beyond.eq(command.index[inside_bits - piece_bits :].any()),
        ]
    with m.Elif(come):
        m.d.sync += [
            piece.eq(piece + 1),
            beyond.eq(piece[:inside_bits].all()),
            halves.eq(~halves),
        ]
    return SimpleNamespace(
        missing=beyond,
        place=Cat(piece[piece_bits:], command.index[inside_bits + 1 - piece_bits :]),
        asked=read.valid & read.ready,
        part=read.data.word_select(piece[:word_bits], 8 * piece_bytes),
        come=come,
        whole=come & ~is_half,
        half=come & is_half,
    )
