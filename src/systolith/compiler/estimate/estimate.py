"""From a program to its cycles: the engines, each a process, on one clock."""

from collections.abc import Sequence
from dataclasses import dataclass

from systolith.compiler.estimate.banks import Banks
from systolith.compiler.estimate.control import Control
from systolith.compiler.estimate.dma import Ring, load_engine, store_engine, stream_engine
from systolith.compiler.estimate.gemm import Accumulators, gemm_engine
from systolith.compiler.estimate.kernel import Kernel
from systolith.compiler.estimate.memory import Memory, Port
from systolith.compiler.estimate.row import row_engine
from systolith.compiler.estimate.vector import vector_engine
from systolith.config import CoreConfig
from systolith.isa import INSTRUCTION_BYTES, Engine, Instruction, decode

_COMMANDS = {
    Engine.STREAM: 1,
    Engine.LOAD: 1,
    Engine.STORE: 1,
    Engine.GEMM: 2,
    Engine.VECTOR: 1,
    Engine.ROW: 1,
}
"""Commands that an engine takes before it is done with the first of them."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When an instruction is carried out, in cycles since the start.

    Attributes:
        index: in the program.
        instruction: what it does.
        ready: it is in front of its engine's queue, and its waits are over.
        started: its engine takes it.
        finished: its engine's progress count shows that it is retired.
    """

    index: int
    instruction: Instruction
    ready: int
    started: int
    finished: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """When everything happens.

    Attributes:
        cycles: from start to interrupt.
        instructions: of the program, in order.
    """

    cycles: int
    instructions: tuple[Timing, ...]


class DeadlockError(ValueError):
    """A program that does not end; the message says who waits."""


def estimate(code: bytes, config: CoreConfig, memory: Memory) -> Estimate:
    """Estimate how long a program takes.

    The engines, their queues, the weight ring, the accumulators, the banks and the memory port are
    followed tile by tile and burst by burst. The scalars of a run are not known: what depends on
    them is taken as if they were 0.

    Args:
        code: instructions, 64 bytes each.
        config: the core.
        memory: what it is connected to.

    Raises:
        DeadlockError: the program does not end.
        IllegalInstructionError: it is not legal.
    """
    size = INSTRUCTION_BYTES
    program = [decode(code[at : at + size], config) for at in range(0, len(code), size)]
    return _follow(program, config, memory)


def _follow(program: Sequence[Instruction], config: CoreConfig, memory: Memory) -> Estimate:
    kernel = Kernel()
    port = Port(kernel, config, memory)
    banks = Banks(kernel, config)
    control = Control(kernel, config, port, program, _COMMANDS)
    ring = Ring(kernel, config)
    accumulators = Accumulators(kernel)
    for engine in (
        stream_engine(kernel, config, control, port, ring),
        load_engine(kernel, config, control, port),
        store_engine(kernel, config, control, port, banks),
        gemm_engine(kernel, config, control, ring, banks, accumulators),
        vector_engine(kernel, config, control, banks, accumulators),
        row_engine(kernel, control),
    ):
        kernel.start(engine)
    kernel.run()
    if not control.end:
        stuck = [
            f"{job.instruction.opcode.name} {job.index}" for job in control.jobs if not job.finished
        ]
        raise DeadlockError(f"the program never ends; {stuck[0]} is the first that is not done")
    return Estimate(
        cycles=control.end,
        instructions=tuple(
            Timing(
                index=job.index,
                instruction=job.instruction,
                ready=job.ready,
                started=job.started,
                finished=job.finished,
            )
            for job in control.jobs
        ),
    )
