"""The operators on windows in their ONNX form: a Linear on patches as a Conv, patches alone as slices side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from picoformer.backends.onnx.writer import OnnxWriter
from picoformer.ir import DType, Node, Operator
from picoformer.ops import AveragePool, DepthwiseConv, MaxPool, Patches, Window


def _numbers(w: OnnxWriter, node: Node, wish: str, value: object) -> str:
    return w.shared(f"{node.output}_{wish}", np.asarray(value, np.int64))


def patches(w: OnnxWriter, node: Node, op: Patches, output: str) -> None:
    """Zeros around the image; every tap is a slice of it, all of them side by side."""
    shape = w.graph.types[node.inputs[0]].shape
    x, rank, places = w.read(node.inputs[0]), len(shape), w.graph.types[node.output].shape[-3:-1]
    axes = _numbers(w, node, "axes", [rank - 3, rank - 2])
    if any(op.pads):
        x = w.part("Pad", [x, _numbers(w, node, "pads", op.pads), "", axes], node, mode="constant")
    taps = []
    for tap in np.ndindex(*op.kernel):
        first = [at * step for at, step in zip(tap, op.dilations, strict=True)]
        last = [at + (count - 1) * step + 1 for at, count, step in zip(first, places, op.strides, strict=True)]
        bounds = [_numbers(w, node, "first", first), _numbers(w, node, "last", last), axes]
        taps.append(w.part("Slice", [x, *bounds, _numbers(w, node, "strides", op.strides)], node))
    w.emit("Concat", taps, output, axis=rank - 1)


def convolution(source: Node, w: OnnxWriter, node: Node, op: Operator, output: str) -> None:
    """A Linear on the patches that `source` cuts."""
    assert isinstance(source.op, Patches)
    name, channels = node.inputs[1], w.graph.types[source.inputs[0]].width
    shape = (w.graph.types[name].shape[0], *source.op.kernel, channels)
    quant, value = w.graph.types[name].quant, w.graph.constants[name]
    if quant is None or (not quant.block_multipliers and w.graph.types[name].dtype is not DType.INT4):
        moved = np.ascontiguousarray(value.reshape(shape).transpose(0, 3, 1, 2))
        kernel = w.kernel(name, moved, quant)
    else:
        apart = w.part("Reshape", [w.read(name), _numbers(w, node, "kernel", shape)], node)
        kernel = w.part("Transpose", [apart], node, perm=[0, 3, 1, 2])
    bias = [w.read_bias(node)] if len(node.inputs) > 2 else []
    y = w.part("Conv", [_channels_first(w, source), kernel, *bias], node, **geometry(source.op))
    _channels_last(w, node, y, output)


def _channels_first(w: OnnxWriter, node: Node) -> str:
    """The image that a node reads as (n, C, H, W)."""
    shape, x = w.graph.types[node.inputs[0]].shape, w.read(node.inputs[0])
    if len(shape) != 4:
        x = w.part("Reshape", [x, _numbers(w, node, "image", [math.prod(shape[:-3]), *shape[-3:]])], node)
    return w.part("Transpose", [x], node, perm=[0, 3, 1, 2])


def _channels_last(w: OnnxWriter, node: Node, y: str, output: str) -> None:
    """(n, C, R, Q) as the output of a node."""
    shape = w.graph.types[node.output].shape
    if len(shape) == 4:
        w.emit("Transpose", [y], output, perm=[0, 2, 3, 1])
        return
    moved = w.part("Transpose", [y], node, perm=[0, 2, 3, 1])
    w.emit("Reshape", [moved, _numbers(w, node, "shape", shape)], output)


def geometry(op: Window) -> dict[str, Any]:
    """The attributes that say where windows lie."""
    pairs = {"kernel_shape": op.kernel, "strides": op.strides, "dilations": op.dilations, "pads": op.pads}
    return {name: list(pair) for name, pair in pairs.items()}


def depthwise(w: OnnxWriter, node: Node, op: DepthwiseConv, output: str) -> None:
    """A Conv with a group for each channel."""
    channels = w.graph.types[node.output].width
    taps = w.part("Transpose", [w.read(node.inputs[1])], node, perm=[1, 0])
    weight = w.part("Reshape", [taps, _numbers(w, node, "kernel", [channels, 1, *op.kernel])], node)
    bias = [w.read_bias(node)] if len(node.inputs) > 2 else []
    y = w.part("Conv", [_channels_first(w, node), weight, *bias], node, group=channels, **geometry(op))
    _channels_last(w, node, y, output)


def max_pool(w: OnnxWriter, node: Node, op: MaxPool, output: str) -> None:
    """MaxPool."""
    _channels_last(w, node, w.part("MaxPool", [_channels_first(w, node)], node, **geometry(op)), output)


def average_pool(w: OnnxWriter, node: Node, op: AveragePool, output: str) -> None:
    """AveragePool."""
    counts = {"count_include_pad": int(op.include_pad)}
    y = w.part("AveragePool", [_channels_first(w, node)], node, **counts, **geometry(op))
    _channels_last(w, node, y, output)
