"""A small machine with the ports of a core, for tests of devices: it copies memory, and misbehaves.

Registers, besides `control`, `status` and the interrupt's: `base0_lo` and `base1_lo` are source
and destination, `program_size` the beats to copy, the scalars are `BURST`, `MISCHIEF` and `IDS`.
Afterwards, `TIMES` tell how many cycles what took.
"""

from enum import IntEnum
from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith import regs
from systolith.config import CoreConfig
from systolith.isa import Engine
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature, ProbeSignature
from systolith_sim.toolchain import digest, version
from systolith_sim.verilator.design import Design

BURST = regs.offset("scalar0")
"""Beats of a burst; divides the number of beats."""

MISCHIEF = regs.offset("scalar1")
"""What to do wrong, a `Mischief`."""

IDS = regs.offset("scalar2")
"""0: all reads have the same ID. 1: bursts use two IDs by turns."""

ERRORS = regs.offset("bank_clashes")
"""Responses that were not OKAY."""

TIMES = {
    "latency": regs.offset("halt_code"),
    "reads": regs.offset("fault_pc"),
    "writes": regs.offset("fault_tag"),
    "response": regs.offset("fault_address_lo"),
    "all": regs.offset("cycles_lo"),
}
"""Registers with cycles: first address to first beat; first to last read beat; first to last write
beat; last write beat to last response; start to interrupt."""

SILENT = regs.SPAN - 4
"""A register that never answers."""

REFUSED = regs.SPAN - 8
"""A register that answers with an error."""

DEPTH = 512
"""Beats that can be copied."""


class Mischief(IntEnum):
    """Rules of AXI to break."""

    NONE = 0
    WITHDRAW_AR = 1
    CHANGE_AR = 2
    WITHDRAW_AW = 3
    CHANGE_AW = 4
    WITHDRAW_W = 5
    CHANGE_W = 6
    NO_LAST = 7
    NARROW = 8


