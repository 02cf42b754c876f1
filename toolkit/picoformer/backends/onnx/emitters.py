"""The operators in their ONNX form (opset 21): one emitter each, in one flat table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.backends.onnx import decode, relative, windows
from picoformer.backends.onnx.writer import MASKED_SCORE, OnnxWriter
from picoformer.ir import DType, Node
from picoformer.ir.operator import Operator
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    AveragePool,
    Binary,
    CachedAttention,
    Concat,
    Conv,
    DepthwiseConv,
    Embedding,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Mul,
    Patches,
    PositionIds,
    ReduceMean,
    RelativeAttention,
    Requantize,
    Reshape,
    RmsNorm,
    Rope,
    ScaleRows,
    Slice,
    Softmax,
    TakeRow,
    TopExperts,
    Transpose,
    Unary,
    Where,
)

Emitter = Callable[[OnnxWriter, Node, Any, str], None]
"""(writer, node, the node's operator, name of the float result) → appends the nodes that compute it."""


@dataclass(frozen=True)
class Unsupported:
    """An operator that ONNX cannot say, and what to do instead."""

    reason: str


def _plain(operator: str) -> Emitter:
    def emit(w: OnnxWriter, node: Node, op: Operator, output: str) -> None:
        w.emit(operator, [w.read(name) for name in node.inputs], output)

    return emit


def _activation(w: OnnxWriter, node: Node, op: Activation, output: str) -> None:
    x = w.read(node.inputs[0])
    numbers = [w.shared(f"{node.output}_parameter", np.array(value, np.float32)) for value in op.parameters]
    if op.function == "silu":
        w.emit("Mul", [x, w.part("Sigmoid", [x], node)], output)
    elif op.function == "swish":
        w.emit("Mul", [x, w.part("Sigmoid", [w.part("Mul", [x, *numbers], node)], node)], output)
    elif op.function.startswith("gelu"):
        w.emit("Gelu", [x], output, approximate="tanh" if op.function == "gelu_tanh" else "none")
    elif op.function == "clip":
        w.emit("Clip", [x, *numbers], output)
    else:
        name, *attributes = FUNCTIONS[op.function]
        w.emit(name, [x], output, **dict(zip(attributes, op.parameters, strict=True)))


FUNCTIONS: dict[str, tuple[str, ...]] = {
    "absolute": ("Abs",),
    "celu": ("Celu", "alpha"),
    "elu": ("Elu", "alpha"),
    "error_function": ("Erf",),
    "exponential": ("Exp",),
    "hard_sigmoid": ("HardSigmoid", "alpha", "beta"),
    "hard_swish": ("HardSwish",),
    "leaky_relu": ("LeakyRelu", "alpha"),
    "logarithm": ("Log",),
    "mish": ("Mish",),
    "reciprocal": ("Reciprocal",),
    "relu": ("Relu",),
    "selu": ("Selu", "alpha", "gamma"),
    "sigmoid": ("Sigmoid",),
    "softplus": ("Softplus",),
    "softsign": ("Softsign",),
    "square_root": ("Sqrt",),
    "tanh": ("Tanh",),
}
"""Function that ONNX has as an operator: its name there, and what its parameters are called."""


def _linear(w: OnnxWriter, node: Node, op: Linear, output: str) -> None:
    has_bias = len(node.inputs) == 3
    product = w.fresh(f"{node.output}_matmul") if has_bias else output
    if w.spelling.matmul_nbits and w.graph.types[node.inputs[1]].dtype is DType.INT4:
        w.nbits_product(node, product)
    else:
        w.emit("MatMul", [w.read(node.inputs[0]), w.read_weight(node)], product)
    if has_bias:
        w.emit("Add", [product, w.read_bias(node)], output)


def _valid(w: OnnxWriter, node: Node, count: int, trailing: int, length: str) -> str:
    """Booleans (count, 1 × trailing): which positions lie before the valid length."""
    position = np.arange(count, dtype=np.int32).reshape(-1, *([1] * trailing))
    scalar = w.part("Reshape", [length, w.shared("scalar_shape", np.zeros(0, np.int64))], node)
    return w.part("Less", [w.shared(f"{node.output}_positions", position), scalar], node)


def _attention(w: OnnxWriter, node: Node, op: Attention, output: str) -> None:
    query, key, value = (w.graph.types[name].shape for name in node.inputs[:3])
    leading = list(range(len(query) - 2))
    # With fewer heads of keys than of queries the heads are two axes, (heads of keys, readers of each or 1), and the
    # products broadcast over the second.
    readers = op.heads // op.kv_heads
    s, *h, d = (len(leading) + i for i in range(3 if readers == 1 else 4))

    def heads(index: int, shape: tuple[int, ...], count: list[int], order: list[int]) -> str:
        split = np.array([*shape[:-1], *count, shape[-1] // math.prod(count)], np.int64)
        target = w.shared(f"{node.output}_split_shape", split)
        return w.part("Transpose", [w.part("Reshape", [w.read(node.inputs[index]), target], node)], node,
                      perm=[*leading, *order])  # fmt: skip

    own, shared = ([op.heads], [op.heads]) if readers == 1 else ([op.kv_heads, readers], [op.kv_heads, 1])
    product = w.part("MatMul", [heads(0, query, own, [*h, s, d]), heads(1, key, shared, [*h, d, s])], node)
    scores = w.part("Mul", [product, w.shared(f"{node.output}_scale", np.array(op.scale, np.float32))], node)
    seen = [_valid(w, node, key[-2], 0, w.read(node.inputs[3]))] if len(node.inputs) > 3 else []
    if op.causal:
        triangle = np.tri(query[-2], key[-2], key[-2] - query[-2], np.bool_)
        seen.append(w.shared(f"{node.output}_causal", triangle))
    valid = w.part("And", seen, node) if len(seen) == 2 else "".join(seen)
    if valid:
        scores = w.part("Where", [valid, scores, w.shared("masked_score", MASKED_SCORE)], node)
    weights = w.part("Softmax", [scores], node, axis=-1)
    if valid:
        weights = w.part("Where", [valid, weights, w.shared("zero", np.zeros((), np.float32))], node)
    mixed = w.part("MatMul", [weights, heads(2, value, shared, [*h, s, d])], node)
    rows = w.part("Transpose", [mixed], node, perm=[*leading, h[-1], s, *h[:-1], d])
    merged = np.array([*query[:-1], readers * value[-1]], np.int64)
    w.emit("Reshape", [rows, w.shared(f"{node.output}_merged_shape", merged)], output)


def _layer_norm(w: OnnxWriter, node: Node, op: LayerNorm, output: str) -> None:
    inputs = [w.read(name) for name in node.inputs]
    if len(inputs) == 1:
        inputs.append(w.shared("unit_gain", np.ones(w.graph.types[node.inputs[0]].width, np.float32)))
    w.emit("LayerNormalization", inputs, output, axis=-1, epsilon=op.epsilon)


def _embedding(w: OnnxWriter, node: Node, op: Embedding, output: str) -> None:
    ids, table = node.inputs
    w.emit("Gather", [w.read(table), w.read(ids)], output, axis=0)


def _reduce_mean(w: OnnxWriter, node: Node, op: ReduceMean, output: str) -> None:
    type_, x = w.graph.types[node.inputs[0]], w.read(node.inputs[0])
    axes = w.shared(f"{node.output}_axes", np.array([op.axis + type_.rank], np.int64))
    if len(node.inputs) == 1:
        w.emit("ReduceMean", [x, axes], output, keepdims=int(op.keep))
        return
    length, count = w.read(node.inputs[1]), type_.shape[op.axis]
    zero = w.shared("zero", np.zeros((), np.float32))
    kept = w.part("Where", [_valid(w, node, count, -op.axis - 1, length), x, zero], node)
    total = w.part("ReduceSum", [kept, axes], node, keepdims=int(op.keep))
    scalar = w.part("Reshape", [length, w.shared("scalar_shape", np.zeros(0, np.int64))], node)
    limits = [w.shared(f"{node.output}_count", np.array(n, np.float32)) for n in (1, count)]
    number = w.part("Clip", [w.part("Cast", [scalar], node, to=1), *limits], node)
    w.emit("Div", [total, number], output)


def _softmax(w: OnnxWriter, node: Node, op: Softmax, output: str) -> None:
    w.emit("Softmax", [w.read(node.inputs[0])], output, axis=-1)


def _reshape(w: OnnxWriter, node: Node, op: Reshape, output: str) -> None:
    shape = w.shared(f"{node.output}_shape", np.array(op.shape, np.int64))
    w.emit("Reshape", [w.read(node.inputs[0]), shape], output)


def _transpose(w: OnnxWriter, node: Node, op: Transpose, output: str) -> None:
    rank = len(op.permutation)
    w.emit("Transpose", [w.read(node.inputs[0])], output, perm=[axis + rank for axis in op.permutation])


def _slice(w: OnnxWriter, node: Node, op: Slice, output: str) -> None:
    axis = op.axis + w.graph.types[node.inputs[0]].rank
    bounds = [
        w.shared(f"{node.output}_{what}", np.array([number], np.int64))
        for what, number in (("start", op.start), ("stop", op.stop), ("axis", axis), ("step", op.step))
    ]
    inputs = [w.read(node.inputs[0]), *bounds]
    if op.keep:
        w.emit("Slice", inputs, output)
    else:
        w.emit("Squeeze", [w.part("Slice", inputs, node), bounds[2]], output)


def _concat(w: OnnxWriter, node: Node, op: Concat, output: str) -> None:
    axis = op.axis + w.graph.types[node.inputs[0]].rank
    w.emit("Concat", [w.read(name) for name in node.inputs], output, axis=axis)


def _unary(w: OnnxWriter, node: Node, op: Unary, output: str) -> None:
    w.emit(op.function.capitalize(), [w.read(node.inputs[0])], output)


def _binary(w: OnnxWriter, node: Node, op: Binary, output: str) -> None:
    w.emit(op.function.capitalize(), [w.read(name) for name in node.inputs], output)


def _conv(w: OnnxWriter, node: Node, op: Conv, output: str) -> None:
    geometry = windows.geometry(op.window(w.graph.types[node.inputs[1]].shape))
    w.emit("Conv", [w.read(name) for name in node.inputs], output, group=op.groups, **geometry)


EMITTERS: dict[type[Operator], Emitter | Unsupported] = {
    Activation: _activation,
    Add: _plain("Add"),
    Attention: _attention,
    AveragePool: windows.average_pool,
    Binary: _binary,
    CachedAttention: decode.cached_attention,
    Concat: _concat,
    Conv: _conv,
    DepthwiseConv: windows.depthwise,
    Embedding: _embedding,
    ExpertLinear: decode.expert_linear,
    ExpertWeights: decode.expert_weights,
    KvAppend: decode.kv_append,
    LayerNorm: _layer_norm,
    Linear: _linear,
    MatMul: _plain("MatMul"),
    MaxPool: windows.max_pool,
    Mul: _plain("Mul"),
    Patches: windows.patches,
    PositionIds: decode.position_ids,
    ReduceMean: _reduce_mean,
    RelativeAttention: relative.relative_attention,
    Requantize: _plain("Identity"),
    Reshape: _reshape,
    RmsNorm: decode.rms_norm,
    Rope: decode.rope,
    ScaleRows: decode.scale_rows,
    Slice: _slice,
    Softmax: _softmax,
    TakeRow: decode.take_row,
    TopExperts: decode.top_experts,
    Transpose: _transpose,
    Unary: _unary,
    Where: _plain("Where"),
}
"""Operator → what writes it, or why nothing does."""
