"""Attention out of MatMul, Softmax, MatMul and the reshapes around them.

Where heads lie in a value is proven, not matched: indices are sent through the chain of Reshape, Transpose and Slice
above each operand, and the value taken is one whose rows hold (head, channel) columns in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from picoformer.ir import Graph, Node, Operator
from picoformer.ir.operator import Array
from picoformer.ops import Add, Attention, Linear, MatMul, Mul, Reshape, Slice, Softmax, Transpose, Where
from picoformer.passes.expression import constant_operand, length_values
from picoformer.passes.layout import send_indices
from picoformer.passes.linear import chosen_rows
from picoformer.passes.rewrite import Patch, Rule

MASKED_BELOW = -1e3
"""A score this much lower has no weight left: e^−1000 is zero in float32."""


@dataclass(frozen=True)
class Source:
    """A value (rows, width) whose `columns` (heads·channels,) are the operand, times `scale`."""

    name: str
    columns: Array
    scale: float


@dataclass(frozen=True)
class Scores:
    """The two operands of the scores, what the product is multiplied by, and the length that masks it."""

    query: str
    key: str
    scale: float
    length: str | None


def find_sources(graph: Graph, name: str, heads: int, transposed: bool) -> list[Source]:
    """Values up the chain above `name` ((…, rows, channels), or its transpose) that hold all heads, nearest first."""
    shape = graph.types[name].shape
    rows, channels = (shape[-1], shape[-2]) if transposed else shape[-2:]
    batch = math.prod(shape[:-2]) // heads
    found = []
    ops: list[Operator] = []
    scale = 1.0
    while True:
        type_ = graph.types[name]
        indices = send_indices(type_.shape, ops)
        indices = np.swapaxes(indices, -1, -2) if transposed else indices
        indices = indices.reshape(batch, heads, rows, channels)
        if type_.rank >= 2 and type_.rows == batch * rows:
            columns = indices[0, :, 0, :]
            first = (np.arange(batch)[:, None] * rows + np.arange(rows))[:, None, :, None] * type_.width
            if (columns < type_.width).all() and (indices == first + columns[None, :, None, :]).all():
                found.append(Source(name, columns.reshape(-1), scale))
        node = graph.producers.get(name)
        if node is None:
            return found
        if isinstance(node.op, Mul):
            operand = constant_operand(graph, node)
            if operand is None or operand[1].size != 1 or graph.types[operand[0]].shape != type_.shape:
                return found
            scale *= float(operand[1].reshape(-1)[0])
            name = operand[0]
        elif isinstance(node.op, (Reshape, Transpose, Slice)):
            ops.insert(0, node.op)
            name = node.inputs[0]
        else:
            return found


def choose_source(graph: Graph, sources: list[Source]) -> Source | None:
    """A Linear, whose weights can be cut to any columns; else the nearest value that is used whole or in one piece."""
    for source in reversed(sources):
        node = graph.producers.get(source.name)
        if node is not None and isinstance(node.op, Linear) and all(n in graph.constants for n in node.inputs[1:]):
            return source
    for source in sources:
        first = int(source.columns[0])
        if (source.columns == np.arange(first, first + len(source.columns))).all():
            return source
    return None


def _operand(graph: Graph, patch: Patch, source: Source, shape: tuple[int, ...], role: str) -> str:
    """The value (…, rows, heads·channels) that `source` describes, shaped as `shape` in front of the columns."""
    width, count = patch.type_of(source.name).width, len(source.columns)
    name = source.name
    if count != width or (source.columns != np.arange(width)).any():
        node = graph.producers.get(name)
        if node is not None and isinstance(node.op, Linear):
            name = patch.add(Linear(), [node.inputs[0], *chosen_rows(graph, patch, node, source.columns, role)], role)
        else:
            first = int(source.columns[0])
            name = patch.add(Slice(-1, first, first + count), [name], role)
    now = patch.type_of(source.name).shape[:-1]
    return name if now == shape else patch.add(Reshape((*shape, count)), [name], f"{role}_rows")


def _merge_heads(graph: Graph, patch: Patch, name: str, heads: int, role: str) -> Source | None:
    """Heads that no value above holds side by side (they may be an input): moved there by a Transpose and a Reshape."""
    shape = graph.types[name].shape
    if len(shape) < 3 or shape[-3] != heads:
        return None
    last = (-1, -3, -2) if role == "key" else (-2, -3, -1)
    moved = patch.add(Transpose((*range(-len(shape), -3), *last)), [name], f"{role}_moved")
    *front, rows, _, channels = patch.type_of(moved).shape
    merged = patch.add(Reshape((*front, rows, heads * channels)), [moved], f"{role}_merged")
    return Source(merged, np.arange(heads * channels), 1.0)


def length_of_mask(graph: Graph, name: str, keys: int, additive: bool, scale: float = 1.0) -> str | None:
    """The length n such that `name` lets through exactly the keys 0 … n − 1, for every n; proven by evaluation.

    `scale` is what an additive mask is multiplied with before the softmax.
    """
    found = length_values(graph, name, keys)
    if found is None or found.values.shape[-1] != keys:
        return None
    rank = found.values.ndim
    valid = np.arange(keys) < found.lengths.reshape(-1, *([1] * (rank - 1)))
    valid = np.broadcast_to(valid, found.values.shape)
    if additive:
        fits = (found.values[valid] == 0).all() and (found.values[~valid] * scale <= MASKED_BELOW).all()
    else:
        fits = (found.values.astype(bool) == valid).all()
    return found.length if fits else None


def read_scores(graph: Graph, name: str) -> Scores | None:
    """Walk from the input of the softmax up to the product of queries and keys."""
    scale, length = 1.0, None
    keys = graph.types[name].shape[-1]
    for _ in range(8):
        node = graph.producers.get(name)
        if node is None:
            return None
        if isinstance(node.op, MatMul):
            return Scores(node.inputs[0], node.inputs[1], scale, length)
        shape = graph.types[node.output].shape
        operand = constant_operand(graph, node)
        if isinstance(node.op, Mul) and operand is not None and operand[1].size == 1:
            name = operand[0]
            scale *= float(operand[1].reshape(-1)[0])
        elif isinstance(node.op, Add) and length is None:
            masks = [length_of_mask(graph, x, keys, additive=True, scale=scale) for x in node.inputs]
            at = next((i for i, mask in enumerate(masks) if mask is not None), None)
            if at is None or scale <= 0:
                return None
            length, name = masks[at], node.inputs[1 - at]
        elif isinstance(node.op, Where) and length is None:
            lowest = graph.constants.get(node.inputs[2])
            if lowest is None or (lowest * scale > MASKED_BELOW).any():
                return None
            length, name = length_of_mask(graph, node.inputs[0], keys, additive=False), node.inputs[1]
            if length is None:
                return None
        else:
            return None
        if graph.types[name].shape != shape:
            return None
    return None


def _context(graph: Graph, node: Node) -> tuple[Node, list[Operator]] | None:
    """The product of weights and values above `node`, and the reshapes and transposes between them."""
    ops: list[Operator] = []
    current: Node | None = node
    while current is not None and isinstance(current.op, (Reshape, Transpose)):
        ops.insert(0, current.op)
        current = graph.producers.get(current.inputs[0])
    if current is None or not isinstance(current.op, MatMul):
        return None
    weights = graph.producers.get(current.inputs[0])
    return (current, ops) if weights is not None and isinstance(weights.op, Softmax) else None


def _build(graph: Graph, patch: Patch, product: Node, heads: int) -> tuple[Attention, list[str]] | None:
    """The operator and its inputs for the context `product`; the patch gets what the inputs need."""
    weights = graph.producers[product.inputs[0]]
    scores = read_scores(graph, weights.inputs[0])
    if scores is None:
        return None
    shapes = [graph.types[name].shape for name in (scores.query, scores.key, product.inputs[1])]
    if not shapes[0][:-2] == shapes[1][:-2] == shapes[2][:-2]:
        return None
    batch = math.prod(shapes[0][:-2]) // heads
    sources = []
    for name, role in ((scores.query, "query"), (scores.key, "key"), (product.inputs[1], "value")):
        found = find_sources(graph, name, heads, transposed=role == "key")
        if role == "value":  # a factor on the values is not the scores': it stays where it stands
            found = [source for source in found if source.scale == 1.0]
        source = choose_source(graph, found) or _merge_heads(graph, patch, name, heads, role)
        if source is None:
            return None
        sources.append(source)
    lengths = [shapes[0][-2], shapes[1][-1], shapes[2][-2]]
    leads = [patch.type_of(source.name).shape[:-1] for source in sources]
    if all(lead[-1] == n for lead, n in zip(leads, lengths, strict=True)) and len({lead[:-1] for lead in leads}) == 1:
        front = leads[0][:-1]
    else:
        front = (batch,)
    names = [
        _operand(graph, patch, source, (*front, rows), role)
        for source, rows, role in zip(sources, lengths, ("query", "key", "value"), strict=True)
    ]
    if scores.length is not None:
        names.append(scores.length)
    return Attention(heads, scores.scale * sources[0].scale * sources[1].scale), names


def fuse_attention(graph: Graph, node: Node) -> Patch | None:
    """Attention that computes the value in which the heads are merged again."""
    if not isinstance(node.op, (Reshape, Transpose)):
        return None
    found = _context(graph, node)
    if found is None:
        return None
    product, ops = found
    shape, merged = graph.types[product.output].shape, graph.types[node.output].shape
    channels, leading = shape[-1], math.prod(shape[:-2])
    heads = merged[-1] // channels if merged else 0
    if heads < 1 or merged[-1] % channels or leading % heads:
        return None
    batch = leading // heads
    wanted = np.arange(math.prod(shape)).reshape(batch, heads, shape[-2], channels).swapaxes(1, 2).reshape(-1)
    if (send_indices(shape, ops).reshape(-1) != wanted).any():
        return None
    return _finish(graph, node, product, heads, ())


def fuse_unmerged_attention(graph: Graph, node: Node) -> Patch | None:
    """Attention whose heads are not merged behind it: a single head, or heads that stay apart."""
    if not isinstance(node.op, MatMul) or _context(graph, node) is None:
        return None
    shape = graph.types[node.output].shape
    heads = shape[-3] if len(shape) > 3 else 1
    if heads == 1:
        return _finish(graph, node, node, 1, ())
    split = (*shape[:-3], shape[-2], heads, shape[-1])
    order = (*range(-len(shape), -3), -2, -3, -1)
    return _finish(graph, node, node, heads, (Reshape(split), Transpose(order)))


def _finish(graph: Graph, node: Node, product: Node, heads: int, after: tuple[Operator, ...]) -> Patch | None:
    patch = Patch(graph, node)
    built = _build(graph, patch, product, heads)
    if built is None:
        return None
    op, names = built
    shape = graph.types[node.output].shape
    context = op.infer([patch.type_of(name) for name in names])
    if not after and context.shape == shape:
        return patch.finish(op, names)
    value = patch.add(op, names, "attention")
    for step in after[:-1]:
        value = patch.add(step, [value], "split")
    return patch.finish(after[-1] if after else Reshape(shape), [value])


ATTENTION: tuple[Rule, ...] = (fuse_attention,)
UNMERGED_ATTENTION: tuple[Rule, ...] = (fuse_unmerged_attention,)
