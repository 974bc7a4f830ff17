"""Rules of images: patches, the tokens in front of them, and positions."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from systolith.compiler.graph import PatchEmbedding
from systolith.compiler.patches import PatchGrid
from systolith.compiler.reading import Constant, Host, Layout, Reading, out_name
from systolith.compiler.rules import rule


class _Window(NamedTuple):
    """Attributes of a convolution that patches have, and what they must be."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    group: int


@rule("Conv")
def _conv(reading: Reading, node: ir.Node) -> None:
    """Of the image that the host provides, into patches: strides are the kernel's size.

    Two dimensions, no padding, no dilation, one group; weights and bias are constant.
    """
    image = reading.value(node, 0)
    accepted = "the patch embedding of an image [1, channels, height, width]"
    if not isinstance(image, Host) or len(image.shape) != 4 or image.shape[0] != 1:
        reading.refuse(node, "its input is not an image from the host", accepted)
    if reading.input is not None:
        reading.refuse(node, f"the core has an input already, '{reading.input.name}'", accepted)
    weight = reading.weights(node, 1, "weight")
    _, channels, *kernel = weight.shape
    window = _Window(
        kernel_shape=tuple(node.attributes.get_ints("kernel_shape", tuple(kernel))),
        strides=tuple(node.attributes.get_ints("strides", (1, 1))),
        dilations=tuple(node.attributes.get_ints("dilations", (1, 1))),
        pads=tuple(node.attributes.get_ints("pads", (0, 0, 0, 0))),
        group=node.attributes.get_int("group", 1),
    )
    wanted = _Window(tuple(kernel), tuple(kernel), (1, 1), (0, 0, 0, 0), 1)
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        reading.refuse(node, "it pads by itself", "auto_pad NOTSET or VALID")
    for name, value in window._asdict().items():
        if value != getattr(wanted, name):
            reading.refuse(node, f"its {name} is {value}", f"{name} {getattr(wanted, name)}")
    bias = np.zeros(len(weight), np.float32)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = reading.weights(node, 2, "bias")
    grid = PatchGrid(
        channels=channels,
        height=image.shape[2],
        width=image.shape[3],
        patch=(kernel[0], kernel[1]),
    )
    reading.input, reading.patches = image, grid
    reading.widths[image.name] = grid.columns
    _embedded(
        reading,
        node,
        PatchEmbedding(
            out=out_name(node),
            onnx=(node.name or "",),
            x=image.name,
            weight=weight.reshape(len(weight), -1),
            table=np.broadcast_to(bias, (grid.rows, len(weight))),
            channels=channels,
        ),
        lambda index: index.T.reshape(1, len(weight), *grid.grid),
    )


@rule("Concat")
def _concat(reading: Reading, node: ir.Node) -> None:
    """Of constant tokens and, behind them, the patches of an image: a class token."""
    values = [reading.value(node, position) for position in range(len(node.inputs))]
    accepted = "constants [1, tokens, channels] and then patches, along the tokens"
    *constants, last = values
    embedding = reading.nodes.get(last.tensor) if isinstance(last, Layout) else None
    if (
        not isinstance(embedding, PatchEmbedding)
        or not isinstance(last, Layout)
        or not all(isinstance(each, Constant) for each in constants)
    ):
        reading.refuse(node, "it does not put constants in front of an image's patches", accepted)
    shape, axis = last.index.shape, node.attributes.get_int("axis", 0)
    if not last.plain or len(shape) != 3 or axis not in (1, -2):
        reading.refuse(node, f"axis {axis} of {list(shape)} is not its tokens", accepted)
    assert reading.patches is not None
    rows = [
        reading.weights(node, position, "token").reshape(-1, shape[2])
        for position in range(len(constants))
    ]
    table = np.concatenate([*rows, embedding.table])
    lead = len(table) - len(embedding.table)
    reading.patches = replace(reading.patches, lead=reading.patches.lead + lead)
    _embedded(
        reading,
        node,
        replace(
            embedding,
            out=out_name(node),
            onnx=(*embedding.onnx, node.name or ""),
            table=table,
        ),
        lambda index: index[None],
    )


def add_table(reading: Reading, node: ir.Node, position: int, layout: Layout) -> None:
    """Add a constant to patches, whose table takes it over."""
    embedding = reading.nodes[layout.tensor]
    assert isinstance(embedding, PatchEmbedding)
    constant = reading.weights(node, position, "constant")
    shape = layout.index.shape
    try:
        array = np.broadcast_to(constant, shape).astype(np.float32)
    except ValueError:
        reading.refuse(node, f"its constant has shape {list(constant.shape)}", f"{list(shape)}")
    table = embedding.table.copy()
    table.reshape(-1)[layout.index.reshape(-1)] += array.reshape(-1)
    _embedded(
        reading,
        node,
        replace(
            embedding, out=out_name(node), onnx=(*embedding.onnx, node.name or ""), table=table
        ),
        lambda _: layout.index,
    )


def _embedded(reading: Reading, node: ir.Node, embedding: PatchEmbedding, index) -> None:
    """Append an embedding in another one's place, which is dropped if nobody else needs it."""
    width = len(embedding.weight)
    reading.nodes[embedding.out] = embedding
    reading.widths[embedding.out] = width
    own: npt.NDArray[np.int64] = np.arange(embedding.table.size).reshape(-1, width)
    reading.set(node, Layout(embedding.out, width, index(own)))
