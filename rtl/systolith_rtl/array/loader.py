"""Weight loader: asks for the words of each tile of B and sends them into the array."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith_rtl.array.tiles import Progress, TileAddress, bits, loader_plan
from systolith_rtl.interfaces import ReadSignature
from systolith_rtl.memory.scratchpad import BANK_WIDTH, bank_of, row_of
from systolith_rtl.skid import PingPong, Skid


class WeightLoader(wiring.Component):
    """Load the tiles of B one after the other, each as soon as the one before is swapped in.

    A tile is C words, one a cycle, from the ring or from the scratchpad. For B in the scratchpad,
    rows beyond N are not read, and they and bytes beyond K are 0. A GEMM's first tile follows the
    last one of the GEMM before as any other tile does.

    A word is decided on in one cycle and asked for in the next, or later if it is refused or its
    tile's turn has not come; two may wait. So the walk depends neither on the ring nor on the
    scratchpad nor on the feeder.

    With `config.int4`, one more word of the ring, of exponents, comes before a group's first tile
    of INT4 weights, and again after every `config.exponent_tiles` of them.

    Members:
        plan: `In(stream.Signature(loader_plan(config)))`, taken with the last word of the one
            before, or when there is none.
        halt: `In(1)`, ask for nothing from the next cycle on.
        starts: `In(1)`, if the array's next tile is complete, it is put to use in this cycle.
        starts_next: `In(1)`, what it is in the next cycle.
        complete: `Out(1)`, all words of that tile have been granted; a register,
        complete_copy: `Out(1)`, and another one,
        completes: `Out(1)`, and what they are in the next cycle.
        b: `Out(ReadSignature(config))`.
        available, pop, ring_data: the read side of `WeightRing`.
        weights: `Out(8 * R)`, for the array, `config.read_latency` cycles after the grant.
        capture: `Out(C)`, beside it: the column that it is for, or nothing.
        int4: `Out(1)`, beside it: its bytes are two INT4 weights each; only with INT4, like the
            following.
        exponents: `Out(1)`, `ring_data` has exponents in this cycle.
        active: `Out(1)`, there is a tile to load.
        dry: `Out(1)`, the ring does not have the next word.
        outside: `Out(1)`, the next word is beyond the scratchpad. It is not asked for. All words
            before it have been granted.
        granule: `Out(32)`, its address.
        reading: `Out(1)`, a word is on its way.
    """

    plan: stream.Interface
    halt: Signal
    starts: Signal
    starts_next: Signal
    complete: Signal
    complete_copy: Signal
    completes: Signal
    b: Any
    available: Signal
    pop: Signal
    ring_data: Signal
    weights: Signal
    capture: Signal
    int4: Signal
    exponents: Signal
    active: Signal
    dry: Signal
    outside: Signal
    granule: Signal
    reading: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "plan": In(stream.Signature(loader_plan(config))),
                "halt": In(1),
                "starts": In(1),
                "starts_next": In(1),
                "complete": Out(1),
                "complete_copy": Out(1),
                "completes": Out(1),
                "b": Out(ReadSignature(config)),
                "available": In(1),
                "pop": Out(1),
                "ring_data": In(8 * config.rows),
                "weights": Out(8 * config.rows),
                "capture": Out(config.columns),
                **({"int4": Out(1), "exponents": Out(1)} if config.int4 else {}),
                "active": Out(1),
                "dry": Out(1),
                "outside": Out(1),
                "granule": Out(32),
                "reading": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Ask word by word; what happens to a word when it comes is decided with its request."""
        m = Module()
        config = self.config
        plan = self.plan.p
        current = Signal(loader_plan(config), reset_less=True)
        m.submodules.address = address = TileAddress(config)
        k_tiles = Progress("k_tiles", len(current.k_tiles.whole))
        groups = Progress("groups", len(current.groups.whole))
        column = Signal(range(config.columns))
        first_column = Signal(init=1)
        last_column = Signal()
        first_tile = Signal(reset_less=True)
        group_ends = Signal()  # The last column of the last k tile.
        # Behind a GEMM's last word comes a plan, be there one or not: that is known late.
        turn = Signal(init=1)
        reads = Signal()  # The column's row of B is in the scratchpad, and there.

        # The walk goes on behind a word outside, but nothing comes of it.
        m.submodules.words = words = PingPong(self._word_layout())
        # Beside it, what all other readers look at: from a register, since they are far. And what
        # decides on grants, since that comes late.
        decides = {"bank": BANK_WIDTH, "asks": 1, "ring": 1, "ends": 1}
        m.submodules.banks = banks = Skid(data.StructLayout(decides))
        fails = Signal()
        lost = Signal()
        granule = Signal(len(self.granule), reset_less=True)
        m.d.comb += [
            fails.eq(self.active & reads & address.outside),
            self.outside.eq(lost & words.empty),
            self.plan.ready.eq(~self.active | (words.i.ready & turn)),
            self.granule.eq(granule),
        ]
        with m.If(~lost):
            m.d.sync += [lost.eq(fails), granule.eq(address.granule)]

        moves = ~self.active | words.i_enable
        group = Signal(address.low_bits, reset_less=True)
        group_step = current.row_step.shift_left(bits(config.columns))
        with m.If(first_column & first_tile):
            m.d.sync += group.eq(address.row + group_step)
        m.d.comb += [
            address.advance.eq(moves),
            address.start.eq(turn),
            address.base.eq(plan.address),
            address.base_outside.eq(plan.outside),
            address.to_group.eq(turn | group_ends),
            address.group.eq(group),
            address.to_tile.eq(last_column),
            address.first.eq(first_column),
            address.row_step.eq(current.row_step),
        ]
        due_exponents = self._exponents_due(m, current, turn, moves, last_column, k_tiles.last)
        with m.If(self.active & words.i_enable & ~due_exponents):
            comes = column == config.columns - 2
            m.d.sync += [
                column.eq(column + 1),
                first_column.eq(last_column),
                last_column.eq(comes),
                group_ends.eq(comes & k_tiles.last),
            ]
            # The last group's row `n_tail` is the last one there is.
            ends = groups.last & (column == current.n_tail)
            m.d.sync += reads.eq(current.scratchpad & (last_column | (reads & ~ends)))
            with m.If(comes & k_tiles.last & groups.last):
                m.d.sync += turn.eq(1)
        # A tile has two words at least, so the first one is not the last one.
        with m.If(self.plan.valid & self.plan.ready):
            m.d.sync += [self.active.eq(1), turn.eq(0)]
        with m.Elif(words.i.ready & turn):
            m.d.sync += self.active.eq(0)
        # Each on its own, so that no enable comes from another one.
        with m.If(~self.active | (words.i_enable & turn)):
            m.d.sync += [current.eq(plan), reads.eq(plan.scratchpad)]
        with m.If(~self.active | (words.i_enable & last_column)):
            m.d.sync += first_tile.eq(turn | k_tiles.last)
        for progress, name, end in (
            (k_tiles, "k_tiles", last_column),
            (groups, "groups", group_ends),
        ):
            progress.walk(
                m,
                ~self.active | (words.i_enable & end),
                words.i_enable & end,
                turn=turn,
                new=plan[name],
                count=current[name],
                again=name != "groups",
            )

        whole = ~current.scratchpad | ~k_tiles.last
        word = words.i.p
        m.d.comb += [
            words.i.valid.eq(self.active & ~(reads & address.outside) & ~lost),
            word.row.eq(row_of(address.address)),
            banks.i.valid.eq(words.i.valid),
            banks.i.p.bank.eq(bank_of(address.address)),
            banks.i.p.asks.eq(reads),
            banks.i.p.ring.eq(~current.scratchpad),
            banks.i.p.ends.eq(last_column),
            word.tail.eq(Mux(whole, config.rows - 1, current.k_tail)),
            word.scratchpad.eq(reads),
            word.ring.eq(~current.scratchpad),
        ]
        if config.int4:
            m.d.comb += [word.int4.eq(current.int4), word.exponents.eq(due_exponents)]
        self._ask(m, words, banks)
        return m

    def _word_layout(self) -> data.StructLayout:
        """A word of a tile: where it is, which bytes of it count, and what it means."""
        config = self.config
        return data.StructLayout(
            {
                "row": range(config.bank_words),
                "tail": unsigned(bits(config.rows)),
                "scratchpad": unsigned(1),
                "ring": unsigned(1),
                **({"int4": unsigned(1), "exponents": unsigned(1)} if config.int4 else {}),
            }
        )

    def _ask(self, m: Module, words: PingPong, banks: Skid) -> None:
        """Ask for one word after the other, and send it on once it is granted.

        Both buffers hold the same words.
        """
        word, decides = words.o.p, banks.o.p
        asks = Signal()
        granted = Signal()
        # A swap frees the shadow registers for the words behind it.
        permits = Signal(init=1)
        complete = self.complete
        for copy in (complete, self.complete_copy):
            copy.attrs["keep"] = 1
        m.d.comb += [
            asks.eq(words.o.valid & permits),
            self.b.address.eq(Cat(word.row, decides.bank)),
            self.b.valid.eq(asks & decides.asks),
            self.pop.eq(asks & decides.ring & self.available),
            granted.eq(asks & Mux(decides.ring, self.available, self.b.ready | ~decides.asks)),
            words.o.ready.eq(granted),
            banks.o.ready.eq(granted),
            self.dry.eq(asks & decides.ring & ~self.available),
        ]
        # The first word behind a swap is not the last one of its tile.
        assert self.config.columns >= 2
        m.d.comb += self.completes.eq((granted & decides.ends) | (complete & ~self.starts))
        m.d.sync += [
            complete.eq(self.completes),
            self.complete_copy.eq(self.completes),
            permits.eq(~self.halt & (~self.completes | self.starts_next)),
        ]
        self._deliver(m, granted, word)

    def _exponents_due(
        self,
        m: Module,
        current: data.View,
        turn: Value,
        moves: Value,
        tile_end: Value,
        last_tile: Signal,
    ) -> Value:
        """Count the tiles from one word of exponents to the next; return whether it is due."""
        if not self.config.int4:
            return Const(0)
        due = Signal()
        tile = Signal(range(self.config.exponent_tiles))
        with m.If(moves):
            m.d.sync += due.eq(0)
            with m.If(turn):
                m.d.sync += [due.eq(self.plan.p.int4), tile.eq(0)]
            with m.Elif(tile_end):
                m.d.sync += [
                    due.eq(current.int4 & (last_tile | tile.all())),
                    tile.eq(Mux(last_tile, 0, tile + 1)),
                ]
        return due

    def _deliver(self, m: Module, granted: Signal, asked: data.View) -> None:
        """Mask the words that come, and count them: they are for columns 0 to C - 1 in turn."""
        rows, int4, latency = self.config.rows, self.config.int4, self.config.read_latency
        layout = asked.shape()
        arriving = Signal(latency)
        m.d.sync += arriving.eq(Cat(granted, arriving))
        m.d.comb += self.reading.eq(arriving.any())

        words = [Signal(layout, name=f"word{i}", reset_less=True) for i in range(latency - 1)]
        # Without an enable, since a grant comes late: without one, this arrives at nothing.
        m.d.sync += words[0].eq(asked)
        for i in range(1, len(words)):
            with m.If(arriving[i - 1]):
                m.d.sync += words[i].eq(words[i - 1])

        # Which bytes count of the scratchpad's word, and whether the ring's word does.
        keep = Signal(rows, reset_less=True)
        keep_ring = Signal(reset_less=True)
        word = words[-1]
        with m.If(arriving[-2]):
            m.d.sync += keep_ring.eq(word.ring)
            if int4:
                m.d.sync += self.int4.eq(word.int4)
            m.d.sync += keep.eq(Cat((word.tail >= r) & word.scratchpad for r in range(rows)))
        mask = Cat(bit.replicate(8) for bit in keep)
        m.d.comb += self.weights.eq(
            (self.b.data & mask) | (self.ring_data & keep_ring.replicate(8 * rows))
        )

        target = Signal(self.config.columns, init=1)
        is_column = arriving[-1]
        if int4:
            is_column = Signal()
            m.d.sync += [
                is_column.eq(arriving[-2] & ~word.exponents),
                self.exponents.eq(arriving[-2] & word.exponents),
            ]
        with m.If(is_column):
            m.d.sync += target.eq(target.rotate_left(1))
        m.d.comb += self.capture.eq(Mux(is_column, target, 0))
