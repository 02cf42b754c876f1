"""The builtin operators of TFLite that are written: meaning on real numbers, version, and what TFLite Micro runs.

Versions follow tensorflow/compiler/mlir/lite/tools/versioning (op_version.cc and runtime_version.cc, TensorFlow 2.21).
What TFLite Micro runs was read in tensorflow/lite/micro/micro_mutable_op_resolver.h and the kernels beside it; of that
the types are named that emitters use, and tests run each of them with the interpreter that the package `tflite-micro`
brings (0.dev20261023). Its int16 RSQRT loads and computes something else; its GATHER refuses int16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from picoformer.backends.tflite import geometry as geometry
from picoformer.ir.operator import Array

Options = Mapping[str, Any]
Types = Sequence[str]
"""Element types by numpy's names: float32, int8, int16, int32, int64, bool."""

Meaning = Callable[[Options, list[Array]], Array]
Version = Callable[[Types, Options, bool], int]
"""(types of the inputs, options, whether a product's scale is 1 or more) → the operator's version."""

EVERY = frozenset({"float32", "int8", "int16"})
FLOAT = frozenset({"float32"})


@dataclass(frozen=True)
class Builtin:
    """One operator. `options` is the schema's table of options, "" where it has none; `micro` holds the types of its
    first input with which TFLite Micro runs it, none where it has no kernel; `since` maps a version to the TFLite that
    brought it; `moves`, where the output has the grid of inputs, says of which."""

    meaning: Meaning
    version: Version
    since: Mapping[int, str]
    options: str = ""
    micro: frozenset[str] = frozenset()
    moves: slice = field(default_factory=lambda: slice(0, 0))


def _by_type(int8: int = 1, int16: int = 1, other: int = 1) -> Version:
    return lambda types, options, large: {"int8": int8, "int16": int16}.get(types[0], other)


def _fully_connected_version(types: Types, options: Options, large: bool) -> int:
    if types[0] == "int16":
        return 11 if options.get("quantizedBiasType") else 7
    if len(types) == 2:
        return 6
    return 5 if options.get("keepNumDims") else 4 if types[0] == "int8" else 1


def _mul_version(types: Types, options: Options, large: bool) -> int:
    if types[0] == "int16":
        return 4
    return 3 if large and types[0] == "int8" else 2 if types[0] == "int8" else 1


def _quantize_version(types: Types, options: Options, large: bool) -> int:
    return 2 if types[-1] == "int16" else 1


def _gather_version(types: Types, options: Options, large: bool) -> int:
    return {"int8": 2, "int16": 4}.get(types[0], 1)


def _cast_version(types: Types, options: Options, large: bool) -> int:
    return 3 if "int8" in types else 1


def _depthwise_version(types: Types, options: Options, large: bool) -> int:
    is_dilated = (options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)) != (1, 1)
    return {"int8": 3, "int16": 5}.get(types[0], 2 if is_dilated else 1)


def _fully_connected(options: Options, inputs: list[Array]) -> Array:
    x, weight, *bias = inputs
    y: Array = x @ weight.T
    return y + bias[0] if bias else y


def _batch_matmul(options: Options, inputs: list[Array]) -> Array:
    a, b = inputs
    product: Array = a @ (np.swapaxes(b, -1, -2) if options["adjY"] else b)
    return product


def _mean(options: Options, inputs: list[Array]) -> Array:
    result: Array = inputs[0].mean(axis=tuple(int(a) for a in inputs[1]), keepdims=options["keepDims"])
    return result


def _softmax(options: Options, inputs: list[Array]) -> Array:
    x = inputs[0] * options["beta"]
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = e / e.sum(axis=-1, keepdims=True)
    return result


def _gather(options: Options, inputs: list[Array]) -> Array:
    """An index outside is the nearest: made-up inputs, which only give shapes, and samples beyond a grid have such."""
    result: Array = np.take(inputs[0], inputs[1], axis=options["axis"], mode="clip")
    return result


def _strided_slice(options: Options, inputs: list[Array]) -> Array:
    x, begin, end, strides = inputs
    shrink = options.get("shrinkAxisMask", 0)
    cut = [slice(int(b), int(e), int(s)) for b, e, s in zip(begin, end, strides, strict=True)]
    result: Array = x[tuple(cut)]
    return result.reshape([n for axis, n in enumerate(result.shape) if not shrink >> axis & 1])


def _gelu(options: Options, inputs: list[Array]) -> Array:
    from scipy.special import erf

    x = inputs[0]
    if options["approximate"]:
        result: Array = 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
        return result
    result = 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))
    return result


def _of(function: Callable[..., Any]) -> Meaning:
    return lambda options, inputs: np.asarray(function(*inputs))


