"""RmsNorm out of its spelled form: x · 1/√(mean(x²) + epsilon), with any constant gain among the factors."""

from __future__ import annotations

from picoformer.ir import Graph, Node
from picoformer.ops import Mul, RmsNorm
from picoformer.passes.expression import factors
from picoformer.passes.linear import per_channel
from picoformer.passes.norm import inverse_root_mean
from picoformer.passes.rewrite import Patch, Rule


def fuse_rms_norm(graph: Graph, node: Node) -> Patch | None:
    """x · 1/√(mean(x²) + epsilon)."""
    if not isinstance(node.op, Mul):
        return None
    product, constant = factors(graph, node.output)
    if len(product) != 2:
        return None
    for x, size in (product, product[::-1]):
        found = inverse_root_mean(graph, size)
        if found is None or found[0] != [x, x] or graph.types[x].shape != graph.types[node.output].shape:
            continue
        gain = per_channel(constant, graph.types[x].width)
        if gain is None:
            return None
        patch = Patch(graph, node)
        names = [] if (gain == 1).all() else [patch.constant(gain, "gain")]
        return patch.finish(RmsNorm(found[1]), [x, *names])
    return None


RMS_NORM: tuple[Rule, ...] = (fuse_rms_norm,)
