"""Masked mean pooling, Σ x·mask / Σ mask, as ReduceMean with a valid length."""

from __future__ import annotations

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ops import Mul, ReduceMean, Where
from picoformer.passes.expression import factors, length_values
from picoformer.passes.rewrite import Patch, Rule


def _masked(graph: Graph, name: str, axis: int) -> tuple[str, str] | None:
    """(x, length) when `name` is x with everything at or past the length along `axis` set to zero."""
    node = graph.producers.get(name)
    if node is None:
        return None
    if isinstance(node.op, Where):
        zero = graph.constants.get(node.inputs[2])
        pairs = [(node.inputs[1], node.inputs[0])] if zero is not None and (zero == 0).all() else []
    elif isinstance(node.op, Mul):
        pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    else:
        return None
    shape = graph.types[name].shape
    size = shape[axis]
    for x, mask in pairs:
        found = length_values(graph, mask, size) if mask not in graph.constants else None
        if found is None or graph.types[x].shape != shape:
            continue
        valid = np.arange(size) < found.lengths[:, None]
        valid = valid.reshape(size, *([1] * (len(shape) + axis)), size, *([1] * (-axis - 1)))
        if found.values.ndim <= -axis:
            continue
        try:
            agrees = (np.broadcast_to(found.values, (size, *shape)) == valid).all()
        except ValueError:
            continue
        if agrees:
            return x, found.length
    return None


def fuse_masked_mean(graph: Graph, node: Node) -> Patch | None:
    """mean(x · mask) · size / length; the divisor is evaluated for every length."""
    if not isinstance(node.op, Mul):
        return None
    product, constant = factors(graph, node.output)
    means = [name for name in product if isinstance(getattr(graph.producers.get(name), "op", None), ReduceMean)]
    if len(means) != 1 or constant.size != 1 or len(product) < 2:
        return None
    mean = graph.producers[means[0]]
    op = mean.op
    assert isinstance(op, ReduceMean)
    if len(mean.inputs) != 1 or graph.types[mean.output].shape != graph.types[node.output].shape:
        return None
    masked = _masked(graph, mean.inputs[0], op.axis)
    if masked is None:
        return None
    size = graph.types[mean.inputs[0]].shape[op.axis]
    total = np.full(size, float(constant.reshape(-1)[0]) / size)
    for name in product:
        if name == mean.output:
            continue
        found = length_values(graph, name, size)
        if found is None or found.length != masked[1] or found.values.size != size:
            return None
        total = total * found.values.reshape(-1)
    if not np.allclose(total * np.arange(1, size + 1), 1.0, rtol=1e-5, atol=0.0):
        return None
    return Patch(graph, node).finish(op, masked)


POOLING: tuple[Rule, ...] = (fuse_masked_mean,)
