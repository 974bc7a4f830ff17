"""What is on every board, without its pins: host link, core, memory controller, lights."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.regs import State
from systolith_boards.link import Arbiter, HostLink
from systolith_boards.link.host_link import bit_cycles
from systolith_boards.sdram.pins import SdramPinsSignature
from systolith_boards.sdram.sdram import Sdram
from systolith_boards.sdram.segments import Geometry
from systolith_boards.sdram.timing import SdramTiming
from systolith_rtl.core import Core
from systolith_rtl.reset import local_reset, without_reset

LIGHTS = (
    "memory passed its test",
    "memory failed its test",
    "program runs",
    "program ended",
    "fault",
    "from host",
    "to host",
    "clock",
)
"""What each light says."""

AFTERGLOW_S = 1 / 16
"""Seconds for which a light shows a single byte or a short program."""


class System(wiring.Component):
    """A host link, a core and an SDRAM, in one clock domain.

    ::

        rx, tx ── link ── registers ── core ── arbiter ── controller ── pins
                    └────────────── memory ──────┘

    Args:
        config: the core.
        timing: the memory chip, at the frequency of the clock, which is also the core's.
        baud: of the host link.
        clock_hz: the clock's frequency as far as the link is concerned; in a simulation, cycles in
            a second of whoever waits for it.
        silence: cycles without a byte after which the link drops a frame, if not the usual time.

    Members:
        rx: `In(1)`, from the host, asynchronous.
        tx: `Out(1)`, to the host.
        pins: `Out(SdramPinsSignature())`.
        lights: `Out(8)`, see `LIGHTS`.

    Raises:
        ValueError: the clock cannot make this baud rate, or the chip does not suit the core.
    """

    rx: Signal
    tx: Signal
    pins: wiring.PureInterface
    lights: Signal

    def __init__(
        self,
        config: CoreConfig,
        timing: SdramTiming,
        baud: int,
        *,
        clock_hz: int | None = None,
        silence: int | None = None,
    ) -> None:
        self.config = config
        self.timing = timing
        self._clock_hz = clock_hz or round(timing.frequency)
        self._baud = baud
        self._silence = silence
        bit_cycles(self._clock_hz, baud)
        Geometry.of(timing, config)
        super().__init__(
            {
                "rx": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "tx": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "pins": Out(SdramPinsSignature()),
                "lights": Out(len(LIGHTS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts."""
        m = Module()
        link = HostLink(
            self.config,
            self._clock_hz,
            self._baud,
            self.timing.chip.bytes,
            silence=self._silence,
        )
        core = Core(self.config, shows_state=True)
        arbiter = Arbiter(self.config)
        sdram = Sdram(self.timing, self.config)
        parts = {"link": link, "core": core, "arbiter": arbiter, "sdram": sdram}
        for name, part in parts.items():
            # The board's reset reaches these copies, and nothing else.
            m.submodules[name] = local_reset(m, name, Const(0))(part)
        wiring.connect(m, link.csr, core.s_axil)
        wiring.connect(m, core.m_axi, arbiter.core)
        wiring.connect(m, link.memory, arbiter.link)
        wiring.connect(m, arbiter.memory, sdram.axi)
        wiring.connect(m, sdram.pins, wiring.flipped(self.pins))
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            link.memory_ready.eq(sdram.ready | sdram.failed),
            link.memory_failed.eq(sdram.failed),
            link.irq.eq(core.irq),
        ]
        self._shine(m, sdram, core)
        return m

    def _shine(self, m: Module, sdram: Sdram, core: Core) -> None:
        ticks = max(1, round(self.timing.frequency * AFTERGLOW_S))
        # No light needs a reset, and the pins are far away.
        without_reset(self.lights)
        timer = Signal(range(ticks), reset_less=True)
        beat = Signal(4, reset_less=True)
        tick = Signal()
        m.d.comb += tick.eq(timer == ticks - 1)
        m.d.sync += timer.eq(timer + 1)
        with m.If(tick):
            m.d.sync += [timer.eq(0), beat.eq(beat + 1)]

        def lasting(event: Value, name: str) -> Value:
            """High from an event on, for one to two ticks."""
            glow = Signal(2, name=f"glow_{name}", reset_less=True)
            with m.If(event):
                m.d.sync += glow.eq(0b11)
            with m.Elif(tick):
                m.d.sync += glow.eq(glow >> 1)
            return glow[0]

        low = Signal(2, name="low", reset_less=True)
        runs = Signal(name="runs")
        # The line from the host is not of this clock; a light may miss an edge.
        m.d.sync += low.eq(Cat(~self.rx, low))
        m.d.comb += runs.eq((core.state == State.RUN) | (core.state == State.FAULTING))
        sent = Signal(name="sent")
        m.d.comb += sent.eq(~self.tx)
        m.d.sync += self.lights.eq(
            Cat(
                sdram.ready & ~sdram.failed,
                sdram.failed,
                lasting(runs, "run"),
                core.state == State.DONE,
                core.state == State.FAULT,
                lasting(low[1], "rx"),
                lasting(sent, "tx"),
                beat[-1],
            )
        )
