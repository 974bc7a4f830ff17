"""The static checker against random damage, and against compiled programs."""

from dataclasses import replace
from random import Random

import pytest

from systolith import isa
from systolith.compiler.schedule import schedule
from systolith.config import PRESETS, CoreConfig, preset
from systolith.host.device import DeviceError
from systolith.isa import INSTRUCTION_BYTES
from systolith_sim.checker import CheckError, check_program
from systolith_sim.graphs import encoder
from systolith_sim.iss import IssDevice
from systolith_sim.programs import RandomProgram, random_program


def check_random(program: RandomProgram, code: bytes) -> None:
    limits, scalars = dict(enumerate(program.limits)), dict(enumerate(program.scalars))
    check_program(code, program.config, limits=limits, scalars=scalars)


def result(program: RandomProgram, code: bytes, seed: int | None) -> bytes | str:
    """DRAM in the end, or what went wrong."""
    device = IssDevice(program.config, memory_bytes=program.memory_bytes, seed=seed, poison=7)
    program.start(device)
    device.write_memory(program.bases[0], code)
    try:
        device.wait_interrupt(max_cycles=1)
    except DeviceError as error:
        return str(error)
    return device.read_memory(0, len(program.dram))


CONFIGS = PRESETS | {
    f"{name} with int4 {not config.int4}": replace(config, int4=not config.int4)
    for name, config in PRESETS.items()
}
"""The presets, and what they would be with or without INT4."""


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(8))
def test_what_passes_has_one_result(name: str, seed: int) -> None:
    """Random damage to random programs: what the checker lets through, no interleaving changes."""
    program = random_program(CONFIGS[name], 500 + seed, steps=8, largest=12)
    random = Random(seed)
    refused = 0
    for _ in range(12):
        code = damaged(program.code, program.config, random)
        try:
            check_random(program, code)
        except CheckError:
            refused += 1
            continue
        results = {result(program, code, order) for order in (None, 1, 2)}
        assert len(results) == 1
        # Other column records may make statistics that no norm of so many elements has.
        only = results.pop()
        assert isinstance(only, bytes) or "ROW: row" in only, only
    assert refused


@pytest.mark.parametrize("name", [name for name in PRESETS if preset(name).columns <= 8])
def test_compiled_programs_pass(name: str) -> None:
    program = schedule(encoder(12, layers=2), preset(name), name="encoder", seq_len=12)
    sizes = dict.fromkeys(range(5), 0)
    for binding in (*program.inputs, *program.outputs):
        end = binding.offset + 2 * binding.rows * binding.columns
        sizes[binding.base] = max(sizes[binding.base], end)
    limits = sizes | {0: len(program.code), 1: len(program.image)}
    report = check_program(program.code, program.config, limits=limits)
    assert report.written == {3: sizes[3]}
    assert sum(report.instructions.values()) == len(program.code) // INSTRUCTION_BYTES - 1


def damaged(code: bytes, config: CoreConfig, random: Random) -> bytes:
    """A program with a wait less, an address moved, or two instructions swapped."""
    while True:
        images = [
            code[at : at + INSTRUCTION_BYTES] for at in range(0, len(code), INSTRUCTION_BYTES)
        ]
        at = random.randrange(len(images) - 1)
        instruction = isa.decode(images[at], config)
        kind = random.choice(["wait", "wait", "wait", "swap", "address"])
        if kind == "swap":
            images[at : at + 2] = images[at + 1], images[at]
            if at + 2 == len(images) or images[at] == images[at + 1]:
                continue
        else:
            names = [
                name
                for name, value in instruction.fields.items()
                if (name.startswith("wait_") and value if kind == "wait" else "address" in name)
            ]
            if not names:
                continue
            name = random.choice(names)
            value = instruction.fields[name] + 2 * config.word_granules
            fields = dict(instruction.fields) | {name: 0 if kind == "wait" else value}
            images[at] = isa.encode(isa.Instruction(instruction.opcode, fields))
        return b"".join(images)
