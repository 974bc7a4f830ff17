"""The registry of rules: what each ONNX operator means to the core."""

from collections.abc import Callable

import onnx_ir as ir

from systolith.compiler.reading import Reading

Rule = Callable[[Reading, ir.Node], None]
"""Says what a node means, or refuses it. Its docstring is the user's documentation."""

RULES: dict[tuple[str, str], Rule] = {}
"""By domain and operator."""


def rule(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the rule of operators."""

    def register(function: Rule) -> Rule:
        RULES.update({(domain, name): function for name in names})
        return function

    return register
