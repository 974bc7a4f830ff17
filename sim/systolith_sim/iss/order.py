"""In which order instructions are carried out: program order, or a random one that is legal."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from systolith.isa import Engine, Instruction
from systolith_sim.iss.machine import ExecutionError, FaultError, Machine
from systolith_sim.iss.operators import OPERATORS, Condition, Steps


class DeadlockError(Exception):
    """No engine can go on; the message says what each of them waits for."""


class InstructionError(Exception):
    """An instruction failed; the cause is a `FaultError` or an `ExecutionError`.

    Attributes:
        pc: its index.
        instruction: itself.
        error: why.
    """

    def __init__(self, pc: int, instruction: Instruction, error: Exception) -> None:
        super().__init__(f"instruction {pc}, {instruction.opcode.name}: {error}")
        self.pc = pc
        self.instruction = instruction
        self.error = error


@dataclass
class _Running:
    pc: int
    instruction: Instruction
    steps: Steps
    condition: Condition


def run(
    machine: Machine,
    program: Sequence[Instruction],
    *,
    seed: int | None,
    retired: Callable[[int, Engine, int], None],
) -> list[int]:
    """Carry out a program up to, and without, its HALT.

    Every engine works through its instructions in order, each of them when the counts it waits
    for have been reached. Which engine goes on is decided by program order or, step by step, by
    chance: then ring and accumulators have their real sizes.

    Args:
        machine: what the instructions work on.
        program: instructions without HALT.
        seed: None for program order and whole steps, else fine steps in random order.
        retired: called with the index of an instruction, its engine and the engine's count.

    Returns:
        retired instructions by engine.

    Raises:
        InstructionError: an instruction failed.
        DeadlockError: no engine can go on.
    """
    chance = None if seed is None else random.Random(seed)
    queues = {engine: deque[tuple[int, Instruction]]() for engine in Engine}
    for pc, instruction in enumerate(program):
        assert instruction.engine is not None
        queues[instruction.engine].append((pc, instruction))
    counts = [0] * len(Engine)
    running: dict[Engine, _Running] = {}

    def advance(engine: Engine, work: _Running) -> None:
        try:
            work.condition = next(work.steps)
        except StopIteration:
            del running[engine]
            counts[engine] += 1
            retired(work.pc, engine, counts[engine])
        except (FaultError, ExecutionError) as error:
            raise InstructionError(work.pc, work.instruction, error) from error

    def start(engine: Engine) -> None:
        queue = queues[engine]
        if engine in running or not queue:
            return
        pc, instruction = queue[0]
        if any(counts[other] < count for other, count in waits(instruction)):
            return
        queue.popleft()
        steps = OPERATORS[instruction.opcode](machine, instruction, chance is not None)
        running[engine] = _Running(pc, instruction, steps, lambda: "")
        advance(engine, running[engine])

    while True:
        for engine in Engine:
            start(engine)
        ready = [(work.pc, engine) for engine, work in running.items() if not work.condition()]
        if not ready:
            if not running and not any(queues.values()):
                return counts
            raise DeadlockError(_explain(queues, running, counts))
        _, engine = min(ready) if chance is None else chance.choice(ready)
        advance(engine, running[engine])


def waits(instruction: Instruction) -> list[tuple[Engine, int]]:
    """The counts that an instruction waits for, by engine."""
    fields = instruction.fields
    return [(engine, fields[name]) for engine, name in _WAITS if fields[name]]


_WAITS = [(engine, f"wait_{engine.name.lower()}") for engine in Engine]


def _explain(
    queues: dict[Engine, deque[tuple[int, Instruction]]],
    running: dict[Engine, _Running],
    counts: list[int],
) -> str:
    reasons = list[str]()
    for engine in Engine:
        if engine in running:
            work = running[engine]
            reasons.append(f"{engine.name} (instruction {work.pc}) for {work.condition()}")
        elif queues[engine]:
            pc, instruction = queues[engine][0]
            wanted = ", ".join(
                f"{count} of {other.name}, which has retired {counts[other]}"
                for other, count in waits(instruction)
                if counts[other] < count
            )
            reasons.append(f"{engine.name} (instruction {pc}) for {wanted}")
    return "deadlock: " + "; ".join(reasons)
