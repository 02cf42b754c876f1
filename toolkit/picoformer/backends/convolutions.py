"""Which patches of images exist only to be multiplied: what a format with convolutions of its own need not write."""

from __future__ import annotations

from picoformer.ir import Graph, Node
from picoformer.ops import Linear, Patches


def inside_convolutions(graph: Graph) -> frozenset[str]:
    """The patches that only Linears with constant weights read: such a Linear is written as a convolution, without
    them."""

    def reads_patches(reader: Node) -> bool:
        return isinstance(reader.op, Linear) and reader.inputs[1] in graph.constants

    return frozenset(
        node.output
        for node in graph.nodes
        if isinstance(node.op, Patches)
        and node.output not in graph.outputs
        and all(map(reads_patches, graph.consumers.get(node.output, ())))
    )
