"""Exit codes, and which error means which."""

from enum import IntEnum

from systolith.compiler.errors import CompileError
from systolith.host.device import DeviceError
from systolith.host.inference import InputError
from systolith.program import ProgramError
from systolith_sim.toolchain import ToolError


class Exit(IntEnum):
    """What a command ends with."""

    FINE = 0
    DIFFERENT = 1
    INPUT = 2
    TOOL = 3
    DEVICE = 4


class UsageError(ValueError):
    """Options or files that make no sense; the message says what would."""


def exit_of(error: Exception) -> Exit | None:
    """The exit code of an error that is the user's to read; None for a defect of ours."""
    match error:
        case CompileError() | InputError() | ProgramError() | UsageError():
            return Exit.INPUT
        case ToolError():
            return Exit.TOOL
        case DeviceError():
            return Exit.DEVICE
        case _:
            return None
