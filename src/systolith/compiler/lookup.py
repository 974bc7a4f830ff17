"""Token lookup moved to the core: the tables in front of a model's first norm.

The sum of rows of tables is taken apart at its additions. Whether a part is always the same, as
positions are, is tried, not matched: it is computed for inputs of several lengths, and compared
where tokens are valid. The host is left with the numbers of the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import cleandoc
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.errors import CompileError
from systolith.compiler.frontend import LoadedModel
from systolith.compiler.graph import Embedding, Floats
from systolith.compiler.options import QuantizeOptions
from systolith.compiler.prologue import HostModel, pad_inputs, random_inputs
from systolith.compiler.submodel import describe, extract

LAYER = "embeddings"
"""What reports call it."""

MOST_CHOICES = 16
"""Of all tables but that of words together: each takes a row for each position."""

_THROUGH = ("Identity", "Dropout", "Cast")
"""Operators that a sum may pass through."""

_ACCEPTED = "the sum of rows of a table of words, and of constants or rows of small tables"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What is added: `name`; if it is looked up, `table` and the name of `indices`."""

    name: str
    indices: str = ""
    table: Floats | None = None


def move_lookup(loaded: LoadedModel, options: QuantizeOptions) -> LoadedModel:
    """Move a model's token lookup to the core, if the user wants it there.

    Raises:
        CompileError: what comes before the core is something else.
    """
    if options.embedding == "host":
        return loaded
    if loaded.patches is not None:
        raise CompileError("the model's input is an image", accepted=_ACCEPTED)
    model = onnx.load_from_string(loaded.prologue)
    parts = list(take_apart(model, loaded.graph.input))
    constants, varying = _tried(model, loaded, parts)
    lookups = sorted(varying, key=lambda part: 0 if part.table is None else -len(part.table))
    choices = prod(len(part.table) for part in lookups[1:] if part.table is not None)
    other = next((part.name for part in lookups if part.table is None), None)
    if not lookups or other is not None or choices > MOST_CHOICES:
        raise CompileError(
            "the core cannot look its tokens up: "
            + (
                f"'{other}' depends on the input, and is no row of a table"
                if other is not None
                else f"small tables have {choices} choices together"
                if lookups
                else "nothing depends on them"
            ),
            accepted=_ACCEPTED,
        )
    (words, *small) = lookups
    assert words.table is not None
    width = words.table.shape[1]
    added = np.zeros((loaded.seq_len, width), np.float32)
    for value in constants:
        added = added + value
    tables: list[Floats] = [words.table]
    if small:
        rows = [
            sum((table[n] for table, n in zip(_tables(small), chosen, strict=True)), added)
            for chosen in product(*(range(len(table)) for table in _tables(small)))
        ]
        tables.append(np.concatenate(rows).astype(np.float32))
        added = np.zeros_like(added)
    name = f"{loaded.graph.input}.rows"
    prologue = _numbers(model, loaded.seq_len, name, words, small)
    node = Embedding(out=loaded.graph.input, layer=LAYER, x=name, tables=tuple(tables), added=added)
    graph = replace(
        loaded.graph,
        input=name,
        nodes=(node, *loaded.graph.nodes),
        widths=loaded.graph.widths | {name: len(tables)},
    )
    work = describe(prologue)
    host = [line for line in loaded.host if not line.startswith("prologue")]
    size = words.table.size + 2 * sum(table.size for table in tables[1:])
    note = (
        f"token lookup on the core: {len(words.table):,} rows of {width}, s8 with a step for each "
        f"channel; all tables take {size / 2**20:.1f} MiB of the core's memory"
    )
    return replace(
        loaded,
        graph=graph,
        prologue=prologue.SerializeToString(),
        host=(*([f"prologue: {work}"] if work else []), *host),
        notes=(*loaded.notes, note),
    )


def _tables(parts: Sequence[_Part]) -> list[Floats]:
    return [part.table for part in parts if part.table is not None]


def recognized() -> dict[str, list[str]]:
    """What `ops.supported_operators` does not list, since it is no operator's rule."""
    paragraphs = cleandoc(take_apart.__doc__ or "").split("\n\n")
    return {"systolith::Embedding": [" ".join(each.split()) for each in paragraphs]}


