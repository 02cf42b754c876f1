"""The operators on windows in builtin operators: images are (n, H, W, C), and pads that TFLite has not are put there.

A Linear on patches is CONV_2D. Pads that neither SAME nor VALID says are a PAD before it, of the zero point. A window
of an average counts what is there, so other pads than SAME's are cut: one pool for every part of the image whose
windows are alike. Dilated pools, and patches that something else reads, are slices of the image, one for each tap.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from picoformer.backends.tflite.attention import reshape
from picoformer.backends.tflite.geometry import SAME, VALID, needed_pads, padding_of
from picoformer.backends.tflite.linear import bias, check_weight, product_grid, weight_grid, whole_bias
from picoformer.backends.tflite.writer import TfliteWriter, unsupported
from picoformer.ir import Node, QuantParams
from picoformer.ops import AveragePool, DepthwiseConv, Linear, MaxPool, Patches, Window

JOINED_MAX = 10
"""Most operands that TFLite Micro's CONCATENATION takes."""
EQUAL_WEIGHT = 127
"""What every entry of a mean is multiplied with: the kernels round a sum twice, once before the last bits of it go, so
that a sum of few bits would be off by three quarters of a step."""
Run = tuple[int, int, int, int]
"""Windows along one axis that are alike: first entry, end, entries of a window, stride."""


def convolution(source: Node, w: TfliteWriter, node: Node, op: Linear, output: str) -> None:
    """CONV_2D: a Linear on the patches that `source` cuts."""
    assert isinstance(source.op, Patches)
    check_weight(w, node)
    name, window = node.inputs[1], source.op
    value, grid = w.graph.constants[name], weight_grid(w, node, op)
    kernel = value.reshape(len(value), *window.kernel, -1)
    weight = _kernel(w, node, kernel, grid, -4)
    x, padding = _padded(w, node, window, _image(w, source), _places(w, node))
    _end(w, node, "CONV_2D", [x, weight, _bias(w, node)], output, padding=padding, **_steps(window))


def depthwise(w: TfliteWriter, node: Node, op: DepthwiseConv, output: str) -> None:
    """DEPTHWISE_CONV_2D."""
    check_weight(w, node)
    value, grid = w.graph.constants[node.inputs[1]], w.graph.types[node.inputs[1]].quant
    weight = _kernel(w, node, value.reshape(1, *op.kernel, -1), grid, -1)
    _multiplied(w, node, op, [weight, _bias(w, node)], output)


def _multiplied(w: TfliteWriter, node: Node, op: Window, constants: list[str], output: str) -> None:
    x, padding = _padded(w, node, op, _image(w, node), _places(w, node))
    options = {"padding": padding, "depthMultiplier": 1, **_steps(op)}
    _end(w, node, "DEPTHWISE_CONV_2D", [x, *constants], output, **options)


def max_pool(w: TfliteWriter, node: Node, op: MaxPool, output: str) -> None:
    """MAX_POOL_2D; MAXIMUM of the taps where they lie apart."""
    x, padding = _padded(w, node, op, _image(w, node), _places(w, node), lowest=True)
    if not _is_dilated(op):
        _end(w, node, "MAX_POOL_2D", [x], output, padding=padding, **_pool(op))
        return
    if padding == SAME:  # slices know nothing of pads
        x = _with_pads(w, node, op, x, _places(w, node), lowest=True)
    first, *others, last = _taps(w, node, op, x)
    for tap in others:
        first = w.part("MAXIMUM", [first, tap], node, grid=_grid(w, first))
    _end(w, node, "MAXIMUM", [first, last], output)


