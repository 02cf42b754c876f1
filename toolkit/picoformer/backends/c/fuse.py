"""Which nodes one step computes: a linear layer takes along the activation behind it, or the sum with a residual."""

from __future__ import annotations

from picoformer.backends.c.isa import Layout
from picoformer.ir import DType, Graph, Node
from picoformer.ops import Activation, Add, Linear, LoweredAdd


def fused(graph: Graph, layout: Layout) -> tuple[tuple[Node, ...], ...]:
    """The nodes of each step in execution order, Reshape nodes left out; a pair stands where its second node does.

    The value between a Linear and what goes along with it exists nowhere then, so nothing else may read it; integers
    only, since a float activation is no table.
    """
    firsts = {node.output: linear for node in graph.nodes if (linear := _linear_of(graph, layout, node)) is not None}
    inside = {linear.output for linear in firsts.values()}
    return tuple(
        (firsts[node.output], node) if node.output in firsts else (node,)
        for node in graph.nodes
        if node.op.kind != "Reshape" and node.output not in inside
    )


def _linear_of(graph: Graph, layout: Layout, node: Node) -> Node | None:
    """The Linear that computes `node` along, if one can; of two the later."""
    if isinstance(node.op, Activation):
        names = node.inputs
    elif isinstance(node.op, Add) and _is_residual(graph, node):
        names = node.inputs[::-1]
    else:
        return None
    linears = (graph.producers.get(name) for name in names)
    return max(
        (linear for linear in linears if linear is not None and _goes_along(graph, layout, linear)),
        key=graph.nodes.index,
        default=None,
    )


def _is_residual(graph: Graph, node: Node) -> bool:
    """Whether an Add is two computed int16 tensors of one shape on one grid, which are added and limited."""
    types = [graph.types[name] for name in (*node.inputs, node.output)]
    if any(type_.dtype is not DType.INT16 or type_.elements != types[0].elements for type_ in types):
        return False
    if node.inputs[0] == node.inputs[1] or any(name in graph.constants for name in node.inputs):
        return False
    lowered = node.op.lower(graph.operands(node), types[-1])
    return isinstance(lowered, LoweredAdd) and lowered.is_plain


def _goes_along(graph: Graph, layout: Layout, linear: Node) -> bool:
    """Whether a node is a Linear whose kernel can compute what alone reads it."""
    value = linear.output
    if not isinstance(linear.op, Linear) or value in graph.outputs or len(graph.consumers[value]) != 1:
        return False
    if graph.types[value].quant is None:
        return False
    x, weight = (graph.types[name].dtype for name in linear.inputs[:2])
    return layout.linear(x, weight, layout.is_wide(graph, linear)).takes_more
