"""ROW: a row each beat, in three stages that work in lockstep."""

from systolith.compiler.estimate.control import Control
from systolith.compiler.estimate.kernel import Kernel, Steps
from systolith.isa import Engine

PERIOD = 30
"""Cycles of a beat."""

STAGES = 3
"""Beats after which the clock stands still, unless another row has begun."""

RECORD = 85
"""Cycles from the begin of a row until its record is written and retired."""

LEAVE = 6
"""Cycles from the begin of a row until the next command is taken."""


def row_engine(kernel: Kernel, control: Control) -> Steps:
    """Carry out ROW instructions."""
    queue = control.queues[Engine.ROW]
    before = -STAGES * PERIOD
    while True:
        yield from queue.take()
        job = queue.commands[0]
        begin = kernel.now + 1
        if begin < before + STAGES * PERIOD:
            # The clock still runs, and rows begin on its beat.
            begin = before + PERIOD * -((before - begin) // PERIOD)
        before = begin + (job.instruction.rows - 1) * PERIOD
        control.retire(job, before + RECORD + 1)
        yield before + LEAVE
        queue.done()
