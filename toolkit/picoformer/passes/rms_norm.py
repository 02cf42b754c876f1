"""RmsNorm out of its spelled form: x · 1/√(mean(x²) + epsilon), with any constant gain among the factors."""

from __future__ import annotations

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ops import Add, Mul, RmsNorm
from picoformer.passes.expression import factors, is_unary, scalar
from picoformer.passes.linear import per_channel
from picoformer.passes.norm import mean_of
from picoformer.passes.rewrite import Patch, Rule


def _size(graph: Graph, name: str) -> tuple[str, float] | None:
    """(x, epsilon) when `name` is 1 / √(mean(x²) + epsilon) over the last axis."""
    reciprocal = graph.producers.get(name)
    if reciprocal is None or not is_unary(reciprocal, "reciprocal"):
        return None
    root = graph.producers.get(reciprocal.inputs[0])
    total = graph.producers.get(root.inputs[0]) if root is not None and is_unary(root, "sqrt") else None
    if total is None or not isinstance(total.op, Add):
        return None
    epsilon, square = scalar(graph, total.inputs[1]), mean_of(graph, total.inputs[0])
    if epsilon is None or square is None or epsilon < 0:
        return None
    product, constant = factors(graph, square)
    if len(product) != 2 or product[0] != product[1] or np.any(constant != 1):
        return None
    return product[0], epsilon


def fuse_rms_norm(graph: Graph, node: Node) -> Patch | None:
    """x · 1/√(mean(x²) + epsilon)."""
    if not isinstance(node.op, Mul):
        return None
    product, constant = factors(graph, node.output)
    if len(product) != 2:
        return None
    for x, size in (product, product[::-1]):
        found = _size(graph, size)
        if found is None or found[0] != x or graph.types[x].shape != graph.types[node.output].shape:
            continue
        gain = per_channel(constant, graph.types[x].width)
        if gain is None:
            return None
        patch = Patch(graph, node)
        names = [] if (gain == 1).all() else [patch.constant(gain, "gain")]
        return patch.finish(RmsNorm(found[1]), [x, *names])
    return None


RMS_NORM: tuple[Rule, ...] = (fuse_rms_norm,)
