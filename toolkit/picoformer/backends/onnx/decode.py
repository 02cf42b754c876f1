"""The operators of a decode step in their ONNX form: a block of rows against caches, mixtures of experts."""

from __future__ import annotations

import numpy as np
from onnx import helper

from picoformer.backends.onnx.writer import MASKED_SCORE, OnnxWriter
from picoformer.errors import UnsupportedError
from picoformer.ir import Node
from picoformer.ops import (
    CachedAttention,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    PositionIds,
    RmsNorm,
    Rope,
    ScaleRows,
    TakeRow,
    TopExperts,
)

INT32 = 6
"""TensorProto.INT32."""


def _numbers(w: OnnxWriter, node: Node, wish: str, value: object, dtype: type = np.int64) -> str:
    return w.shared(f"{node.output}_{wish}", np.asarray(value, dtype))


def _scalar(w: OnnxWriter, node: Node, index: int) -> str:
    """The one int32 of input `index`, without axes."""
    return w.part("Reshape", [w.read(node.inputs[index]), w.shared("scalar_shape", np.zeros(0, np.int64))], node)


def _positions(w: OnnxWriter, node: Node, index: int, rows: int) -> str:
    """int32 (rows,): the position that input `index` holds, and those after it."""
    return w.part("Add", [_scalar(w, node, index), _numbers(w, node, "rows", np.arange(rows), np.int32)], node)


def _reshape(w: OnnxWriter, node: Node, x: str, *shape: int) -> str:
    return w.part("Reshape", [x, _numbers(w, node, "shape", shape)], node)


def _slice(w: OnnxWriter, node: Node, x: str, start: int, stop: int, axis: int) -> str:
    return w.part("Slice", [x, *(_numbers(w, node, "bound", [n]) for n in (start, stop, axis))], node)


def _one_block(w: OnnxWriter, node: Node) -> tuple[int, int]:
    """Rows and width of the first operand, which is one block."""
    type_ = w.graph.types[node.inputs[0]]
    if type_.rank != 2:
        raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) reads {type_}: ONNX takes one block of rows")
    return type_.shape[0], type_.shape[1]


def rms_norm(w: OnnxWriter, node: Node, op: RmsNorm, output: str) -> None:
    """x / √(mean x² + ε), times the gain."""
    x = w.read(node.inputs[0])
    squares = w.part("Mul", [x, x], node)
    mean = w.part("ReduceMean", [squares, _numbers(w, node, "axis", [-1])], node, keepdims=1)
    root = w.part("Sqrt", [w.part("Add", [mean, _numbers(w, node, "epsilon", op.epsilon, np.float32)], node)], node)
    if len(node.inputs) == 1:
        w.emit("Div", [x, root], output)
    else:
        w.emit("Mul", [w.part("Div", [x, root], node), w.read(node.inputs[1])], output)


def position_ids(w: OnnxWriter, node: Node, op: PositionIds, output: str) -> None:
    """position + 0, 1, 2 …"""
    w.emit("Add", [_scalar(w, node, 0), _numbers(w, node, "rows", np.arange(op.rows), np.int32)], output)


def take_row(w: OnnxWriter, node: Node, op: TakeRow, output: str) -> None:
    """Row count − 1."""
    rank = w.graph.types[node.inputs[0]].rank
    last = w.part("Add", [_scalar(w, node, 1), _numbers(w, node, "minus_one", [-1], np.int32)], node)
    w.emit("Gather", [w.read(node.inputs[0]), last], output, axis=rank - 2)


def rope(w: OnnxWriter, node: Node, op: Rope, output: str) -> None:
    """The two elements of every pair, turned, and put back where they were."""
    (rows, width), half = _one_block(w, node), op.rotary_dim // 2
    table = w.part("Gather", [w.read(node.inputs[1]), _positions(w, node, 2, rows)], node, axis=0)
    pairs = _reshape(w, node, table, rows, 1, half, 2)
    c, s = (w.part("Gather", [pairs, _numbers(w, node, "index", i)], node, axis=3) for i in (0, 1))
    size = width // op.heads
    x = _reshape(w, node, w.read(node.inputs[0]), rows, op.heads, size)
    turned = _slice(w, node, x, 0, op.rotary_dim, 2)
    if op.interleaved:
        both = _reshape(w, node, turned, rows, op.heads, half, 2)
        a, b = (w.part("Gather", [both, _numbers(w, node, "index", i)], node, axis=3) for i in (0, 1))
    else:
        a, b = _slice(w, node, turned, 0, half, 2), _slice(w, node, turned, half, op.rotary_dim, 2)
    first = w.part("Sub", [w.part("Mul", [a, c], node), w.part("Mul", [b, s], node)], node)
    second = w.part("Add", [w.part("Mul", [a, s], node), w.part("Mul", [b, c], node)], node)
    if op.interleaved:
        apart = [_reshape(w, node, part, rows, op.heads, half, 1) for part in (first, second)]
        parts = [_reshape(w, node, w.part("Concat", apart, node, axis=3), rows, op.heads, op.rotary_dim)]
    else:
        parts = [first, second]
    if size > op.rotary_dim:
        parts.append(_slice(w, node, x, op.rotary_dim, size, 2))
    whole = w.part("Concat", parts, node, axis=2)
    w.emit("Reshape", [whole, _numbers(w, node, "shape", (rows, width))], output)


