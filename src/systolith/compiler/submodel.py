"""Parts of an ONNX model as models of their own: what the host runs before and after the core."""

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import TensorProto, helper


def extract(
    model: onnx.ModelProto,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    name: str,
    keep_inputs: bool = False,
) -> onnx.ModelProto:
    """Return what computes `outputs` from `inputs`, with the weights that it needs.

    Inputs that nothing needs are left out, unless `keep_inputs`. An output that is also an input
    gets its own name, since a graph may not hand a value through: the input is then called
    `<name>_in`, or with `keep_inputs` the output `<name>_out`.

    Raises:
        KeyError: an output needs something that is neither an input nor computed.
    """
    producers = {out: node for node in model.graph.node for out in node.output}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    given = {value.name: value for value in inputs}
    used_inputs: list[str] = []
    used_weights: list[str] = []
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()

    # Not recursive: graphs are deeper than Python's stack.
    stack = [value.name for value in reversed(outputs)]
    while stack:
        wanted = stack[-1]
        if wanted in done:
            stack.pop()
        elif wanted in given or wanted in weights:
            (used_inputs if wanted in given else used_weights).append(wanted)
            done.add(wanted)
        else:
            if wanted not in producers:
                raise KeyError(wanted)
            node = producers[wanted]
            missing = [each for each in needs(node) if each not in done]
            if missing:
                stack.extend(reversed(missing))
            else:
                nodes.append(node)
                done.update(node.output)
    both = [value.name for value in outputs if value.name in set(used_inputs)]
    renames: dict[str, str] = {}
    if keep_inputs:
        nodes += [helper.make_node("Identity", [name], [f"{name}_out"]) for name in both]
        outputs = [
            _named(value, f"{value.name}_out" if value.name in both else value.name)
            for value in outputs
        ]
    else:
        renames = {name: f"{name}_in" for name in both}
        nodes = [_renamed(node, renames) for node in nodes]
        nodes += [helper.make_node("Identity", [new], [old]) for old, new in renames.items()]
    graph = helper.make_graph(
        nodes,
        name,
        [
            _named(given[each], renames.get(each, each))
            for each in given
            if keep_inputs or each in used_inputs
        ],
        list(outputs),
        [weights[each] for each in used_weights],
    )
    # ONNX Runtime refuses imports of domains it does not know.
    domains = {node.domain for node in nodes} | {""}
    result = helper.make_model(
        graph,
        opset_imports=[each for each in model.opset_import if each.domain in domains],
        ir_version=model.ir_version,
    )
    result.functions.extend(model.functions)
    return result


def needs(node: onnx.NodeProto) -> list[str]:
    """Values that a node reads, those that its subgraphs take from outside included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner = {value.name for value in (*graph.input, *graph.initializer)}
            for each in graph.node:
                names += [name for name in needs(each) if name not in inner]
                inner.update(each.output)
            names += [
                value.name for value in graph.output if value.name and value.name not in inner
            ]
    return names


def describe(model: onnx.ModelProto) -> str:
    """Operators of a model, most frequent first: `3 Gather, 2 Add`."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in ("Constant", "Identity"):
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered)


def float_value(name: str, shape: Iterable[int]) -> onnx.ValueInfoProto:
    """Describe a float32 tensor."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _named(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def _renamed(node: onnx.NodeProto, renames: Mapping[str, str]) -> onnx.NodeProto:
    if not any(name in renames for name in node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("input")
    copy.input.extend(renames.get(name, name) for name in node.input)
    return copy
