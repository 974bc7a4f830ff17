"""The operators that run on the core: the table of all rules, which is made from them."""

from inspect import cleandoc

import onnx_ir as ir

# What these define registers itself.
from systolith.compiler import rules_attention as _attention  # noqa: F401
from systolith.compiler import rules_elements as _elements  # noqa: F401
from systolith.compiler import rules_matmul as _matmul  # noqa: F401
from systolith.compiler import rules_moves as _moves  # noqa: F401
from systolith.compiler import rules_patches as _patches  # noqa: F401
from systolith.compiler.reading import Reading
from systolith.compiler.rules import RULES


def supported_operators() -> dict[str, list[str]]:
    """All operators that run on the core and the conditions for each, made from the rules.

    Operators that are recognized from several nodes have `systolith::` in front of their name.
    """
    return {
        f"{domain}::{name}" if domain else name: [
            " ".join(paragraph.split())
            for paragraph in cleandoc(function.__doc__ or "").split("\n\n")
        ]
        for (domain, name), function in sorted(RULES.items(), key=lambda item: item[0][1])
    }


def apply(reading: Reading, node: ir.Node) -> None:
    """Apply a node's rule.

    Raises:
        CompileError: there is none, or it refuses the node.
    """
    found = RULES.get((node.domain, node.op_type))
    if found is None:
        names = ", ".join(supported_operators())
        reading.refuse(node, "the core has no such operator", names)
    found(reading, node)
