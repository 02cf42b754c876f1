"""Attention in builtin operators: heads as an axis, two batched products, and a softmax between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from picoformer.backends.tflite.writer import Rule, TfliteWriter
from picoformer.ir import Node, QuantParams
from picoformer.ops import Attention

SOFTMAX_GRIDS = {"int8": QuantParams((2.0**-8,), -128), "int16": QuantParams((2.0**-15,))}
"""What the kernels write, and no other."""
SOFTMAX_RANK = 4
"""Most axes that TensorFlow's int16 softmax takes."""
MASK_MARGIN = 16.0
"""How far below the least score seen, in the exponent, the score of a key that takes no part lies. TFLite's int16
softmax has e^−10 for all that is farther: 1.5 steps of its output, which a selection takes out behind it."""


def reshape(w: TfliteWriter, node: Node, x: str, shape: Sequence[int], output: str = "") -> str:
    """`x` in another shape, into `output` or an inner value."""
    target = w.numbers(node, "shape", list(shape))
    sizes = np.asarray(list(shape), np.int32)
    if output:
        return w.emit("RESHAPE", [x, target], output, newShape=sizes)
    return w.part("RESHAPE", [x, target], node, w.dtype(x), newShape=sizes)


def transpose(w: TfliteWriter, node: Node, x: str, order: Sequence[int], output: str = "") -> str:
    """`x` with its axes in another order, into `output` or an inner value."""
    inputs = [x, w.numbers(node, "order", list(order))]
    return w.emit("TRANSPOSE", inputs, output) if output else w.part("TRANSPOSE", inputs, node, w.dtype(x))


def valid(w: TfliteWriter, node: Node, length: str, positions: np.ndarray) -> str:
    """Booleans shaped as `positions`: which of them lie before the one number in `length`."""
    one = reshape(w, node, length, [1])
    return w.part("LESS", [w.numbers(node, "positions", positions), one], node)


def attention(w: TfliteWriter, node: Node, op: Attention, output: str) -> None:
    """softmax(q·kᵀ·scale)·v per head; the scale is the softmax's own factor."""
    query, key, value = (w.graph.types[name].shape for name in node.inputs[:3])
    lead, readers = len(query) - 2, op.heads // op.kv_heads
    own, shared = ([op.heads], [op.heads]) if readers == 1 else ([op.kv_heads, readers], [op.kv_heads, 1])
    s, *h, d = (lead + i for i in range(2 + len(own)))

    def heads(index: int, shape: tuple[int, ...], count: list[int]) -> str:
        split = [*shape[:-1], *count, shape[-1] // math.prod(count)]
        return transpose(w, node, reshape(w, node, w.read(node.inputs[index]), split), [*range(lead), *h, s, d])

    q, k, v = heads(0, query, own), heads(1, key, shared), heads(2, value, shared)
    seen = []
    if len(node.inputs) > 3:
        seen.append(valid(w, node, w.read(node.inputs[3]), np.arange(key[-2]).reshape(1, -1)))
    if op.causal:
        triangle = np.tri(query[-2], key[-2], key[-2] - query[-2], np.bool_)
        seen.append(w.booleans(node, "causal", triangle))
    mask = w.part("LOGICAL_AND", seen, node) if len(seen) == 2 else "".join(seen)
    mixed = attend(w, node, q, k, v, op.scale, mask)
    rows = transpose(w, node, mixed, [*range(lead), h[-1], s, *h[:-1], d])
    reshape(w, node, rows, w.graph.types[node.output].shape, output)


def attend(
    w: TfliteWriter, node: Node, q: str, k: str, v: str, scale: float, mask: str, bias: np.ndarray | None = None,
    is_transposed: bool = False,
) -> str:  # fmt: skip
    """The mix of the values (…, S, E): `q` (…, S, D), `k` (…, T, D), `v` (…, T, E), or (…, E, T) where that
    `is_transposed`; `mask`, where there is one, says which keys take part; `bias` is added to the scores as they come,
    before the scale."""
    dtype = w.base
    below = Rule(margin=MASK_MARGIN / abs(scale))
    scores = w.part("BATCH_MATMUL", [q, k], node, adjX=False, adjY=True)
    if bias is not None:
        scores = w.part("ADD", [scores, w.real(node, "bias", bias)], node)
    if mask:
        if dtype == "int8":
            dtype = "int16"
            scores = w.widened(scores, node, shifts=True)
        lowest = w.lowest(node, dtype)
        scores = w.part("SELECT_V2", [mask, scores, lowest], node, dtype, rule=below)
    shape = w.shape(scores)
    if len(shape) > SOFTMAX_RANK:
        scores = reshape(w, node, scores, [math.prod(shape[:-2]), *shape[-2:]])
    shares = w.part("SOFTMAX", [scores], node, dtype, SOFTMAX_GRIDS.get(dtype), beta=scale)
    if len(shape) > SOFTMAX_RANK:
        shares = reshape(w, node, shares, shape)
    if mask:
        zero = w.real(node, "zero", 0.0, dtype, SOFTMAX_GRIDS.get(dtype))
        shares = w.part("SELECT_V2", [mask, shares, zero], node, dtype, SOFTMAX_GRIDS.get(dtype))
    if dtype != w.base:
        shares = w.part("QUANTIZE", [shares], node, w.base, SOFTMAX_GRIDS[w.base])
    return w.part("BATCH_MATMUL", [shares, v], node, adjX=False, adjY=is_transposed)
