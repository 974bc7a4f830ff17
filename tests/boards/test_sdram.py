"""The SDRAM controller on its AXI port, against the strict chip model."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from hypothesis import given, settings
from hypothesis import strategies as st

from systolith.config import preset
from systolith_boards.sdram.chip import ChipModel, Violation
from systolith_boards.sdram.sdram import Sdram
from systolith_boards.sdram.segments import Geometry
from systolith_boards.sdram.simulated import SimulatedSdram
from systolith_boards.sdram.timing import AS4C32M16, IS42S16160, W9825G6KH, SdramTiming
from systolith_sim.axi_master import AxiMaster, Transfer
from systolith_sim.testbench import SimulatorContext, simulate

SMALL = replace(AS4C32M16, row_bits=3, column_bits=6, startup_us=1, refresh_ms=16)
"""4 KiB, all of which the model stores, and refreshes four times as often as usual."""

TIMING = SdramTiming.at(SMALL, 125e6)

WIDTHS = (32, 64, 128)

OKAY, SLAVE_ERROR = 0, 2


def config(width: int):
    return replace(preset("ecp5-85k"), axi_data_bits=width)


async def started(ctx: SimulatorContext, dut: SimulatedSdram) -> None:
    """Wait for the end of the memory test."""
    while not ctx.get(dut.ready | dut.failed):
        await ctx.tick()


def violations(ctx: SimulatorContext, dut: SimulatedSdram | ChipModel) -> set[str]:
    seen = ctx.get(dut.violations)
    return {each.name for each in Violation if seen >> each & 1}


def check(memory: bytearray, transfers: Sequence[Transfer], width: int) -> None:
    """Hold what was read to `memory`, which the writes go to, in the order of the list."""
    lanes = width // 8
    for transfer in transfers:
        inside = transfer.address < len(memory) and transfer.burst == 1 and transfer.size is None
        count = 1 if transfer.data is not None else transfer.beats
        assert transfer.responses == [OKAY if inside else SLAVE_ERROR] * count
        if not inside:
            continue
        for beat in range(transfer.beats):
            at = (transfer.address // lanes + beat) * lanes
            if transfer.data is None:
                assert transfer.read[beat] == int.from_bytes(memory[at : at + lanes], "little")
                continue
            strobe = transfer.strobes[beat] if transfer.strobes else -1
            for lane in range(lanes):
                if strobe >> lane & 1:
                    memory[at + lane] = transfer.data[beat] >> 8 * lane & 0xFF


def fill(width: int, size: int = SMALL.bytes) -> list[Transfer]:
    """Write every byte, so that every read is certain."""
    rng = random.Random(width)
    lanes = width // 8
    return [
        Transfer(
            address=at,
            beats=min(256, (size - at) // lanes),
            data=[rng.getrandbits(width) for _ in range(min(256, (size - at) // lanes))],
        )
        for at in range(0, size, 256 * lanes)
    ]


def play(
    transfers: Sequence[Transfer],
    width: int,
    *,
    timing: SdramTiming = TIMING,
    stall: float = 0.0,
    seed: int = 0,
    round_trip: int = 0,
) -> float:
    """Send transfers, and require the right answers and a chip that has nothing to complain of.

    Returns:
        Bytes moved for each byte that could have been.
    """
    chip = ChipModel(timing, address_bits=16, round_trip=round_trip)
    dut = SimulatedSdram(timing, config(width), chip=chip)
    master = AxiMaster(dut.axi, stall=stall, seed=seed)

    async def bench(ctx: SimulatorContext) -> None:
        await started(ctx, dut)
        assert ctx.get(dut.ready)
        assert ctx.get(dut.sdram.delay) == round_trip
        first = ctx.get(dut.refreshes)
        await master.run(ctx, transfers)
        assert not violations(ctx, dut)
        made = ctx.get(dut.refreshes) - first
        assert abs(made - master.cycle / timing.refresh) <= 6

    simulate(dut, bench, max_cycles=40_000)
    return sum(each.beats for each in transfers) * width // 8 / (2 * master.cycle)


@st.composite
def bursts(draw: st.DrawFn, width: int) -> Transfer:
    """A burst of any alignment within the chip, rarely outside; often short, seldom 256 beats."""
    lanes = width // 8
    outside = draw(st.integers(0, 9)) == 0
    beats = draw(st.one_of(st.integers(1, 12), st.integers(1, 1024 // lanes)))
    last = SMALL.bytes - beats * lanes
    address = draw(st.one_of(st.integers(0, last), st.integers(0, last // 512).map(_block)))
    address += outside * draw(st.sampled_from([SMALL.bytes, 1 << 26, 1 << 31]))
    id_ = draw(st.integers(0, 3))
    if draw(st.booleans()):
        return Transfer(address=address, beats=beats, id=id_)
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    strobes = [rng.choice([-1, -1, 0, rng.getrandbits(lanes)]) for _ in range(beats)]
    mask = (1 << lanes) - 1
    return Transfer(
        address=address,
        beats=beats,
        id=id_,
        data=[rng.getrandbits(width) for _ in range(beats)],
        strobes=[strobe & mask for strobe in strobes],
    )


def _block(number: int) -> int:
    """Addresses of the same few banks, rows apart."""
    return number * 512


@st.composite
def traffic(draw: st.DrawFn) -> tuple[int, list[Transfer], float, int]:
    width = draw(st.sampled_from(WIDTHS))
    transfers = draw(st.lists(bursts(width), min_size=5, max_size=24))
    return width, transfers, draw(st.sampled_from([0.0, 0.3, 0.7])), draw(st.integers(0, 999))


@settings(max_examples=6)
@given(traffic())
def test_any_traffic_reads_what_was_written(
    drawn: tuple[int, list[Transfer], float, int],
) -> None:
    width, transfers, stall, seed = drawn
    everything = [*fill(width), *transfers]
    play(everything, width, stall=stall, seed=seed, round_trip=seed % 4)
    check(bytearray(SMALL.bytes), everything, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_whole_chip_in_one_sweep(width: int) -> None:
    """All addresses differ: nothing is lost by the way they become banks, rows and columns."""
    lanes = width // 8
    reads = [Transfer(address=at, beats=32) for at in reversed(range(0, SMALL.bytes, 32 * lanes))]
    transfers = [*fill(width), *reads]
    share = play(transfers, width)
    check(bytearray(SMALL.bytes), transfers, width)
    assert share > 0.85


@pytest.mark.parametrize("chip", [AS4C32M16, IS42S16160, W9825G6KH])
@pytest.mark.parametrize("mhz", [50, 143])
def test_real_chips_at_their_clocks(chip, mhz: int) -> None:
    """Rows of one bank, one after the other, and changes of direction: the times that matter."""
    timing = SdramTiming.at(replace(chip, startup_us=1, refresh_ms=8), mhz * 1e6)
    rng = random.Random(mhz)
    stride = 4096 << chip.column_bits - 9
    transfers = []
    for number in range(24):
        at = number % 5 * stride + 64 * number
        data = [rng.getrandbits(32) for _ in range(number % 4 + 1)]
        transfers += [
            Transfer(address=at, beats=len(data), data=data),
            Transfer(address=at, beats=len(data)),
        ]
    play(transfers, 32, timing=timing)
    check(bytearray(chip.bytes), transfers, 32)


@pytest.mark.parametrize(
    "times",
    [
        {"rcd": 7, "rp": 5, "ras": 13, "rc": 21, "rfc": 17, "wr": 5, "rrd": 9, "mrd": 9},
        {"rcd": 9, "rp": 4, "ras": 20, "rc": 23, "rfc": 17, "wr": 7, "rrd": 2, "mrd": 2},
    ],
)
def test_a_chip_with_long_times(times: dict[str, int]) -> None:
    """Longer than any chip's, so that none is kept by what the controller takes anyway."""
    timing = replace(TIMING, **times)
    rng = random.Random(1)
    transfers = fill(64)
    for _ in range(60):
        address = rng.randrange(0, SMALL.bytes - 64, 32)
        if rng.random() < 0.5:
            data = [rng.getrandbits(64) for _ in range(rng.randrange(1, 5))]
            transfers.append(Transfer(address=address, beats=len(data), data=data))
        else:
            transfers.append(Transfer(address=address, beats=rng.randrange(1, 5)))
    play(transfers, 64, timing=timing)
    check(bytearray(SMALL.bytes), transfers, 64)


