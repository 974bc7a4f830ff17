"""The read half of the AXI master: one AR channel for three readers, R sorted by ID."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from systolith.config import CoreConfig
from systolith_rtl.dma.burst import burst_layout
from systolith_rtl.dma.fifo import count
from systolith_rtl.interfaces import AxiSignature, FetchSignature

INCR = 1
"""AXI burst type."""

NORMAL_MEMORY = 0b0011
"""AxCACHE: bufferable and modifiable, which interconnects may widen and merge."""

MAX_BURSTS = 64
"""Bursts of one ID under way, if their reader does not limit itself."""

FETCH_BYTES = 64
"""Bytes of a fetch, aligned."""


class ReadChannel(wiring.Component):
    """Arbitrate AR, and say whose each beat is.

    Fetches go first, STREAM and LOAD take turns. `r.ready` is always high: a reader has room for
    what it asks for. A burst takes two cycles on AR, and beats reach their reader a cycle after
    R.

    Members:
        ar: `Out`, AXI.
        r: `Out`, AXI.
        fetch: `In(FetchSignature)`.
        stream_burst, load_burst: what to read. An offer may be withdrawn, and then stay so.
        stream_next, load_next: `In(1)`, it is offered in the next cycle, unless it is taken now.
        beat: `Out`, data of this cycle's beat and whether its response was an error.
        stream_beat, load_beat: `Out(1)`, it is theirs.
        stream_last: `Out(1)`, it is STREAM's, and the last of its burst.
        stream_active, load_active, fetch_active: `Out(1)`, beats are owed, or AR is raised.
    """

    ar: wiring.PureInterface
    r: wiring.PureInterface
    fetch: wiring.PureInterface
    stream_burst: stream.Interface
    load_burst: stream.Interface
    stream_next: Signal
    load_next: Signal
    beat: data.View
    stream_beat: Signal
    load_beat: Signal
    stream_last: Signal
    stream_active: Signal
    load_active: Signal
    fetch_active: Signal

    def __init__(
        self, config: CoreConfig, *, stream_bursts: int = MAX_BURSTS, load_bursts: int = MAX_BURSTS
    ) -> None:
        self.config = config
        self.stream_bursts = stream_bursts
        self.load_bursts = load_bursts
        axi = AxiSignature(config).members
        super().__init__(
            {
                "ar": axi["ar"],
                "r": axi["r"],
                "fetch": In(FetchSignature(config)),
                "stream_burst": In(stream.Signature(burst_layout(config))),
                "load_burst": In(stream.Signature(burst_layout(config))),
                "stream_next": In(1),
                "load_next": In(1),
                "beat": Out(data.StructLayout({"data": config.axi_data_bits, "error": 1})),
                "stream_beat": Out(1),
                "load_beat": Out(1),
                "stream_last": Out(1),
                "stream_active": Out(1),
                "load_active": Out(1),
                "fetch_active": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Registers on both channels, and a count of bursts for each ID."""
        m = Module()
        self._arbitrate(m)

        beat = Signal.like(self.beat, reset_less=True)
        m.d.comb += [self.r.ready.eq(1), self.beat.eq(beat)]
        m.d.comb += [self.fetch.data.eq(beat.data), self.fetch.error.eq(beat.error)]
        m.d.comb += self.stream_last.eq(self._streams_done)
        m.d.sync += [beat.data.eq(self.r.data), beat.error.eq(self.r.resp != 0)]
        for owner, arrived, done in (
            (AxiSignature.FETCH_ID, self.fetch.data_valid, self._fetches_done),
            (AxiSignature.STREAM_ID, self.stream_beat, self._streams_done),
            (AxiSignature.LOAD_ID, self.load_beat, self._loads_done),
        ):
            mine = self.r.valid & (self.r.id == owner)
            m.d.sync += [arrived.eq(mine), done.eq(mine & self.r.last)]
        return m

    def _arbitrate(self, m: Module) -> None:
        """Load AR whenever it is free."""
        self._fetches, self._streams, self._loads = (
            Signal(name=f"issue_{name}") for name in ("fetch", "stream", "load")
        )
        self._fetches_done, self._streams_done, self._loads_done = (
            Signal(name=f"{name}_done") for name in ("fetch", "stream", "load")
        )
        fetches, streams, loads = (
            count(m, name, up=up, down=down, limit=limit)
            for name, up, down, limit in (
                ("fetches", self._fetches, self._fetches_done, MAX_BURSTS),
                ("streams", self._streams, self._streams_done, self.stream_bursts),
                ("loads", self._loads, self._loads_done, self.load_bursts),
            )
        )
        ar = self.ar
        width = self.config.axi_bytes
        # A copy for the payload, which Yosys would merge without `keep`.
        valid, busy = (Signal(name=name, attrs={"keep": 1}) for name in ("valid", "busy"))
        address = Signal(self.config.axi_address_bits, reset_less=True)
        length = Signal(8, reset_less=True)
        owner = Signal(AxiSignature.ID_WIDTH, reset_less=True)
        loads_turn = Signal()
        fetch, stream_burst, load_burst = self.fetch.request, self.stream_burst, self.load_burst
        # Whose turn it would be is known a cycle ahead: after a burst, AR is busy for a cycle.
        picks_stream, picks_load = Signal(), Signal()
        next_stream = self.stream_next & (streams.room | self._streams_done)
        next_load = self.load_next & (loads.room | self._loads_done)
        m.d.sync += [
            picks_stream.eq(next_stream & ~(loads_turn & next_load)),
            picks_load.eq(next_load & (loads_turn | ~next_stream)),
        ]
        m.d.comb += [
            self._fetches.eq(~valid & fetch.valid & fetches.room),
            self._loads.eq(~valid & ~fetch.valid & picks_load & load_burst.valid),
            self._streams.eq(~valid & ~fetch.valid & picks_stream & stream_burst.valid),
            fetch.ready.eq(self._fetches),
            stream_burst.ready.eq(self._streams),
            load_burst.ready.eq(self._loads),
            self.fetch_active.eq(fetches.some),
            self.stream_active.eq(streams.some),
            self.load_active.eq(loads.some),
            ar.valid.eq(valid),
            ar.addr.eq(address),
            ar.len.eq(length),
            ar.id.eq(owner),
            ar.size.eq(exact_log2(width)),
            ar.burst.eq(INCR),
            ar.cache.eq(NORMAL_MEMORY),
        ]
        raises = Mux(valid, ~ar.ready, self._fetches | self._streams | self._loads)
        m.d.sync += [valid.eq(raises), busy.eq(raises)]
        with m.If(~busy):
            aligned = Cat(
                Const(0, exact_log2(FETCH_BYTES)),
                fetch.payload[exact_log2(FETCH_BYTES) : self.config.axi_address_bits],
            )
            burst = Mux(picks_load, load_burst.payload, stream_burst.payload)
            burst = data.View(burst_layout(self.config), burst)
            m.d.sync += [
                address.eq(Mux(fetch.valid, aligned, burst.address)),
                length.eq(Mux(fetch.valid, FETCH_BYTES // width - 1, burst.length)),
                owner.eq(
                    Mux(
                        fetch.valid,
                        AxiSignature.FETCH_ID,
                        Mux(picks_load, AxiSignature.LOAD_ID, AxiSignature.STREAM_ID),
                    )
                ),
            ]
        with m.If(self._streams | self._loads):
            m.d.sync += loads_turn.eq(picks_stream)