BUILTINS: dict[str, Builtin] = {
    "ABS": Builtin(
        _of(np.abs), _by_type(2, 3), {1: "1.13.0", 2: "2.4.0", 3: "2.5.0"}, "AbsOptions",
        frozenset({"float32", "int16"}),
    ),
    "ADD": Builtin(
        _of(np.add), _by_type(2, 3), {1: "1.5.0", 2: "1.14.0", 3: "2.4.0"}, "AddOptions", EVERY | {"int32"}
    ),
    "AVERAGE_POOL_2D": Builtin(
        geometry.average_pool_2d, _by_type(2, 3), {1: "1.5.0", 2: "1.14.0", 3: "2.3.0"}, "Pool2DOptions", EVERY
    ),
    "BATCH_MATMUL": Builtin(
        _batch_matmul, _by_type(2, 3), {1: "2.3.0", 2: "2.3.0", 3: "2.4.0"}, "BatchMatMulOptions", EVERY
    ),
    "CAST": Builtin(
        lambda options, inputs: inputs[0].astype(np.int32) if options["outDataType"] == "int32" else inputs[0],
        _cast_version, {1: "1.5.0", 3: "2.8.0"}, "CastOptions", EVERY,
    ),
    "CONCATENATION": Builtin(
        lambda options, inputs: np.concatenate(inputs, axis=options["axis"]), _by_type(2, 3),
        {1: "1.5.0", 2: "1.14.0", 3: "2.3.0"}, "ConcatenationOptions", EVERY, slice(None),
    ),
    "CONV_2D": Builtin(
        geometry.conv_2d, _by_type(3, 4), {1: "1.5.0", 3: "1.14.0", 4: "2.3.0"}, "Conv2DOptions", EVERY
    ),
    "DEPTHWISE_CONV_2D": Builtin(
        geometry.depthwise_conv_2d, _depthwise_version, {1: "1.5.0", 2: "1.12.0", 3: "1.14.0", 5: "2.3.0"},
        "DepthwiseConv2DOptions", EVERY,
    ),
    "DIV": Builtin(_of(np.divide), _by_type(), {1: "1.6.0"}, "DivOptions", FLOAT),
    "ELU": Builtin(
        _of(lambda x: np.where(x < 0.0, np.expm1(np.minimum(x, 0.0)), x)), _by_type(), {1: "1.14.0"}, "", FLOAT
    ),
    "EQUAL": Builtin(
        _of(np.equal), _by_type(2, 5), {1: "1.14.0", 2: "1.14.0", 5: "2.21.0"}, "EqualOptions",
        frozenset({"int32"}),
    ),
    "EXP": Builtin(_of(np.exp), _by_type(2, 2), {1: "1.7.0", 2: "2.12.0"}, "ExpOptions", FLOAT),
    "FLOOR": Builtin(_of(np.floor), _by_type(), {1: "1.9.0"}, "", FLOAT),
    "FULLY_CONNECTED": Builtin(
        _fully_connected, _fully_connected_version,
        {1: "1.5.0", 4: "1.14.0", 5: "2.0.0", 6: "2.1.0", 7: "2.3.0", 11: "2.15.0"}, "FullyConnectedOptions", EVERY,
    ),
    "GATHER": Builtin(
        _gather, _gather_version, {1: "1.6.0", 2: "1.14.0", 4: "2.4.0"}, "GatherOptions",
        frozenset({"float32", "int8"}), slice(0, 1),
    ),
    "GELU": Builtin(_gelu, _by_type(2), {1: "2.9.0", 2: "2.9.0"}, "GeluOptions"),
    "HARD_SWISH": Builtin(
        _of(lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)), _by_type(), {1: "1.15.0"}, "HardSwishOptions", FLOAT
    ),
    "LEAKY_RELU": Builtin(
        lambda options, inputs: np.where(inputs[0] < 0.0, options["alpha"] * inputs[0], inputs[0]), _by_type(1, 2),
        {1: "1.13.1", 2: "2.3.0"}, "LeakyReluOptions", frozenset({"float32", "int16"}),
    ),
    "LESS": Builtin(
        _of(np.less), _by_type(2, 3), {1: "1.14.0", 2: "1.14.0", 3: "2.13.0"}, "LessOptions",
        frozenset({"float32", "int32"}),
    ),
    "LOG": Builtin(_of(np.log), _by_type(2, 2), {1: "1.14.0", 2: "2.15.0"}, "", FLOAT),
    "LOGICAL_AND": Builtin(
        _of(np.logical_and), _by_type(), {1: "1.11.0"}, "LogicalAndOptions", frozenset({"bool"})
    ),
    "LOGISTIC": Builtin(
        _of(lambda x: np.exp(-np.logaddexp(0.0, -x))), _by_type(2, 3), {1: "1.14.0", 2: "1.14.0", 3: "2.3.0"},
        "", EVERY,
    ),
    "MAXIMUM": Builtin(
        _of(np.maximum), _by_type(2, 4), {1: "1.14.0", 2: "1.14.0", 4: "2.3.0"}, "MaximumMinimumOptions",
        EVERY | {"int32"},
    ),
    "MAX_POOL_2D": Builtin(
        geometry.max_pool_2d, _by_type(2, 3), {1: "1.5.0", 2: "1.14.0", 3: "2.3.0"}, "Pool2DOptions", EVERY
    ),
    "MEAN": Builtin(_mean, _by_type(2, 3), {1: "1.6.0", 2: "1.14.0", 3: "2.4.0"}, "ReducerOptions", EVERY),
    "MINIMUM": Builtin(
        _of(np.minimum), _by_type(2, 4), {1: "1.14.0", 2: "1.14.0", 4: "2.3.0"}, "MaximumMinimumOptions",
        frozenset({"float32", "int16", "int32"}),
    ),
    "MUL": Builtin(
        _of(np.multiply), _mul_version, {1: "1.5.0", 2: "1.14.0", 3: "1.15.0", 4: "2.3.0"}, "MulOptions",
        EVERY,
    ),
    "PAD": Builtin(geometry.pad, _by_type(2, 3), {1: "1.5.0", 2: "1.14.0", 3: "2.4.0"}, "PadOptions", EVERY),
    "PADV2": Builtin(geometry.pad, _by_type(2, 3), {1: "1.9.0", 2: "1.14.0", 3: "2.4.0"}, "PadV2Options", EVERY),
    "QUANTIZE": Builtin(
        _of(lambda x: x), _quantize_version, {1: "1.14.0", 2: "1.15.0"}, "QuantizeOptions", EVERY
    ),
    "RELU": Builtin(
        _of(lambda x: np.maximum(x, 0.0)), _by_type(2, 3), {1: "1.5.0", 2: "2.1.0", 3: "2.5.0"}, "", EVERY
    ),
    "RELU6": Builtin(
        _of(lambda x: np.clip(x, 0.0, 6.0)), _by_type(2, 3), {1: "1.5.0", 2: "1.14.0", 3: "2.5.0"}, "", FLOAT
    ),
    "RESHAPE": Builtin(
        lambda options, inputs: inputs[0].reshape([int(n) for n in inputs[1]]), _by_type(), {1: "1.5.0"},
        "ReshapeOptions", EVERY | {"int32"}, slice(0, 1),
    ),
    "RSQRT": Builtin(
        _of(lambda x: 1.0 / np.sqrt(x)), _by_type(2, 3), {1: "1.10.0", 2: "2.5.0", 3: "2.15.0"}, "",
        frozenset({"float32", "int8"}),
    ),
    "SELECT_V2": Builtin(_of(np.where), _by_type(), {1: "2.2.0"}, "SelectV2Options", frozenset({"bool"}), slice(1, 3)),
    "SOFTMAX": Builtin(
        _softmax, _by_type(2, 3), {1: "1.5.0", 2: "1.14.0", 3: "2.3.0"}, "SoftmaxOptions", EVERY
    ),
    "SQRT": Builtin(_of(np.sqrt), _by_type(2, 2), {1: "1.10.0", 2: "2.21.0"}, "", FLOAT),
    "STRIDED_SLICE": Builtin(
        _strided_slice, _by_type(2), {1: "1.6.0", 2: "1.14.0"}, "StridedSliceOptions", EVERY, slice(0, 1)
    ),
    "SUB": Builtin(
        _of(np.subtract), _by_type(2, 5), {1: "1.6.0", 2: "1.14.0", 5: "2.4.0"}, "SubOptions",
        frozenset({"float32", "int16"}),
    ),
    "TANH": Builtin(_of(np.tanh), _by_type(2, 3), {1: "1.14.0", 2: "1.14.0", 3: "2.3.0"}, "", EVERY),
    "TRANSPOSE": Builtin(
        lambda options, inputs: np.transpose(inputs[0], [int(a) for a in inputs[1]]),
        lambda types, options, large: 5 if types[0] == "int16" else 2 if types[0] == "int8" else 1,
        {1: "1.6.0", 2: "1.14.0", 5: "2.4.0"}, "TransposeOptions", EVERY, slice(0, 1),
    ),
}  # fmt: skip
"""Every builtin operator that an emitter may use."""


def micro_runs(operator: str, first: str) -> bool:
    """Whether TFLite Micro runs an operator whose first input has the element type `first`."""
    return first in BUILTINS[operator].micro
