"""ONNX operators that move the entries of images: Pad, Resize by whole factors, depth to space and back."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends.onnx_builder import NodeReader
from picoformer.ir import DType
from picoformer.ir.operator import Array
from picoformer.ops import Concat, Patches, Reshape, Slice, Transpose
from picoformer.ops.window import CHANNELS_FIRST, CHANNELS_LAST


def pad(node: NodeReader) -> None:
    """Pad: zeros around an image are those of the windows that read it; others are constants or copies beside it."""
    shape, mode = node.type().shape, node.attribute("mode", "constant")
    given = node.integers(1) if node.has_input(1) else [int(p) for p in node.attribute("pads", [])]
    axes = [a % len(shape) for a in node.integers(3)] if node.has_input(3) else list(range(len(shape)))
    if len(given) != 2 * len(axes):
        raise ModelError(f"{node.builder.path}: node '{node.label}' has {len(given)} pads for {len(axes)} axes")
    before, after = [0] * len(shape), [0] * len(shape)
    for index, axis in enumerate(axes):
        before[axis], after[axis] = given[index], given[index + len(axes)]
    value = float(node.attribute("value", 0.0))
    if node.has_input(2):
        value = float(node.array(2).reshape(-1)[0])
    pads = [*before, *after]
    if (
        mode == "constant"
        and value == 0
        and min(pads) >= 0
        and len(shape) in (3, 4)
        and not any(before[:2] + after[:2])
    ):
        _zeros(node, before[2:], after[2:])
        return
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise node.unsupported(f"pads by '{mode}'", "use constant, edge, reflect or wrap")
    x = node.inputs[0]
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        x = _padded(node, x, axis - len(shape), first, last, mode, value)
    node.finish(Reshape(node.builder.type_of(x).shape), [x])


def _zeros(node: NodeReader, before: list[int], after: list[int]) -> None:
    """Zeros around an image or a sequence: windows of one entry, some of which lie outside."""
    shape = node.type().shape
    image = node.reshaped(node.inputs[0], (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape, "image")
    (top, left), (bottom, right) = ([0] * (2 - len(before)) + ends for ends in (before, after))
    last = node.step(Transpose(CHANNELS_LAST), [image], "channels_last")
    padded = node.step(Patches((1, 1), pads=(top, left, bottom, right)), [last], "padded")
    moved = node.step(Transpose(CHANNELS_FIRST), [padded], "channels_first")
    size = node.builder.type_of(moved).shape
    node.finish(Reshape(size if len(shape) == 4 else (*size[:2], size[3])), [moved])


def _padded(node: NodeReader, x: str, axis: int, first: int, last: int, mode: str, value: float) -> str:
    """`x` with so many entries more before and after along an axis; fewer where a number is negative."""
    shape = list(node.builder.type_of(x).shape)
    size = shape[axis]
    if min(first, last) < 0:
        start, stop = max(0, -first), size - max(0, -last)
        if start >= stop:
            raise ModelError(f"{node.builder.path}: node '{node.label}' crops axis {axis} to nothing; export again")
        x = node.step(Slice(axis, start, stop), [x], "cropped")
        first, last, size = max(0, first), max(0, last), stop - start
    if mode == "constant":
        blocks = []
        for count in (first, last):
            shape[axis] = count
            is_float = node.builder.type_of(x).dtype is DType.FLOAT32
            blocks.append(
                [node.constant(np.full(shape, value, np.float32 if is_float else np.int64), "border")] if count else []
            )
        parts = [*blocks[0], x, *blocks[1]]
    else:
        if mode == "reflect" and max(first, last) >= size:
            raise node.unsupported(f"reflects {max(first, last)} of {size} entries", "pad by less than there is")
        at = [*range(-first, 0), *range(size, size + last)]
        entries: dict[str, list[int]] = {
            "edge": [min(max(i, 0), size - 1) for i in at],
            "reflect": [-i if i < 0 else 2 * (size - 1) - i for i in at],
            "wrap": [i % size for i in at],
        }
        copies = [node.step(Slice(axis, i, i + 1), [x], "border") for i in entries[mode]]
        parts = [*copies[:first], x, *copies[first:]]
    return node.step(Concat(axis), parts, "padded") if len(parts) > 1 else x


def resize(node: NodeReader) -> None:
    """Resize to the nearest entry: whole factors and whole steps in a few moves, others entry by entry."""
    if node.attribute("mode", "nearest") != "nearest":
        raise node.unsupported(f"resizes by '{node.attribute('mode', '')}'", "use mode 'nearest' with a whole factor")
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.unsupported("keeps the ratio of width to height", "give the sizes that come out")
    shape = node.type().shape
    axes = [a % len(shape) for a in node.attribute("axes", range(len(shape)))]
    sizes, scales = list(shape), [1.0] * len(shape)
    if node.has_input(3):
        for axis, size in zip(axes, node.integers(3), strict=True):
            sizes[axis], scales[axis] = size, size / shape[axis]
    elif node.has_input(2):
        for axis, scale in zip(axes, node.array(2).reshape(-1).tolist(), strict=True):
            sizes[axis], scales[axis] = math.floor(shape[axis] * scale), float(scale)
    x = node.inputs[0]
    is_image = len(shape) == 4 and sizes[:2] == list(shape[:2])
    if is_image:  # channels last, so that the transpositions around convolutions still meet
        x = node.step(Transpose(CHANNELS_LAST), [x], "channels_last")
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        if size != shape[axis]:
            x = _resized(node, x, axis - len(shape) - (1 if is_image else 0), size, scale)
    if is_image:
        x = node.step(Transpose(CHANNELS_FIRST), [x], "channels_first")
    node.finish(Reshape(node.builder.type_of(x).shape), [x])


def _resized(node: NodeReader, x: str, axis: int, size: int, scale: float) -> str:
    shape = node.builder.type_of(x).shape
    length, rank = shape[axis], len(shape)
    at = _sources(node, np.arange(size), size, length, scale)
    if size % length == 0 and (at == np.arange(size) // (size // length)).all():
        times, place = size // length, axis + rank
        apart = node.step(Reshape((*shape[: place + 1], 1, *shape[place + 1 :])), [x], "apart")
        beside = node.step(Concat(axis), [apart] * times, "copies")
        return node.step(Reshape((*shape[:place], size, *shape[place + 1 :])), [beside], "repeated")
    step = int(at[1] - at[0]) if size > 1 else 1
    if step > 0 and (at == at[0] + step * np.arange(size)).all():
        return node.step(Slice(axis, int(at[0]), int(at[-1]) + 1, step), [x], "picked")
    pieces = [node.step(Slice(axis, i, i + 1), [x], "entry") for i in at.tolist()]
    return node.step(Concat(axis), pieces, "picked")


def _sources(node: NodeReader, target: Array, size: int, length: int, scale: float) -> Array:
    """Which entry each one of the result is, by coordinate_transformation_mode and nearest_mode."""
    target, factor, half = target.astype(np.float32), np.float32(scale), np.float32(0.5)  # ties hang on the precision
    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    real: dict[str, Callable[[], Array]] = {
        "half_pixel": lambda: (target + half) / factor - half,
        "pytorch_half_pixel": lambda: (target + half) / factor - half if size > 1 else np.zeros(1),
        "asymmetric": lambda: target / factor,
        "align_corners": lambda: target * (length - 1) / max(size - 1, 1),
    }
    if mode not in real:
        raise node.unsupported(f"places entries by '{mode}'", f"use one of {', '.join(real)}")
    place = np.asarray(real[mode]())
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    nearest: dict[str, Callable[[], Array]] = {
        "round_prefer_floor": lambda: np.ceil(place - half),
        "round_prefer_ceil": lambda: np.floor(place + half),
        "floor": lambda: np.floor(place),
        "ceil": lambda: np.ceil(place),
    }
    if rounding not in nearest:
        raise node.unsupported(f"rounds places by '{rounding}'", f"use one of {', '.join(nearest)}")
    return np.clip(nearest[rounding](), 0, length - 1).astype(np.int64)


def depth_to_space(node: NodeReader) -> None:
    """DepthToSpace: blocks of channels become blocks of places."""
    n, channels, height, width = node.type().shape
    size = int(node.attribute("blocksize", 1))
    if size < 1 or channels % (size * size):
        raise ModelError(f"{node.builder.path}: node '{node.label}' cuts {channels} channels into blocks of {size}²")
    depth = channels // (size * size)
    if node.attribute("mode", "DCR") == "DCR":
        parts, order = (n, size, size, depth, height, width), (-6, -3, -2, -5, -1, -4)
    else:
        parts, order = (n, depth, size, size, height, width), (-6, -5, -2, -4, -1, -3)
    apart = node.step(Reshape(parts), node.inputs, "apart")
    moved = node.step(Transpose(order), [apart], "moved")
    node.finish(Reshape((n, depth, height * size, width * size)), [moved])


def space_to_depth(node: NodeReader) -> None:
    """SpaceToDepth: blocks of places become blocks of channels."""
    n, channels, height, width = node.type().shape
    size = int(node.attribute("blocksize", 1))
    if size < 1 or height % size or width % size:
        raise ModelError(f"{node.builder.path}: node '{node.label}' cuts {height} × {width} into blocks of {size}")
    apart = node.step(Reshape((n, channels, height // size, size, width // size, size)), node.inputs, "apart")
    moved = node.step(Transpose((-6, -3, -1, -5, -4, -2)), [apart], "moved")
    node.finish(Reshape((n, channels * size * size, height // size, width // size)), [moved])