@pytest.mark.parametrize("round_trip", range(8))
def test_test_finds_the_delay(round_trip: int) -> None:
    transfers = [
        Transfer(address=256, beats=8, data=list(range(8))),
        Transfer(address=256, beats=8),
    ]
    play(transfers, 64, round_trip=round_trip)
    assert transfers[1].read == list(range(8))


def test_no_delay_that_works_is_a_failure() -> None:
    """The port then accepts nothing, and the chip is only refreshed."""
    dut = SimulatedSdram(TIMING, config(64), chip=ChipModel(TIMING, round_trip=8))
    axi = dut.axi

    async def bench(ctx: SimulatorContext) -> None:
        for channel in (axi.ar, axi.aw, axi.w):
            ctx.set(channel.valid, 1)
        while not ctx.get(dut.failed):
            assert not ctx.get(dut.ready)
            assert not ctx.get(axi.ar.ready | axi.aw.ready | axi.w.ready)
            await ctx.tick()
        for _ in range(3000):
            await ctx.tick()
            assert ctx.get(dut.failed)
            assert not ctx.get(dut.ready | axi.ar.ready | axi.aw.ready | axi.w.ready)
        assert not violations(ctx, dut)

    simulate(dut, bench, max_cycles=10_000)


def test_one_bad_data_pin_is_a_failure() -> None:
    m = Module()
    m.submodules.sdram = sdram = Sdram(TIMING, config(64))
    m.submodules.chip = chip = ChipModel(TIMING)
    for name in chip.pins.signature.members:
        if name != "dq_i":
            m.d.comb += getattr(chip.pins, name).eq(getattr(sdram.pins, name))
    m.d.comb += sdram.pins.dq_i.eq(chip.pins.dq_i & ~(1 << 9))

    async def bench(ctx: SimulatorContext) -> None:
        while not ctx.get(sdram.ready | sdram.failed):
            await ctx.tick()
        assert ctx.get(sdram.failed)

    simulate(m, bench, max_cycles=10_000)


