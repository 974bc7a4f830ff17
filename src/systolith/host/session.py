"""Runs a program on a device: the same code for simulators and boards.

The memory map, low to high: code, image, inputs, outputs, scratch, each at a multiple of 4 KiB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from systolith import isa, regs
from systolith.host.device import Device, DeviceError, Progress
from systolith.isa import Engine
from systolith.program import (
    CODE_BASE,
    IMAGE_BASE,
    LENGTH_SCALAR,
    Binding,
    Program,
)
from systolith.regs import Capability, Control, FaultCause, State

PAGE = 4096
"""Bytes to which everything in memory is aligned."""

CYCLES_PER_MAC = 50
"""How much slower than one MAC a cycle a run may be before it counts as hung."""


class DeviceFaultError(DeviceError):
    """The core stopped a program.

    Attributes:
        cause: why.
        engine: whose instruction it was, or None.
        pc: index of that instruction.
        tag: its tag.
        address: the address at fault.
    """

    def __init__(
        self, cause: FaultCause, engine: Engine | None, pc: int, tag: int, address: int, layer: str
    ) -> None:
        self.cause, self.engine, self.pc, self.tag, self.address = cause, engine, pc, tag, address
        who = "control" if engine is None else engine.name
        super().__init__(
            f"the core stopped with {cause.name}: instruction {pc} ({who}"
            f"{', ' + layer if layer else ''}), address 0x{address:x}"
        )


NO_STALL_COUNTERS = "this core has no stall counters"
"""What is said instead of where an engine's cycles went."""


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What the core counted in a run; all zero on a device without time.

    Of a core without counters of stalls, `busy`, `stall` and `stalls` are empty.

    Attributes:
        cycles: from start to interrupt.
        read_bytes, write_bytes: over the memory port.
        clashes: scratchpad requests that had to wait.
        busy: cycles by engine in which it had work; it did some in `busy - stall` of them.
        stall: cycles by engine in which it stood still.
        stalls: the same by engine and by each cause that it has (`regs.STALLS`), in lower case.
        retired: instructions by engine.
    """

    cycles: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    clashes: int = 0
    busy: Mapping[str, int] = field(default_factory=dict)
    stall: Mapping[str, int] = field(default_factory=dict)
    stalls: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    retired: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_stalls(self) -> bool:
        """Whether the core counts where the cycles of its engines go."""
        return bool(self.stalls)

    @property
    def dram_bytes(self) -> int:
        """Bytes over the memory port, both ways."""
        return self.read_bytes + self.write_bytes


class Session:
    """A program, loaded on a device.

    Args:
        device: where to run it.
        program: what to run.

    Raises:
        DeviceError: the core is another one than the program was compiled for, or its memory is
            too small.
    """

    def __init__(self, device: Device, program: Program) -> None:
        self.device = device
        self.program = program
        self._addresses = self._place()
        self._check_core()
        device.write_csr(regs.offset("control"), 1 << Control.RESET)
        device.write_memory(self._addresses[CODE_BASE][0], program.code)
        if program.image:
            device.write_memory(self._addresses[IMAGE_BASE][0], program.image)
        for base, (address, size) in self._addresses.items():
            device.write_csr(regs.offset(f"base{base}_lo"), address & 0xFFFF_FFFF)
            device.write_csr(regs.offset(f"base{base}_hi"), address >> 32)
            device.write_csr(regs.offset(f"limit{base}"), size)
        hash_value = program.config.hash
        device.write_csr(regs.offset("program_hash_lo"), hash_value & 0xFFFF_FFFF)
        device.write_csr(regs.offset("program_hash_hi"), hash_value >> 32)
        instructions = len(program.code) // isa.INSTRUCTION_BYTES
        device.write_csr(regs.offset("program_size"), instructions)
        device.write_csr(regs.offset("interrupt_enable"), 1)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        length: int,
        max_cycles: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            inputs: codes of every NPU input, `[rows, columns]`, by name.
            length: valid tokens; the rest is padding.
            max_cycles: when to give up; by default far beyond what the program can take.
            progress: called now and then.

        Returns:
            Codes of every NPU output, by name.

        Raises:
            DeviceFaultError: the core stopped the program.
            DeviceTimeoutError: it did not end.
            ValueError: an input is missing or does not fit.
        """
        device, program = self.device, self.program
        if not 1 <= length <= program.seq_len:
            raise ValueError(f"length must be from 1 to {program.seq_len}, but is {length}")
        for binding in program.inputs:
            if binding.name not in inputs:
                raise ValueError(f"the input {binding.name} is missing")
            device.write_memory(self._address(binding), _to_bytes(inputs[binding.name], binding))
        device.write_csr(regs.offset(f"scalar{LENGTH_SCALAR}"), length)
        device.write_csr(regs.offset("control"), 1 << Control.START)
        if max_cycles is None:
            max_cycles = 1_000_000 + CYCLES_PER_MAC * program.macs
        device.wait_interrupt(max_cycles=max_cycles, progress=progress)
        state = State(device.read_csr(regs.offset("status")))
        device.write_csr(regs.offset("control"), 1 << Control.ACKNOWLEDGE)
        if state == State.FAULT:
            raise self._fault()
        if state != State.DONE:
            raise DeviceError(f"the core raised its interrupt in state {state.name}")
        return {
            binding.name: np.frombuffer(
                device.read_memory(self._address(binding), binding.size), binding.dtype
            ).reshape(binding.rows, binding.columns)
            for binding in program.outputs
        }

    def counters(self) -> Counters:
        """What the last run cost."""
        names = [engine.name.lower() for engine in Engine]
        beat = self.program.config.axi_bytes
        cycles = self._read64("cycles")

        def read(name: str) -> int:
            # Nothing happens more than once a cycle, and a read takes long in a simulator.
            if cycles >> 32:
                return self._read64(name)
            return self.device.read_csr(regs.offset(f"{name}_lo"))

        found = self.device.read_csr(regs.offset("capabilities"))
        has_stalls = found >> Capability.STALL_COUNTERS & 1
        counted = list(Engine) if has_stalls else []
        return Counters(
            cycles=cycles,
            read_bytes=read("read_beats") * beat,
            write_bytes=read("write_beats") * beat,
            clashes=self.device.read_csr(regs.offset("bank_clashes")),
            busy={each.name.lower(): read(f"{each.name.lower()}_busy") for each in counted},
            stall={each.name.lower(): read(f"{each.name.lower()}_stall") for each in counted},
            stalls={
                engine.name.lower(): {
                    cause.name.lower(): read(regs.stall_counter(engine, cause))
                    for cause in regs.STALLS[engine]
                }
                for engine in counted
            },
            retired={name: self.device.read_csr(regs.offset(f"{name}_retired")) for name in names},
        )

    def reset(self) -> None:
        """Bring the core back to idle after a fault. Memory and registers stay."""
        self.device.write_csr(regs.offset("control"), 1 << Control.RESET)

    def _place(self) -> dict[int, tuple[int, int]]:
        """Address and size of each base."""
        program = self.program
        places, cursor = {}, 0
        for base, size in program.base_bytes.items():
            places[base] = cursor, size
            cursor += -(-size // PAGE) * PAGE
        if cursor > self.device.memory_bytes:
            raise DeviceError(
                f"{program.name} needs {cursor / 2**20:.1f} MiB of memory, and {self.device.name} "
                f"has {self.device.memory_bytes / 2**20:.1f} MiB"
            )
        return places

    def _check_core(self) -> None:
        device = self.device
        magic = device.read_csr(regs.offset("id"))
        if magic != regs.MAGIC:
            raise DeviceError(
                f"{device.name} does not answer as a Systolith core: its id register reads "
                f"0x{magic:08x} instead of 0x{regs.MAGIC:08x}"
            )
        found = self._read64("config_hash")
        if found != self.program.config.hash:
            raise DeviceError(
                f"{self.program.name} was compiled for a core with hash "
                f"{self.program.config.hash:016x}, and this one has {found:016x}. Compile it for "
                f"this core's preset."
            )

    def _address(self, binding: Binding) -> int:
        return self._addresses[binding.base][0] + binding.offset

    def _read64(self, name: str) -> int:
        low = self.device.read_csr(regs.offset(f"{name}_lo"))
        return low | self.device.read_csr(regs.offset(f"{name}_hi")) << 32

    def _fault(self) -> DeviceFaultError:
        read = self.device.read_csr
        engine = read(regs.offset("fault_engine"))
        tag = read(regs.offset("fault_tag"))
        layers = self.program.layers
        return DeviceFaultError(
            cause=FaultCause(read(regs.offset("fault_cause"))),
            engine=None if engine == regs.NO_ENGINE else Engine(engine),
            pc=read(regs.offset("fault_pc")),
            tag=tag,
            address=self._read64("fault_address"),
            layer=layers[tag] if tag < len(layers) else "",
        )


def _to_bytes(values: np.ndarray, binding: Binding) -> bytes:
    expected = binding.rows, binding.columns
    if values.shape != expected:
        raise ValueError(f"{binding.name} must have shape {expected}, but has {values.shape}")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{binding.name} must be integer codes, but is {values.dtype}")
    low, high = binding.range
    if (values < low).any() or (values > high).any():
        raise ValueError(
            f"{binding.name} must be from {low} to {np.max(high)}, but goes from {values.min()} to "
            f"{values.max()}"
        )
    return np.ascontiguousarray(values, binding.dtype).tobytes()
