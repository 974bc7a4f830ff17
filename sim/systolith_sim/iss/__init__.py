"""The instruction simulator: a core that carries out programs in NumPy, without time."""

from systolith_sim.iss.device import IssDevice
from systolith_sim.iss.machine import ExecutionError, FaultError, Machine

__all__ = ["ExecutionError", "FaultError", "IssDevice", "Machine"]
