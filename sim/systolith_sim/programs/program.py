"""Random legal programs, to hold simulators, checker and RTL to each other.

A program is complete: it brings its weights and inputs, moves them through every part of the
core, and stores what it still has at its end, so that any difference ends up in DRAM.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from systolith import regs
from systolith.config import CoreConfig
from systolith.host.device import Device
from systolith.isa import BASE_ALIGNMENT, BASES, Opcode, encode
from systolith.program import CODE_BASE, OUTPUT_BASE
from systolith_sim.programs.builder import REGION, WRITTEN_BASES, Builder, RoomError
from systolith_sim.programs.steps import add_step
from systolith_sim.programs.transfers import load_tensor, pool, store

TENSORS = 8
"""Tensors of the largest size that a program must have room for."""

ATTEMPTS = 10
"""Programs that are begun before one must have room for its tensors."""

SCALAR_LIMIT = 24
"""Run-time scalars of a random program are below it."""


@dataclass(frozen=True, kw_only=True)
class RandomProgram:
    """A program with all that it needs.

    Attributes:
        config: the core.
        code: instructions, 64 bytes each, HALT last.
        halt_code: what the core reports in the end.
        dram: what the host writes before the start, from address 0 on; noise where the program
            is to write.
        bases: address of each base.
        limits: bytes of each base; 0 for those that are not used.
        scalars: run-time scalars.
        expected: DRAM in the end, by the builder's own simulation.
    """

    config: CoreConfig
    code: bytes
    halt_code: int
    dram: bytes
    bases: tuple[int, ...]
    limits: tuple[int, ...]
    scalars: tuple[int, ...]
    expected: bytes

    @property
    def memory_bytes(self) -> int:
        """DRAM that a device must have."""
        return -(-len(self.dram) // 4096) * 4096

    def start(self, device: Device) -> None:
        """Write memory and registers, and start."""
        device.write_memory(0, self.dram)
        for name, value in self.registers().items():
            device.write_csr(regs.offset(name), value)
        device.write_csr(regs.offset("control"), 1 << regs.Control.START)

    def registers(self) -> dict[str, int]:
        """Values of all registers that a host writes before it starts the program."""
        values = {f"scalar{index}": value for index, value in enumerate(self.scalars)}
        for base, (address, limit) in enumerate(zip(self.bases, self.limits, strict=True)):
            values |= {f"base{base}_lo": address, f"base{base}_hi": 0, f"limit{base}": limit}
        return values | {
            "program_hash_lo": self.config.hash & 0xFFFF_FFFF,
            "program_hash_hi": self.config.hash >> 32,
            "program_size": len(self.code) // 64,
            "interrupt_enable": 1,
        }

    def run(self, device: Device, *, max_cycles: int = 1_000_000) -> bytes:
        """Run on a device, and return all of DRAM.

        Raises:
            DeviceError: it did not end.
            AssertionError: it ended in a fault, or not with the right code.
        """
        self.start(device)
        device.wait_interrupt(max_cycles=max_cycles)
        status = device.read_csr(regs.offset("status"))
        cause = regs.FaultCause(device.read_csr(regs.offset("fault_cause")))
        assert status == regs.State.DONE, (cause, device.read_csr(regs.offset("fault_pc")))
        assert device.read_csr(regs.offset("halt_code")) == self.halt_code
        return device.read_memory(0, len(self.dram))


def random_program(
    config: CoreConfig, seed: int, *, steps: int = 12, largest: int = 20
) -> RandomProgram:
    """Make a program.

    Args:
        config: the core.
        seed: the same seed gives the same program.
        steps: operators to add between the first loads and the last stores; a matmul with its
            loads counts as one.
        largest: M, N and K are at most this.

    Raises:
        ValueError: `largest` or `steps` is too much for the core or for `REGION`.
    """
    width = -(-2 * largest // config.rows) * config.word_granules
    if TENSORS * largest * width > config.granules or largest > config.row_slots // 4:
        raise ValueError(f"{TENSORS} tensors of {largest} x {largest} words do not fit the core")
    for attempt in range(ATTEMPTS - 1):
        try:
            return _attempt(config, f"{seed} {attempt}", steps, largest)
        except RoomError:
            continue
    return _attempt(config, f"{seed} {ATTEMPTS - 1}", steps, largest)


def _attempt(config: CoreConfig, seed: str, steps: int, largest: int) -> RandomProgram:
    """Make a program, or raise RoomError if chance has cut the scratchpad to pieces."""
    random = Random(f"{config.hash} {seed} {steps} {largest}")
    scalars = tuple(random.randrange(SCALAR_LIMIT) for _ in range(4))
    width = -(-2 * largest // config.rows) * config.word_granules
    arena = random.choice([TENSORS, 12, 40]) * largest * width
    builder = Builder(config, random, scalars, arena)
    pool(builder, largest)
    for _ in range(3):
        load_tensor(builder, largest)
    for _ in range(steps):
        add_step(builder, largest)
    for each in list(builder.tensors):
        store(builder, each, OUTPUT_BASE)
    halt_code = random.getrandbits(32)
    builder.put(Opcode.HALT, [], [], code=halt_code)
    return _finish(builder, halt_code)


def _finish(builder: Builder, halt_code: int) -> RandomProgram:
    """Move the bases together, with gaps, and fill what the program writes with noise."""
    code = b"".join(encode(instruction) for instruction in builder.instructions)
    sizes = builder.used | {CODE_BASE: len(code)}
    bases, limits = [0] * BASES, [0] * BASES
    dram, expected = bytearray(), bytearray()
    for base in builder.random.sample(range(BASES), BASES):
        size = sizes[base]
        if not size:
            continue
        gap = -len(dram) % BASE_ALIGNMENT + BASE_ALIGNMENT * builder.random.randrange(3)
        noise = builder.bytes(gap)
        dram += noise
        expected += noise
        bases[base], limits[base] = len(dram), size
        after = builder.machine.dram[base * REGION : base * REGION + size].tobytes()
        if base == CODE_BASE:
            after = code
        before = after
        if base in WRITTEN_BASES:
            before = builder.bytes(size)
            written = builder.written[base][:size]
            mixed = np.where(written, *(np.frombuffer(each, np.uint8) for each in (after, before)))
            after = mixed.tobytes()
        dram += before
        expected += after
    return RandomProgram(
        config=builder.config,
        code=code,
        halt_code=halt_code,
        dram=bytes(dram),
        bases=tuple(bases),
        limits=tuple(limits),
        scalars=tuple(builder.machine.scalars),
        expected=bytes(expected),
    )
