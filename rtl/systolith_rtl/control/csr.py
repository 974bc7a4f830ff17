"""The register port: an AXI4-Lite slave made from the table in `systolith.regs`."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import combinations
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith import regs
from systolith.config import ISA_VERSION, CoreConfig
from systolith_rtl.control.counters import ALWAYS, COUNTER_WIDTH, COUNTERS, SAME, Counters
from systolith_rtl.interfaces import AxiLiteSignature
from systolith_rtl.settings import DEPTH, MEMORIES, PLACES, Settings, SettingSignature

_ALL = 0xFFFF_FFFF

_GROUP = 8
"""Registers that are put together in one stage of a read."""

_COLUMNS = 16
"""Registers in a row, each of which is found by its row and its column."""

PROGRAM = ("base0_lo", "base0_hi", "limit0")
"""Settings that fetch always needs: they are registers besides."""

CLEARING_CYCLES = MEMORIES * DEPTH
"""Cycles after the reset in which settings become 0, and no write is taken."""


class Csr(wiring.Component):
    """Registers behind AXI4-Lite.

    One read and one write may be under way at a time, independently of each other; address and
    data of a write may come in any order; a write waits until the reset has cleared the settings,
    for `CLEARING_CYCLES`. Every access is answered with OKAY: a read of nothing
    gives 0, and a write to what is not writable is ignored. The two lowest address bits do not
    matter. A write takes effect 2 cycles after the second of its parts has come, that of a setting
    after 3. A read is answered after 4 cycles, that of a counter after `Counters.DELAY` more.

    Members:
        s_axil: `In(AxiLiteSignature())`.
        control: `Out(4)`, for one cycle what is written to the register of this name, a bit for
            each `regs.Control`.
        counter: `Out`, the counter that is being read.
        count: `In(COUNTER_WIDTH)`, its value `Counters.DELAY` cycles later.
        change: `Out(SettingSignature())`, a setting is being written.
        <name>: for each register but `control`, the constants, the counters and the settings that
            are not in `PROGRAM`: `Out(32)` if the host may write it, else `In(32)`.
    """

    s_axil: wiring.PureInterface
    control: Signal
    counter: Signal
    count: Signal
    change: wiring.PureInterface

    def __init__(self, config: CoreConfig) -> None:
        self._constants = {
            "id": regs.MAGIC,
            "version": ISA_VERSION,
            "config_hash_lo": config.hash & 0xFFFF_FFFF,
            "config_hash_hi": config.hash >> 32,
            "capabilities": regs.capabilities(config),
            "control": 0,
        }
        names = COUNTERS if config.stall_counters else ALWAYS
        indices = {name: index for index, name in enumerate(names)}
        indices |= {name: indices[other] for name, other in SAME.items() if other in indices}
        self._registers = [
            register
            for register in regs.REGISTERS
            if register.needs is None or regs.capabilities(config) >> register.needs & 1
        ]
        self._counters = {
            register.offset // 4: (index, register.name.endswith("_hi"))
            for register in self._registers
            for name, index in indices.items()
            if register.name in (name, f"{name}_lo", f"{name}_hi")
        }
        self._ports = [
            register
            for register in self._registers
            if register.name not in self._constants
            and register.offset // 4 not in self._counters
            and (register.name not in PLACES or register.name in PROGRAM)
        ]
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature()),
                "control": Out(len(regs.Control)),
                "counter": Out(range(len(names))),
                "count": In(COUNTER_WIDTH),
                "change": Out(SettingSignature()),
                **{
                    register.name: Out(32, init=register.reset) if register.writable else In(32)  # pyright: ignore[reportCallIssue]
                    for register in self._ports
                },
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the write side and the read side, which share nothing but the registers."""
        m = Module()
        self._write(m)
        self._read(m)
        return m

    def _write(self, m: Module) -> None:
        """Take both parts, find out which register is meant, write it: a cycle each."""
        bus = self.s_axil
        word = Signal(AxiLiteSignature.ADDRESS_WIDTH - 2, name="write_word", reset_less=True)
        data = Signal(32, name="write_data", reset_less=True)
        strobe = Signal(4, reset_less=True)
        has_address = Signal()
        has_data = Signal()
        complete = Signal()
        commit = Signal()
        cleared = Signal(range(CLEARING_CYCLES + 1))
        open_ = cleared[-1]
        with m.If(~open_):
            m.d.sync += cleared.eq(cleared + 1)
        m.d.comb += [
            bus.aw.ready.eq(open_ & ~has_address & ~bus.b.valid),
            bus.w.ready.eq(open_ & ~has_data & ~bus.b.valid),
            complete.eq(has_address & has_data & ~commit),
        ]
        m.d.sync += commit.eq(complete)
        with m.If(bus.aw.valid & bus.aw.ready):
            m.d.sync += has_address.eq(1)
        with m.If(bus.w.valid & bus.w.ready):
            m.d.sync += has_data.eq(1)
        # Whatever is there until it is accepted.
        with m.If(~has_address):
            m.d.sync += word.eq(bus.aw.addr[2:])
        with m.If(~has_data):
            m.d.sync += [data.eq(bus.w.data), strobe.eq(bus.w.strb)]
        with m.If(bus.b.ready):
            m.d.sync += bus.b.valid.eq(0)
        with m.If(commit):
            m.d.sync += [has_address.eq(0), has_data.eq(0), bus.b.valid.eq(1)]

        def meant(register: regs.Register) -> Signal:
            chosen = Signal(name=f"writes_{register.name}", reset_less=True)
            m.d.sync += chosen.eq(word == register.offset // 4)
            return chosen

        for register in self._ports:
            if not register.writable:
                continue
            chosen = meant(register)
            value = getattr(self, register.name)
            for index in range(4):
                part = slice(8 * index, 8 * index + 8)
                mask = register.mask >> 8 * index & 0xFF
                if mask:
                    with m.If(commit & chosen & strobe[index]):
                        m.d.sync += value[part].eq(data[part] & mask)
        place, is_setting = _find_setting(m, "written", word)
        keep = Signal(32, reset_less=True)
        m.d.sync += keep.eq(-1)
        with m.Switch(word):
            for name in PLACES:
                register = regs.BY_NAME[name]
                if register.mask != _ALL:
                    with m.Case(register.offset // 4):
                        m.d.sync += keep.eq(register.mask)
        m.d.sync += [
            self.change.place.eq(Mux(open_, place, cleared)),
            self.change.data.eq(Mux(open_, data & keep, 0)),
            self.change.write.eq(Mux(open_, strobe & (commit & is_setting).replicate(4), -1)),
        ]

        # As with `commit`.
        commanded = complete & (word == regs.offset("control") // 4) & strobe[0]
        bits = len(self.control)
        m.d.sync += self.control.eq(data[:bits] & commanded.replicate(bits))

    def _read(self, m: Module) -> None:
        """Find out which register is meant, then put values together in two stages of ORs."""
        bus = self.s_axil
        word = Signal(AxiLiteSignature.ADDRESS_WIDTH - 2, name="read_word", reset_less=True)
        found, gathered, answered = 1, 2, 3
        step = Signal(range(answered + 1))
        # Counts up to its uppermost bit.
        delay = Signal(Counters.DELAY.bit_length() + 1, reset_less=True)
        over = 1 << len(delay) - 1
        counted = Signal(reset_less=True)
        upper = Signal(reset_less=True)
        # Most registers are told apart by two of these bits.
        columns = Cat(bus.ar.addr[2:] % _COLUMNS == each for each in range(_COLUMNS))
        rows = Cat(
            bus.ar.addr[2:] // _COLUMNS == each for each in range(regs.SPAN // 4 // _COLUMNS)
        )
        row = Signal(len(rows), name="read_row", reset_less=True)
        column = Signal(len(columns), name="read_column", reset_less=True)
        m.d.comb += bus.ar.ready.eq((step == 0) & ~bus.r.valid)
        with m.If(step == 0):
            m.d.sync += [word.eq(bus.ar.addr[2:]), row.eq(rows), column.eq(columns)]
        with m.If(step == found):
            m.d.sync += delay.eq(over - Counters.DELAY)
        with m.Else():
            m.d.sync += delay.eq(delay + 1)
        with m.Switch(step):
            with m.Case(0), m.If(bus.ar.valid & ~bus.r.valid):
                m.d.sync += step.eq(found)
            with m.Case(found):
                m.d.sync += step.eq(gathered)
            with m.Case(gathered), m.If(~counted | delay[-1]):
                m.d.sync += step.eq(answered)
            with m.Case(answered):
                m.d.sync += step.eq(0)

        # The word stays until the answer, and so does what follows from it.
        m.d.sync += [
            counted.eq(_is_one_of(word, self._counters)),
            upper.eq(_find(word, {at: half for at, (_, half) in self._counters.items()})),
            self.counter.eq(_find(word, {at: index for at, (index, _) in self._counters.items()})),
        ]

        def gate(value: ValueLike, chosen: Signal) -> Value:
            return value & chosen.replicate(32)

        m.submodules.settings = settings = Settings(range(MEMORIES))
        wiring.connect(m, self.change, settings.change)
        place, is_setting = _find_setting(m, "read", word)
        m.d.comb += [port.place.eq(place) for port in settings.read]
        low, high = (port.value for port in settings.read)

        choices = [
            gate(Mux(upper, self.count[32:], self.count[:32]), counted),
            gate(Mux(place[-1], high, low), is_setting),
        ]
        for register in self._registers:
            if register.offset // 4 in self._counters or register.name in ("control", *PLACES):
                continue
            chosen = Signal(name=f"reads_{register.name}", reset_less=True)
            at_row, at_column = divmod(register.offset // 4, _COLUMNS)
            m.d.sync += chosen.eq(row[at_row] & column[at_column])
            if register.name in self._constants:
                choices.append(gate(Const(self._constants[register.name], 32), chosen))
            else:
                choices.append(gate(getattr(self, register.name), chosen))
        groups = []
        for first in range(0, len(choices), _GROUP):
            group = Signal(32, name=f"group{first}", reset_less=True)
            m.d.sync += group.eq(reduce(or_, choices[first : first + _GROUP]))
            groups.append(group)
        with m.If(bus.r.ready):
            m.d.sync += bus.r.valid.eq(0)
        with m.If(step == answered):
            m.d.sync += [bus.r.valid.eq(1), bus.r.data.eq(reduce(or_, groups))]


def _find_setting(m: Module, name: str, word: Value) -> tuple[Signal, Signal]:
    """Return in registers the place of the setting that `word` means, and whether it means one."""
    place = Signal(range(MEMORIES * DEPTH), name=f"{name}_place", reset_less=True)
    found = Signal(name=f"{name}_found", reset_less=True)
    places = {regs.offset(name) // 4: number for name, number in PLACES.items()}
    m.d.sync += [place.eq(_find(word, places)), found.eq(_is_one_of(word, places))]
    return place, found


def _is_one_of(word: Value, words: Iterable[int]) -> Value:
    return (Const(sum(1 << each for each in words), 1 << len(word)) >> word)[0]


def _find(word: Value, table: Mapping[int, int]) -> Value:
    """Return what the table has for `word`; anything if it has nothing.

    So few bits of the word decide on each bit of the result that a gate or two are enough.
    """
    return Cat(
        _decide(word, {at: value >> bit & 1 for at, value in table.items()})
        for bit in range(max(table.values()).bit_length())
    )


def _decide(word: Value, table: Mapping[int, int]) -> Value:
    """Return a bit of a result, as a table of as few bits of the word as tell its values apart."""
    for count in range(len(word) + 1):
        for bits in combinations(range(len(word)), count):
            seen: dict[int, int] = {}
            if all(seen.setdefault(_take(at, bits), value) == value for at, value in table.items()):
                truth = sum(value << key for key, value in seen.items())
                return (Const(truth, 1 << count) >> Cat(word[bit] for bit in bits))[0]
    raise AssertionError("all bits of the word tell all its values apart")


def _take(number: int, bits: Sequence[int]) -> int:
    """Return some bits of a number, put together."""
    return sum((number >> bit & 1) << index for index, bit in enumerate(bits))
