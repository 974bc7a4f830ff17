"""How long a program takes, and which instruction when, without simulating the hardware."""

from systolith.compiler.estimate.estimate import DeadlockError, Estimate, Timing, estimate
from systolith.compiler.estimate.memory import Memory

__all__ = ["DeadlockError", "Estimate", "Memory", "Timing", "estimate"]
