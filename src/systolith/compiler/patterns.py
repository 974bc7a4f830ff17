"""Operators that are found in their parts, as rewrite rules: GELU, SiLU, and what guards softmax.

Operands of Add and Mul may be swapped.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

DOMAIN = "systolith"
"""Of operators that ONNX lacks: `Silu`, `QuickGelu`."""


def _outside(op, x, y, half):
    return op.Mul(op.Mul(x, y), half)


def _behind(op, x, y, half):
    return op.Mul(x, op.Mul(y, half))


def _before(op, x, y, half):
    return op.Mul(op.Mul(x, half), y)


_Halving = Callable[..., ir.Value]
"""How an exporter multiplies `x`, `y` and a half."""


def _gelu_rules(halve: _Halving) -> list[RewriteRule]:
    def divided(op, x, root, one, half):
        return halve(op, x, op.Add(op.Erf(op.Div(x, root)), one), half)

    def multiplied(op, x, root, one, half):
        return halve(op, x, op.Add(op.Erf(op.Mul(x, root)), one), half)

    def by_tanh(op, x, three, cubic, scale, one, half):
        inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, three), cubic)), scale)
        return halve(op, x, op.Add(op.Tanh(inner), one), half)

    return [
        RewriteRule(divided, _gelu, _is_gelu(2**0.5)),
        RewriteRule(multiplied, _gelu, _is_gelu(0.5**0.5)),
        RewriteRule(by_tanh, _gelu_tanh, _is_gelu_tanh),
    ]


def _gelu(op, x, **_):
    return op.Gelu(x)


def _is_gelu(number: float) -> Callable[..., bool]:
    def check(_context, root, one, half, **_rest) -> bool:
        return _is(root, number) and _is(one, 1) and _is(half, 0.5)

    return check


def _gelu_tanh(op, x, **_):
    return op.Gelu(x, approximate="tanh")


def _is_gelu_tanh(_context, three, cubic, scale, one, half, **_rest) -> bool:
    numbers = {three: 3, cubic: 0.044715, scale: (2 / np.pi) ** 0.5, one: 1, half: 0.5}
    return all(_is(value, number) for value, number in numbers.items())


def _cube_pattern(op, x):
    return op.Mul(x, op.Mul(x, x))


def _cube(op, x):
    return op.Pow(x, op.initializer(ir.tensor(np.float32(3)), f"{x.name}.three"))


def _silu_pattern(op, x):
    return op.Mul(x, op.Sigmoid(x))


def _silu(op, x):
    return op.Silu(x, _domain=DOMAIN)


def _quick_gelu_pattern(op, x, slope):
    return op.Mul(x, op.Sigmoid(op.Mul(x, slope)))


def _quick_gelu(op, x, **_):
    return op.QuickGelu(x, _domain=DOMAIN)


def _is_quick_gelu(_context, slope, **_rest) -> bool:
    return _is(slope, 1.702)


def _guard_pattern(op, scores, zero):
    # PyTorch guards rows in which everything is masked; a valid length is at least 1.
    p = op.Softmax(scores, _outputs=["p"])
    return op.Where(op.IsNaN(p), zero, p)


def _guard(op, scores, p, **_):
    return op.Softmax(scores, axis=p.producer().attributes.get_int("axis", -1))


def _is_guard(_context, zero, **_rest) -> bool:
    return _is(zero, 0)


def _flat_pattern(op, scores, shape):
    # What is made of softmax of opset 11 or 12, which knows two dimensions only.
    p = op.Softmax(op.Flatten(scores, _outputs=["flat"]), _outputs=["p"])
    return op.Reshape(p, shape)


def _flat(op, scores, **_):
    return op.Softmax(scores, axis=-1)


def _is_flat(_context, scores, shape, flat, p, **_rest) -> bool:
    if scores.shape is None or not scores.shape.is_static() or shape.const_value is None:
        return False
    return (
        flat.producer().attributes.get_int("axis", 1) in (-1, len(scores.shape) - 1)
        and p.producer().attributes.get_int("axis", -1) in (-1, 1)
        and shape.const_value.numpy().tolist() == list(scores.shape.numpy())
    )


def _is(value: ir.Value, number: float) -> bool:
    """Whether a value is a constant of one element that is nearly a number (fp16 files too)."""
    tensor = value.const_value
    return (
        tensor is not None
        and tensor.size == 1
        and abs(float(tensor.numpy().item()) - number) < 2e-3
    )


PATTERNS = RewriteRuleSet(
    [
        RewriteRule(_cube_pattern, _cube),
        *(rule for halve in (_outside, _behind, _before) for rule in _gelu_rules(halve)),
        RewriteRule(_silu_pattern, _silu),
        RewriteRule(_quick_gelu_pattern, _quick_gelu, _is_quick_gelu),
        RewriteRule(_flat_pattern, _flat, _is_flat),
        RewriteRule(_guard_pattern, _guard, _is_guard),
    ],
    commute=True,
)
