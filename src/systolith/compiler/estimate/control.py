"""Fetch, decode and dispatch, and the queues in front of the engines."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from systolith.compiler.estimate.kernel import Change, Kernel, Steps
from systolith.compiler.estimate.memory import Burst, Port, Reader
from systolith.config import CoreConfig
from systolith.isa import INSTRUCTION_BYTES, Engine, Instruction, Opcode

FIRST_FETCH = 6
"""The first cycle in which an instruction is asked for: the engines are reset before."""

PREFETCH = 4
"""Instructions asked for ahead."""

DECODE = 4
"""Cycles from an instruction to the verdict about it."""

LEAVE = 3
"""Cycles until an instruction's place among those that wait may be used again."""

IN_FLIGHT = 8
"""Instructions that an engine may hold."""

FINISH = 12
"""Cycles from the last progress count to the interrupt."""


@dataclass(eq=False)
class Job:
    """An instruction on its way.

    Attributes:
        index: in the program.
        instruction: what to do.
        dispatched: the cycle in which it got into its engine's queue.
        ready: the first cycle in which it could have been handed to its engine: it was at the
            head of its queue, and its waits were over.
        started: the cycle in which it was handed to its engine.
        finished: the first cycle in which the engine's progress count shows it.
    """

    index: int
    instruction: Instruction
    dispatched: int = 0
    ready: int = 0
    started: int = 0
    finished: int = 0


class Queue:
    """What an engine takes its instructions from.

    Args:
        depth: commands that the engine holds before it works on them.
    """

    def __init__(self, kernel: Kernel, config: CoreConfig, depth: int) -> None:
        self._kernel = kernel
        self._config = config
        self._depth = depth
        self.waiting: deque[Job] = deque()
        self.commands: deque[Job] = deque()
        self.held = 0
        self.retired = 0
        self.dispatched = 0
        self.change = Change(kernel)

    @property
    def room(self) -> bool:
        """Whether another instruction may be dispatched."""
        unretired = self.dispatched - self.retired
        limit = 2 * max(self._config.queue_depth, IN_FLIGHT)
        return len(self.waiting) < self._config.queue_depth and unretired < limit

    def take(self) -> Steps:
        """Wait for a command, which is then the first one of `commands`."""
        while not self.commands:
            yield self.change

    def done(self) -> None:
        """Make room for another command; the next one may come a cycle later."""
        self.commands.popleft()
        self.change.notify()

    def hand_over(
        self, counts: dict[Engine, "Queue"], progress: Change, leave: Callable[[], None]
    ) -> Steps:
        """Give one instruction after the other to the engine."""
        kernel = self._kernel
        while True:
            while not self.waiting:
                yield self.change
            job = self.waiting[0]
            yield job.dispatched + 1
            # It moves to the head of the queue, where it is compared with the counts, and is
            # offered two cycles later.
            leave()
            yield kernel.now + 1
            self.waiting.popleft()
            self.change.notify()
            yield kernel.now + 1
            waits = job.instruction.waits
            while any(counts[engine].retired < count for engine, count in waits.items()):
                yield progress
            while self.held >= IN_FLIGHT:
                yield self.change
            yield kernel.now + 2
            job.ready = kernel.now
            while len(self.commands) >= self._depth:
                yield self.change
            job.started = kernel.now
            self.held += 1
            self.commands.append(job)
            self.change.notify()
            yield kernel.now + 1


class Control:
    """Bring the instructions of a program to the queues, and count what is retired."""

    def __init__(
        self,
        kernel: Kernel,
        config: CoreConfig,
        port: Port,
        program: Sequence[Instruction],
        depths: dict[Engine, int],
    ) -> None:
        self._kernel = kernel
        self._config = config
        self._port = port
        self.jobs = [Job(index, each) for index, each in enumerate(program)]
        self.queues = {engine: Queue(kernel, config, depths[engine]) for engine in Engine}
        self._progress = Change(kernel)
        self._places = max(16, 2 * config.queue_depth)
        self._placed = Change(kernel)
        self._beats = INSTRUCTION_BYTES // config.axi_bytes
        self._arrived: dict[int, int] = {}
        self._room = PREFETCH
        self._fetched = Change(kernel)
        self.end = 0
        kernel.start(self._fetch())
        kernel.start(self._dispatch())
        for queue in self.queues.values():
            kernel.start(queue.hand_over(self.queues, self._progress, self._leave))

    def retire(self, job: Job, cycle: int) -> None:
        """Let an instruction's progress count change in a cycle."""

        def count() -> None:
            engine = job.instruction.engine
            assert engine is not None
            job.finished = cycle
            queue = self.queues[engine]
            queue.retired += 1
            queue.held -= 1
            queue.change.notify()
            self._progress.notify()

        self._kernel.call(cycle, count)

    def _leave(self) -> None:
        def leave() -> None:
            self._places += 1
            self._placed.notify()

        self._kernel.call(self._kernel.now + LEAVE, leave)

    def _fetch(self) -> Steps:
        yield FIRST_FETCH
        for index in range(len(self.jobs)):
            if not self._room:
                while not self._room:
                    yield self._fetched
                yield self._kernel.now + 1
            self._room -= 1

            def arrive(_first: int, last: int, index: int = index) -> None:
                # Into a register, into the queue of beats, and out of it into another register.
                def store() -> None:
                    self._arrived[index] = last + 3
                    self._fetched.notify()

                self._kernel.call(last + 3, store)

            yield from self._port.read(Reader.FETCH, Burst(self._beats, arrive))
            yield self._kernel.now + 2

    def _dispatch(self) -> Steps:
        kernel = self._kernel
        taken = 0
        for job in self.jobs:
            while job.index not in self._arrived:
                yield self._fetched
            # A beat is added in each cycle after the word before has left.
            complete = max(kernel.now, taken + self._beats) if job.index else kernel.now
            yield complete + 1
            self._room += 1
            self._fetched.notify()
            taken = kernel.now
            yield taken + DECODE
            if job.instruction.opcode is Opcode.HALT:
                yield from self._halt(job)
                return
            queue = self.queues[Engine(job.instruction.engine)]  # pyright: ignore[reportArgumentType]
            while not self._places:
                yield self._placed
            while not queue.room:
                yield queue.change
            self._places -= 1
            yield kernel.now + 1
            job.dispatched = kernel.now
            queue.dispatched += 1
            queue.waiting.append(job)
            queue.change.notify()
            yield kernel.now + 1

    def _halt(self, job: Job) -> Steps:
        job.dispatched = self._kernel.now
        while any(queue.retired < queue.dispatched for queue in self.queues.values()):
            yield self._progress
        job.ready = job.started = self._kernel.now
        self.end = self._kernel.now + FINISH
        job.finished = self.end
