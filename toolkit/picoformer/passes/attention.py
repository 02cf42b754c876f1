"""Attention out of MatMul, Softmax, MatMul and the reshapes around them.

Where heads lie in a value is proven, not matched: indices are sent through the chain of Reshape, Transpose and Slice
above each operand, and the value taken is one whose rows hold (head, channel) columns in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir import Graph, Node, Operator, TensorType
from picoformer.ir.operator import Array
from picoformer.ops import Attention, Concat, Linear, MatMul, Mul, Reshape, Slice, Softmax, Transpose, Where
from picoformer.passes.expression import constant_operand, scalar
from picoformer.passes.layout import send_indices
from picoformer.passes.linear import chosen_rows
from picoformer.passes.masks import read_mask
from picoformer.passes.rewrite import Patch, Rule


@dataclass(frozen=True)
class Source:
    """A value (rows, width) whose `columns` (heads·channels,) are the operand, times `scale`."""

    name: str
    columns: Array
    scale: float


@dataclass(frozen=True)
class Scores:
    """The two operands of the scores, what the product is multiplied by, and what masks it."""

    query: str
    key: str
    scale: float
    length: str | None
    causal: bool


@dataclass(frozen=True)
class Repeat(Operator):
    """Input x. Output: x broadcast to `shape`, which is what a product with ones of that shape does."""

    shape: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(self.shape)

    def compute(self, *inputs: Array) -> Array:
        return np.broadcast_to(inputs[0], self.shape)


@dataclass(frozen=True)
class Copies(Operator):
    """Input x. Output: x `count` times along `axis`."""

    axis: int
    count: int

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return Concat(self.axis).infer([inputs[0]] * self.count)

    def compute(self, *inputs: Array) -> Array:
        return Concat(self.axis).compute(*[inputs[0]] * self.count)


def climb(graph: Graph, name: str) -> Iterator[tuple[str, list[Operator], float]]:
    """Values up the chain above `name` that it is moved out of, nearest first: each with the moves that lead down, and
    what it is multiplied by on the way."""
    ops: list[Operator] = []
    scale = 1.0
    while True:
        yield name, ops, scale
        node = graph.producers.get(name)
        if node is None:
            return
        if isinstance(node.op, Mul):
            operand = constant_operand(graph, node)
            if operand is None or (operand[1] != operand[1].reshape(-1)[0]).any():
                return
            shape = graph.types[name].shape
            if graph.types[operand[0]].shape != shape:
                ops.insert(0, Repeat(shape))
            scale *= float(operand[1].reshape(-1)[0])
            name = operand[0]
        elif isinstance(node.op, (Reshape, Transpose, Slice)):
            ops.insert(0, node.op)
            name = node.inputs[0]
        elif isinstance(node.op, Concat) and len(set(node.inputs)) == 1:
            ops.insert(0, Copies(node.op.axis, len(node.inputs)))
            name = node.inputs[0]
        else:
            return


def find_sources(graph: Graph, name: str, leading: tuple[int, ...], heads: int, transposed: bool) -> list[Source]:
    """Values up the chain above `name` that hold all heads, nearest first. `name` is (…, rows, channels), or its
    transpose; what stands in front broadcasts to `leading`."""
    shape = graph.types[name].shape
    rows, channels = (shape[-1], shape[-2]) if transposed else shape[-2:]
    batch = math.prod(leading) // heads
    found = []
    for value, ops, scale in climb(graph, name):
        type_ = graph.types[value]
        if type_.rank < 2 or type_.rows != batch * rows:
            continue
        indices = _origins(type_, ops, transposed, leading).reshape(batch, heads, rows, channels)
        columns = indices[0, :, 0, :]
        first = (np.arange(batch)[:, None] * rows + np.arange(rows))[:, None, :, None] * type_.width
        if (columns < type_.width).all() and (indices == first + columns[None, :, None, :]).all():
            found.append(Source(value, columns.reshape(-1), scale))
    return found


def _origins(type_: TensorType, ops: Sequence[Operator], transposed: bool, leading: tuple[int, ...]) -> Array:
    """(…, rows, channels): where each element of an operand comes from in a value of `type_` above it."""
    indices = send_indices(type_.shape, ops)
    indices = np.swapaxes(indices, -1, -2) if transposed else indices
    return np.broadcast_to(indices, (*leading, *indices.shape[-2:]))


def find_repeated(
    graph: Graph, name: str, leading: tuple[int, ...], heads: int, transposed: bool
) -> tuple[str, int, float] | None:
    """(value, readers, scale): a value (…, G, rows, channels) above `name` whose heads stand there, each as often as
    its share of `heads` readers; None when there is none."""
    batch = math.prod(leading) // heads
    for value, ops, scale in climb(graph, name):
        shape = graph.types[value].shape
        if len(shape) < 3 or heads % shape[-3] or shape[-3] == heads or math.prod(shape[:-3]) != batch:
            continue
        origins = _origins(graph.types[value], ops, transposed, leading)
        readers = heads // shape[-3]
        wanted = np.repeat(np.arange(math.prod(shape)).reshape(batch, *shape[-3:]), readers, axis=1)
        if origins.size == wanted.size and (origins.reshape(wanted.shape) == wanted).all():
            return value, readers, scale
    return None


def readers_per_head(source: Source, heads: int) -> int:
    """The largest n such that n heads next to each other are the same columns each time: grouped-query attention."""
    columns = source.columns.reshape(heads, -1)
    return next(
        n for n in range(heads, 0, -1) if heads % n == 0 and (columns == np.repeat(columns[::n], n, axis=0)).all()
    )


def share_heads(sources: list[Source], heads: int, readers: int) -> list[Source]:
    """Those of `sources` in which `readers` heads share their columns, with each column once."""
    return [
        Source(source.name, source.columns.reshape(heads, -1)[::readers].reshape(-1), source.scale)
        for source in sources
        if readers_per_head(source, heads) % readers == 0
    ]


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


def _merge_heads(graph: Graph, patch: Patch, name: str, heads: int, role: str, word: str = "") -> Source | None:
    """Heads that no value above holds side by side (they may be an input): moved there by a Transpose and a Reshape.
    `word` names what comes of it, the role if it is empty."""
    word = word or role
    shape = graph.types[name].shape
    if len(shape) < 3 or shape[-3] != heads:
        return None
    last = (-1, -3, -2) if role == "key" else (-2, -3, -1)
    moved = patch.add(Transpose((*range(-len(shape), -3), *last)), [name], f"{word}_moved")
    *front, rows, _, channels = patch.type_of(moved).shape
    merged = patch.add(Reshape((*front, rows, heads * channels)), [moved], f"{word}_merged")
    return Source(merged, np.arange(heads * channels), 1.0)


def _repeated(
    graph: Graph, patch: Patch, operands: Mapping[str, str], leading: tuple[int, ...], heads: int
) -> tuple[dict[str, Source | None], int]:
    """Keys and values whose heads stand apart and are read by as many each, merged; nothing and 1 otherwise."""
    found = {role: find_repeated(graph, operands[role], leading, heads, role == "key") for role in ("key", "value")}
    key, value = found["key"], found["value"]
    if key is None or value is None or key[1] != value[1] or value[2] != 1.0:
        return {}, 1
    sources: dict[str, Source | None] = {}
    for role, (name, readers, scale) in (("key", key), ("value", value)):
        merged = _merge_heads(graph, patch, name, heads // readers, "value", role)
        sources[role] = None if merged is None else Source(merged.name, merged.columns, scale)
    return sources, key[1]


def read_scores(graph: Graph, name: str) -> Scores | None:
    """Walk from the input of the softmax up to the product of queries and keys."""
    scale, length, causal = 1.0, None, False
    for _ in range(8):
        node = graph.producers.get(name)
        if node is None:
            return None
        if isinstance(node.op, MatMul):
            return Scores(node.inputs[0], node.inputs[1], scale, length, causal)
        shape = graph.types[node.output].shape
        operand = constant_operand(graph, node)
        if isinstance(node.op, Mul) and operand is not None and operand[1].size == 1:
            name = operand[0]
            scale *= float(operand[1].reshape(-1)[0])
        else:
            mask = read_mask(graph, node, scale)
            if mask is None or (mask.length is not None and length not in (None, mask.length)):
                return None
            name, length, causal = mask.scores, mask.length or length, mask.causal or causal
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
    return (current, ops) if _softmax(graph, current) is not None else None


def _softmax(graph: Graph, product: Node) -> Node | None:
    """The softmax whose weights a product takes; where a row is all hidden they may be set to zero again, by the very
    mask of the scores, as they are in ours."""
    weights = graph.producers.get(product.inputs[0])
    if weights is not None and isinstance(weights.op, Where):
        chooses, name, zero = weights.inputs
        masked = graph.producers.get(name)
        scores = None if masked is None else graph.producers.get(masked.inputs[0])
        is_same = scores is not None and isinstance(scores.op, Where) and scores.inputs[0] == chooses
        is_same = is_same and scores is not None and scores.inputs[2] in graph.constants
        weights = masked if is_same and scalar(graph, zero) == 0.0 else None
    return weights if weights is not None and isinstance(weights.op, Softmax) else None


def _build(graph: Graph, patch: Patch, product: Node, heads: int) -> tuple[Attention, list[str]] | None:
    """The operator and its inputs for the context `product`; the patch gets what the inputs need."""
    weights = _softmax(graph, product)
    assert weights is not None  # _context found it
    scores = read_scores(graph, weights.inputs[0])
    if scores is None:
        return None
    operands = {"query": scores.query, "key": scores.key, "value": product.inputs[1]}
    shapes = [graph.types[name].shape for name in operands.values()]
    leading = shapes[0][:-2]
    if graph.types[weights.output].shape[:-2] != leading or graph.types[product.output].shape[:-2] != leading:
        return None
    batch = math.prod(leading) // heads
    found = {role: find_sources(graph, name, leading, heads, role == "key") for role, name in operands.items()}
    # A factor on the values is not the scores': it stays where it stands.
    found["value"] = [source for source in found["value"] if source.scale == 1.0]
    readers = math.gcd(*(max((readers_per_head(s, heads) for s in found[x]), default=1) for x in ("key", "value")))
    shared = {role: choose_source(graph, share_heads(found[role], heads, readers)) for role in ("key", "value")}
    if any(source is None for source in shared.values()):
        shared, readers = _repeated(graph, patch, operands, leading, heads)
    sources = []
    for role, name in operands.items():
        source = shared.get(role) or choose_source(graph, found[role]) or _merge_heads(graph, patch, name, heads, role)
        if source is None:
            return None
        sources.append(source)
    lengths = [shapes[0][-2], shapes[1][-1], shapes[2][-2]]
    leads = [patch.type_of(source.name).shape[:-1] for source in sources]
    if any(math.prod(lead) != batch * n for lead, n in zip(leads, lengths, strict=True)):
        return None  # one sample that several share
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
    scale = scores.scale * sources[0].scale * sources[1].scale
    return Attention(heads, scale, scores.causal, heads // readers), names


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
