"""The operators in builtin operators of TFLite: one emitter each, in one flat table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.backends.tflite import decode, windows
from picoformer.backends.tflite.activations import activation
from picoformer.backends.tflite.attention import SOFTMAX_GRIDS, attention, reshape, transpose
from picoformer.backends.tflite.linear import linear
from picoformer.backends.tflite.norms import norm
from picoformer.backends.tflite.rows import gather_rows, picked_rows
from picoformer.backends.tflite.writer import TfliteWriter, unsupported
from picoformer.ir import Node, Operator, QuantParams
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
    LoweredEmbedding,
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

Emitter = Callable[[TfliteWriter, Node, Any, str], None]
"""(writer, node, the node's operator, name of the result) → appends the steps that compute it."""


@dataclass(frozen=True)
class Unsupported:
    """An operator that is not written as TFLite, and what to do instead."""

    reason: str


def _sum_or_product(operator: str) -> Emitter:
    def emit(w: TfliteWriter, node: Node, op: Operator, output: str) -> None:
        w.emit(operator, [w.read(name) for name in node.inputs], output)

    return emit


def _softmax(w: TfliteWriter, node: Node, op: Softmax, output: str) -> None:
    grid = w.graph.types[node.output].quant
    if grid is not None and grid != SOFTMAX_GRIDS[w.base]:
        raise unsupported(node, "its result is not on the grid of TFLite's softmax", "calibrate for TFLite")
    w.emit("SOFTMAX", [w.read(node.inputs[0])], output, beta=1.0)


def _embedding(w: TfliteWriter, node: Node, op: Embedding, output: str) -> None:
    """Rows of a table that holds what comes out: TFLite picks, and does not rescale. TFLite Micro picks no int16: there
    it is a row of the int8 table times the row's own scale, to within a step."""
    ids, table = node.inputs
    if table not in w.graph.constants:
        raise unsupported(node, f"its table '{table}' is computed", "export the model with a constant table")
    if w.is_float:
        w.emit("GATHER", [w.read(table), w.read(ids)], output, axis=0)
        return
    lowered = op.lower(w.graph.operands(node), w.graph.types[node.output])
    assert isinstance(lowered, LoweredEmbedding) and lowered.output.quant is not None
    quant = w.graph.types[table].quant
    if w.base == "int16" and not w.any_operator and lowered.table.dtype == np.int8 and quant is not None:
        scales = np.broadcast_to(np.asarray(quant.scale, np.float64), (len(lowered.table),))
        w.emit("MUL", picked_rows(w, node, lowered.table, scales, w.read(ids)), output)
        return
    rows = lowered.execute(np.arange(len(lowered.table)))
    gather_rows(w, node, rows, lowered.output.quant, w.read(ids), output)


def _reduce_mean(w: TfliteWriter, node: Node, op: ReduceMean, output: str) -> None:
    x = w.read(node.inputs[0])
    rank = len(w.shape(x))
    if len(node.inputs) == 1:
        w.emit("MEAN", [x, w.numbers(node, "axis", [op.axis + rank])], output, keepDims=op.keep)
        return
    if op.axis != -2:
        raise unsupported(node, f"a mean of valid entries over axis {op.axis}", "take it over the rows, axis -2")
    count = w.shape(x)[-2]
    shares = np.tri(count + 1, count, -1) / np.maximum(np.arange(count + 1), 1)[:, None]
    length = _clipped(w, node, w.read(node.inputs[1]), count)
    wide = w.wide
    row = w.part("GATHER", [w.floats(node, "shares", shares), length], node, "float32", axis=0)
    if not w.is_float:
        row = w.part("QUANTIZE", [row], node, wide, QuantParams((2.0**-15,)))
        x = w.widened(x, node)
    row = reshape(w, node, row, [*([1] * (rank - 1)), count])
    mean = w.part("BATCH_MATMUL", [row, x], node, wide, adjX=False, adjY=False)
    shape = w.graph.types[node.output].shape
    if w.base == "int8":
        w.emit("QUANTIZE", [reshape(w, node, mean, shape)], output)
    else:
        reshape(w, node, mean, shape, output)


def _clipped(w: TfliteWriter, node: Node, length: str, count: int) -> str:
    one = reshape(w, node, length, [1])
    least = w.part("MAXIMUM", [one, w.numbers(node, "none", [0])], node)
    return w.part("MINIMUM", [least, w.numbers(node, "all", [count])], node)


def _requantize(w: TfliteWriter, node: Node, op: Requantize, output: str) -> None:
    x = w.read(node.inputs[0])
    if w.is_float:  # the same number, under another name
        reshape(w, node, x, w.shape(x), output)
    else:
        w.emit("QUANTIZE", [x], output)


def _reshape(w: TfliteWriter, node: Node, op: Reshape, output: str) -> None:
    reshape(w, node, w.read(node.inputs[0]), op.shape, output)


def _transpose(w: TfliteWriter, node: Node, op: Transpose, output: str) -> None:
    rank = len(op.permutation)
    transpose(w, node, w.read(node.inputs[0]), [axis + rank for axis in op.permutation], output)


def _slice(w: TfliteWriter, node: Node, op: Slice, output: str) -> None:
    x = w.read(node.inputs[0])
    shape = w.shape(x)
    axis = op.axis + len(shape)
    begin, end, step = [0] * len(shape), list(shape), [1] * len(shape)
    begin[axis], end[axis], step[axis] = op.start, op.stop, op.step
    bounds = [w.numbers(node, what, value) for what, value in (("begin", begin), ("end", end), ("step", step))]
    w.emit("STRIDED_SLICE", [x, *bounds], output, shrinkAxisMask=0 if op.keep else 1 << axis)


def _concat(w: TfliteWriter, node: Node, op: Concat, output: str) -> None:
    rank = len(w.graph.types[node.output].shape)
    w.emit("CONCATENATION", [w.read(name) for name in node.inputs], output, axis=op.axis + rank)


SPELLED = Unsupported("it only spells out what fusion has not recognised; see `picoformer inspect`")
EXPERTS = Unsupported("TFLite Micro has no TOPK_V2 to choose experts with; build C, or export ONNX")
DISTANCES = Unsupported("its bias of distances is not written as TFLite; build C, or export ONNX")

EMITTERS: dict[type[Operator], Emitter | Unsupported] = {
    Activation: activation,
    Add: _sum_or_product("ADD"),
    Attention: attention,
    AveragePool: windows.average_pool,
    Binary: SPELLED,
    CachedAttention: decode.cached_attention,
    Concat: _concat,
    Conv: SPELLED,
    DepthwiseConv: windows.depthwise,
    Embedding: _embedding,
    ExpertLinear: EXPERTS,
    ExpertWeights: EXPERTS,
    KvAppend: decode.kv_append,
    LayerNorm: norm,
    Linear: linear,
    MatMul: SPELLED,
    MaxPool: windows.max_pool,
    Mul: _sum_or_product("MUL"),
    Patches: windows.patches,
    PositionIds: decode.position_ids,
    ReduceMean: _reduce_mean,
    RelativeAttention: DISTANCES,
    Requantize: _requantize,
    Reshape: _reshape,
    RmsNorm: norm,
    Rope: decode.rope,
    ScaleRows: EXPERTS,
    Slice: _slice,
    Softmax: _softmax,
    TakeRow: decode.take_row,
    TopExperts: EXPERTS,
    Transpose: _transpose,
    Unary: SPELLED,
    Where: SPELLED,
}
"""Operator → what writes it, or why nothing does."""
