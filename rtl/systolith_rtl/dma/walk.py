"""The address walk of LOAD and STORE: from an instruction to checked runs of bytes."""

from collections.abc import Sequence
from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import OFFSET_WIDTH, Fill, Opcode
from systolith_rtl.dma.bounds import GRANULE_WIDTH, check_runs, raw_layout, walk_layout
from systolith_rtl.dma.facts import look_up, read_index
from systolith_rtl.dma.fifo import count
from systolith_rtl.interfaces import ReadSignature, operand_layout
from systolith_rtl.settings import MEMORIES, LookupSignature
from systolith_rtl.skid import Skid

STATES = (
    "take",
    "setup",
    "scalar",
    "first",
    "block",
    "run",
    "index",
    "awaits",
    "product",
)
"""Take a command, look up its settings, multiply its scalar, begin its first block or another one,
send a run; ask for an index, wait for it, multiply it."""


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
        began: `Out(1)`, a command was taken in the cycle before.
        room: `In(1)`, there was room for a command before the last one was taken.
        halt: `In(1)`, take no command and read no index, a cycle later.
    """

    command: stream.Interface
    lookup: Sequence[wiring.PureInterface]
    o: stream.Interface
    read: wiring.PureInterface
    drained: Signal
    began: Signal
    room: Signal
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
                "began": Out(1),
                "room": In(1),
                "halt": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One state machine in front of a pipeline of checks."""
        m = Module()
        command = Signal(self.command.payload.shape(), reset_less=True)
        raw = stream.Signature(raw_layout()).create(path=("raw",))
        checked = stream.Signature(walk_layout(self.config)).create(path=("checked",))
        # All states but one are registers of their own, and enable others as they are.
        state = SimpleNamespace(
            **{name: Signal(name=name, init=name == "take") for name in STATES},
            # Copies for the command, the facts and who counts, which Yosys would merge without
            # `keep`.
            takes=Signal(name="takes", init=1, attrs={"keep": 1}),
            sets=Signal(name="sets", attrs={"keep": 1}),
            began=Signal(name="has_begun", attrs={"keep": 1}),
            # The same of a run, and that a block begins, first or not.
            goes=Signal(name="goes", attrs={"keep": 1}),
            begins=Signal(name="begins"),
        )
        for copied in (state.take, state.setup, state.run):
            copied.attrs["keep"] = 1
        m.d.comb += self.began.eq(state.began)
        facts = look_up(
            m,
            self.config,
            taken=self.command.p,
            command=command,  # pyright: ignore[reportArgumentType]
            lookup=self.lookup,
            state=state,
            is_load=self.is_load,
        )
        m.submodules.skid = skid = Skid(walk_layout(self.config))
        # All registers of the checks depend on whether a run is taken.
        depth = check_runs(
            m,
            self.config,
            i=raw,
            o=checked,
            enable=skid.i_enable,
            facts=facts,
            is_load=self.is_load,
        )
        wiring.connect(m, checked, skid.i)
        wiring.connect(m, skid.o, wiring.flipped(self.o))

        # The constants of a command must not change while the pipeline holds its runs.
        leaves = checked.valid & checked.ready
        checking = count(m, "checking", up=raw.valid & raw.ready, down=leaves, limit=depth)
        refused = checked.valid & checked.p.refused
        blocked = Signal()
        blocks = self.halt | refused | blocked
        m.d.sync += blocked.eq(blocks)
        # As of the next cycle. While a command could be taken, no run begins to be checked.
        may_take = ~(checking.some & ~(leaves & (checking.level == 1))) & ~blocks & self.room
        self._walk(
            m,
            command,  # pyright: ignore[reportArgumentType]
            facts,
            raw,
            state,
            blocked,
            may_take,
        )
        return m

    def _walk(
        self,
        m: Module,
        command: data.View,
        facts: SimpleNamespace,
        raw: stream.Interface,
        state: SimpleNamespace,
        blocked: Signal,
        may_take: Value,
    ) -> None:
        """Blocks, runs, and for each as many steps of a product as it needs."""
        offset = Signal(OFFSET_WIDTH, reset_less=True)
        block_offset = Signal(OFFSET_WIDTH, reset_less=True)
        granule = Signal(GRANULE_WIDTH, reset_less=True)
        block_granule = Signal(GRANULE_WIDTH, reset_less=True)
        # Which is to be compared with their number next, and whether the one before it is the last.
        runs = Signal(16, reset_less=True)
        blocks = Signal(16, reset_less=True)
        last_run, last_block = Signal(reset_less=True), Signal(reset_less=True)
        multiplier = Signal(32, reset_less=True)
        # While nothing is multiplied, the stride from run to run: one adder does both.
        addend = Signal(OFFSET_WIDTH, reset_less=True)
        unlisted = Signal(reset_less=True)
        gather = facts.gather if self.is_load else Const(0, 1)
        m.d.comb += [
            raw.valid.eq(state.run),
            raw.p.offset.eq(offset),
            raw.p.granule.eq(granule),
            raw.p.last.eq(last_run & last_block),
            raw.p.unlisted.eq(unlisted),
        ]
        waits = self.command.p.fill[Fill.GATHER - 1] & ~self.drained if self.is_load else 0
        # A register, since whoever asks for commands has a long way to go from here.
        ready = Signal(init=1, attrs={"keep": 1})
        m.d.comb += self.command.ready.eq(ready & ~waits)
        taken = self.command.valid & self.command.ready
        went = state.run & raw.ready
        ended = went & last_run
        multiplied = multiplier == 0
        index = None
        if self.is_load:
            index = read_index(
                m, self.config, read=self.read, command=command, state=state, blocked=blocked
            )

        take = (state.take & ~taken) | (went & ((last_run & last_block) | unlisted))
        m.d.sync += [
            ready.eq(state.take & ~taken & may_take),
            state.take.eq(take),
            state.takes.eq(take),
            state.setup.eq(taken),
            state.sets.eq(taken),
            state.began.eq(taken),
            state.scalar.eq(state.setup | (state.scalar & ~multiplied)),
            state.first.eq(state.scalar & multiplied),
            state.block.eq(ended & ~last_block & ~unlisted),
            state.begins.eq((state.scalar & multiplied) | (ended & ~last_block & ~unlisted)),
        ]
        goes_on = (state.begins & ~gather) | (
            state.run & ~(raw.ready & (last_run | unlisted | gather))
        )
        if index is not None:
            next_index = (state.begins | (went & ~last_run & ~unlisted)) & gather
            m.d.sync += [
                state.index.eq(
                    next_index | (state.index & ~index.missing & ~index.asked) | index.half
                ),
                state.awaits.eq((state.index & index.asked) | (state.awaits & ~index.come)),
                state.product.eq(index.whole | (state.product & ~multiplied)),
            ]
            goes_on |= (state.product & multiplied) | (state.index & index.missing)
        m.d.sync += [state.run.eq(goes_on), state.goes.eq(goes_on)]

        # The command changes as long as it may, so that its registers have an enable of their own.
        with m.If(state.takes):
            m.d.sync += command.eq(self.command.payload)
        steps = state.goes & raw.ready
        following = (offset + addend)[:OFFSET_WIDTH]
        multiplies = state.scalar | (state.product if index is not None else 0)
        # Products begin with what the block does; `goes` itself has wires enough.
        back = Mux(gather, ~multiplies, state.block)
        with m.If(state.setup | state.block | steps | (multiplies & multiplier[0])):
            m.d.sync += offset.eq(
                Mux(state.setup, command.dram_offset, Mux(back, block_offset, following))
            )
        with m.If(state.first):
            m.d.sync += block_offset.eq(offset)
        with m.Elif(ended):
            m.d.sync += block_offset.eq(block_offset + command.dram_stride2)
        with m.If(state.begins):
            m.d.sync += [
                granule.eq(block_granule),
                runs.eq(2),
                last_run.eq(facts.single_run),
            ]
        with m.Elif(steps):
            m.d.sync += [
                granule.eq(granule + command.stride1),
                runs.eq(runs + 1),
                last_run.eq(runs == command.n1),
            ]
        with m.If(state.setup):
            m.d.sync += [
                block_granule.eq(command.address),
                blocks.eq(2),
                last_block.eq(command.n2 == 1),
                unlisted.eq(0),
            ]
        with m.Elif(ended):
            m.d.sync += [
                block_granule.eq(block_granule + command.stride2),
                blocks.eq(blocks + 1),
                last_block.eq(blocks == command.n2),
            ]
        with m.If(state.setup):
            m.d.sync += multiplier.eq(Mux(command.scalar == 0, 0, self.lookup[1].value))
        with m.Elif(multiplies):
            m.d.sync += multiplier.eq(multiplier >> 1)
        with m.If(multiplies):
            m.d.sync += addend.eq(addend << 1)
        with m.Elif(state.setup):
            m.d.sync += addend.eq(command.scalar_stride)
        with m.Else():
            m.d.sync += addend.eq(command.dram_stride1)
        if index is not None:
            with m.If(state.index & index.missing):
                m.d.sync += [unlisted.eq(1), granule.eq(index.place)]
            with m.If(index.come):
                m.d.sync += multiplier.eq(Cat(multiplier, index.part)[len(index.part) :])
