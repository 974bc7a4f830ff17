"""A run of a small transformer, so that the compiler sees which branches a simulator takes.

A script, for a process of its own: what was counted is written when the process ends.
"""

import json
import sys
from contextlib import closing
from pathlib import Path

from systolith.compiler.errors import CompileError
from systolith.compiler.schedule import schedule
from systolith.config import CoreConfig
from systolith.host.session import Session
from systolith_sim.graphs import encoder, inputs_for
from systolith_sim.verilator.device import VerilatorDevice

TOKENS = 32
"""With the widths below, some 50,000 cycles on 128 MACs: a fraction of a second."""


def main(library: str, config: str) -> None:
    """Run it on a library; the configuration is in JSON."""
    core = CoreConfig(**json.loads(config))
    graph = encoder(TOKENS, width=128, heads=4, chunks=(256, 256))
    try:
        program = schedule(graph, core, name="rehearsal", seq_len=TOKENS)
    except CompileError:
        return  # a core too small for it: nothing is known of its branches, and nothing is lost
    with closing(VerilatorDevice(core, built=Path(library))) as device:
        Session(device, program).run(inputs_for(graph, seed=0), length=TOKENS - 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
