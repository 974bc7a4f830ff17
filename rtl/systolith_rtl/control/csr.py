"""The register port: an AXI4-Lite slave made from the table in `systolith.regs`."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith import regs
from systolith.config import ISA_VERSION, CoreConfig
from systolith_rtl.interfaces import AxiLiteSignature

_GROUP = 16
"""Registers that one stage of the read multiplexer chooses from."""

_BY_WORD = {register.offset // 4: register for register in regs.REGISTERS}
"""Registers by their place in the address space, in words."""


class Csr(wiring.Component):
    """Registers behind AXI4-Lite.

    One read and one write may be under way at a time, independently of each other; address and
    data of a write may come in any order. Every access is answered with OKAY: a read of nothing
    gives 0, and a write to what is not writable is ignored. The two lowest address bits do not
    matter. A write takes effect in the cycle in which both of its parts are there, and a read
    sees the cycle after the one in which its address was accepted.

    Members:
        s_axil: `In(AxiLiteSignature())`.
        control: `Out(4)`, for one cycle what is written to the register of this name, a bit for
            each `regs.Control`.
        <name>: for each register but `control` and the constants: `Out(32)` if the host may
            write it, else `In(32)`.
    """

    s_axil: wiring.PureInterface
    control: Signal

    def __init__(self, config: CoreConfig) -> None:
        constants = {
            "id": regs.MAGIC,
            "version": ISA_VERSION,
            "config_hash_lo": config.hash & 0xFFFF_FFFF,
            "config_hash_hi": config.hash >> 32,
        }
        self._constants = constants
        self._ports = [
            register
            for register in regs.REGISTERS
            if register.name not in constants and register.name != "control"
        ]
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature()),
                "control": Out(len(regs.Control)),
                **{
                    register.name: Out(32, init=register.reset) if register.writable else In(32)
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
        bus = self.s_axil
        word = Signal(AxiLiteSignature.ADDRESS_WIDTH - 2, name="write_word", reset_less=True)
        data = Signal(32, name="write_data", reset_less=True)
        strobe = Signal(4, reset_less=True)
        has_address = Signal()
        has_data = Signal()
        write = Signal()
        m.d.comb += [
            bus.aw.ready.eq(~has_address & ~bus.b.valid),
            bus.w.ready.eq(~has_data & ~bus.b.valid),
            write.eq(has_address & has_data),
        ]
        with m.If(bus.aw.valid & bus.aw.ready):
            m.d.sync += [word.eq(bus.aw.addr[2:]), has_address.eq(1)]
        with m.If(bus.w.valid & bus.w.ready):
            m.d.sync += [data.eq(bus.w.data), strobe.eq(bus.w.strb), has_data.eq(1)]
        with m.If(bus.b.ready):
            m.d.sync += bus.b.valid.eq(0)
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_data.eq(0), bus.b.valid.eq(1)]
            with m.Switch(word):
                for register in self._ports:
                    if register.writable:
                        with m.Case(register.offset // 4):
                            self._update(m, register, data, strobe)
                with m.Case(regs.offset("control") // 4):
                    bits = len(self.control)
                    m.d.comb += self.control.eq(data[:bits] & strobe[0].replicate(bits))

    def _update(self, m: Module, register: regs.Register, data: Signal, strobe: Signal) -> None:
        """Write the bytes that are meant, of them the bits that exist."""
        value = getattr(self, register.name)
        for index in range(4):
            part = slice(8 * index, 8 * index + 8)
            mask = register.mask >> 8 * index & 0xFF
            if mask:
                with m.If(strobe[index]):
                    m.d.sync += value[part].eq(data[part] & mask)

    def _read(self, m: Module) -> None:
        """Choose in two stages, each a cycle: first in every group, then among the groups."""
        bus = self.s_axil
        word = Signal(AxiLiteSignature.ADDRESS_WIDTH - 2, name="read_word", reset_less=True)
        stage = Signal(2)
        m.d.comb += bus.ar.ready.eq(~stage.any() & ~bus.r.valid)
        m.d.sync += stage.eq(Cat(bus.ar.valid & bus.ar.ready, stage[0]))
        with m.If(bus.ar.valid & bus.ar.ready):
            m.d.sync += word.eq(bus.ar.addr[2:])
        groups: dict[int, Signal] = {}
        for number in sorted({at // _GROUP for at in _BY_WORD}):
            groups[number] = group = Signal(32, name=f"group{number}", reset_less=True)
            with m.If(stage[0]), m.Switch(word[:4]):
                for place in range(_GROUP):
                    if number * _GROUP + place in _BY_WORD:
                        with m.Case(place):
                            register = _BY_WORD[number * _GROUP + place]
                            m.d.sync += group.eq(self._value(register))
                with m.Default():
                    m.d.sync += group.eq(0)
        with m.If(bus.r.ready):
            m.d.sync += bus.r.valid.eq(0)
        with m.If(stage[1]):
            m.d.sync += [bus.r.valid.eq(1), bus.r.data.eq(0)]
            with m.Switch(word[4:]):
                for number, group in groups.items():
                    with m.Case(number):
                        m.d.sync += bus.r.data.eq(group)

    def _value(self, register: regs.Register) -> Signal | Const:
        if register.name == "control":
            return Const(0, 32)
        if register.name in self._constants:
            return Const(self._constants[register.name], 32)
        return getattr(self, register.name)
