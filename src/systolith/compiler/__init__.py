"""The compiler: an ONNX model in, a program for one core out.

`compile_model` is the entry. What is named here is the API; it is loaded when it is used, so that
simulators, which need the quantized graph's classes alone, start without ONNX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from systolith.compiler.driver import compile_model, compile_with_model
    from systolith.compiler.errors import CompileError
    from systolith.compiler.options import QuantizeOptions

__all__ = ["CompileError", "QuantizeOptions", "compile_model", "compile_with_model"]

_HOMES = {
    "CompileError": "errors",
    "QuantizeOptions": "options",
    "compile_model": "driver",
    "compile_with_model": "driver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
