"""Attention behind a constant mask of any pattern, as attentions of some rows to some keys that are full or causal.

A window, keys that are padding, a mask of its own for each head: heads with the same mask stay together, keys that no
row of a piece sees are left out of it, and rows go together as long as what they see is all keys or a causal triangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ir.operator import Array
from picoformer.ops import Add, Concat, MatMul, Mul, Slice, Softmax
from picoformer.ops.attention import hidden_keys
from picoformer.passes.expression import constant_operand
from picoformer.passes.masks import read_constant_mask
from picoformer.passes.rewrite import Patch, Rule

PIECES_MAX = 64
"""A mask that falls into more attentions than this is refused."""


class _Piece(NamedTuple):
    """Operands of an attention and what is hidden of its scores, a bool array of their shape."""

    query: str
    key: str
    value: str
    hidden: Array


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """(first, end) of each run of neighbours in ascending `indices`."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


class _Splitter:
    """The nodes of one attention, put into a patch piece by piece."""

    def __init__(self, patch: Patch, scale: float) -> None:
        self.patch = patch
        self.scale = scale
        self.pieces = 0

    def context(self, piece: _Piece) -> str | None:
        """The context of a piece; None when it would take too many."""
        hidden = piece.hidden
        for axis in range(hidden.ndim - 2):
            first = np.take(hidden, [0], axis)
            if (hidden != first).any():
                return self._heads(piece, axis - hidden.ndim)
        return self._rows(piece, hidden[(0,) * (hidden.ndim - 2)])

    def _heads(self, piece: _Piece, axis: int) -> str | None:
        """The neighbours along a leading axis that have the same mask, apart from those that have another."""
        apart = np.moveaxis(piece.hidden, axis, 0)
        edges = [0, *(i for i in range(1, len(apart)) if (apart[i] != apart[i - 1]).any()), len(apart)]
        parts = []
        for start, stop in pairwise(edges):
            query, key, value = (self._cut(name, axis, [(start, stop)]) for name in piece[:3])
            part = self.context(_Piece(query, key, value, np.take(piece.hidden, range(start, stop), axis)))
            if part is None:
                return None
            parts.append(part)
        return self.patch.add(Concat(axis), parts, "heads")

    def _rows(self, piece: _Piece, hidden: Array) -> str | None:
        """Rows from the top, as many at a time as see all keys or a causal triangle of them."""
        parts, start = [], 0
        while start < len(hidden):
            stop = start + 1
            keys, causal = _plain(hidden[start:stop])
            for more in range(start + 2, len(hidden) + 1):
                found = _plain(hidden[start:more])
                if found[0] is None or (not found[0]) != (not keys):
                    continue
                stop, (keys, causal) = more, found
            self.pieces += 1
            if self.pieces > PIECES_MAX:
                return None
            parts.append(self._attention(piece, (start, stop), keys or [], causal))
            start = stop
        return parts[0] if len(parts) == 1 else self.patch.add(Concat(-2), parts, "rows")

    def _attention(self, piece: _Piece, rows: tuple[int, int], keys: list[int], causal: bool) -> str:
        patch = self.patch
        if not keys:  # rows that see nothing are zero
            leading = patch.type_of(piece.value).shape
            return patch.constant(np.zeros((*leading[:-2], rows[1] - rows[0], leading[-1])), "unseen")
        query = self._cut(piece.query, -2, [rows])
        key, value = self._cut(piece.key, -1, _runs(keys)), self._cut(piece.value, -2, _runs(keys))
        scores = patch.add(MatMul(), [query, key], "scores")
        if self.scale != 1.0:
            scores = patch.add(Mul(), [scores, patch.constant(np.array(self.scale), "scale")], "scaled")
        if causal:
            shape = patch.type_of(scores).shape
            triangle = hidden_keys(np.empty(shape[-2:]), True, None)
            assert triangle is not None
            lowest = np.where(triangle, np.finfo(np.float32).min, np.float32(0))
            scores = patch.add(Add(), [scores, patch.constant(lowest, "causal")], "seen")
        weights = patch.add(Softmax(), [scores], "weights")
        return patch.add(MatMul(), [weights, value], "context")

    def _cut(self, name: str, axis: int, runs: list[tuple[int, int]]) -> str:
        size = self.patch.type_of(name).shape[axis]
        if runs == [(0, size)] or size == 1:
            return name
        parts = [self.patch.add(Slice(axis, start, stop), [name], "cut") for start, stop in runs]
        return parts[0] if len(parts) == 1 else self.patch.add(Concat(axis), parts, "picked")


def _plain(hidden: Array) -> tuple[list[int] | None, bool]:
    """(keys that some row sees, whether causal) when rows (n, T) see all of these or a causal triangle; else None."""
    keys = [int(i) for i in np.flatnonzero(~hidden.all(axis=0))]
    if not keys:
        return [], False
    seen = hidden[:, keys]
    if not seen.any():
        return keys, False
    triangle = hidden_keys(seen, True, None)
    return (keys, True) if triangle is not None and (seen == triangle).all() else (None, False)


def split_static_mask(graph: Graph, node: Node) -> Patch | None:
    """Softmax(scores behind a constant mask) · values; None when the mask is one that attention has itself."""
    weights = graph.producers.get(node.inputs[0]) if isinstance(node.op, MatMul) else None
    if weights is None or not isinstance(weights.op, Softmax):
        return None
    name, scale = weights.inputs[0], 1.0
    shape = graph.types[name].shape
    hidden = np.zeros(shape, np.bool_)
    product = graph.producers.get(name)
    while product is not None and not isinstance(product.op, MatMul):
        operand = constant_operand(graph, product)
        if isinstance(product.op, Mul) and operand is not None and operand[1].size == 1:
            name, scale = operand[0], scale * float(operand[1].reshape(-1)[0])
        else:
            found = read_constant_mask(graph, product, scale)
            if found is None:
                return None
            name, hidden = found[0], hidden | found[1]
        if graph.types[name].shape != shape:
            return None
        product = graph.producers.get(name)
    if product is None:
        return None
    operands = (product.inputs[0], product.inputs[1], node.inputs[1])
    leads = {graph.types[operand].shape[:-2] for operand in operands}
    same = (hidden == hidden[(0,) * (hidden.ndim - 2)]).all()
    if len(leads) > 1 or (same and _is_known(hidden[(0,) * (hidden.ndim - 2)])):
        return None
    patch = Patch(graph, node)
    context = _Splitter(patch, scale).context(_Piece(*operands, hidden))
    if context is None:
        return None
    last = patch.nodes.pop()
    assert last.output == context
    patch.types.pop(context)
    return patch.finish(last.op, last.inputs)


def _is_known(hidden: Array) -> bool:
    keys, _ = _plain(hidden)
    return keys is not None and len(keys) == hidden.shape[1]


STATIC_MASKS: tuple[Rule, ...] = (split_static_mask,)