def average_pool(w: TfliteWriter, node: Node, op: AveragePool, output: str) -> None:
    """AVERAGE_POOL_2D where input and output are on one grid, as it wants; else a product with equal weights."""
    image, places = w.graph.types[node.inputs[0]].shape, _places(w, node)
    given, wanted = (w.graph.types[name].quant for name in (node.inputs[0], node.output))
    whole = op.include_pad or bool((op.inside(image[-3], image[-2]) == op.taps).all())
    if not _is_dilated(op) and given == wanted:
        x, padding = _image(w, node), None if op.include_pad else padding_of(op, image, places)
        if op.include_pad:
            x, padding = _with_pads(w, node, op, x, places), VALID
        if padding is None:
            _average_of_parts(w, node, op, x, output)
        else:
            _end(w, node, "AVERAGE_POOL_2D", [x], output, padding=padding, **_pool(op))
    elif whole:
        ones = np.ones((1, *op.kernel, image[-1]))
        none = np.zeros(image[-1])
        if given is None:
            constants = [w.floats(node, "kernel", ones / op.taps), w.floats(node, "bias", none)]
        else:
            share = 1.0 / (op.taps * EQUAL_WEIGHT)
            products = QuantParams((share * given.per_tensor_scale,))
            weight = w.integers(node, "kernel", (EQUAL_WEIGHT * ones).astype(np.int8), QuantParams((share,)))
            constants = [weight, whole_bias(w, node, none, products)]
        _multiplied(w, node, op, constants, output)
    else:
        what = "its windows reach beyond the image, and " + (
            "their taps lie apart" if _is_dilated(op) else "its input and output are on grids of their own"
        )
        raise unsupported(node, what, "count the pads (count_include_pad=1), or calibrate for TFLite")


def _average_of_parts(w: TfliteWriter, node: Node, op: AveragePool, x: str, output: str) -> None:
    """One pool for each part of the image whose windows hold as many entries, side by side."""
    shape, places = w.shape(x), _places(w, node)
    rows, columns = (_runs(op, axis, shape[axis - 3], places[axis - 3]) for axis in (0, 1))
    bands = []
    for top, bottom, height, down in rows:
        parts = []
        for left, right, width, along in columns:
            part = _cut(w, node, x, (top, left), (bottom, right), (1, 1))
            pool = replace(op, kernel=(height, width), strides=(down, along))
            options: dict[str, Any] = {"padding": VALID, **_pool(pool)}
            parts.append(w.part("AVERAGE_POOL_2D", [part], node, grid=_grid(w, x), **options))
        bands.append(_joined(w, node, parts, 2))
    _last(w, node, bands, 1, output)


def _runs(op: Window, axis: int, size: int, count: int) -> list[Run]:
    """The windows along an axis: those with all their entries together, each other by itself."""
    runs: list[Run] = []
    for index in range(count):
        first = index * op.strides[axis] - op.pads[axis]
        start, stop = max(first, 0), min(first + op.kernel[axis], size)
        is_whole = stop - start == op.kernel[axis]
        if is_whole and runs and runs[-1][3] == op.strides[axis] and runs[-1][2] == op.kernel[axis]:
            runs[-1] = (runs[-1][0], stop, *runs[-1][2:])
        else:
            runs.append((start, stop, stop - start, op.strides[axis]))
    return runs


def patches(w: TfliteWriter, node: Node, op: Patches, output: str) -> None:
    """Every tap a slice of the image, all of them side by side."""
    x = _with_pads(w, node, op, _image(w, node), _places(w, node))
    _last(w, node, _taps(w, node, op, x), 3, output)


def _taps(w: TfliteWriter, node: Node, op: Window, x: str) -> list[str]:
    """Entry i of every window, for each i, of an image with its pads."""
    places, found = _places(w, node), []
    for tap in np.ndindex(*op.kernel):
        first = [at * step for at, step in zip(tap, op.dilations, strict=True)]
        last = [at + (n - 1) * s + 1 for at, n, s in zip(first, places[-3:-1], op.strides, strict=True)]
        found.append(_cut(w, node, x, (first[0], first[1]), (last[0], last[1]), op.strides))
    return found


def _cut(
    w: TfliteWriter, node: Node, x: str, first: tuple[int, int], last: tuple[int, int], strides: tuple[int, int]
) -> str:
    """Rows and columns of an image."""
    count, height, width, channels = w.shape(x)
    if (first, last, strides) == ((0, 0), (height, width), (1, 1)):
        return x
    bounds = [[0, *first, 0], [count, *last, channels], [1, *strides, 1]]
    inputs = [x, *(w.numbers(node, "bound", bound) for bound in bounds)]
    return w.part("STRIDED_SLICE", inputs, node, grid=_grid(w, x), shrinkAxisMask=0)


def _joined(w: TfliteWriter, node: Node, parts: list[str], axis: int) -> str:
    while len(parts) > 1:
        edges = [*range(0, len(parts), JOINED_MAX), len(parts)]
        groups = [parts[a:b] for a, b in pairwise(edges)]
        parts = [
            g[0] if len(g) == 1 else w.part("CONCATENATION", g, node, grid=_grid(w, g[0]), axis=axis) for g in groups
        ]
    return parts[0]


