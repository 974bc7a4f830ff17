"""Whether a model's attention mask is one that the core has: keys beyond a length are hidden.

The mask arithmetic of a model may be anything, so it is tried, not matched: the host's part is
run for several lengths, and each mask compared with what the core will do. What is in it at full
length (hidden keys, as of causal attention, or positions' biases) must be there at every length,
and becomes a bias of the attention.
"""

from collections.abc import Sequence

import numpy as np
import onnx

from systolith.compiler.biases import Bias, as_bias
from systolith.compiler.errors import CompileError
from systolith.compiler.graph import MASKED_BELOW
from systolith.compiler.prologue import HostModel
from systolith.compiler.reading import Mask

_ACCEPTED = "masks that hide the keys beyond the input's length, and else do not depend on it"


def check_masks(
    model: onnx.ModelProto, masks: Sequence[Mask], seq_len: int
) -> tuple[str, list[Bias]]:
    """Hold every mask to the core's length mask, and what does not depend on the length.

    Args:
        model: from the model's inputs to the masks.
        masks: what is made of them.
        seq_len: tokens.

    Returns:
        The model input that says which tokens are valid, and for each mask what it adds to the
        scores at full length.

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
    biases: list[Bias] = []
    for length in sorted({1, seq_len // 2, seq_len - 1, seq_len} - {0}, reverse=True):
        value = model.graph.input[0]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        attention = (np.arange(seq_len) < length)[None].astype(kind)
        made = host.run({names[0]: attention})
        if not biases:
            biases = [_whole(mask, made[mask.name]) for mask in masks]
        for mask, bias in zip(masks, biases, strict=True):
            _check(mask, made[mask.name], bias, length)
    return names[0], biases


def _whole(mask: Mask, array: np.ndarray) -> Bias:
    """What a mask adds when all tokens are valid."""
    bias = as_bias(array, mask.kind, mask.shape)
    if bias is None:
        raise CompileError(
            f"its mask '{mask.name}' of shape {list(array.shape)} does not fit scores of shape "
            f"{list(mask.shape)}, or hides all keys of a token",
            node=mask.node.name or "",
            operator=mask.node.op_type,
            accepted=_ACCEPTED,
        )
    return bias


def _check(mask: Mask, array: np.ndarray, bias: Bias, length: int) -> None:
    numbers = array.astype(np.float32)
    if mask.kind != "add":
        numbers = np.where((numbers != 0) == (mask.kind == "keep"), np.float32(0), -np.inf)
    heads = np.broadcast_to(numbers, mask.shape).reshape(-1, *mask.shape[-2:])
    # Rows of padding tokens are nobody's business: nothing reads what they give.
    valid, hidden = heads[:, :length, :length], heads[:, :length, length:]
    counts = bias[:, :length, :length] > MASKED_BELOW
    good = (
        bool((hidden <= MASKED_BELOW).all())
        and bool(((valid > MASKED_BELOW) == counts).all())
        and np.allclose(np.where(counts, valid - bias[:, :length, :length], 0), 0, atol=1e-5)
    )
    if not good:
        raise CompileError(
            f"its mask '{mask.name}' is not a mask of padding: with {length} of "
            f"{heads.shape[-1]} tokens valid, it hides other keys too, or not all of them",
            node=mask.node.name or "",
            operator=mask.node.op_type,
            accepted=_ACCEPTED,
        )
