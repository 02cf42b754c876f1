"""Which nodes one step computes: a linear layer takes the activation behind it along, through its table."""

from __future__ import annotations

from picoformer.backends.c.isa import Layout
from picoformer.ir import Graph, Node
from picoformer.ops import Activation, Linear


def fused(graph: Graph, layout: Layout) -> tuple[tuple[Node, ...], ...]:
    """The nodes of each step in execution order, Reshape nodes left out; a pair stands where its second node does.

    The value between a Linear and its Activation exists nowhere then, so nothing else may read it; integers only, since
    a float activation is no table.
    """
    behind = {graph.producers[node.inputs[0]].output: node for node in graph.nodes if _goes_along(graph, layout, node)}
    firsts = {node.output: graph.producers[name] for name, node in behind.items()}
    return tuple(
        (firsts[node.output], node) if node.output in firsts else (node,)
        for node in graph.nodes
        if node.op.kind != "Reshape" and node.output not in behind
    )


def _goes_along(graph: Graph, layout: Layout, node: Node) -> bool:
    """Whether an Activation can be computed by the Linear in front of it."""
    linear = graph.producers.get(node.inputs[0])
    if not isinstance(node.op, Activation) or linear is None or not isinstance(linear.op, Linear):
        return False
    value = linear.output
    if graph.types[value].quant is None or value in graph.outputs or len(graph.consumers[value]) != 1:
        return False
    x, weight = (graph.types[name].dtype for name in linear.inputs[:2])
    return layout.linear(x, weight, layout.is_wide(graph, linear)).takes_table
