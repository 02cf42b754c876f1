"""Windows that slide over an image (…, height, width, channels): where they lie, and Patches, which lines them up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.quantized import quant_of

Pair = tuple[int, int]

CHANNELS_LAST = (-4, -2, -1, -3)
"""The axes of an image as files have it, (n, C, H, W), in the order that the operators here want."""
CHANNELS_FIRST = (-4, -1, -3, -2)
"""And back."""


def count_windows(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Windows along an axis of `size` entries with so many more before and after; 0 or less where none fits."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


@dataclass(frozen=True)
class Window(Operator):
    """Base of the operators on windows. The window at (r, q) holds the entries r·stride + i·dilation − before of each
    axis, i < kernel. Pairs are (vertical, horizontal), pads (top, left, bottom, right): entries that are not there.
    """

    kernel: Pair
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        sizes = (*self.kernel, *self.strides, *self.dilations)
        if len(sizes) != 6 or len(self.pads) != 4 or min(sizes) < 1 or min(self.pads) < 0:
            raise ValueError(
                f"kernel {self.kernel}, strides {self.strides}, dilations {self.dilations}, pads {self.pads}"
            )

    @property
    def taps(self) -> int:
        """Entries of a window."""
        return math.prod(self.kernel)

    def places(self, x: TensorType) -> tuple[int, ...]:
        """(…, R, Q): the windows of an image; raises ValueError where none fits."""
        if x.rank < 3:
            raise ValueError(f"{x} is no image: it has no height, width and channels")
        counts = tuple(
            count_windows(x.shape[axis - 3], self.kernel[axis], self.strides[axis], self.dilations[axis],
                          self.pads[axis], self.pads[axis + 2])
            for axis in (0, 1)
        )  # fmt: skip
        if min(counts) < 1:
            raise ValueError(f"no window of {self.kernel} fits into {x} with pads {self.pads}")
        return (*x.shape[:-3], *counts)

    def inside(self, height: int, width: int) -> Array:
        """(R, Q) int64: the entries of each window that are there."""
        counts = []
        for axis, size in enumerate((height, width)):
            windows = count_windows(size, self.kernel[axis], self.strides[axis], self.dilations[axis],
                                    self.pads[axis], self.pads[axis + 2])  # fmt: skip
            first = np.arange(windows)[:, None] * self.strides[axis] - self.pads[axis]
            at = first + np.arange(self.kernel[axis]) * self.dilations[axis]
            counts.append(((at >= 0) & (at < size)).sum(axis=1))
        return np.outer(counts[0], counts[1])

    def windows(self, x: Array, fill: float) -> Array:
        """(…, R, Q, kernel height, kernel width, C) of (…, H, W, C); `fill` where an entry is not there."""
        top, left, bottom, right = self.pads
        wide = [(0, 0)] * (x.ndim - 3) + [(top, bottom), (left, right), (0, 0)]
        padded = np.pad(x, wide, constant_values=np.asarray(fill, x.dtype)) if any(self.pads) else x
        spans = tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))
        found = np.lib.stride_tricks.sliding_window_view(padded, spans, (-3, -2))  # (…, R', Q', C, span, span)
        found = found[..., :: self.strides[0], :: self.strides[1], :, :: self.dilations[0], :: self.dilations[1]]
        return np.moveaxis(found, -3, -1)


@dataclass(frozen=True)
class LoweredPatches(Lowered):
    """The windows of x, one a row; the zero point where an entry is not there."""

    op: Patches
    zero_point: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        return self.op.lined_up(activations[0], self.zero_point)


@dataclass(frozen=True)
class Patches(Window):
    """Input x (…, H, W, C). Output (…, R, Q, kernel height · kernel width · C): each window's entries in order, zeros
    where there is none. What a convolution multiplies with its weight."""

    kind = "Patches"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        (x,) = inputs
        return TensorType((*self.places(x), self.taps * x.width))

    def compute(self, *inputs: Array) -> Array:
        return self.lined_up(inputs[0], 0)

    def lined_up(self, x: Array, fill: int) -> Array:
        """(…, R, Q, taps · C)."""
        windows = self.windows(x, fill)
        return np.ascontiguousarray(windows).reshape(*windows.shape[:-3], -1)

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredPatches:
        x = inputs[0].type
        if (x.dtype, x.quant) != (output.dtype, output.quant) or quant_of(x).axis is not None:
            raise LoweringError(f"{x} and {output} are on different grids, or have a scale per channel")
        if x.dtype is not DType.INT8 and quant_of(x).zero_point:  # each byte of a place that is not there is the same
            raise LoweringError(f"{x} has a zero point, which only 8 bits may have here")
        return LoweredPatches(self, quant_of(x).zero_point, x, output)
