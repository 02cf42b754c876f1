"""Grids inside a norm or a GELU that a file spells out: the operator computes finer than these, so they fall away."""

from __future__ import annotations

from picoformer.ir import Graph, Node
from picoformer.ops import Add, Binary, Mul, ReduceMean, Unary
from picoformer.ops.rounded import Rounded
from picoformer.passes.activation import ACTIVATION
from picoformer.passes.layout import LAYOUT
from picoformer.passes.norm import NORM
from picoformer.passes.rewrite import merge_duplicates, remove_dead, rewrite, substitute
from picoformer.passes.simplify import ARITHMETIC

SPELLED = (Add, Binary, Mul, ReduceMean, Unary)
"""What a formula is spelled with."""


def drop_inner_grids(graph: Graph) -> Graph:
    """The graph without the roundings of values that are inside a formula.

    Which these are is found out on the graph without any rounding: those that are gone once its norms and activations
    have been recognised.
    """
    rounded = [node for node in graph.nodes if isinstance(node.op, Rounded)]
    if not rounded or not any(isinstance(node.op, Unary | Binary) for node in graph.nodes):
        return graph
    bare = rewrite(_without(graph, rounded), [*ARITHMETIC, *LAYOUT])
    bare = rewrite(rewrite(merge_duplicates(bare), [*NORM, *ARITHMETIC]), list(ACTIVATION))
    inner = []
    for node in rounded:
        made = graph.producers.get(node.inputs[0])
        spelled = made is not None and isinstance(made.op, SPELLED)
        if spelled and node.inputs[0] not in bare.types and node.output not in graph.outputs:
            inner.append(node)
    return _without(graph, inner)


def _without(graph: Graph, roundings: list[Node]) -> Graph:
    same = {node.output: node.inputs[0] for node in roundings if node.output not in graph.outputs}
    return remove_dead(substitute(graph, same))
