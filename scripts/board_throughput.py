"""What a board would do with all-MiniLM-L6: sentences per second, predicted from simulated cycles.

The core runs in Verilator on the SDRAM controller and the strict model of the board's chip, all at
the board's clock, and its results are compared with the instruction simulator's. Words are looked
up and tokens pooled on the core. A sentence's time on the serial line is reckoned from its bytes.
Beside it onnxruntime is timed on one processor of this machine.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from systolith.cli.demo_command import MODEL, TOKENIZER, packaged
from systolith.cli.inputs import Sample, load_tokenizer, tokenize
from systolith.cli.sentences import CALIBRATION
from systolith.compiler import compile_model
from systolith.compiler.options import QuantizeOptions
from systolith.config import preset
from systolith.host.inference import HostParts
from systolith.host.serial_port import DEFAULT_BAUD
from systolith.host.session import Session
from systolith.program import Program
from systolith_boards.boards import BOARDS, Board
from systolith_boards.sdram.core_design import core_on_sdram
from systolith_boards.sdram.timing import SdramTiming
from systolith_sim.iss import IssDevice
from systolith_sim.memory_model import MemoryTiming
from systolith_sim.verilator import VerilatorDevice

BITS_PER_BYTE = 10  # on the line, with start and stop bit


def cycles_on(board: Board, program: Program, sample: Sample, frequency: float) -> int:
    """Run a sentence on the core with the board's memory.

    Raises:
        RuntimeError: the results are not those of the instruction simulator.
    """
    host = HostParts(program)
    padded, length = host.pad(sample)
    codes = host.prologue(padded)
    with IssDevice(program.config, memory_bytes=1 << 26) as device:
        expected = Session(device, program).run(codes, length=length)
    design = core_on_sdram(program.config, SdramTiming.at(board.chip, frequency))
    outside = MemoryTiming(latency=1, bandwidth=1024, outstanding=64)
    with VerilatorDevice(program.config, timing=outside, design=design) as device:
        session = Session(device, program)
        for name, values in session.run(codes, length=length).items():
            if (values != expected[name]).any():
                raise RuntimeError(f"{name} differs from the instruction simulator's")
        return session.counters().cycles


def line_bytes(program: Program) -> int:
    """Bytes of a sentence's inputs and outputs."""
    return sum(
        binding.rows * binding.columns * np.dtype(binding.dtype).itemsize
        for binding in (*program.inputs, *program.outputs)
    )


def onnxruntime_ms(path: Path, sample: Sample) -> float:
    """Milliseconds of a sentence on one processor: the median of 20 runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}
    inputs = {name: value for name, value in sample.items() if name in names}
    times = []
    for _ in range(20):
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def sentences(lengths: list[int]) -> Iterator[tuple[int, Sample]]:
    """A text that fills each length."""
    tokenizer = load_tokenizer(packaged(*TOKENIZER))
    (text,) = tokenize(tokenizer, [" ".join(CALIBRATION)])
    for length in lengths:
        yield length, {name: value[:length] for name, value in text.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--board", default="ulx3s-85f", choices=BOARDS)
    parser.add_argument("--preset", help="another core than the board's")
    parser.add_argument("--freq", type=float, metavar="MHZ", help="another clock than the board's")
    parser.add_argument("--seq-len", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--weights", nargs="+", default=["int8", "int4"], choices=["int8", "int4"])
    parser.add_argument("--embedding", default="npu", choices=["host", "npu"])
    options = parser.parse_args()
    board = BOARDS[options.board]
    config = preset(options.preset or board.preset)
    frequency = board.frequency if options.freq is None else options.freq * 1e6
    path = packaged(*MODEL)
    calibration = tokenize(load_tokenizer(packaged(*TOKENIZER)), CALIBRATION)
    array = f"{config.rows}x{config.columns}"
    print(f"all-MiniLM-L6-v2 on {board.title}, {array} at {frequency / 1e6:g} MHz")
    for length, sample in sentences(options.seq_len):
        batch = {name: np.asarray(value)[None] for name, value in sample.items()}
        print(f"  {length} tokens: onnxruntime {onnxruntime_ms(path, batch):.1f} ms", flush=True)
        for weights in options.weights:
            if weights == "int4" and not config.int4:
                continue
            program = compile_model(
                path,
                config=config,
                seq_len=length,
                calibration=calibration,
                options=QuantizeOptions(
                    weights=weights, embedding=options.embedding, pooling="mean", normalize=True
                ),
            )
            cycles = cycles_on(board, program, sample, frequency)
            compute = 1e3 * cycles / frequency
            line = 1e3 * BITS_PER_BYTE * line_bytes(program) / DEFAULT_BAUD
            print(
                f"  {length} tokens, {weights}: {cycles:,} cycles, {compute:.1f} ms, "
                f"{1e3 / compute:.1f} sentences/s; {program.dram_bytes / cycles:.2f} B/cycle; "
                f"{line:.1f} ms on the line",
                flush=True,
            )


if __name__ == "__main__":
    main()