def kv_append(w: OnnxWriter, node: Node, op: KvAppend, output: str) -> None:
    """Every entry of the cache: itself, or the row that takes its place."""
    cache, rows = (w.graph.types[name] for name in node.inputs[:2])
    _one_block(w, node)
    positions = cache.elements // rows.width
    entries = _numbers(w, node, "entries", np.arange(positions), np.int32)
    start = _scalar(w, node, 2)
    distance = w.part("Sub", [entries, start], node)
    limits = [_numbers(w, node, "limit", n, np.int32) for n in (0, rows.shape[0] - 1)]
    index = w.part("Min", [w.part("Max", [distance, limits[0]], node), limits[1]], node)
    moved = w.part("Gather", [w.read(node.inputs[1]), index], node, axis=0)
    before = w.part("Less", [distance, limits[0]], node)
    inside = w.part("Less", [distance, _scalar(w, node, 3)], node)
    mask = w.part("And", [w.part("Not", [before], node), inside], node)
    if op.transposed:
        moved = w.part("Transpose", [moved], node, perm=[1, 0])
    else:
        mask = _reshape(w, node, mask, positions, 1)
    w.emit("Where", [mask, moved, w.read(node.inputs[0])], output)


def cached_attention(w: OnnxWriter, node: Node, op: CachedAttention, output: str) -> None:
    """Heads as two axes, (heads of keys, readers of each), and the products broadcast over the second."""
    (rows, width), readers = _one_block(w, node), op.heads // op.kv_heads
    keys, values = (w.graph.types[name].shape for name in node.inputs[1:3])
    size, value_size, count = width // op.heads, values[0] // op.kv_heads, keys[0]

    def heads(index: int, shape: tuple[int, ...], order: list[int]) -> str:
        return w.part("Transpose", [_reshape(w, node, w.read(node.inputs[index]), *shape)], node, perm=order)

    q = heads(0, (rows, op.kv_heads, readers, size), [1, 2, 0, 3])
    k = heads(1, (count, op.kv_heads, 1, size), [1, 2, 3, 0])
    v = heads(2, (op.kv_heads, 1, value_size, count), [0, 1, 3, 2])
    scale = _numbers(w, node, "scale", op.scale, np.float32)
    scores = w.part("Mul", [w.part("MatMul", [q, k], node), scale], node)
    if op.slopes:
        bias = op.bias(count).reshape(op.kv_heads, readers, 1, count)
        scores = w.part("Add", [scores, _numbers(w, node, "slopes", bias, np.float32)], node)
    last = _reshape(w, node, _positions(w, node, 3, rows), rows, 1)
    entries = _numbers(w, node, "entries", np.arange(count), np.int32)
    hidden = w.part("Less", [last, entries], node)
    scores = w.part("Where", [hidden, w.shared("masked_score", MASKED_SCORE), scores], node)
    mixed = w.part("MatMul", [w.part("Softmax", [scores], node, axis=-1), v], node)
    back = w.part("Transpose", [mixed], node, perm=[2, 0, 1, 3])
    w.emit("Reshape", [back, _numbers(w, node, "shape", (rows, op.heads * value_size))], output)


def top_experts(w: OnnxWriter, node: Node, op: TopExperts, output: str) -> None:
    """TopK, which prefers the lower index, too."""
    names = [w.fresh(f"{node.output}_{what}") for what in ("largest", "ids")]
    inputs = [w.read(node.inputs[0]), _numbers(w, node, "chosen", [op.k])]
    w.nodes.append(helper.make_node("TopK", inputs, names, name=names[1], axis=-1))
    w.emit("Cast", [names[1]], output, to=INT32)


def expert_weights(w: OnnxWriter, node: Node, op: ExpertWeights, output: str) -> None:
    """Softmax of the chosen logits."""
    chosen = w.part("GatherElements", [w.read(name) for name in node.inputs], node, axis=-1)
    w.emit("Softmax", [chosen], output, axis=-1)


def expert_linear(w: OnnxWriter, node: Node, op: ExpertLinear, output: str) -> None:
    """The weight of each row's expert, gathered, times the row."""
    rows, k = _one_block(w, node)
    n = w.graph.types[node.output].width
    ids = w.part("Gather", [w.read(node.inputs[1]), _numbers(w, node, "slot", op.slot)], node, axis=1)

    def own(name: str, *shape: int) -> str:
        return w.part("Gather", [_reshape(w, node, name, op.experts, *shape), ids], node, axis=0)

    columns = _reshape(w, node, w.read(node.inputs[0]), rows, k, 1)
    product = w.part("MatMul", [own(w.read(node.inputs[2]), n, k), columns], node)
    shape = _numbers(w, node, "shape", (rows, n))
    if len(node.inputs) == 3:
        w.emit("Reshape", [product, shape], output)
    else:
        w.emit("Add", [w.part("Reshape", [product, shape], node), own(w.read_bias(node, 2), n)], output)


def scale_rows(w: OnnxWriter, node: Node, op: ScaleRows, output: str) -> None:
    """Each row times one of its weights."""
    axis = w.graph.types[node.inputs[1]].rank - 1
    own = w.part("Gather", [w.read(node.inputs[1]), _numbers(w, node, "slot", [op.slot])], node, axis=axis)
    w.emit("Mul", [w.read(node.inputs[0]), own], output)
