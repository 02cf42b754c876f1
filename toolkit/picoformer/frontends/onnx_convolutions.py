"""ONNX operators on windows of images and sequences: Conv and the pools, a sequence as an image of one line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.ir.operator import Array
from picoformer.ops import Add, AveragePool, Conv, MaxPool, Mul, ReduceMean, Reshape, Transpose, Window
from picoformer.ops.window import CHANNELS_FIRST, CHANNELS_LAST, count_windows


def conv(node: NodeReader) -> None:
    """Conv of one or two dimensions, any stride, pads, dilation and groups."""
    shape, weight = node.type().shape, node.type(1).shape
    dimensions = _dimensions(node)
    strides, dilations, pads = _geometry(node, weight[2:])
    _check_windows(node, weight[2:], strides, dilations, pads)
    groups = int(node.attribute("group", 1))
    names = list(node.inputs[:2]) + (node.inputs[2:3] if node.has_input(2) else [])
    if groups < 1 or len(weight) != len(shape) or weight[1] * groups != shape[1] or weight[0] % groups:
        raise ModelError(
            f"{node.builder.path}: node '{node.label}': weight {list(weight)} does not go with input {list(shape)} in "
            f"{groups} groups; export again"
        )
    if dimensions == 1:
        names[0] = node.step(Reshape((*shape[:2], 1, shape[2])), [names[0]], "image")
        if node.builder.is_constant(names[1]):
            names[1] = node.constant(node.array(1).reshape(*weight[:2], 1, weight[2]), "weight")
        else:
            names[1] = node.step(Reshape((*weight[:2], 1, weight[2])), [names[1]], "kernel")
    kernel = (1,) * (2 - dimensions) + tuple(weight[2:])
    plain = (strides, dilations, pads, groups) == (kernel, (1, 1), (0, 0, 0, 0), 1)
    op = Conv() if plain else Conv(strides, dilations, pads, groups)
    if dimensions == 2:
        node.finish(op, names)
        return
    y = node.step(op, names, "convolved")
    n, channels, _, length = node.builder.type_of(y).shape
    node.finish(Reshape((n, channels, length)), [y])


def max_pool(node: NodeReader) -> None:
    """MaxPool of one or two dimensions."""
    if any(name for name in node.node.output[1:]):
        raise node.unsupported("gives the places of its maxima too", "drop that output")
    kernel = [int(size) for size in node.attribute("kernel_shape", [])]
    _dimensions(node)
    strides, dilations, pads = _geometry(node, kernel)
    _pool(node, MaxPool(_pair(kernel), strides, dilations, pads))


def average_pool(node: NodeReader) -> None:
    """AveragePool of one or two dimensions, pads counted or not."""
    kernel = [int(size) for size in node.attribute("kernel_shape", [])]
    _dimensions(node)
    strides, dilations, pads = _geometry(node, kernel)
    counts = bool(node.attribute("count_include_pad", 0))
    given = _pads(node, len(kernel))
    if counts and any(have > asked for have, asked in zip(pads, given, strict=True)):
        raise node.unsupported("counts pads and ends with a window that reaches beyond them", "set ceil_mode to 0")
    _pool(node, AveragePool(_pair(kernel), strides, dilations, pads, counts and any(pads)))


def global_pool(is_largest: bool) -> Converter:
    """GlobalMaxPool and GlobalAveragePool: over all that follows the channels."""

    def convert(node: NodeReader) -> None:
        shape = node.type().shape
        if len(shape) < 3:
            raise ModelError(f"{node.builder.path}: node '{node.label}' pools {list(shape)}, no image; export again")
        n, channels, places = shape[0], shape[1], math.prod(shape[2:])
        image = node.step(Reshape((n, channels, 1, places)), node.inputs[:1], "line")
        last = node.step(Transpose(CHANNELS_LAST), [image], "image")
        if is_largest:
            pooled = node.step(MaxPool((1, places)), [last], "pooled")
        else:
            pooled = node.step(ReduceMean(-2, True), [last], "pooled")
        node.finish(Reshape((n, channels, *(1 for _ in shape[2:]))), [pooled])

    return convert


def reduce_largest(is_least: bool) -> Converter:
    """ReduceMax, and ReduceMin by way of the negative: over one axis after the other, each a window of its length."""

    def convert(node: NodeReader) -> None:
        shape, given = node.type().shape, node.axes(1)
        x = node.inputs[0]
        if given or not node.attribute("noop_with_empty_axes", 0):
            if is_least:
                x = node.step(Mul(), [x, node.constant(np.array(-1, np.float32), "minus_one")], "negative")
            rest = list(shape)
            for axis in sorted({node.axis(a, len(shape)) for a in given or range(len(shape))}):
                outer, length = math.prod(rest[:axis]), rest[axis]
                lines = node.step(Reshape((outer, length, 1, math.prod(rest[axis:]) // length)), [x], "lines")
                x = node.step(MaxPool((length, 1)), [lines], "largest")
                rest[axis] = 1
            if is_least:
                x = node.step(Mul(), [x, node.constant(np.array(-1, np.float32), "minus_one")], "least")
            if not node.attribute("keepdims", 1):
                rest = [size for i, size in enumerate(rest) if given and i not in {a % len(shape) for a in given}]
            shape = tuple(rest)
        node.finish(Reshape(shape), [x])

    return convert


def _pool(node: NodeReader, op: Window) -> None:
    """A pool between the transpositions that put channels last and first again."""
    shape = node.type().shape
    x = node.reshaped(node.inputs[0], (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape, "image")
    last = node.step(Transpose(CHANNELS_LAST), [x], "channels_last")
    pooled = node.step(op, [last], "pooled")
    if len(shape) == 4:
        node.finish(Transpose(CHANNELS_FIRST), [pooled])
        return
    y = node.step(Transpose(CHANNELS_FIRST), [pooled], "channels_first")
    n, channels, _, length = node.builder.type_of(y).shape
    node.finish(Reshape((n, channels, length)), [y])


def _dimensions(node: NodeReader) -> int:
    dimensions = node.type().rank - 2
    if dimensions not in (1, 2):
        raise node.unsupported(f"has {dimensions} dimensions beside batch and channels", "only 1 and 2 are covered")
    return dimensions


def _pair(sizes: Any) -> tuple[int, int]:
    """Sizes of one or two axes as those of an image: a sequence is one line."""
    first, second = (1,) * (2 - len(sizes)) + tuple(int(size) for size in sizes)
    return first, second


def _pads(node: NodeReader, dimensions: int) -> tuple[int, int, int, int]:
    pads = [int(pad) for pad in node.attribute("pads", [0] * 2 * dimensions)]
    missing = (0,) * (2 - dimensions)
    top, left, bottom, right = *missing, *pads[:dimensions], *missing, *pads[dimensions:]
    return top, left, bottom, right


def _geometry(node: NodeReader, kernel: Any) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """(strides, dilations, pads) as Window has them; auto_pad and ceil_mode become pads."""
    shape = node.type().shape
    dimensions = len(shape) - 2
    strides = [int(s) for s in node.attribute("strides", [1] * dimensions)]
    dilations = [int(d) for d in node.attribute("dilations", [1] * dimensions)]
    given = node.attribute("pads", [0] * 2 * dimensions)
    lengths = (len(kernel), len(strides), len(dilations), len(given))
    if lengths != (dimensions, dimensions, dimensions, 2 * dimensions) or min((*kernel, *strides, *dilations)) < 1:
        raise ModelError(
            f"{node.builder.path}: node '{node.label}' has kernel {list(kernel)}, strides {strides}, dilations "
            f"{dilations}, pads {list(given)} for input {list(shape)}; export again"
        )
    if min(given, default=0) < 0:
        raise node.unsupported(f"has negative pads {list(given)}", "slice its input instead")
    pads = list(_pads(node, dimensions))
    auto = node.attribute("auto_pad", "NOTSET")
    for axis in range(dimensions):
        size, span = shape[axis + 2], dilations[axis] * (kernel[axis] - 1) + 1
        first, last = axis + 2 - dimensions, axis + 4 - dimensions
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, (-(-size // strides[axis]) - 1) * strides[axis] + span - size)
            less, more = total // 2, total - total // 2
            pads[first], pads[last] = (less, more) if auto == "SAME_UPPER" else (more, less)
        elif auto == "VALID":
            pads[first] = pads[last] = 0
        if node.attribute("ceil_mode", 0) and auto == "NOTSET":
            over = size + pads[first] + pads[last] - span
            windows = -(-over // strides[axis]) + 1
            if (windows - 1) * strides[axis] >= size + pads[first]:  # a window that would begin beyond the entries
                windows -= 1
            pads[last] = max(pads[last], (windows - 1) * strides[axis] + span - size - pads[first])
    return _pair(strides), _pair(dilations), (pads[0], pads[1], pads[2], pads[3])


def _check_windows(
    node: NodeReader,
    kernel: Any,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> None:
    """Raise ModelError where a convolution has no place for its kernel."""
    sizes = (1,) * (4 - node.type().rank) + tuple(node.type().shape[2:])
    for axis, (size, width) in enumerate(zip(sizes, _pair(kernel), strict=True)):
        if count_windows(size, width, strides[axis], dilations[axis], pads[axis], pads[axis + 2]) < 1:
            raise ModelError(
                f"{node.builder.path}: node '{node.label}': a kernel of {list(kernel)} does not fit into "
                f"{list(node.type().shape[2:])}; export again"
            )


def batch_normalization(node: NodeReader) -> None:
    """BatchNormalization at inference: a factor and a summand per channel, which fold into a Conv before them."""
    if node.attribute("training_mode", 0) or any(name for name in node.node.output[1:]):
        raise node.unsupported("is in training mode", "call model.eval() before the export")
    scale, bias, mean, variance = (node.array(index).astype(np.float64) for index in (1, 2, 3, 4))
    factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
    _scale_and_shift(node, node.inputs[0], factor, bias - mean * factor)


def _scale_and_shift(node: NodeReader, x: str, factor: Array, summand: Array) -> None:
    """x · factor + summand, one of each per channel, as the node's output."""
    shape = (len(factor), *(1 for _ in node.builder.type_of(x).shape[2:]))
    names = [
        node.constant(value.astype(np.float32).reshape(shape), role)
        for value, role in ((factor, "factor"), (summand, "summand"))
    ]
    node.finish(Add(), [node.step(Mul(), [x, names[0]], "scaled"), names[1]])
