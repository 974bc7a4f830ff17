"""What a profile suggests to change, the largest loss first."""

from systolith.isa import Engine
from systolith.regs import Stall
from systolith.report.profile import DISPATCH, START, Profile

LEAST = 0.005
"""Losses below this share of the cycles are not worth a line."""

_ADVICE = {
    Engine.STREAM.name: "weights come too late: more bandwidth, a larger ring, or longer sequences",
    Engine.LOAD.name: "inputs come too late: more bandwidth",
    Engine.STORE.name: "memory is reused before it is stored",
    Engine.VECTOR.name: "element-wise passes lie between matrix products: more lanes, or work to "
    "overlap them with",
    Engine.ROW.name: "rows' statistics are turned into factors one by one: shorter blocks of rows",
    DISPATCH: "instructions come too late: larger ones, or memory with less latency",
    START: "instructions are short: the array fills and drains between them",
}


_MEASURED = {
    Stall.INPUT: "the ring is empty: weights come too late",
    Stall.OUTPUT: "both accumulator halves wait for VECTOR: more lanes, or shorter passes between "
    "drains",
    Stall.BANK: "weights in the scratchpad share a bank with what is read beside them",
}
"""What GEMM's counters suggest."""


def hints(profile: Profile) -> list[str]:
    """Sentences, each with the cycles that are at stake."""
    program = profile.program
    cycles = profile.cycles
    found: list[tuple[float, str]] = []
    bound = profile.roofline
    if bound.bound == "memory":
        needed = program.dram_bytes / bound.compute
        lost = bound.memory - bound.compute
        text = f"bound by memory: from {needed:.1f} bytes per cycle on, the array is the limit"
        found.append((lost, text))
    padding = sum(span.occupied - span.needed for span in profile.spans)
    text = (
        f"the array multiplies padding: sizes that are multiples of {program.config.rows} and "
        f"{program.config.columns}, and at least {max(program.config.columns, 5)} rows, fill it"
    )
    found.append((padding, text))
    gemm = profile.engines[Engine.GEMM.name]
    for reason, waited in gemm.waiting.items():
        found.append((waited, f"GEMM waits for {reason}: {_ADVICE.get(reason, '')}"))
    if profile.measured is not None and profile.measured.counters.has_stalls:
        stalls = profile.measured.counters.stalls[Engine.GEMM.name.lower()]
        for cause, advice in _MEASURED.items():
            lost = stalls[cause.name.lower()]
            found.append((lost, f"measured: GEMM stands still, {advice}"))
    found.append((gemm.idle, "GEMM has ended: what comes after the last product is not hidden"))
    return [
        f"{lost:,.0f} cycles, {lost / cycles:.1%}: {text}"
        for lost, text in sorted(found, reverse=True)
        if lost >= LEAST * cycles
    ]