class CopyEngine(wiring.Component):
    """Reads beats into a buffer, then writes them; its beats have the width of a core's words.

    The probe shows each beat read as a write of a whole word, and each beat written as a write of
    zero to the lowest byte of that word; LOAD and STORE retire one instruction each.
    """

    def __init__(self, config: CoreConfig, *, probe: bool) -> None:
        self._config = config
        self._probe = probe
        ports: dict[str, Any] = {
            "s_axil": In(AxiLiteSignature()),
            "m_axi": Out(AxiSignature(config)),
            "irq": Out(1),
        }
        super().__init__(ports | ({"probe": Out(ProbeSignature(config))} if probe else {}))

    def elaborate(self, platform: Any) -> Module:
        """Build it; as small as possible rather than good."""
        m = Module()
        axi = self.m_axi  # pyright: ignore[reportAttributeAccessIssue]
        registers, pulse = self._registers(m)
        beats = registers["program_size"]
        burst = registers["scalar0"]
        mischief = registers["scalar1"]
        size = self._config.axi_bytes

        reading, writing, done = Signal(), Signal(), Signal()
        cycle = Signal(32)
        m.d.sync += cycle.eq(cycle + 1)
        m.d.comb += self.irq.eq(done & registers["interrupt_enable"][0])  # pyright: ignore[reportAttributeAccessIssue]
        m.d.comb += registers["status"].eq(
            Mux(done, regs.State.DONE, Mux(reading | writing, regs.State.RUN, regs.State.IDLE))
        )
        asked, got, addressed, sent, answered = (Signal(16, name=f"count{i}") for i in range(5))
        times = [Signal(32, name=f"time{i}") for i in range(7)]
        start, first_ar, first_r, last_r, first_w, last_w, last_b = times
        errors = registers["bank_clashes"]
        tick = Signal()
        m.d.sync += tick.eq(~tick)

        m.submodules.buffer = buffer = Memory(shape=8 * size, depth=DEPTH, init=[])
        write, read = buffer.write_port(), buffer.read_port(domain="comb")

        with m.If(pulse["start"]):
            m.d.sync += [signal.eq(0) for signal in (asked, got, addressed, sent, answered, errors)]
            m.d.sync += [reading.eq(1), done.eq(0), start.eq(cycle)]
        with m.If(pulse["acknowledge"]):
            m.d.sync += done.eq(0)

        # Reads: addresses as fast as they are taken, beats always welcome.
        second = registers["scalar2"][0] & (asked[0])
        for channel, base, bursts, active, bad in (
            (axi.ar, "base0_lo", asked, reading, (Mischief.WITHDRAW_AR, Mischief.CHANGE_AR)),
            (axi.aw, "base1_lo", addressed, writing, (Mischief.WITHDRAW_AW, Mischief.CHANGE_AW)),
        ):
            withdraw, change = (mischief == each for each in bad)
            address = registers[base] + bursts * burst * size
            m.d.comb += [
                channel.valid.eq(active & (bursts * burst < beats) & ~(withdraw & tick)),
                channel.addr.eq(address + Mux(change & tick, 4096, 0)),
                channel.len.eq(burst - 1),
                channel.size.eq(size.bit_length() - 1 - (mischief == Mischief.NARROW)),
                channel.burst.eq(1),
                channel.id.eq(1 + second if channel is axi.ar else 0),
            ]
            with m.If(channel.valid & channel.ready):
                m.d.sync += bursts.eq(bursts + 1)
        with m.If(axi.ar.valid & axi.ar.ready & (asked == 0)):
            m.d.sync += first_ar.eq(cycle)

        # Bursts of the two IDs may come mixed: each has its own place.
        place = Array(Signal(16, name=f"place{i}") for i in range(4))
        rest = Array(Signal(9, name=f"rest{i}") for i in range(4))
        with m.If(pulse["start"]):
            m.d.sync += [place[1].eq(0), place[2].eq(burst), rest[1].eq(burst), rest[2].eq(burst)]
        taken = axi.r.valid & axi.r.ready
        m.d.comb += [
            axi.r.ready.eq(reading),
            write.addr.eq(place[axi.r.id]),
            write.data.eq(axi.r.data),
            write.en.eq(taken),
        ]
        with m.If(taken):
            m.d.sync += [got.eq(got + 1), rest[axi.r.id].eq(rest[axi.r.id] - 1)]
            m.d.sync += place[axi.r.id].eq(place[axi.r.id] + 1)
            with m.If(axi.r.last):
                m.d.sync += rest[axi.r.id].eq(burst)
                with m.If(registers["scalar2"][0]):
                    m.d.sync += place[axi.r.id].eq(place[axi.r.id] + burst + 1)
            # RLAST where it does not belong is an error, too.
            wrong = axi.r.last != (rest[axi.r.id] == 1)
            m.d.sync += errors.eq(errors + (axi.r.resp != 0) + wrong)
            with m.If(got == 0):
                m.d.sync += first_r.eq(cycle)
            with m.If(got + 1 == beats):
                m.d.sync += [last_r.eq(cycle), reading.eq(0), writing.eq(1)]

        m.d.comb += [
            read.addr.eq(sent),
            axi.w.data.eq(read.data ^ ((mischief == Mischief.CHANGE_W) & tick)),
            axi.w.strb.eq(~0),
            axi.w.valid.eq(writing & (sent < beats) & ~((mischief == Mischief.WITHDRAW_W) & tick)),
            axi.w.last.eq(((sent + 1) % 16 == 0) & (mischief != Mischief.NO_LAST)),
        ]
        left = Signal(9)
        m.d.comb += axi.w.last.eq((left == 1) & (mischief != Mischief.NO_LAST))
        with m.If(pulse["start"]):
            m.d.sync += left.eq(burst)
        with m.If(axi.w.valid & axi.w.ready):
            m.d.sync += [sent.eq(sent + 1), left.eq(Mux(left == 1, burst, left - 1))]
            m.d.sync += last_w.eq(cycle)
            with m.If(sent == 0):
                m.d.sync += first_w.eq(cycle)
        m.d.comb += axi.b.ready.eq(writing)
        with m.If(axi.b.valid & axi.b.ready):
            m.d.sync += [answered.eq(answered + 1), errors.eq(errors + (axi.b.resp != 0))]
            with m.If((answered + 1) * burst == beats):
                m.d.sync += [last_b.eq(cycle), writing.eq(0), done.eq(1)]

        for name, (first, last) in {
            "halt_code": (first_ar, first_r),
            "fault_pc": (first_r, last_r),
            "fault_tag": (first_w, last_w),
            "fault_address_lo": (last_w, last_b),
            "cycles_lo": (start, last_b),
        }.items():
            m.d.comb += registers[name].eq(last - first)
        loaded, stored = Signal(16), Signal(16)
        with m.If(pulse["start"]):
            m.d.sync += [loaded.eq(0), stored.eq(0)]
        with m.Elif(writing):
            m.d.sync += loaded.eq(1)
        with m.If(done):
            m.d.sync += stored.eq(1)
        m.d.comb += [registers["load_retired"].eq(loaded), registers["store_retired"].eq(stored)]
        if self._probe:
            probe = self.probe  # pyright: ignore[reportAttributeAccessIssue]
            m.d.comb += [
                probe.write[0].address.eq(write.addr),
                probe.write[0].data.eq(write.data),
                probe.write[0].mask.eq(~0),
                probe.write[0].valid.eq(write.en),
                probe.write[1].address.eq(sent),
                probe.write[1].mask.eq(1),
                probe.write[1].valid.eq(axi.w.valid & axi.w.ready),
                probe.retired[Engine.LOAD].eq(loaded),
                probe.retired[Engine.STORE].eq(stored),
            ]
        return m

    def _registers(self, m: Module) -> tuple[dict[str, Signal], dict[str, Signal]]:
        """All registers of the map as signals, and the pulses of `control`."""
        port = self.s_axil  # pyright: ignore[reportAttributeAccessIssue]
        registers = {each.name: Signal(32, name=each.name) for each in regs.REGISTERS}
        pulse = {"start": Signal(), "acknowledge": Signal()}
        m.d.comb += [
            port.aw.ready.eq(port.aw.valid & port.w.valid & ~port.b.valid),
            port.w.ready.eq(port.aw.ready),
            port.ar.ready.eq(~port.r.valid),
        ]
        with m.If(port.b.ready):
            m.d.sync += port.b.valid.eq(0)
        with m.If(port.r.ready):
            m.d.sync += port.r.valid.eq(0)
        with m.If(port.aw.ready):
            m.d.sync += port.b.valid.eq(1)
            m.d.sync += port.b.resp.eq(Mux(port.aw.addr == REFUSED, 2, 0))
            with m.Switch(port.aw.addr):
                for each in regs.REGISTERS:
                    with m.Case(each.offset):
                        if each.name == "control":
                            m.d.comb += pulse["start"].eq(port.w.data[regs.Control.START])
                            m.d.comb += pulse["acknowledge"].eq(
                                port.w.data[regs.Control.ACKNOWLEDGE]
                            )
                        elif each.writable:
                            m.d.sync += registers[each.name].eq(port.w.data)
        with m.If(port.ar.valid & port.ar.ready):
            m.d.sync += port.r.valid.eq(port.ar.addr != SILENT)
            m.d.sync += port.r.resp.eq(Mux(port.ar.addr == REFUSED, 2, 0))
            with m.Switch(port.ar.addr):
                for each in regs.REGISTERS:
                    with m.Case(each.offset):
                        value = regs.MAGIC if each.name == "id" else registers[each.name]
                        m.d.sync += port.r.data.eq(value)
        return registers, pulse


def copy_design(config: CoreConfig, *, probed: bool) -> Design:
    """The copy engine as something to simulate."""
    with open(__file__, "rb") as file:
        key = digest(config, probed, file.read(), version("amaranth"))
    return Design(
        name="copy", key=key, make=lambda: CopyEngine(config, probe=probed), probed=probed
    )
