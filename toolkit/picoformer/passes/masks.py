"""What a mask on the scores of an attention lets through: the first keys, a causal triangle, or both; by evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ir.operator import Array
from picoformer.ops import Add, Where
from picoformer.ops.attention import hidden_keys
from picoformer.passes.expression import length_values

MASKED_BELOW = -1e3
"""A score this much lower has no weight left: e^−1000 is zero in float32."""

INFINITELY_LOW = -1e38
"""What stands for minus infinity in a graph lies below."""


@dataclass(frozen=True)
class Mask:
    """`scores` with some keys hidden: those at or past `length`, and with `causal` those past i + (T − S) in row i."""

    scores: str
    length: str | None
    causal: bool


def read_mask(graph: Graph, node: Node, scale: float) -> Mask | None:
    """The Add or Where `node` as a mask; None when it is another one or none. `scale` multiplies what it gives before
    the softmax."""
    found = _read(graph, node, scale)
    return None if found is None else _matched(*found, graph.types[node.output].shape)


def read_constant_mask(graph: Graph, node: Node, scale: float) -> tuple[str, Array] | None:
    """(scores, which of them are hidden) of an Add or Where that hides by a constant, in any pattern; None for another
    node, and where all of a row is hidden by a number that is not as good as infinite: the row then sees all again."""
    found = _read(graph, node, scale)
    if found is None or found[2] is not None:
        return None
    hidden = found[1][0]
    numbers = [graph.constants[name] for name in node.inputs if name in graph.constants]
    lowest = min((float(array.min()) for array in numbers if array.dtype.kind == "f"), default=0.0)
    whole = bool(hidden.all(axis=-1).any()) if hidden.ndim else bool(hidden)
    return None if whole and lowest > INFINITELY_LOW else (found[0], hidden)


def _read(graph: Graph, node: Node, scale: float) -> tuple[str, Array, Array | None, str | None] | None:
    """(scores, hidden (n, …), lengths (n,), name of the length) of a mask, n and names as in `_values`."""
    keys = graph.types[node.output].shape[-1]
    if isinstance(node.op, Add):
        if scale <= 0:
            return None
        for scores, mask in (node.inputs, node.inputs[::-1]):
            found = _values(graph, mask, keys)
            if found is not None:
                values, lengths, length = found
                low = values * scale <= MASKED_BELOW
                return (scores, low, lengths, length) if (low | (values == 0)).all() else None
    elif isinstance(node.op, Where):
        chooses, first, second = node.inputs
        for hides, scores, lowest in ((False, first, second), (True, second, first)):
            value = graph.constants.get(lowest)
            if value is None or (value * scale > MASKED_BELOW).any():
                continue
            found = _values(graph, chooses, keys)
            if found is not None:
                values, lengths, length = found
                return scores, values.astype(bool) == hides, lengths, length
    return None


def _values(graph: Graph, name: str, keys: int) -> tuple[Array, Array | None, str | None] | None:
    """(values, lengths (n,), name of the length) of a value that is constant (n = 1, no lengths) or a function of a
    length; values are (n, …)."""
    if name in graph.constants:
        return graph.constants[name][None], None, None
    found = length_values(graph, name, keys)
    return None if found is None else (found.values, found.lengths, found.length)


def _matched(
    scores: str, hidden: Array, lengths: Array | None, length: str | None, shape: tuple[int, ...]
) -> Mask | None:
    """The mask that hides exactly `hidden` (n, …) from scores of `shape`, for every length."""
    rank = len(shape)
    hidden = hidden.reshape(len(hidden), *([1] * (rank + 1 - hidden.ndim)), *hidden.shape[1:])
    # Any leading axes (samples, batch, heads) will do for the shape; only the last two say what is hidden.
    like = np.empty((len(hidden), *([1] * (rank - 2)), *shape[-2:]), np.bool_)
    for causal in (False, True):
        expected = hidden_keys(like, causal, lengths)
        expected = np.zeros(1, np.bool_) if expected is None else expected
        if (hidden == expected).all():
            return Mask(scores, length, causal)
    return None
