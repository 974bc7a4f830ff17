"""Whether a model's attention mask is one that the core has: keys beyond a length are hidden.

The mask arithmetic of a model may be anything, so it is tried, not matched: the host's part is
run for several lengths, and each mask compared with what the core will do.
"""

from collections.abc import Sequence

import numpy as np
import onnx

from systolith.compiler.errors import CompileError
from systolith.compiler.prologue import HostModel
from systolith.compiler.reading import Mask

MASKED_BELOW = -1e4
"""A number added to a score masks it from here on; float16 files use -65504."""

_ACCEPTED = "masks that hide the keys beyond the input's length, and nothing else"


def check_masks(model: onnx.ModelProto, masks: Sequence[Mask], seq_len: int) -> str:
    """Hold every mask to the core's length mask.

    Args:
        model: from the model's inputs to the masks.
        masks: what is made of them.
        seq_len: tokens.

    Returns:
        The model input that says which tokens are valid.

    Raises:
        CompileError: a mask is something else.
    """
    names = [value.name for value in model.graph.input]
    if len(names) != 1:
        mask = masks[0]
        raise CompileError(
            f"the mask depends on {' and '.join(names) or 'no input'}",
            node=mask.node.name or "",
            operator=mask.node.op_type,
            accepted="masks that depend on one input of ones and zeros",
        )
    host = HostModel(model.SerializeToString())
    for length in sorted({1, seq_len // 2, seq_len - 1, seq_len} - {0}):
        value = model.graph.input[0]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        attention = (np.arange(seq_len) < length)[None].astype(kind)
        made = host.run({names[0]: attention})
        for mask in masks:
            _check(mask, made[mask.name], length)
    return names[0]


def _check(mask: Mask, array: np.ndarray, length: int) -> None:
    try:
        array = np.broadcast_to(array, mask.shape)
    except ValueError as error:
        raise CompileError(
            f"a mask of shape {list(array.shape)} on scores of shape {list(mask.shape)}",
            node=mask.node.name or "",
            operator=mask.node.op_type,
            accepted=_ACCEPTED,
        ) from error
    # Rows of padding tokens are nobody's business: nothing reads what they give.
    valid, hidden = array[..., :length, :length], array[..., :length, length:]
    match mask.kind:
        case "add":
            good = not valid.any() and bool((hidden <= MASKED_BELOW).all())
        case "keep":
            good = bool(valid.all()) and not hidden.any()
        case "drop":
            good = not valid.any() and bool(hidden.all())
    if not good:
        raise CompileError(
            f"its mask '{mask.name}' is not a mask of padding: with {length} of "
            f"{array.shape[-1]} tokens valid, it hides other keys too, or not all of them",
            node=mask.node.name or "",
            operator=mask.node.op_type,
            accepted=_ACCEPTED,
        )