def test_errors_do_nothing() -> None:
    """Outside of the chip, not INCR, or narrow."""
    words = [0x0123_4567_89AB_CDEF] * 4
    bad = [
        {"address": SMALL.bytes},
        {"address": 1 << 31},
        {"address": 0, "burst": 0},
        {"address": 0, "burst": 2},
        {"address": 0, "size": 2},
    ]
    transfers = [
        Transfer(address=0, beats=4, data=[1, 2, 3, 4]),
        *(Transfer(beats=4, data=words, **each) for each in bad),
        *(Transfer(beats=4, **each) for each in bad),
        Transfer(address=0, beats=4),
    ]
    play(transfers, 64)
    check(bytearray(SMALL.bytes), transfers, 64)


def test_a_reset_at_any_time_starts_over() -> None:
    """The chip is not reset with the controller, and has no rule broken but that of refreshes."""
    m = Module()
    reset = Signal()
    sdram = Sdram(TIMING, config(64))
    m.submodules.sdram = ResetInserter(reset)(sdram)
    m.submodules.chip = chip = ChipModel(TIMING)
    wiring.connect(m, sdram.pins, chip.pins)
    rng = random.Random(3)

    async def bench(ctx: SimulatorContext) -> None:
        async def until_ready() -> None:
            while not ctx.get(sdram.ready):
                await ctx.tick()

        await until_ready()
        for _ in range(5):
            ctx.set(sdram.axi.aw.len, 31)
            ctx.set(sdram.axi.ar.len, 31)
            ctx.set(sdram.axi.w.strb, 255)
            for channel in (sdram.axi.ar, sdram.axi.aw):
                ctx.set(channel.size, 3)
                ctx.set(channel.burst, 1)
            for signal in (
                sdram.axi.ar.valid,
                sdram.axi.aw.valid,
                sdram.axi.w.valid,
                sdram.axi.r.ready,
                sdram.axi.b.ready,
            ):
                ctx.set(signal, 1)
            for _ in range(rng.randrange(40, 400)):
                ctx.set(sdram.axi.ar.addr, rng.randrange(SMALL.bytes))
                ctx.set(sdram.axi.aw.addr, rng.randrange(SMALL.bytes))
                await ctx.tick()
            for signal in (sdram.axi.ar.valid, sdram.axi.aw.valid, sdram.axi.w.valid):
                ctx.set(signal, 0)
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            assert not ctx.get(sdram.ready | sdram.axi.r.valid | sdram.axi.b.valid)
            await until_ready()
        master = AxiMaster(sdram.axi)
        transfers = [
            Transfer(address=512, beats=8, data=list(range(8))),
            Transfer(address=512, beats=8),
        ]
        await master.run(ctx, transfers)
        assert transfers[1].read == list(range(8))
        assert violations(ctx, chip) <= {"LATE_REFRESH"}

    simulate(m, bench, max_cycles=60_000)