def _last(w: TfliteWriter, node: Node, parts: list[str], axis: int, output: str) -> None:
    """The parts side by side, as the output."""
    reshape(w, node, _joined(w, node, parts, axis), w.graph.types[output].shape, output)


def _kernel(w: TfliteWriter, node: Node, value: np.ndarray, grid: QuantParams | None, axis: int) -> str:
    """A weight in the shape of windows, its scales along another axis than in two dimensions."""
    if grid is None:
        return w.floats(node, "kernel", value)
    moved = QuantParams(grid.scale, 0, None if grid.axis is None else axis)
    return w.integers(node, "kernel", np.ascontiguousarray(value), moved)


def _bias(w: TfliteWriter, node: Node) -> str:
    """The bias; zeros where there is none, as LiteRT's convolutions read one unasked."""
    if found := bias(w, node):
        return found[0]
    none, grid = np.zeros(w.graph.types[node.output].width), product_grid(w, node)
    return w.floats(node, "bias", none) if grid is None else whole_bias(w, node, none, grid)


def _image(w: TfliteWriter, node: Node) -> str:
    """What a node reads as (n, H, W, C)."""
    x, type_ = w.read(node.inputs[0]), w.graph.types[node.inputs[0]]
    if type_.rank == 4:
        return x
    sizes = np.array([math.prod(type_.shape[:-3]), *type_.shape[-3:]], np.int32)
    return w.part("RESHAPE", [x, w.numbers(node, "shape", sizes)], node, grid=type_.quant, newShape=sizes)


def _end(w: TfliteWriter, node: Node, operator: str, inputs: list[str], output: str, **options: Any) -> None:
    """A step on images (n, H, W, C) into an output of any rank."""
    type_ = w.graph.types[output]
    if type_.rank == 4:
        w.emit(operator, inputs, output, **options)
    else:
        reshape(w, node, w.part(operator, inputs, node, grid=type_.quant, **options), type_.shape, output)


def _places(w: TfliteWriter, node: Node) -> tuple[int, ...]:
    return w.graph.types[node.output].shape


def _grid(w: TfliteWriter, name: str) -> QuantParams | None:
    return w.entries[name].tensor.grid


def _padded(
    w: TfliteWriter, node: Node, op: Window, x: str, places: tuple[int, ...], lowest: bool = False
) -> tuple[str, int]:
    """(image, padding): SAME or VALID where it does, else the image with its pads."""
    padding = padding_of(op, w.shape(x), places)
    return (_with_pads(w, node, op, x, places, lowest), VALID) if padding is None else (x, padding)


def _with_pads(w: TfliteWriter, node: Node, op: Window, x: str, places: tuple[int, ...], lowest: bool = False) -> str:
    """The image with the pads that windows reach: zeros, or what is below every number."""
    top, left, bottom, right = needed_pads(op, w.shape(x), places)
    if not (top or left or bottom or right):
        return x
    widths = w.numbers(node, "pads", [[0, 0], [top, bottom], [left, right], [0, 0]])
    grid = _grid(w, x)
    if not lowest:
        return w.part("PAD", [x, widths], node, grid=grid)
    if grid is None:
        fill = w.floats(node, "lowest", np.array([np.finfo(np.float32).min]))
    else:
        dtype = np.dtype(w.base)
        fill = w.integers(node, "lowest", np.array([np.iinfo(dtype).min], dtype), grid)
    return w.part("PADV2", [x, widths, fill], node, grid=grid)


def _is_dilated(op: Window) -> bool:
    return any(d > 1 and k > 1 for d, k in zip(op.dilations, op.kernel, strict=True))


def _steps(op: Window) -> dict[str, int]:
    return {
        "strideH": op.strides[0], "strideW": op.strides[1],
        "dilationHFactor": op.dilations[0], "dilationWFactor": op.dilations[1],
    }  # fmt: skip


def _pool(op: Window) -> dict[str, int]:
    return {
        "filterHeight": op.kernel[0], "filterWidth": op.kernel[1],
        "strideH": op.strides[0], "strideW": op.strides[1],
    }  # fmt: skip
