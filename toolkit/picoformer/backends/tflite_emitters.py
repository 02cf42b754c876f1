"""The operators in builtin operators of TFLite: one emitter each, in one flat table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.backends import tflite_decode
from picoformer.backends.tflite_attention import SOFTMAX_GRIDS, attention, reshape, transpose
from picoformer.backends.tflite_norms import norm
from picoformer.backends.tflite_rows import gather_rows, picked_rows
from picoformer.backends.tflite_writer import TfliteWriter
from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Node, Operator, QuantParams
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
    LoweredTable,
    MatMul,
    MaxPool,
    Mul,
    Patches,
    PositionIds,
    ReduceMean,
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
from picoformer.ops.functions import Function

Emitter = Callable[[TfliteWriter, Node, Any, str], None]
"""(writer, node, the node's operator, name of the result) → appends the steps that compute it."""


@dataclass(frozen=True)
class Unsupported:
    """An operator that is not written as TFLite, and what to do instead."""

    reason: str


LOGISTIC_OF_GELU = (1.59501317, 0.07401365, -0.00070342)
"""Φ(x) ≈ σ(a·x + b·x³ + c·x⁵) for |x| ≤ 8, fitted for the least largest error of x·σ: 2.6e−5. Farther out the slope of
8 does, so that x² may stop at 64."""
GAIN_FREE = 1e-6
"""Multipliers this close are the same to within a thirtieth of an int16 step."""
SQUARE_MAX = 64.0
LOGISTIC_OF_TANH_GELU = (2 * (2 / np.pi) ** 0.5, 2 * 0.044715 * (2 / np.pi) ** 0.5)
"""(1 + tanh u)/2 = σ(2u): the tanh approximation itself, exactly."""
SQUARE_GRID = QuantParams((SQUARE_MAX / 32767,))
LOGISTIC_INPUT = QuantParams((12.0 / 32767,))
"""Beyond ±12 a logistic is 0 or 1 to within int16's step: its input may saturate there."""


def _linear(w: TfliteWriter, node: Node, op: Linear, output: str) -> None:
    x, weight, *bias = node.inputs
    type_ = w.graph.types[weight]
    if weight not in w.graph.constants:
        raise _unsupported(node, f"its weight '{weight}' is computed", "export the model with constant weights")
    if type_.quant is not None and type_.dtype is not DType.INT8:
        what = f"its weight '{weight}' is {type_.dtype.name.lower()}"
        raise _unsupported(node, what, "TFLite takes int8 weights: leave out a budget and wide weights")
    operands = [w.read(x), _weight(w, node, op)]
    if bias:
        operands.append(_bias(w, node, bias[0]) if type_.quant is not None else w.read(bias[0]))
    w.emit("FULLY_CONNECTED", operands, output, keepNumDims=True)


def _weight(w: TfliteWriter, node: Node, op: Linear) -> str:
    """The weight; on scales a little off where the device's multipliers are, as those of a tied table may be."""
    name = node.inputs[1]
    quant = w.graph.types[name].quant
    if quant is None:
        return w.read(name)
    gain = op.lower(w.graph.operands(node), w.graph.types[node.output]).gain
    if np.abs(gain - 1).max(initial=0) < GAIN_FREE:
        return w.read(name)
    scales = np.broadcast_to(np.asarray(quant.scale, np.float64), gain.shape) * gain
    return w.integers(node, name, w.graph.constants[name], QuantParams(tuple(scales.tolist()), 0, -2))


def _bias(w: TfliteWriter, node: Node, name: str) -> str:
    """A bias on the grid of the products: int32, or int64 where activations are int16."""
    scale_of = [w.graph.types[other].quant for other in node.inputs[:2]]
    assert scale_of[0] is not None and scale_of[1] is not None
    scales = np.asarray(scale_of[1].scale, np.float64) * scale_of[0].per_tensor_scale
    grid = QuantParams(tuple(scales.tolist()), 0, None if len(scales) == 1 else -1)
    wide = np.int64 if w.base == "int16" else np.int32
    return w.integers(node, name, w.graph.constants[name].astype(wide), grid)


def _sum_or_product(operator: str) -> Emitter:
    def emit(w: TfliteWriter, node: Node, op: Operator, output: str) -> None:
        w.emit(operator, [w.read(name) for name in node.inputs], output)

    return emit


def _activation(w: TfliteWriter, node: Node, op: Activation, output: str) -> None:
    x = w.read(node.inputs[0])
    if op.function in ("relu", "tanh", "sigmoid"):
        w.emit({"relu": "RELU", "tanh": "TANH", "sigmoid": "LOGISTIC"}[op.function], [x], output)
        return
    if op.function not in ("gelu", "gelu_tanh", "silu"):
        if w.base != "int8":
            raise _unsupported(node, f"{op.function} of {w.base} is not written", "export int8, which takes a table")
        _table(w, node, op, x, output)
        return
    form = w.gelu
    if form == "auto":
        exact = w.any_operator and op.function != "silu" and w.base != "int16"
        form = "table" if w.base == "int8" else "operator" if exact else "decomposed"
    if form == "operator" and op.function != "silu":
        if w.base == "int16":
            raise _unsupported(node, "TFLite's GELU takes no int16", "use --gelu decomposed")
        w.emit("GELU", [x], output, approximate=op.function == "gelu_tanh")
    elif form == "table":
        _table(w, node, op, x, output)
    else:
        _decomposed(w, node, op.function, x, output)


def _table(w: TfliteWriter, node: Node, op: Activation, x: str, output: str) -> None:
    """The 256 results, picked by the input's integer: what the device's own table gives."""
    if w.base != "int8":
        raise _unsupported(node, f"a table of every {w.base} is too large", "use --gelu decomposed")
    lowered = op.lower(w.graph.operands(node), w.graph.types[node.output])
    assert isinstance(lowered, LoweredTable) and lowered.output.quant is not None
    table = w.integers(node, "table", lowered.table, lowered.output.quant)
    number = w.part("CAST", [x], node, inDataType="int8", outDataType="int32")
    index = w.part("ADD", [number, w.numbers(node, "offset", [128])], node)
    w.emit("GATHER", [table, index], output, axis=0)


def _decomposed(w: TfliteWriter, node: Node, function: Function, x: str, output: str) -> None:
    """x·σ(x), or x·σ(x·slope) with the slope a polynomial of x². Integers are 16 bits wide inside."""
    wide = w.wide
    if not w.is_float:
        x = w.widened(x, node)
    inner = x
    if function != "silu":
        saturates = None if w.is_float else LOGISTIC_INPUT
        inner = w.part("MUL", [x, _slope(w, node, function, x)], node, wide, saturates)
    share = w.part("LOGISTIC", [inner], node, wide, SOFTMAX_GRIDS.get(wide))
    if w.base == "int8":
        w.emit("QUANTIZE", [w.part("MUL", [x, share], node, wide)], output)
    else:
        w.emit("MUL", [x, share], output)


def _slope(w: TfliteWriter, node: Node, function: Function, x: str) -> str:
    """a + x²·(b + x²·c …), where x² stops at SQUARE_MAX: by saturation where it is an integer."""
    lowest, *higher = LOGISTIC_OF_GELU if function == "gelu" else LOGISTIC_OF_TANH_GELU
    wide, stops = w.wide, function == "gelu"
    square = w.part("MUL", [x, x], node, wide, SQUARE_GRID if stops and not w.is_float else None)
    if stops and w.is_float:
        square = w.part("MINIMUM", [square, w.real(node, "square_max", SQUARE_MAX)], node)
    slope = w.real(node, "factor", higher[-1], wide)
    for factor in (*higher[-2::-1], lowest):
        product = w.part("MUL", [square, slope], node, wide)
        slope = w.part("ADD", [product, w.real(node, "factor", factor, wide)], node, wide)
    return slope


def _softmax(w: TfliteWriter, node: Node, op: Softmax, output: str) -> None:
    grid = w.graph.types[node.output].quant
    if grid is not None and grid != SOFTMAX_GRIDS[w.base]:
        raise _unsupported(node, "its result is not on the grid of TFLite's softmax", "calibrate for TFLite")
    w.emit("SOFTMAX", [w.read(node.inputs[0])], output, beta=1.0)


def _embedding(w: TfliteWriter, node: Node, op: Embedding, output: str) -> None:
    """Rows of a table that holds what comes out: TFLite picks, and does not rescale. TFLite Micro picks no int16: there
    it is a row of the int8 table times the row's own scale, to within a step."""
    ids, table = node.inputs
    if table not in w.graph.constants:
        raise _unsupported(node, f"its table '{table}' is computed", "export the model with a constant table")
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
        raise _unsupported(node, f"a mean of valid entries over axis {op.axis}", "take it over the rows, axis -2")
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


def _unsupported(node: Node, what: str, mend: str) -> UnsupportedError:
    return UnsupportedError(f"node '{node.name}' ({node.op.kind}) cannot be written as TFLite: {what}; {mend}")


SPELLED = Unsupported("it only spells out what fusion has not recognised; see `picoformer inspect`")
WINDOWS = Unsupported("windows of images are not written yet; build C, or export ONNX")
EXPERTS = Unsupported("TFLite Micro has no TOPK_V2 to choose experts with; build C, or export ONNX")

EMITTERS: dict[type[Operator], Emitter | Unsupported] = {
    AveragePool: WINDOWS,
    DepthwiseConv: WINDOWS,
    MaxPool: WINDOWS,
    Patches: WINDOWS,
    Activation: _activation,
    Add: _sum_or_product("ADD"),
    Attention: attention,
    Binary: SPELLED,
    CachedAttention: tflite_decode.cached_attention,
    Concat: _concat,
    Conv: SPELLED,
    Embedding: _embedding,
    ExpertLinear: EXPERTS,
    ExpertWeights: EXPERTS,
    KvAppend: tflite_decode.kv_append,
    LayerNorm: norm,
    Linear: _linear,
    MatMul: SPELLED,
    Mul: _sum_or_product("MUL"),
    PositionIds: tflite_decode.position_ids,
    ReduceMean: _reduce_mean,
    Requantize: _requantize,
    Reshape: _reshape,
    RmsNorm: norm,
    Rope: tflite_decode.rope,
    ScaleRows: EXPERTS,
    Slice: _slice,
    Softmax: _softmax,
    TakeRow: tflite_decode.take_row,
    TopExperts: EXPERTS,
    Transpose: _transpose,
    Unary: SPELLED,
    Where: SPELLED,
}
"""Operator → what writes it, or why nothing does."""
