"""How much of its peak, 2 bytes per cycle, the SDRAM gives to traffic like that of a core.

`python scripts/sdram_traffic.py` plays bursts as the DMA makes them against controller and chip
model in Amaranth's simulator: a stream of weights in bursts of 32 beats, alone, in turn with rows
of a tensor that are read at a stride, and with rows that are written besides.

`python scripts/sdram_traffic.py --core ecp5-85k` lets a core in Verilator run the digit classifier
of the tests on the controller, and on simple memories of so many bytes per cycle.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from systolith.compiler import compile_model
from systolith.config import PRESETS, CoreConfig, preset
from systolith.host.inference import HostParts
from systolith.host.session import Session
from systolith_boards.sdram.chip import ChipModel, Violation
from systolith_boards.sdram.core_design import core_on_sdram
from systolith_boards.sdram.simulated import SimulatedSdram
from systolith_boards.sdram.timing import CHIPS, SdramTiming
from systolith_rtl.dma.burst import MAX_BEATS
from systolith_sim.axi_master import AxiMaster, Transfer
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.testbench import SimulatorContext, simulate
from systolith_sim.verilator import VerilatorDevice

DATA = Path(__file__).parents[1] / "tests" / "data"

STREAM, LOAD, STORE = 0, 8 << 20, 16 << 20
"""Where weights, rows that are read and rows that are written begin."""

STORED_BYTES = 16
"""log2 of the words that the chip model keeps; above, addresses repeat."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a core asks for at the same time.

    Attributes:
        name: for the table.
        stream: bytes of weights.
        row: bytes of each row that is read; 0 for none.
        store: bytes of each row that is written; 0 for none.
        stride: bytes from row to row.
        every: reads of weights for each row that is written.
    """

    name: str
    stream: int = 16 << 10
    row: int = 0
    store: int = 0
    stride: int = 1024
    every: int = 4


TRAFFIC = (
    Traffic(name="stream"),
    Traffic(name="stream, rows of 32 B", row=32),
    Traffic(name="stream, rows of 64 B", row=64),
    Traffic(name="stream, rows of 384 B", row=384, stride=384),
    Traffic(name="rows of 64 B, stride 4 KiB", stream=0, row=64, stride=4096),
    Traffic(name="stream, stores of 64 B", store=64),
    Traffic(name="stream, rows of 64 B, stores of 64 B", row=64, store=64),
    Traffic(name="stream, rows of 384 B, stores of 384 B", row=384, store=384, stride=384),
    Traffic(name="stores of 64 B", stream=0, store=64),
)


def bursts(address: int, size: int, width: int) -> Iterator[tuple[int, int]]:
    """First byte and beats of the bursts that the DMA makes of a run of bytes."""
    end = address + size
    while address < end:
        boundary = (address // (MAX_BEATS * width) + 1) * MAX_BEATS * width
        beats = -(-(min(end, boundary) - address) // width)
        yield address, beats
        address += beats * width


def transfers(traffic: Traffic, config: CoreConfig) -> list[Transfer]:
    """The bursts of all engines, taking turns as on the core's port."""
    width = config.axi_bytes
    rows = 16 << 10 if not traffic.stream else traffic.stream
    reads = [
        burst
        for number in range(rows // traffic.row if traffic.row else 0)
        for burst in bursts(LOAD + number * traffic.stride, traffic.row, width)
    ]
    stream = list(bursts(STREAM, traffic.stream, width))
    stores = rows // traffic.store if traffic.store else 0
    result = []
    number = 0
    while stream or (not traffic.stream and (reads or number < stores)):
        if stream:
            address, beats = stream.pop(0)
            result.append(Transfer(address=address, beats=beats, id=1))
        if reads:
            address, beats = reads.pop(0)
            result.append(Transfer(address=address, beats=beats, id=2))
        if traffic.store and (not stream or len(stream) % traffic.every == 0):
            for address, beats in bursts(STORE + number * traffic.stride, traffic.store, width):
                result.append(Transfer(address=address, beats=beats, data=[0] * beats))
            number += 1
    return result


def measure(traffic: Traffic, timing: SdramTiming, config: CoreConfig) -> float:
    """Play traffic, and return the bytes moved for each byte that could have been."""
    dut = SimulatedSdram(timing, config, chip=ChipModel(timing, address_bits=STORED_BYTES))
    played = transfers(traffic, config)
    cycles = 0

    async def play(ctx: SimulatorContext) -> None:
        nonlocal cycles
        while not ctx.get(dut.ready):
            await ctx.tick()
        master = AxiMaster(dut.axi)
        await master.run(ctx, played)
        cycles = master.cycle
        if ctx.get(dut.violations):
            raise RuntimeError(f"the chip reports {Violation(ctx.get(dut.first)).name}")

    simulate(dut, play, max_cycles=200_000)
    return sum(each.beats for each in played) * config.axi_bytes / (2 * cycles)


def run_core(config: CoreConfig, timing: SdramTiming) -> None:
    """Print what the digit classifier takes on the SDRAM, and on memories as simple as can be."""
    with np.load(DATA / "digits.npz") as file:
        images = [{"pixel_values": image[None] / np.float32(16)} for image in file["calibration"]]
    program = compile_model(DATA / "digits_vit.onnx", config=config, calibration=images)
    host = HostParts(program)
    padded, length = host.pad(images[0])
    codes = host.prologue(padded)
    unlimited = MemoryTiming(latency=1, bandwidth=1024, outstanding=64)
    memories = [("SDRAM", core_on_sdram(config, timing), unlimited)] + [
        (
            f"{share:.0%} of 2 B/cycle, latency 20",
            None,
            MemoryTiming(latency=20, bandwidth=2 * share),
        )
        for share in (1.0, 0.9, 0.8)
    ]
    results = []
    for name, design, memory_timing in memories:
        device = VerilatorDevice(config, timing=memory_timing, design=design)
        try:
            session = Session(device, program)
            results.append(session.run(codes, length=length))
            counters = session.counters()
        finally:
            device.close()
        share = (counters.read_bytes + counters.write_bytes) / (2 * counters.cycles)
        print(f"{name:40}{counters.cycles:10} cycles, {share:.1%} of 2 B/cycle", flush=True)
    for result in results[1:]:
        if any((result[key] != value).any() for key, value in results[0].items()):
            raise RuntimeError("the results differ")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chip", default="AS4C32M16SB-7", choices=CHIPS)
    parser.add_argument("--mhz", type=float, default=125)
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 64], help="of AXI data")
    parser.add_argument("--core", choices=PRESETS, help="run a program on this core instead")
    options = parser.parse_args()
    # The pause at start-up does not count, so it need not be simulated.
    timing = SdramTiming.at(replace(CHIPS[options.chip], startup_us=1), options.mhz * 1e6)
    print(f"{options.chip} at {options.mhz:g} MHz, CAS latency {timing.cas_latency}")
    if options.core:
        run_core(preset(options.core), timing)
        return
    print(f"{'':40}" + "".join(f"{bits:7} bits" for bits in options.bits))
    for traffic in TRAFFIC:
        shares = []
        for bits in options.bits:
            config = replace(preset("ecp5-85k"), axi_data_bits=bits)
            shares.append(f"{measure(traffic, timing, config):11.1%} ")
        print(f"{traffic.name:40}" + "".join(shares), flush=True)


if __name__ == "__main__":
    main()
