"""Operators that are found in their parts, as rewrite rules: GELU, SiLU, and what guards softmax.

Operands of Add and Mul may be swapped.
"""

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

DOMAIN = "systolith"
"""Of operators that ONNX lacks: `Silu`, `QuickGelu`."""


def _gelu_of_product(op, x, root, one, half):
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)


def _gelu_of_half(op, x, root, one, half):
    return op.Mul(x, op.Mul(op.Add(op.Erf(op.Div(x, root)), one), half))


def _gelu_of_half_x(op, x, root, one, half):
    return op.Mul(op.Mul(x, half), op.Add(op.Erf(op.Div(x, root)), one))


def _gelu(op, x, **_):
    return op.Gelu(x)


def _is_gelu(_context, root, one, half, **_rest) -> bool:
    return _is(root, 2**0.5) and _is(one, 1) and _is(half, 0.5)


def _gelu_multiplied(op, x, root, one, half):
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Mul(x, root)), one)), half)


def _is_gelu_multiplied(_context, root, one, half, **_rest) -> bool:
    return _is(root, 0.5**0.5) and _is(one, 1) and _is(half, 0.5)


def _gelu_tanh_pattern(op, x, three, cubic, scale, one, half):
    inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, three), cubic)), scale)
    return op.Mul(op.Mul(x, op.Add(op.Tanh(inner), one)), half)


def _gelu_tanh_half_x(op, x, three, cubic, scale, one, half):
    inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, three), cubic)), scale)
    return op.Mul(op.Mul(x, half), op.Add(op.Tanh(inner), one))


def _gelu_tanh(op, x, **_):
    return op.Gelu(x, approximate="tanh")


def _is_gelu_tanh(_context, three, cubic, scale, one, half, **_rest) -> bool:
    numbers = {three: 3, cubic: 0.044715, scale: (2 / np.pi) ** 0.5, one: 1, half: 0.5}
    return all(_is(value, number) for value, number in numbers.items())


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
        *(
            RewriteRule(pattern, _gelu, _is_gelu)
            for pattern in (_gelu_of_product, _gelu_of_half, _gelu_of_half_x)
        ),
        RewriteRule(_gelu_multiplied, _gelu, _is_gelu_multiplied),
        *(
            RewriteRule(pattern, _gelu_tanh, _is_gelu_tanh)
            for pattern in (_gelu_tanh_pattern, _gelu_tanh_half_x)
        ),
        RewriteRule(_silu_pattern, _silu),
        RewriteRule(_quick_gelu_pattern, _quick_gelu, _is_quick_gelu),
        RewriteRule(_flat_pattern, _flat, _is_flat),
        RewriteRule(_guard_pattern, _guard, _is_guard),
    ],
    commute=True,
)
