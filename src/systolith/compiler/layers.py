"""Names of layers, as reports and schedules use them."""

from dataclasses import replace

from systolith.compiler.graph import Attention, Graph, Node


def name_layers(graph: Graph) -> Graph:
    """Number the layers: each attention begins one, together with what only it needs.

    What comes before the first is "embeddings"; then "layer.0", "layer.1" and so on.
    """
    # Attentions that come before a tensor.
    depth = {graph.input: 0}
    for node in graph.nodes:
        before = max(depth[name] for name in node.inputs)
        depth[node.out] = before + isinstance(node, Attention)
    projections = {
        name for node in graph.nodes if isinstance(node, Attention) for name in node.inputs
    }

    def name(node: Node) -> str:
        number = depth[node.out] - (node.out not in projections)
        return f"layer.{number}" if number >= 0 else "embeddings"

    return replace(graph, nodes=tuple(replace(node, layer=name(node)) for node in graph.nodes))