def take_apart(model: onnx.ModelProto, name: str) -> Iterator[_Part]:
    """In front of everything else, if the user wants it on the core, token lookup.

    The sum of rows of a table of words, of rows of small tables (with 16 choices together), and of
    what does not depend on the input but for padding, as positions.
    """
    producers = {out: node for node in model.graph.node for out in node.output}
    stack = [name]
    while stack:
        value = stack.pop()
        node = producers.get(value)
        if node is not None and node.op_type == "Add":
            stack += node.input
        elif node is not None and node.op_type in _THROUGH:
            stack.append(node.input[0])
        else:
            table = _table(model, node)
            indices = node.input[1] if node is not None and table is not None else ""
            yield _Part(name=value, indices=indices, table=table)


def _table(model: onnx.ModelProto, node: onnx.NodeProto | None) -> Floats | None:
    """The table of a lookup, if it depends on no input; None if a node is something else."""
    if node is None or node.op_type != "Gather":
        return None
    if any(each.name == "axis" and each.i for each in node.attribute):
        return None
    try:
        own = extract(model, [], [onnx.ValueInfoProto(name=node.input[0])], name="table")
    except KeyError:
        return None
    if own.graph.node:
        (table,) = HostModel(own.SerializeToString()).run({}).values()
    else:
        table = numpy_helper.to_array(own.graph.initializer[0])
    return table if table.ndim == 2 and table.dtype == np.float32 else None


def _tried(
    model: onnx.ModelProto, loaded: LoadedModel, parts: Sequence[_Part]
) -> tuple[list[Floats], list[_Part]]:
    """Constant parts, `[T, channels]`, and those that depend on the input."""
    names = list(dict.fromkeys(part.name for part in parts))
    probe = extract(
        model,
        list(model.graph.input),
        [onnx.ValueInfoProto(name=name) for name in names],
        name="parts",
        keep_inputs=True,
    )
    host = HostModel(probe.SerializeToString())
    total, width = loaded.seq_len, loaded.graph.widths[loaded.graph.input]
    first: dict[str, Floats] = {}
    varying: set[str] = set()
    lengths = sorted({1, total // 2, total} - {0}, reverse=True)
    for seed, length in enumerate((total, *lengths)):
        (sample,) = random_inputs(
            loaded.prologue, b"", total, loaded.mask_input, count=1, seed=seed
        )
        cut = {name: value[:length] for name, value in sample.items()}
        feeds, _ = pad_inputs(cut, total, loaded.mask_input)
        for name, value in zip(names, host.run(feeds).values(), strict=True):
            value = np.broadcast_to(value, (1, total, width))[0]
            known = first.setdefault(name, value)
            if not np.array_equal(value[:length], known[:length]):
                varying.add(name)
    return (
        [first[part.name] for part in parts if part.name not in varying],
        [part for part in parts if part.name in varying],
    )


def _numbers(
    model: onnx.ModelProto, total: int, out: str, words: _Part, small: Sequence[_Part]
) -> onnx.ModelProto:
    """What the host is left with: numbers of rows, `[tables, T]`."""
    lookups = [words, *small]
    values = [onnx.ValueInfoProto(name=part.indices) for part in lookups]
    made = extract(model, list(model.graph.input), values, name="prologue", keep_inputs=True)
    names = [value.name for value in made.graph.output]
    del made.graph.output[:]
    graph = made.graph

    def constant(value: int | Sequence[int] | np.ndarray) -> str:
        name = f"{out}.constant.{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def node(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{out}.{len(graph.node)}"
        graph.node.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    shape = constant([1, total])
    rows = [node("Cast", node("Reshape", name, shape), to=TensorProto.INT64) for name in names]
    lists = rows[:1]
    if small:
        chosen = rows[1]
        for row, table in zip(rows[2:], _tables(small)[1:], strict=True):
            chosen = node("Add", node("Mul", chosen, constant(len(table))), row)
        start = node("Mul", chosen, constant(total))
        lists.append(node("Add", start, constant(np.arange(total)[None])))
    node("Concat", *lists, output=out, axis=0)
    graph.output.append(helper.make_tensor_value_info(out, TensorProto.INT64, [len(lists), total]))
    return made
