"""What a core that does not end its program is waiting for."""

from systolith import regs
from systolith.host.device import Device, DeviceError
from systolith.isa import INSTRUCTION_BYTES, Engine, IllegalInstructionError, Opcode, decode
from systolith.program import CODE_BASE
from systolith.regs import State


def describe_stall(device: Device) -> str:
    """Say which engine waits for what, from registers and the program in memory."""
    try:
        return _describe_stall(device)
    except DeviceError as error:
        return f"and its registers cannot be read ({error})"


def _describe_stall(device: Device) -> str:
    def read(name: str) -> int:
        return device.read_csr(regs.offset(name))

    state = read("status")
    if state not in list(State):
        return f"its status reads {state}"
    if state != State.RUN:
        return f"the core is in state {State(state).name}"
    retired = {engine: read(f"{engine.name.lower()}_retired") for engine in Engine}
    base = read(f"base{CODE_BASE}_lo") | read(f"base{CODE_BASE}_hi") << 32
    size = read("program_size") * INSTRUCTION_BYTES
    code = device.read_memory(base, size)
    seen = dict.fromkeys(Engine, 0)
    lines = list[str]()
    for index in range(size // INSTRUCTION_BYTES):
        at = index * INSTRUCTION_BYTES
        try:
            instruction = decode(code[at : at + INSTRUCTION_BYTES], device.config)
        except IllegalInstructionError as error:
            lines.append(f"instruction {index} is illegal: {error}")
            break
        engine = instruction.engine
        if engine is not None:
            seen[engine] += 1
            if seen[engine] != retired[engine] + 1:
                continue
        waits = [
            f"{other.name} to retire {count} (has {retired[other]})"
            for other, count in instruction.waits.items()
            if retired[other] < count
        ]
        who = "HALT" if engine is None else f"{engine.name} at its {seen[engine]}."
        what = f"waits for {' and '.join(waits)}" if waits else "waits for nobody"
        lines.append(f"{who}, instruction {index} (tag {instruction.tag}), {what}")
        if instruction.opcode is Opcode.HALT:
            break
    return "; ".join(lines) or "the program is empty"
