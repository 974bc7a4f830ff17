"""Functions of one element: what a table can hold, exactly, and fast enough for calibration."""

from collections.abc import Callable
from math import erf, sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

_erf = np.vectorize(erf, otypes=[np.float64])


def fast_erf(x: Floats) -> Floats:
    """Error function within 1.5e-7 (Abramowitz and Stegun 7.1.26), in the operand's precision."""
    z = np.abs(x)
    t = 1 / (1 + z.dtype.type(0.3275911) * z)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    return np.copysign(1 - series * np.exp(-z * z), x)


def gelu(x: Floats) -> Floats:
    """`x` times the normal distribution's cumulative probability, to double precision."""
    return 0.5 * x * (1 + _erf(x / sqrt(2)))


def fast_gelu(x: Floats) -> Floats:
    """GELU by `fast_erf`, in the operand's precision."""
    return 0.5 * x * (1 + fast_erf(x * x.dtype.type(sqrt(0.5))))


def gelu_tanh(x: Floats) -> Floats:
    """GELU's approximation by the hyperbolic tangent."""
    return 0.5 * x * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)))


def sigmoid(x: Floats) -> Floats:
    """`1 / (1 + exp(-x))`, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu(x: Floats) -> Floats:
    """`x` times its sigmoid."""
    return x * sigmoid(x)


def quick_gelu(x: Floats) -> Floats:
    """GELU's approximation by the sigmoid of 1.702 `x`, as CLIP has it."""
    return x * sigmoid(1.702 * x)


def relu(x: Floats) -> Floats:
    """The positive part."""
    return np.maximum(x, 0)


def hard_sigmoid(x: Floats) -> Floats:
    """`x / 6 + 1/2`, limited to 0 and 1."""
    return np.clip(x / 6 + 0.5, 0, 1)


def hard_swish(x: Floats) -> Floats:
    """`x` times its `hard_sigmoid`."""
    return x * hard_sigmoid(x)


def softplus(x: Floats) -> Floats:
    """`log(1 + exp(x))`."""
    return np.logaddexp(0, x)


def mish(x: Floats) -> Floats:
    """`x` times the hyperbolic tangent of its softplus."""
    return x * np.tanh(softplus(x))


EXACT: dict[str, Callable[[Floats], Floats]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "sigmoid": sigmoid,
    "silu": silu,
    "softplus": softplus,
    "tanh": np.tanh,
}
"""What tables are filled from, by name."""

FAST: dict[str, Callable[[Floats], Floats]] = EXACT | {"gelu": fast_gelu}
"""What calibration runs."""