@pytest.mark.parametrize("channel", ["r", "w"])
def test_a_master_that_stands_still_stops_neither_refreshes_nor_the_other_direction(
    channel: str,
) -> None:
    dut = SimulatedSdram(TIMING, config(64), chip=ChipModel(TIMING))
    axi = dut.axi
    writes = [Transfer(address=0, beats=256, data=list(range(256)))]
    reads = [Transfer(address=2048, beats=256)]

    async def bench(ctx: SimulatorContext) -> None:
        await started(ctx, dut)
        stuck, moving = (axi.ar, writes) if channel == "r" else (axi.aw, reads)
        ctx.set(stuck.len, 255)
        ctx.set(stuck.size, 3)
        ctx.set(stuck.burst, 1)
        ctx.set(stuck.addr, 2048 if channel == "r" else 0)
        ctx.set(stuck.valid, 1)
        accepted = False
        while not accepted:
            _, _, accepted = await ctx.tick().sample(stuck.ready)
        ctx.set(stuck.valid, 0)
        master = AxiMaster(axi)
        if channel == "r":
            # `run` would accept reads, which it knows nothing of.
            ctx.set(axi.aw.len, 255)
            ctx.set(axi.aw.size, 3)
            ctx.set(axi.aw.burst, 1)
            ctx.set(axi.aw.valid, 1)
            ctx.set(axi.w.strb, 255)
            ctx.set(axi.w.valid, 1)
            answered = False
            cycles = 0
            while not answered:
                _, _, answered, taken = await ctx.tick().sample(axi.b.valid, axi.aw.ready)
                if taken:
                    ctx.set(axi.aw.valid, 0)
                cycles += 1
            assert cycles < 1500
        else:
            await master.run(ctx, moving)
            assert master.cycle < 1500
        first = ctx.get(dut.refreshes)
        for _ in range(10 * TIMING.refresh):
            await ctx.tick()
        assert ctx.get(dut.refreshes) - first >= 9
        assert not violations(ctx, dut)

    simulate(dut, bench, max_cycles=20_000)


def test_a_write_waits_for_its_last_beat_and_a_read_for_the_master() -> None:
    """However late: no beat is made up, and none is lost while the read queue is full."""
    dut = SimulatedSdram(TIMING, config(64), chip=ChipModel(TIMING))
    axi = dut.axi
    words = [0x0101_0101_0101_0101 * (number % 251) for number in range(64)]

    async def bench(ctx: SimulatorContext) -> None:
        await started(ctx, dut)
        await AxiMaster(axi).run(ctx, [Transfer(address=0, beats=64, data=[0] * 64)])
        for channel in (axi.aw, axi.ar):
            ctx.set(channel.len, 63)
            ctx.set(channel.size, 3)
            ctx.set(channel.burst, 1)
        ctx.set(axi.aw.valid, 1)
        await ctx.tick()
        ctx.set(axi.aw.valid, 0)
        ctx.set(axi.w.strb, 255)
        ctx.set(axi.b.ready, 1)
        for word in words:
            # A segment's beats have all come but one.
            for _ in range(60):
                await ctx.tick()
            assert not ctx.get(axi.b.valid)
            ctx.set(axi.w.data, word)
            ctx.set(axi.w.valid, 1)
            await ctx.tick()
            ctx.set(axi.w.valid, 0)
        answered = False
        while not answered:
            _, _, answered = await ctx.tick().sample(axi.b.valid)
        ctx.set(axi.ar.valid, 1)
        await ctx.tick()
        ctx.set(axi.ar.valid, 0)
        for _ in range(600):
            await ctx.tick()
        read = []
        ctx.set(axi.r.ready, 1)
        while len(read) < 64:
            _, _, valid, word = await ctx.tick().sample(axi.r.valid, axi.r.data)
            if valid:
                read.append(word)
        assert read == words
        assert not violations(ctx, dut)

    simulate(dut, bench, max_cycles=20_000)


def test_a_bus_that_fits_no_burst_is_refused() -> None:
    with pytest.raises(ValueError, match="axi_data_bits must be 32, 64 or 128"):
        Geometry.of(TIMING, replace(preset("large"), axi_data_bits=256))
