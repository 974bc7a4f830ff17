"""What is at which address: memory, the core's registers, the link's own."""

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith import regs
from systolith.config import CoreConfig
from systolith.link import (
    BY_NAME,
    CORE_BASE,
    LINK_BASE,
    MAGIC,
    PROTOCOL_VERSION,
    SPAN,
    Flag,
    Status,
)
from systolith_boards.link.master import lite_master, memory_master
from systolith_rtl.interfaces import AxiLiteSignature, AxiSignature
from systolith_rtl.reset import without_reset

ERROR_WIDTH = 8
"""Bits of an error counter."""


class WordSignature(wiring.Signature):
    """The protocol's view of the bus: one word at a time.

    Members:
        start: for one cycle. From the next one on until `done`, the other requests must stay.
        address: of a word.
        write: else it is a read.
        data: to be written.
        memory_only: there is nothing but memory.
        done: for one cycle.
        status: `Status`, with `done`.
        result: with `done` of a read that is OKAY.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": Out(1),
                "address": Out(32),
                "write": Out(1),
                "data": Out(32),
                "memory_only": Out(1),
                "done": In(1),
                "status": In(Status),
                "result": In(32),
            }
        )


class Bus(wiring.Component):
    """Finds out what an address means, and answers for what does not answer.

    Args:
        config: the core.
        clock_hz: what the link register says.
        memory_bytes: likewise; from there on there is nothing.
        patience: cycles after which an access is given up. What comes of it later is dropped; its
            port answers `TIMEOUT` until then.

    Members:
        words: `In(WordSignature())`.
        csr: `Out(AxiLiteSignature())`, the core's registers.
        memory: `Out(AxiSignature(config))`.
        memory_ready, memory_failed, irq: `In(1)`, for the register `status`; memory that is not
            ready is not there.
        line_error, frame_error, bus_error: `In(1)`, each counts the cycles in which it is high.
    """

    words: wiring.PureInterface
    csr: wiring.PureInterface
    memory: wiring.PureInterface
    memory_ready: Signal
    memory_failed: Signal
    irq: Signal
    line_error: Signal
    frame_error: Signal
    bus_error: Signal

    def __init__(
        self, config: CoreConfig, *, clock_hz: int, memory_bytes: int, patience: int
    ) -> None:
        self._config = config
        self._facts = {
            "magic": MAGIC,
            "version": PROTOCOL_VERSION,
            "memory_bytes": memory_bytes,
            "clock_hz": clock_hz,
        }
        self._memory_words = memory_bytes // 4
        self._patience = patience
        super().__init__(
            {
                "words": In(WordSignature()),
                "csr": Out(AxiLiteSignature()),
                "memory": Out(AxiSignature(config)),
                "memory_ready": In(1),
                "memory_failed": In(1),
                "irq": In(1),
                "line_error": In(1),
                "frame_error": In(1),
                "bus_error": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Decode, ask one port, wait."""
        m = Module()
        words = self.words
        m.submodules.csr = csr = lite_master()
        m.submodules.memory = memory = memory_master(self._config)
        wiring.connect(m, csr.bus, wiring.flipped(self.csr))
        wiring.connect(m, memory.bus, wiring.flipped(self.memory))
        without_reset(words.status)
        ready = Signal()
        register = words.address[: (SPAN // 4 - 1).bit_length()]
        registers = self._registers(m, register)

        # Looked at from two cycles after `start` on, when they stand still.
        chosen = Signal(3, reset_less=True)
        is_memory, is_csr, is_link = chosen
        others = ~words.memory_only
        m.d.sync += [
            is_memory.eq((words.address < self._memory_words) & ready),
            is_csr.eq(_within(words.address, CORE_BASE, regs.SPAN) & others),
            is_link.eq(_within(words.address, LINK_BASE, SPAN) & others),
        ]
        left = Signal(range(self._patience), reset_less=True)
        late = Signal(reset_less=True)
        answered = Signal()
        scratches = Signal()
        result = Signal(32, reset_less=True)
        m.d.comb += [
            words.result.eq(result),
            # Each port has something to say only if it was asked.
            answered.eq(memory.access.done | csr.access.done),
        ]
        for port in (csr, memory):
            m.d.comb += [
                port.access.address.eq(words.address),
                port.access.write.eq(words.write),
                port.access.data.eq(words.data),
            ]
        m.d.sync += [words.done.eq(0), left.eq(left - 1), late.eq(left == 0), scratches.eq(0)]
        with m.If(scratches):
            m.d.sync += self._scratch.eq(words.data)
        # The words that a result may be: those of a beat, the core's register, the link's.
        lanes = len(self.memory.r.data) // 32
        sources = [self.memory.r.data.word_select(lane, 32) for lane in range(lanes)]
        sources += [self.csr.r.data, registers]
        source = Signal(range(len(sources)), reset_less=True)
        m.d.sync += source.eq(Mux(is_memory, words.address % lanes, Mux(is_csr, lanes, lanes + 1)))
        # What is on a bus is known to be an answer a cycle later.
        asked = Signal()
        with m.If(asked & ~answered):
            m.d.sync += result.eq(Array(sources)[source])
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += ready.eq(self.memory_ready)
                with m.If(words.start):
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.sync += [left.eq(self._patience - 1), late.eq(0), asked.eq(1)]
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [memory.access.start.eq(is_memory), csr.access.start.eq(is_csr)]
                free = (is_memory & memory.access.free) | (is_csr & csr.access.free)
                m.d.sync += words.status.eq(Status.TIMEOUT)
                with m.If(free):
                    m.next = "WAIT"
                with m.Elif(late | is_link | (chosen == 0)):
                    with m.If(is_link):
                        m.d.sync += words.status.eq(Status.OKAY)
                    with m.Elif(chosen == 0):
                        m.d.sync += words.status.eq(Status.NOTHING_THERE)
                    m.d.sync += scratches.eq(
                        is_link & words.write & (register == BY_NAME["scratch"].offset // 4)
                    )
                    m.next = "TELL"
            with m.State("WAIT"):
                with m.If(answered):
                    error = (is_memory & memory.access.error) | (is_csr & csr.access.error)
                    m.d.sync += words.status.eq(Status.OKAY)
                    with m.If(error):
                        m.d.sync += words.status.eq(Status.BUS_ERROR)
                with m.Elif(late):
                    m.d.comb += [
                        memory.access.abandon.eq(is_memory),
                        csr.access.abandon.eq(is_csr),
                    ]
                with m.If(answered | late):
                    m.d.sync += [words.done.eq(1), asked.eq(0)]
                    m.next = "IDLE"
            with m.State("TELL"):
                m.d.sync += [words.done.eq(1), asked.eq(0)]
                m.next = "IDLE"
        return m

    def _registers(self, m: Module, register: Value) -> Value:
        """The value of a link register, a cycle later."""
        self._scratch = Signal(32, reset_less=True)
        flags = {
            Flag.MEMORY_READY: self.memory_ready,
            Flag.MEMORY_FAILED: self.memory_failed,
            Flag.INTERRUPT: self.irq,
        }
        status = Signal(len(Flag), reset_less=True)
        m.d.sync += [status[flag].eq(signal) for flag, signal in flags.items()]
        values: dict[str, Value] = {name: Const(fact, 32) for name, fact in self._facts.items()}
        values |= {"status": status, "scratch": self._scratch}
        for name, event in {
            "line_errors": self.line_error,
            "frame_errors": self.frame_error,
            "bus_errors": self.bus_error,
        }.items():
            values[name] = count = Signal(ERROR_WIDTH, name=name)
            with m.If(event):
                m.d.sync += count.eq(count + 1)
        result = Signal(32, reset_less=True)
        with m.Switch(register):
            for name, value in values.items():
                with m.Case(BY_NAME[name].offset // 4):
                    m.d.sync += result.eq(value)
            with m.Default():
                m.d.sync += result.eq(0)
        return result


def _within(address: Value, base: int, span: int) -> Value:
    bits = (span // 4 - 1).bit_length()
    return address[bits:] == base // 4 >> bits
