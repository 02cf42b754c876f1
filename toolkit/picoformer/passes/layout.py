"""Reshape, Transpose and Slice in as few nodes as can be.

What a chain of them does is read off by sending the numbers 0, 1, 2 … through it: no spelling is special.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from picoformer.ir import Graph, Node, Operator
from picoformer.ir.operator import Array
from picoformer.ops import Activation, LayerNorm, Linear, ReduceMean, Reshape, Slice, Transpose
from picoformer.ops.rounded import Rounded
from picoformer.passes.rewrite import Patch, Rule


def send_indices(shape: tuple[int, ...], ops: Sequence[Operator]) -> Array:
    """Where each element comes from: positions in a value of `shape` after `ops`, first to last."""
    indices: Array = np.arange(math.prod(shape)).reshape(shape)
    for op in ops:
        indices = op.compute(indices)
    return indices


def keeps_order(shape: tuple[int, ...], ops: Sequence[Operator]) -> bool:
    """True when `ops` only give the elements of a value of `shape` another shape."""
    if all(isinstance(op, Reshape) for op in ops):
        return True
    flat = send_indices(shape, ops).reshape(-1)
    return bool((flat == np.arange(flat.size)).all())


def merge_moves(graph: Graph, node: Node) -> Patch | None:
    """A chain of Reshape and Transpose that keeps the order is one Reshape, or nothing."""
    ops: list[Operator] = []
    best: str | None = None
    current: Node | None = node
    while current is not None and isinstance(current.op, (Reshape, Transpose)):
        ops.insert(0, current.op)
        source = current.inputs[0]
        if keeps_order(graph.types[source].shape, ops):
            best = source
        current = graph.producers.get(source)
    if best is None:
        return None
    shape = graph.types[node.output].shape
    patch = Patch(graph, node)
    if graph.types[best].shape == shape:
        return patch.same_as(best)
    if isinstance(node.op, Reshape) and node.inputs[0] == best:
        return None
    return patch.finish(Reshape(shape), [best])


def merge_transposes(graph: Graph, node: Node) -> Patch | None:
    """Two transposes in a row are one."""
    if not isinstance(node.op, Transpose):
        return None
    inner = graph.producers.get(node.inputs[0])
    if inner is None or not isinstance(inner.op, Transpose):
        return None
    order = tuple(inner.op.permutation[axis] for axis in node.op.permutation)
    return Patch(graph, node).finish(Transpose(order), inner.inputs)


def absorb_axis(graph: Graph, node: Node) -> Patch | None:
    """A Reshape that drops or restores the axis of length 1 behind a Slice or ReduceMean goes into its `keep`."""
    if not isinstance(node.op, Reshape) or not graph.is_used_once(node.inputs[0]):
        return None
    inner = graph.producers.get(node.inputs[0])
    if inner is None:
        return None
    op = inner.op
    if isinstance(op, ReduceMean):
        other: Operator = ReduceMean(op.axis, not op.keep)
    elif isinstance(op, Slice) and len(range(op.start, op.stop, op.step)) == 1:
        other = Slice(op.axis, op.start, op.stop, op.step, not op.keep)
    else:
        return None
    if other.infer([graph.types[name] for name in inner.inputs]).shape != node.op.shape:
        return None
    return Patch(graph, node).finish(other, inner.inputs)


def drop_whole_slice(graph: Graph, node: Node) -> Patch | None:
    """A Slice of everything is nothing."""
    if isinstance(node.op, Slice) and graph.types[node.inputs[0]] == graph.types[node.output]:
        return Patch(graph, node).same_as(node.inputs[0])
    return None


def sink_reshape(graph: Graph, node: Node) -> Patch | None:
    """Row-wise operators commute with a Reshape that leaves rows whole; below them it meets its inverse."""
    if not isinstance(node.op, (Linear, Activation, LayerNorm)):
        return None
    inner = graph.producers.get(node.inputs[0])
    if inner is None or not isinstance(inner.op, Reshape) or inner.output in graph.outputs:
        return None
    if not all(isinstance(reader.op, (Linear, Activation, LayerNorm)) for reader in graph.consumers[inner.output]):
        return None
    source = graph.types[inner.inputs[0]]
    if source.rank < 2 or source.width != graph.types[inner.output].width:
        return None
    below = [consumer.op for consumer in graph.consumers.get(node.output, ())]
    passing = (Reshape, Transpose, Linear, Activation, LayerNorm, Rounded)
    if not below or not all(isinstance(op, passing) for op in below):
        return None
    patch = Patch(graph, node)
    value = patch.add(node.op, [inner.inputs[0], *node.inputs[1:]], "rows")
    return patch.finish(Reshape(graph.types[node.output].shape), [value])


LAYOUT: tuple[Rule, ...] = (merge_moves, merge_transposes, absorb_axis, drop_whole_slice)
"""Rules that only ever remove nodes."""
