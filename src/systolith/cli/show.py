"""What a run looks like in a terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from systolith.cli.execute import Outcome
from systolith.host.device import Device
from systolith.host.figures import roofline, roofline_fraction, utilization
from systolith.host.session import NO_STALL_COUNTERS, Counters
from systolith.numerics import Format
from systolith.program import Program
from systolith.regs import Stall
from systolith_sim.devices import is_board

CLASS_DIMENSIONS = 2
"""Of the outputs of a classifier: a batch of 1, and classes."""


def show_similarity(sentences: Sequence[str], reference: np.ndarray, measured: np.ndarray) -> None:
    """Print sentences and both similarity matrices, float left, NPU right."""
    print()
    for index, sentence in enumerate(sentences):
        print(f"  {chr(ord('A') + index % 26)}  {sentence}")
    names = "".join(f"{chr(ord('A') + index % 26):>7}" for index in range(len(sentences)))
    gap = " " * 6
    width = 7 * len(sentences)
    print(f"\nsimilarity\n   {'float (onnxruntime)':<{width}}{gap}{'NPU':<{width}}")
    print(f"   {names}{gap}{names}")
    for index in range(len(sentences)):
        left = "".join(f"{value:7.3f}" for value in reference[index])
        right = "".join(f"{value:7.3f}" for value in measured[index])
        print(f"  {chr(ord('A') + index % 26)}{left}{gap}{right}")


def show_outcome(program: Program, device: Device, preset: str, outcome: Outcome) -> None:
    """Print cosines, cycles, roofline and where the time went."""
    cosines = [result.cosine for result in outcome.results]
    if any(value is not None for value in cosines):
        values = " ".join("-" if value is None else f"{value:.5f}" for value in cosines)
        print(f"\ncosine of NPU and float, by input: {values}")
    if any(each.format == Format.S8 for each in program.inputs):
        _show_classes(outcome)
    if outcome.checked:
        first = next((each.difference for each in outcome.results if each.difference), None)
        levels = "golden model = instruction simulator"
        if device.name != "iss":
            levels += f" = {device.name}"
        count = len(program.watch)
        outputs = " (its outputs)" if is_board(device.name) else ""
        print(
            f"\nbit-exact: {levels}{outputs}, {count} tensors of {len(outcome.results)} inputs"
            if first is None
            else f"\nNOT bit-exact: {first}"
        )
    timed = [result.counters for result in outcome.results if result.counters.cycles]
    tokens = f"{program.seq_len} tokens, {program.weights} weights"
    print(f"\n{program.name} on {preset} ({device.name}), {tokens}")
    for line in program.host:
        print(f"  on the host: {line}")
    for note in program.notes:
        print(f"  note: {note}")
    if timed:
        _show_time(program, device, timed)
    else:
        print(f"  {device.name} has no notion of time; use --device verilator for cycles")
    side_by_side = f", {outcome.jobs} at a time" if outcome.jobs > 1 else ""
    rate = sum(each.cycles for each in timed) / outcome.wall_s
    simulated = f": {rate:,.0f} cycles per second" if timed else ""
    print(f"  {outcome.wall_s:.1f} s for {len(outcome.results)} inputs{side_by_side}{simulated}")


def _show_classes(outcome: Outcome) -> None:
    """Print where the largest output is, if an image has but one row of outputs."""
    pairs = []
    for result in outcome.results:
        (found, *_), *reference = (
            list(each.values()) for each in (result.outputs, result.reference) if each
        )
        if found.ndim != CLASS_DIMENSIONS:
            return
        exact = f"{np.argmax(reference[0][0])}" if reference else "-"
        pairs.append(f"{np.argmax(found)}/{exact}")
    print(f"largest output of NPU/float, by input: {' '.join(pairs)}")


def _show_time(program: Program, device: Device, timed: Sequence[Counters]) -> None:
    counters = timed[0]
    bound = roofline(program, device.bandwidth)
    rate = program.macs_per_cycle
    cycles = _mean(timed, lambda each: each.cycles)
    used = _mean(timed, lambda each: utilization(program, each.cycles))
    reached = _mean(timed, lambda each: roofline_fraction(program, each.cycles, device.bandwidth))
    moved = _mean(timed, lambda each: each.dram_bytes)
    print(f"  cycles            {cycles:>14,.0f}")
    print(f"  MACs              {program.macs:>14,}   {100 * used:.1f} % of {rate:.4g} per cycle")
    limit = f"{bound.bound}-bound at {device.bandwidth:g} bytes per cycle"
    if not device.bandwidth:
        limit = "of the array alone, as the memory's bandwidth is not known"
    print(f"  roofline          {bound.cycles:>14,.0f}   {100 * reached:.1f} % reached; {limit}")
    print(f"  DRAM bytes        {moved:>14,.0f}   at least {program.dram_bytes:,}")
    if not counters.has_stalls:
        print(f"\n  {NO_STALL_COUNTERS}")
        return
    print("\n  where the time went, in % of all cycles")
    causes = [cause.name.lower() for cause in Stall]
    heading = "".join(f"{name:>9}" for name in ("working", *causes, "idle"))
    print(f"  {'':<8}{'':>9}{'standing still for':^{9 * len(causes)}}")
    print(f"  {'engine':<8}{heading}   instructions")
    for name, busy in counters.busy.items():
        total = counters.cycles
        stalls = counters.stalls[name]
        spent = [busy - counters.stall[name], *map(stalls.get, causes), total - busy]
        row = "".join("        -" if x is None else f"{100 * x / total:>9.1f}" for x in spent)
        print(f"  {name:<8}{row}   {counters.retired[name]:,}")


def _mean(timed: Sequence[Counters], value: Any) -> float:
    return float(np.mean([value(each) for each in timed]))
