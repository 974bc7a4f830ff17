"""Why a model cannot be compiled, said before anything is built."""


class CompileError(Exception):
    """A model, or what came with it, that the compiler does not accept.

    Attributes:
        reason: what is wrong.
        node: name of the ONNX node, initializer or input it is about; "" for the whole model.
        operator: the node's operator; "" if it is not about a node.
        accepted: what would be accepted instead; "" if nothing would.
    """

    def __init__(
        self, reason: str, *, node: str = "", operator: str = "", accepted: str = ""
    ) -> None:
        self.reason = reason
        self.node = node
        self.operator = operator
        self.accepted = accepted
        where = " ".join(part for part in (operator, f"'{node}'" if node else "") if part)
        message = f"{where}: {reason}" if where else reason
        super().__init__(f"{message}; accepted: {accepted}" if accepted else message)
