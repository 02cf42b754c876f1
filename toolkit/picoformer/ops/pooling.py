"""MaxPool and AveragePool: the largest entry and the mean of each window of an image, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import rounding_shift, saturate, scaled_reciprocal, split_scale
from picoformer.ops.quantized import quant_of, scale_of
from picoformer.ops.window import Window

TAPS_MAX = 1 << 15
"""A mean's sum of so many 16-bit numbers stays in 31 bits."""


@dataclass(frozen=True)
class LoweredMaxPool(Lowered):
    """The largest integer of each window; entries that are not there do not count."""

    op: MaxPool
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        return self.op.largest(activations[0], self.input.dtype.minimum)


@dataclass(frozen=True)
class _Pool(Window):
    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        (x,) = inputs
        places = self.places(x)
        if self.inside(x.shape[-3], x.shape[-2]).min() < 1:
            raise ValueError(f"a window of {self.kernel} holds no entry of {x}: its pads {self.pads} are too wide")
        return TensorType((*places, x.width))


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Input x (…, H, W, C). Output (…, R, Q, C): the largest entry of each window."""

    kind = "MaxPool"

    def compute(self, *inputs: Array) -> Array:
        return self.largest(inputs[0], -np.inf)

    def largest(self, x: Array, fill: float) -> Array:
        """(…, R, Q, C); `fill` is below every entry."""
        result: Array = self.windows(x, fill).max(axis=(-3, -2))
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredMaxPool:
        x = inputs[0].type
        if (x.dtype, x.quant) != (output.dtype, output.quant) or x.dtype not in (DType.INT8, DType.INT16):
            raise LoweringError(f"{x} and {output} are on different grids, or not int8 or int16")
        return LoweredMaxPool(self, x, output)


@dataclass(frozen=True)
class LoweredAveragePool(Lowered):
    """(m, n) = scaled_reciprocal(mantissa, exponent, count);
    y = clamp(zero_point + ((Σ(x − zero_in)·m + 2^(n−1)) >> n)) over the entries of a window that are there.

    count is their number, with `include_pad` that of all taps of a window.
    """

    op: AveragePool
    mantissa: int
    exponent: int
    zero_in: int
    zero_point: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        total, count = self.op.totals(activations[0].astype(np.int64) - self.zero_in)
        multiplier, shift = scaled_reciprocal(self.mantissa, self.exponent, count)
        return saturate(rounding_shift(total * multiplier, shift) + self.zero_point, self.output.dtype)


@dataclass(frozen=True)
class AveragePool(_Pool):
    """Input x (…, H, W, C). Output (…, R, Q, C): the mean of the entries of each window; with `include_pad` those that
    are not there count as zeros."""

    include_pad: bool = False

    kind = "AveragePool"

    def totals(self, x: Array) -> tuple[Array, Array]:
        """Sums (…, R, Q, C) over each window, and what to divide them by, (R, Q, 1)."""
        windows = self.windows(x, 0)
        inside = self.inside(x.shape[-3], x.shape[-2])
        count = np.full_like(inside, self.taps) if self.include_pad else inside
        return windows.sum(axis=(-3, -2)), count[..., None]

    def compute(self, *inputs: Array) -> Array:
        total, count = self.totals(inputs[0].astype(np.float64))
        result: Array = (total / count).astype(np.float32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredAveragePool:
        x = inputs[0].type
        if x.dtype not in (DType.INT8, DType.INT16) or self.taps >= TAPS_MAX:
            raise LoweringError(f"the input {x} is not int8 or int16, or the window of {self.taps} too large")
        mantissa, exponent = split_scale(scale_of(x) / scale_of(output))
        if not (exponent >= 1 and exponent + 31 - 16 <= 62):
            raise LoweringError("the scales of input and output are too far apart")
        zeros = quant_of(x).zero_point, quant_of(output).zero_point
        return LoweredAveragePool(self, mantissa, exponent, *zeros, x, output)
