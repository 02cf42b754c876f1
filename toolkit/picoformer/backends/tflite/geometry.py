"""Where the windows of TFLite's operators on images lie, and what those operators mean on real numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from picoformer.ir.operator import Array
from picoformer.ops import AveragePool, DepthwiseConv, MaxPool, Patches, Window

Options = Mapping[str, Any]

SAME, VALID = 0, 1
"""Padding of the schema. SAME gives ⌈size / stride⌉ windows, the pads they need halved, the odd one behind; what is in
the pads is zero to a convolution and nothing to a pool."""


def reach(op: Window, axis: int, size: int, count: int) -> int:
    """Entries from the first pad to the end of the last of `count` windows, beyond `size`; negative where it ends
    before."""
    return (count - 1) * op.strides[axis] + op.dilations[axis] * (op.kernel[axis] - 1) + 1 - size


def needed_pads(op: Window, image: tuple[int, ...], places: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The pads (top, left, bottom, right) that a window reaches into: those asked for, or fewer behind."""
    behind = [max(reach(op, axis, image[axis - 3], places[axis - 3]) - op.pads[axis], 0) for axis in (0, 1)]
    return (op.pads[0], op.pads[1], behind[0], behind[1])


def padding_of(op: Window, image: tuple[int, ...], places: tuple[int, ...]) -> int | None:
    """SAME or VALID where it puts the windows of `op` over an image (…, H, W, C) where they are, (…, R, Q, C)."""
    if not any(needed_pads(op, image, places)):
        return VALID
    for axis in (0, 1):
        size, count = image[axis - 3], places[axis - 3]
        if count != -(-size // op.strides[axis]) or op.pads[axis] != max(reach(op, axis, size, count), 0) // 2:
            return None
    return SAME


def placed(op: Window, options: Options, image: tuple[int, ...]) -> Window:
    """`op` with the strides, dilations and pads that the options of a builtin operator give it over an image."""
    strides = (options["strideH"], options["strideW"])
    dilations = (options.get("dilationHFactor", 1), options.get("dilationWFactor", 1))
    op = replace(op, strides=strides, dilations=dilations)
    if options["padding"] == VALID:
        return op
    total = [max(reach(op, axis, image[axis - 3], -(-image[axis - 3] // strides[axis])), 0) for axis in (0, 1)]
    top, left = (count // 2 for count in total)
    return replace(op, pads=(top, left, total[0] - top, total[1] - left))


def conv_2d(options: Options, inputs: list[Array]) -> Array:
    """Input x (n, H, W, C), weight (N, kernel height, kernel width, C), optionally bias (N,)."""
    x, weight, *bias = inputs
    op = placed(Patches(weight.shape[1:3]), options, x.shape)
    y: Array = op.compute(x) @ weight.reshape(len(weight), -1).T
    return y + bias[0] if bias else y


def depthwise_conv_2d(options: Options, inputs: list[Array]) -> Array:
    """Input x (n, H, W, C), weight (1, kernel height, kernel width, C), optionally bias (C,)."""
    x, weight, *bias = inputs
    op = placed(DepthwiseConv(weight.shape[1:3]), options, x.shape)
    return op.compute(x, weight.reshape(-1, weight.shape[-1]), *bias)


def max_pool_2d(options: Options, inputs: list[Array]) -> Array:
    """Input x (n, H, W, C)."""
    return placed(MaxPool(_filter(options)), options, inputs[0].shape).compute(inputs[0])


def average_pool_2d(options: Options, inputs: list[Array]) -> Array:
    """Input x (n, H, W, C)."""
    op = placed(AveragePool(_filter(options)), options, inputs[0].shape)
    assert isinstance(op, AveragePool)
    total, count = op.totals(inputs[0])
    result: Array = total / count
    return result


def pad(options: Options, inputs: list[Array]) -> Array:
    """Input x, how many to put before and after each axis (rank, 2), and with what: zero where nothing is said."""
    x, widths, *fill = inputs
    result: Array = np.pad(x, widths.astype(np.int64), constant_values=fill[0].reshape(()) if fill else 0)
    return result


def _filter(options: Options) -> tuple[int, int]:
    return options["filterHeight"], options["filterWidth"]
