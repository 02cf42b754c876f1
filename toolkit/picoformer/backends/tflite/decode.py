"""The operators of a decode step of one token in builtin operators: caches come in and go out as plain tensors."""

from __future__ import annotations

import numpy as np

from picoformer.backends.tflite.attention import attend, reshape, transpose
from picoformer.backends.tflite.rows import gather_rows
from picoformer.backends.tflite.writer import TfliteWriter
from picoformer.errors import UnsupportedError
from picoformer.ir import Node
from picoformer.ops import CachedAttention, KvAppend, PositionIds, Rope, TakeRow
from picoformer.ops.rope import ROTATION_QUANT


def _one_row(w: TfliteWriter, node: Node, shape: tuple[int, ...]) -> int:
    """The width of an operand that is one row; UnsupportedError for a block of several."""
    if len(shape) != 2 or shape[0] != 1:
        raise UnsupportedError(
            f"node '{node.name}' ({node.op.kind}) reads {list(shape)}: a TFLite step takes one token; use a block of 1"
        )
    return shape[1]


def _number(w: TfliteWriter, node: Node, index: int) -> str:
    """The one int32 of input `index`, shape (1,)."""
    return reshape(w, node, w.read(node.inputs[index]), [1])


def position_ids(w: TfliteWriter, node: Node, op: PositionIds, output: str) -> None:
    """The position itself: a block has one row."""
    _one_row(w, node, (op.rows, 1))
    reshape(w, node, w.read(node.inputs[0]), [1], output)


def take_row(w: TfliteWriter, node: Node, op: TakeRow, output: str) -> None:
    """The one row there is."""
    shape = w.graph.types[node.inputs[0]].shape
    _one_row(w, node, shape)
    reshape(w, node, w.read(node.inputs[0]), shape, output)


def rope(w: TfliteWriter, node: Node, op: Rope, output: str) -> None:
    """Cosines and sines of the position picked from their tables, and the two elements of every pair turned."""
    width, half = _one_row(w, node, w.graph.types[node.inputs[0]].shape), op.rotary_dim // 2
    size = width // op.heads
    table = w.graph.constants[node.inputs[1]]
    position = _number(w, node, 2)

    def picked(part: int) -> str:
        rows = gather_rows(w, node, table[:, part::2], None if w.is_float else ROTATION_QUANT, position)
        return reshape(w, node, rows, [1, 1, half])

    c, s = picked(0), picked(1)
    x = reshape(w, node, w.read(node.inputs[0]), [1, op.heads, size])
    if op.interleaved:
        pairs = reshape(w, node, _cut(w, node, x, 0, op.rotary_dim), [op.heads, half, 2])
        a, b = (reshape(w, node, _cut(w, node, pairs, i, i + 1), [1, op.heads, half]) for i in (0, 1))
    else:
        a, b = _cut(w, node, x, 0, half), _cut(w, node, x, half, op.rotary_dim)
    first = w.part("SUB", [w.part("MUL", [a, c], node), w.part("MUL", [b, s], node)], node)
    second = w.part("ADD", [w.part("MUL", [a, s], node), w.part("MUL", [b, c], node)], node)
    if op.interleaved:
        apart = [reshape(w, node, part, [1, op.heads, half, 1]) for part in (first, second)]
        parts = [reshape(w, node, w.part("CONCATENATION", apart, node, axis=3), [1, op.heads, op.rotary_dim])]
    else:
        parts = [first, second]
    if size > op.rotary_dim:
        parts.append(_cut(w, node, x, op.rotary_dim, size))
    whole = w.part("CONCATENATION", parts, node, axis=2) if len(parts) > 1 else parts[0]
    reshape(w, node, whole, [1, width], output)


def _cut(w: TfliteWriter, node: Node, x: str, start: int, stop: int) -> str:
    """Elements start to stop of the last axis."""
    *lead, width = w.shape(x)
    if (start, stop) == (0, width):
        return x
    bounds = [[*([0] * len(lead)), start], [*lead, stop], [1] * (len(lead) + 1)]
    inputs = [x, *(w.numbers(node, "bound", bound) for bound in bounds)]
    return w.part("STRIDED_SLICE", inputs, node, w.dtype(x), shrinkAxisMask=0)


def kv_append(w: TfliteWriter, node: Node, op: KvAppend, output: str) -> None:
    """Every entry of the cache: itself, or at the position the new row."""
    cache, row = (w.graph.types[name] for name in node.inputs[:2])
    width = _one_row(w, node, row.shape)
    count = cache.shape[op.axis]
    entries = np.arange(count).reshape((1, count) if op.transposed else (count, 1))
    here = w.part("EQUAL", [w.numbers(node, "entries", entries), _number(w, node, 2)], node)
    new = w.read(node.inputs[1])
    if row.quant != cache.quant:
        new = w.part("QUANTIZE", [new], node, grid=cache.quant)
    if op.transposed:
        new = reshape(w, node, new, [width, 1])
    w.emit("SELECT_V2", [here, new, w.read(node.inputs[0])], output)


def cached_attention(w: TfliteWriter, node: Node, op: CachedAttention, output: str) -> None:
    """The heads of keys as an axis, those that read each of them as rows; later positions masked."""
    query, keys, values = (w.graph.types[name].shape for name in node.inputs[:3])
    width, readers = _one_row(w, node, query), op.heads // op.kv_heads
    size, value_size, count = width // op.heads, values[0] // op.kv_heads, keys[0]
    q = reshape(w, node, w.read(node.inputs[0]), [op.kv_heads, readers, size])
    k = transpose(w, node, reshape(w, node, w.read(node.inputs[1]), [count, op.kv_heads, size]), [1, 0, 2])
    v = reshape(w, node, w.read(node.inputs[2]), [op.kv_heads, value_size, count])
    after = w.part("ADD", [_number(w, node, 3), w.numbers(node, "one", [1])], node)
    mask = w.part("LESS", [w.numbers(node, "entries", np.arange(count).reshape(1, 1, count)), after], node)
    bias = (op.bias(count) / op.scale).reshape(op.kv_heads, readers, count) if op.slopes else None
    mixed = attend(w, node, q, k, v, op.scale, mask, bias, is_transposed=True)
    reshape(w, node, mixed, [1, op.heads * value_size], output)
