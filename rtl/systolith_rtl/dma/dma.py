"""The DMA: everything that moves between the memory and the core."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.config import CoreConfig
from systolith.isa import Opcode
from systolith_rtl.dma.load import LoadEngine
from systolith_rtl.dma.read import ReadChannel
from systolith_rtl.dma.store import StoreEngine
from systolith_rtl.dma.stream import StreamEngine, stream_bursts
from systolith_rtl.dma.write import WriteChannel
from systolith_rtl.interfaces import (
    SIDE_SIGNATURE,
    AxiSignature,
    EngineSignature,
    FetchSignature,
    ReadSignature,
    RingSignature,
    WriteSignature,
)
from systolith_rtl.settings import MEMORIES, Settings, SettingSignature
from systolith_rtl.skid import PingPong, Skid


class Dma(wiring.Component):
    """STREAM, LOAD, STORE and instruction fetch on one AXI4 master.

    All four run side by side. Reads are told apart by ID; each is asked for only when there is
    room for its data, so `r.ready` is always high and none can block another. `b.ready` is always
    high, too.

    Fault addresses: of the beat (STORE: of the burst) whose response was an error; of the first
    byte of a run that lies beyond the limit; of its first granule (slot, entry) that lies beyond
    the scratchpad (column memory, tables). Nothing of such a run is read or written.

    Members:
        stream, load, store: `Out(EngineSignature)`.
        axi: the memory master.
        fetch: instruction fetch.
        ring: the weight ring.
        write, read: the scratchpad.
        side: column memory and tables.
        change: changes of the settings.
        quiet: `Out(1)`, two cycles ago no AXI transaction was outstanding or being offered.

    Attributes:
        settings: bases, limits and scalars, for test benches to fill.
    """

    stream: wiring.PureInterface
    load: wiring.PureInterface
    store: wiring.PureInterface
    axi: wiring.PureInterface
    fetch: wiring.PureInterface
    ring: wiring.PureInterface
    write: wiring.PureInterface
    read: wiring.PureInterface
    side: stream.Interface  # pyright: ignore[reportInvalidTypeForm]
    change: wiring.PureInterface
    quiet: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.settings = Settings(3 * list(range(MEMORIES)))
        super().__init__(
            {
                "stream": Out(EngineSignature(Opcode.STREAM)),
                "load": Out(EngineSignature(Opcode.LOAD)),
                "store": Out(EngineSignature(Opcode.STORE)),
                "axi": Out(AxiSignature(config)),
                "fetch": In(FetchSignature(config)),
                "ring": Out(RingSignature(config)),
                "write": Out(WriteSignature(config)),
                "read": Out(ReadSignature(config)),
                "side": Out(SIDE_SIGNATURE),
                "change": In(SettingSignature()),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Three engines, two channels."""
        m = Module()
        config = self.config
        m.submodules.stream = streamer = StreamEngine(config)
        m.submodules.load = loader = LoadEngine(config)
        m.submodules.store = storer = StoreEngine(config)
        m.submodules.reads = reads = ReadChannel(config, stream_bursts=stream_bursts(config))
        m.submodules.writes = writes = WriteChannel(config)

        m.submodules.settings = settings = self.settings
        wiring.connect(m, wiring.flipped(self.change), settings.change)
        lookups = iter(settings.read)
        for engine, mine in (
            (streamer, self.stream),
            (loader, self.load),
            (storer, self.store),
        ):
            wiring.connect(m, wiring.flipped(mine), engine.engine)
            for port in engine.lookup:
                wiring.connect(m, port, next(lookups))
        for mine, channel in (
            (self.axi.ar, reads.ar),
            (self.axi.r, reads.r),
            (self.axi.aw, writes.aw),
            (self.axi.w, writes.w),
            (self.axi.b, writes.b),
            (self.fetch, reads.fetch),
            (self.ring, streamer.ring),
            (self.write, loader.write),
            (self.side, loader.side),
        ):
            wiring.connect(m, wiring.flipped(mine), channel)
        wiring.connect(m, streamer.burst, reads.stream_burst)
        wiring.connect(m, loader.burst, reads.load_burst)
        wiring.connect(m, storer.burst, writes.burst)
        wiring.connect(m, storer.beat, writes.beat)
        m.d.comb += [
            streamer.beat.eq(reads.beat),
            streamer.beat_valid.eq(reads.stream_beat),
            streamer.beat_last.eq(reads.stream_last),
            reads.stream_next.eq(streamer.burst_next),
            reads.load_next.eq(loader.burst_next),
            streamer.active.eq(reads.stream_active),
            loader.beat.eq(reads.beat),
            loader.beat_valid.eq(reads.load_beat),
            loader.active.eq(reads.load_active),
            *(
                getattr(storer, name).eq(getattr(writes, name))
                for name in (
                    "held",
                    "sending",
                    "done",
                    "done_last",
                    "done_error",
                    "done_address",
                    "active",
                )
            ),
            writes.stopped.eq(storer.stopped),
            storer.beat_next.eq(writes.beat_next),
        ]
        # Parts are registered where they are, since they come from all sides.
        owed, asked = Signal(), Signal()
        m.d.sync += [
            owed.eq(reads.fetch_active | reads.stream_active | reads.load_active | writes.active),
            asked.eq(
                self.fetch.request.valid
                | reads.stream_burst.valid
                | reads.load_burst.valid
                | writes.burst.valid
            ),
            self.quiet.eq(~(owed | asked)),
        ]
        self._share_read(m, loader.read, storer.read)
        return m

    def _share_read(
        self, m: Module, load: wiring.PureInterface, store: wiring.PureInterface
    ) -> None:
        """Let index lists, which are short, go before words to store.

        Both are far away from the scratchpad, and their requests the last in its order.
        """
        read = self.read
        request = data.StructLayout({"address": read.address.shape(), "load": 1})
        m.submodules.index = index = Skid(load.address.shape())
        m.submodules.requests = requests = PingPong(request)
        owner = Signal(self.config.read_latency)
        m.d.sync += owner.eq((owner << 1) | requests.o.p.load)
        m.d.comb += [
            index.i.valid.eq(load.valid),
            index.i.payload.eq(load.address),
            load.ready.eq(index.i.ready),
            requests.i.valid.eq(index.o.valid | store.valid),
            requests.i.p.address.eq(Mux(index.o.valid, index.o.payload, store.address)),
            requests.i.p.load.eq(index.o.valid),
            index.o.ready.eq(requests.i.ready),
            store.ready.eq(requests.i.ready & ~index.o.valid),
            read.valid.eq(requests.o.valid),
            read.address.eq(requests.o.p.address),
            requests.o.ready.eq(read.ready),
            load.data.eq(read.data),
            store.data.eq(read.data),
            load.refused.eq(read.refused & owner[0]),
            store.refused.eq(read.refused & ~owner[0]),
            load.data_valid.eq(read.data_valid & owner[-1]),
            store.data_valid.eq(read.data_valid & ~owner[-1]),
        ]
