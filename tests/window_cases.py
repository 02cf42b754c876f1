"""Quantized operators on windows to try, and the calls of their C functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from operator_case import S8, TYPES, Case, of, patterns
from picoformer.ir.operator import Array, Lowered, Operand
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops import (
    AveragePool,
    DepthwiseConv,
    LoweredAveragePool,
    LoweredDepthwiseConv,
    LoweredMaxPool,
    MaxPool,
    Window,
)

Sizes = tuple[tuple[int, ...], tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int, int, int]]

SIZES: list[Sizes] = [
    ((1, 1, 1), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    ((5, 6, 4), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    ((7, 5, 6), (3, 2), (2, 1), (1, 1), (0, 1, 1, 0)),
    ((2, 4, 7, 5), (2, 3), (1, 2), (2, 1), (1, 2, 2, 2)),  # two images, taps apart
    ((1, 9, 9), (1, 3), (1, 2), (1, 3), (0, 3, 0, 2)),  # a sequence
    ((3, 4, 37), (2, 2), (1, 1), (1, 1), (0, 1, 0, 0)),  # more channels than a vector has
    ((3, 3, 3), (3, 3), (2, 2), (1, 1), (2, 2, 2, 2)),  # corners that hold one entry
]
"""Image, kernel, strides, dilations, pads."""


def images(kind: type[Window], x: DType, **more: Any) -> Iterator[tuple[str, Any, TensorType, Array]]:
    """(note, operator, type of the image, data) for every size and pattern."""
    rng = np.random.default_rng(21)
    for shape, *geometry in SIZES:
        op = kind(*geometry, **more)
        for note, data in patterns(rng, shape, x):
            yield f"{shape} {geometry} {note}", op, of(shape, x, 0.03 if x is S8 else 0.0002, -17), data


def depthwise(x: DType, y: DType) -> Iterator[Case]:
    """DepthwiseConv: weights of all signs and at their limits; outputs that clamp."""
    rng = np.random.default_rng(22)
    for note, op, x_type, data in images(DepthwiseConv, x):
        taps, channels = op.taps, x_type.width
        weight = rng.integers(-127, 128, (taps, channels))
        if "saturated" in note or "lowest" in note:
            weight = rng.choice([-127, 127], (taps, channels))
        scales = rng.uniform(0.001, 0.02, channels)
        w_type = TensorType(weight.shape, S8, QuantParams(tuple(scales), 0, -1))
        b_type = TensorType((channels,), DType.INT32, QuantParams(tuple(scales * x_type.quant.scale[0]), 0, -1))
        bias = rng.integers(-50000, 50001, channels).astype(np.int32)
        for fit in (1.0, 0.02):
            constants = (Operand(w_type, weight.astype(np.int8)), Operand(b_type, bias))
            shape = op.infer([x_type, w_type]).shape
            spread = 0.01 * 127 * taps**0.5 * x_type.quant.scale[0] * -x.minimum
            out = of(shape, y, spread * fit / -y.minimum, 11)
            yield Case(f"{note} {fit}", op, (Operand(x_type), *constants), out, (data,))


def max_pool(x: DType) -> Iterator[Case]:
    """MaxPool."""
    for note, op, x_type, data in images(MaxPool, x):
        out = TensorType(op.infer([x_type]).shape, x, x_type.quant)
        yield Case(note, op, (Operand(x_type),), out, (data,))


def average_pool(x: DType, y: DType) -> Iterator[Case]:
    """AveragePool, entries that are not there counted or not."""
    for include in (False, True):
        for note, op, x_type, data in images(AveragePool, x, include_pad=include):
            for fit in (1.0, 0.1):
                out = of(op.infer([x_type]).shape, y, x_type.quant.scale[0] * x.minimum * fit / y.minimum, -20)
                yield Case(f"{note} {include} {fit}", op, (Operand(x_type),), out, (data,))


def table() -> Iterator[tuple[str, Callable[..., Iterator[Case]], tuple[Any, ...]]]:
    """(C symbol, cases, their arguments)."""
    for i, x in TYPES.items():
        yield f"pf_max_pool_{i}", max_pool, (x,)
        for o, y in TYPES.items():
            yield f"pf_depthwise_{i}_{o}", depthwise, (x, y)
            yield f"pf_average_pool_{i}_{o}", average_pool, (x, y)


def window_of(library: Any, op: Window, x: Array, bytes_each: int = 1) -> Any:
    """The pf_window of an operator on an image."""
    height, width, channels = x.shape[-3:]
    rows, columns = op.places(TensorType((height, width, channels)))
    fields = {
        "height": height, "width": width, "channels": channels * bytes_each, "kernel_h": op.kernel[0],
        "kernel_w": op.kernel[1], "stride_h": op.strides[0], "stride_w": op.strides[1], "dilation_h": op.dilations[0],
        "dilation_w": op.dilations[1], "pad_top": op.pads[0], "pad_left": op.pads[1], "rows": rows, "columns": columns,
    }  # fmt: skip
    return library.structure("pf_window", **fields)


def call(library: Any, lowered: Lowered, x: Array, y: Array) -> str:
    """Make the call that computes `lowered` into `y`, in two turns as tiles do. Its symbol."""
    names = {LoweredDepthwiseConv: "depthwise", LoweredMaxPool: "max_pool", LoweredAveragePool: "average_pool"}
    assert isinstance(lowered, LoweredDepthwiseConv | LoweredMaxPool | LoweredAveragePool)
    window = window_of(library, lowered.op, x)
    name = f"pf_{names[type(lowered)]}_{lowered.input.dtype.value}"
    before: list[Any] = []
    if not isinstance(lowered, LoweredMaxPool):
        more = {"include_pad": int(lowered.op.include_pad)} if isinstance(lowered, LoweredAveragePool) else {}
        before = [library.structure(f"pf_{names[type(lowered)]}", lowered, **more)]
        name += f"_{lowered.output.dtype.value}"
    places = y.reshape(-1, y.shape[-1])
    cut = len(places) // 3
    for first, last in ((0, cut), (cut, len(places))):
        if first < last:
            library.call(name, *before, window, x, places[first:last], first, last - first)
    return name
