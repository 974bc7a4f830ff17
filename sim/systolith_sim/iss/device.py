"""The instruction simulator as a device: CSRs, memory and interrupts around a `Machine`."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from systolith import regs
from systolith.config import ISA_VERSION, CoreConfig
from systolith.host.device import Device, DeviceError, DeviceTimeoutError, Progress
from systolith.isa import (
    BASES,
    INSTRUCTION_BYTES,
    SCALARS,
    Engine,
    IllegalInstructionError,
    Instruction,
    Opcode,
    decode,
)
from systolith.program import WatchPoint
from systolith.regs import NO_ENGINE, Control, FaultCause, State
from systolith_sim.iss.machine import FaultError, Machine
from systolith_sim.iss.order import DeadlockError, InstructionError, run

PROGRESS_INTERVAL = 64
"""Instructions between two calls of `progress`."""


class IssDevice(Device):
    """A core that takes no time: an instruction is a few NumPy operations.

    It carries out instructions in program order, or in a random order that waits and couplings
    between the engines allow; a program that is free of races gives the same in any of them.
    Scores above their maximum and norms out of range, which no core detects, are errors here.
    Registers of time, bandwidth and clashes read 0.

    Args:
        config: the core.
        memory_bytes: DRAM.
        seed: of the order; None for program order.
        poison: seed of the noise in all memories of the core at the start; None for zeros.
    """

    name = "iss"
    bandwidth = 0.0

    def __init__(
        self,
        config: CoreConfig,
        *,
        memory_bytes: int = 64 << 20,
        seed: int | None = None,
        poison: int | None = None,
    ) -> None:
        self.config = config
        self.memory_bytes = memory_bytes
        self.machine = Machine(config, np.zeros(memory_bytes, np.uint8))
        if poison is not None:
            self.machine.poison(poison)
        self._seed = seed
        self._csrs = {item.offset: item.reset for item in regs.REGISTERS}
        self._set("id", regs.MAGIC)
        self._set("version", ISA_VERSION)
        self._set("capabilities", regs.capabilities(config))
        self._set_pair("config_hash", config.hash)
        self._points: Sequence[WatchPoint] = ()
        self._captured: dict[str, np.ndarray] = {}
        self._decoded: dict[bytes, Instruction] = {}
        self._reset()

    def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes to DRAM.

        Raises:
            DeviceError: not all of them lie in memory.
        """
        source = np.frombuffer(data, np.uint8)
        self._memory(address, source.size)[:] = source

    def read_memory(self, address: int, size: int) -> bytes:
        """Read bytes from DRAM.

        Raises:
            DeviceError: not all of them lie in memory.
        """
        return self._memory(address, size).tobytes()

    def write_csr(self, offset: int, value: int) -> None:
        """Write a 32-bit register; writes to others than writable ones are ignored."""
        item = _REGISTERS.get(offset)
        if item is None or not item.writable:
            return
        if item.name == "control":
            self._control(value)
        else:
            self._csrs[offset] = value & item.mask

    def read_csr(self, offset: int) -> int:
        """Read a 32-bit register; what is none reads 0."""
        return self._csrs.get(offset, 0)

    def wait_interrupt(self, *, max_cycles: int, progress: Progress | None = None) -> None:
        """Run the program that has been started; `max_cycles` does not matter.

        Raises:
            DeviceTimeoutError: there will be no interrupt: the program hangs, none has been
                started, or interrupts are off.
            DeviceError: the program relies on what no core promises.
        """
        del max_cycles
        if self._get("status") == State.RUN:
            self._run(progress)
        if not self._get("interrupt_enable"):
            raise DeviceTimeoutError("iss: interrupts are not enabled")
        if not self._get("interrupt_pending"):
            raise DeviceTimeoutError("iss: no program has been started")

    def watch(self, points: Sequence[WatchPoint]) -> None:
        """From the next run on, capture these tensors as they are completed; () for none."""
        self._points = tuple(points)

    @property
    def captured(self) -> dict[str, np.ndarray]:
        """What the last run captured: `[rows, columns]` in int8, uint8 or int16, by name."""
        return self._captured

    def _control(self, value: int) -> None:
        if value >> Control.RESET & 1:
            self._reset()
            return
        if value >> Control.ACKNOWLEDGE & 1:
            self._set("interrupt_pending", 0)
        if value >> Control.ABORT & 1 and self._get("status") == State.RUN:
            self._fault(FaultCause.ABORT)
        if value >> Control.START & 1 and self._get("status") in (State.IDLE, State.DONE):
            self._clear_results()
            self._set("status", State.RUN)

    def _reset(self) -> None:
        self._set("status", State.IDLE)
        self._clear_results()

    def _clear_results(self) -> None:
        self.machine.clear()
        for name in ("interrupt_pending", "halt_code", "fault_cause", "fault_pc", "fault_tag"):
            self._set(name, 0)
        self._set("fault_engine", NO_ENGINE)
        self._set_pair("fault_address", 0)
        for engine in Engine:
            self._set(f"{engine.name.lower()}_retired", 0)

    def _run(self, progress: Progress | None) -> None:
        if self._get_pair("program_hash") != self.config.hash:
            self._fault(FaultCause.CONFIG_MISMATCH)
            return
        machine = self.machine
        machine.scalars = [self._get(f"scalar{index}") for index in range(SCALARS)]
        machine.bases = [self._get_pair(f"base{index}") for index in range(BASES)]
        machine.limits = [self._get(f"limit{index}") for index in range(BASES)]
        self._captured = {}
        points: dict[tuple[Engine, int], list[WatchPoint]] = {}
        for point in self._points:
            points.setdefault((point.engine, point.count), []).append(point)
        done = 0

        def retired(_: int, engine: Engine, count: int) -> None:
            nonlocal done
            done += 1
            self._set(f"{engine.name.lower()}_retired", count & 0xFFFF)
            for point in points.get((engine, count), ()):
                shape = (point.rows, point.columns)
                tensor = machine.tensor(point.address, point.row, shape, point.format)
                self._captured[point.name] = tensor.astype(tensor.dtype.newbyteorder("="))
            if progress is not None and done % PROGRESS_INTERVAL == 0:
                progress(done)

        program, end = self._fetch()
        try:
            run(machine, program, seed=self._seed, retired=retired)
        except DeadlockError as error:
            raise DeviceTimeoutError(f"iss: {error}") from None
        except InstructionError as failed:
            if not isinstance(failed.error, FaultError):
                raise DeviceError(f"iss: {failed}") from failed
            self._fault(
                failed.error.cause,
                engine=failed.instruction.engine,
                pc=failed.pc,
                tag=failed.instruction.tag,
                address=failed.error.address,
            )
            return
        if not isinstance(end, Instruction):
            self._fault(end[0], pc=len(program), address=end[1], tag=end[2])
            return
        self._halt(end, len(program))

    def _halt(self, halt: Instruction, pc: int) -> None:
        for engine, count in halt.waits.items():
            have = self._get(f"{engine.name.lower()}_retired")
            if have < count:
                raise DeviceTimeoutError(
                    f"iss: deadlock: HALT (instruction {pc}) for {count} of {engine.name}, "
                    f"which has retired {have}"
                )
        self._set("halt_code", halt.code)
        self._set("status", State.DONE)
        self._set("interrupt_pending", 1)

    def _fetch(self) -> tuple[list[Instruction], Instruction | tuple[FaultCause, int, int]]:
        """Decode up to what ends the program: HALT, or a fault's cause, address and tag."""
        program = list[Instruction]()
        for pc in range(self._get("program_size")):
            try:
                image = self.machine.dram_run(0, pc * INSTRUCTION_BYTES, INSTRUCTION_BYTES)
            except FaultError as fault:
                return program, (fault.cause, fault.address, 0)
            key = image.tobytes()
            instruction = self._decoded.get(key)
            if instruction is None:
                try:
                    instruction = decode(key, self.config)
                except IllegalInstructionError:
                    tag = int.from_bytes(key[2:4], "little")
                    return program, (FaultCause.ILLEGAL_INSTRUCTION, 0, tag)
                self._decoded[key] = instruction
            if instruction.opcode == Opcode.HALT:
                return program, instruction
            program.append(instruction)
        return program, (FaultCause.ILLEGAL_INSTRUCTION, 0, 0)

    def _fault(
        self,
        cause: FaultCause,
        *,
        engine: Engine | None = None,
        pc: int = 0,
        tag: int = 0,
        address: int = 0,
    ) -> None:
        self._set("fault_cause", cause)
        self._set("fault_engine", NO_ENGINE if engine is None else engine)
        self._set("fault_pc", pc)
        self._set("fault_tag", tag)
        self._set_pair("fault_address", address)
        self._set("status", State.FAULT)
        self._set("interrupt_pending", 1)

    def _memory(self, address: int, size: int) -> np.ndarray:
        if address < 0 or address + size > self.memory_bytes:
            self._refuse(address, size)
        return self.machine.dram[address : address + size]

    def _refuse(self, address: int, size: int) -> NoReturn:
        raise DeviceError(
            f"iss: {size} bytes at {address:#x} do not lie in a memory of {self.memory_bytes:#x}"
        )

    def _get(self, name: str) -> int:
        return self._csrs[regs.offset(name)]

    def _set(self, name: str, value: int) -> None:
        self._csrs[regs.offset(name)] = int(value)

    def _get_pair(self, name: str) -> int:
        return self._get(f"{name}_lo") | self._get(f"{name}_hi") << 32

    def _set_pair(self, name: str, value: int) -> None:
        self._set(f"{name}_lo", value & 0xFFFF_FFFF)
        self._set(f"{name}_hi", value >> 32)


_REGISTERS = {item.offset: item for item in regs.REGISTERS}
